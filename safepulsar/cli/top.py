"""
`safepulsar top`: rates, fates, lanes, pool and store of a running process, as they change.
"""

import sys
import time
from contextlib import nullcontext, suppress
from typing import Annotated, Final

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from safepulsar.cli.options import Json
from safepulsar.cli.readings import Reading, check_where, quantile, read
from safepulsar.cli.terminal import OUT, print_json, visible

_FATES: Final = ("delivered", "duplicate", "failed")


def top(
    where: Annotated[
        str,
        typer.Argument(
            metavar="WHERE",
            help="The path of the socket that `serve_status` made, or the URL of the process's metrics.",
        ),
    ],
    *,
    interval: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.05, max=3600)] = 1.0,
    times: Annotated[
        int | None,
        typer.Option(
            help="Look so often, and end; by default until Ctrl-C, or once where standard output is no terminal.",
            min=1,
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """
    Show a running process: rates and latency between two looks, fates, lanes, pool and store.

    With --json one object for each look: pid, seconds (since the one before), rates (messages a second by fate),
    p50_seconds and p99_seconds (null if nothing was delivered), totals, errors (by code), in_flight_messages,
    in_flight_bytes, paused_lanes, pool and store.
    """
    check_where(where)
    before, moment = read(where), time.monotonic()
    left = times if times is not None else None if OUT.is_terminal and not json else 1
    with (
        suppress(KeyboardInterrupt),  # how one ends it
        Live(console=OUT, auto_refresh=False, transient=False) if not json else nullcontext() as live,
    ):
        while left is None or left > 0:
            time.sleep(interval)
            now, later = read(where), time.monotonic()
            view = _view(before, now, later - moment)
            before, moment = now, later
            if json:
                print_json(view)
            elif isinstance(live, Live):
                live.update(_panel(where, view), refresh=True)
            left = None if left is None else left - 1
    sys.stdout.flush()


def _view(before: Reading, now: Reading, seconds: float) -> dict[str, object]:
    was, have = (each.by("send_duration_seconds_count", "outcome") for each in (before, now))
    # A process that was started anew begins at zero.
    rates = {fate: max(0.0, have.get(fate, 0.0) - was.get(fate, 0.0)) / seconds for fate in _FATES}
    return {
        "pid": now.pid,
        "seconds": round(seconds, 3),
        "rates": {fate: round(rate, 1) for fate, rate in rates.items()},
        "p50_seconds": quantile(0.5, before, now),
        "p99_seconds": quantile(0.99, before, now),
        "totals": _whole(now.by("messages_total", "fate")),
        "errors": _whole(now.by("errors_total", "code")),
        "retries": int(now.total("retries_total")),
        "refused": int(now.total("refused_total")),
        "in_flight_messages": int(now.total("inflight_messages")),
        "in_flight_bytes": int(now.total("inflight_bytes")),
        "paused_lanes": int(now.total("paused_lanes")),
        "pool": {
            "producers": int(now.total("pool_producers")),
            "leased": int(now.total("pool_leased_producers")),
            "waiting": int(now.total("pool_waiting")),
            "wait_timeouts": int(now.total("pool_wait_timeouts_total")),
        },
        "store": {
            **_whole(now.by("store_messages", "state")),
            "bytes": int(now.total("store_bytes")),
            "oldest_seconds": now.total("store_oldest_seconds"),
            "answers": bool(now.total("store_up")),
        },
    }


def _whole(values: dict[str, float]) -> dict[str, int]:
    return {name: int(value) for name, value in values.items()}


def _panel(where: str, view: dict[str, object]) -> Group:
    table = Table.grid(padding=(0, 2))
    rates = _numbers(view["rates"])
    table.add_row("messages/s", *(Text(f"{fate} {rates[fate]:,.1f}", _style(fate, rates[fate])) for fate in _FATES))
    table.add_row("latency", f"p50 {_seconds(view['p50_seconds'])}", f"p99 {_seconds(view['p99_seconds'])}")
    totals = _numbers(view["totals"])
    table.add_row("books", *(f"{fate} {totals.get(fate, 0):,.0f}" for fate in ("accepted", *_FATES)))
    table.add_row("in flight", f"{view['in_flight_messages']:,} messages", f"{view['in_flight_bytes']:,} bytes")
    paused = view["paused_lanes"]
    table.add_row("lanes", Text(f"{paused} paused", "red" if paused else ""))
    pool, store = _numbers(view["pool"]), _numbers(view["store"])
    table.add_row("pool", *(f"{pool[name]:,.0f} {name.replace('_', ' ')}" for name in pool))
    answers = Text("answers" if store["answers"] else "does not answer", "" if store["answers"] else "bold red")
    table.add_row(
        "store",
        Text(f"{store.get('kept', 0):,.0f} kept", "yellow" if store.get("kept") else ""),
        f"{store.get('claimed', 0):,.0f} claimed",
        f"oldest {store['oldest_seconds']:,.0f} s",
        answers,
    )
    errors = sorted(_numbers(view["errors"]).items(), key=lambda each: -each[1])[:5]
    if errors:
        table.add_row("errors", *(Text(f"{visible(code)} {number:,.0f}", "red") for code, number in errors))
    pid = f"process {view['pid']}, " if view["pid"] else ""
    title = Text(f"{pid}{visible(where)}, every {view['seconds']} s", "bold")
    return Group(title, table)


def _numbers(value: object) -> dict[str, float]:
    return {str(name): float(number) for name, number in value.items()} if isinstance(value, dict) else {}


def _seconds(value: object) -> str:
    return f"{value * 1000:,.1f} ms" if isinstance(value, float) else "none"


def _style(fate: str, rate: float) -> str:
    if not rate:
        return "dim"
    return {"delivered": "green", "failed": "bold red"}.get(fate, "")
