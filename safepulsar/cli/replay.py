"""
`safepulsar failed replay`: failed messages are sent again, and leave the store when the broker has them.
"""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer

from safepulsar.cli.listing import print_table
from safepulsar.cli.options import (
    DEFAULT_URL,
    Certain,
    DryRun,
    Error,
    Failed,
    Ids,
    Json,
    Key,
    OlderThan,
    SealKeys,
    StoreKeys,
    Topic,
    Url,
    client_settings,
    failed_path,
)
from safepulsar.cli.progress import progress_bar
from safepulsar.cli.stop import Stopped, StopSignals, close_on_signal
from safepulsar.cli.store import only, opened
from safepulsar.cli.terminal import OUT, ExitCode, complain, count, print_json, say
from safepulsar.errors import SenderClosed
from safepulsar.failed_messages import FailedMessageFilter, FailedMessageStore
from safepulsar.sender import RetryingSender
from safepulsar.sending.replay import ReplayReport
from safepulsar.sending.replay import replay as send_again
from safepulsar.settings import RetrySettings, SenderSettings

_SHOWN: Final = 100
_LONGEST_SECONDS: Final = 30.0  # well below the lease under which a replay holds its messages
_ALWAYS_AGAIN: Final = RetrySettings(max_retries=1_000_000)  # the deadline alone ends the tries


def replay(
    context: typer.Context,
    *,
    failed: Failed = None,
    store_keys: StoreKeys = None,
    seal_keys: SealKeys = None,
    url: Url = DEFAULT_URL,
    topic: Topic = None,
    key: Key = None,
    error: Error = None,
    older_than: OlderThan = None,
    certainty: Certain = None,
    ids: Ids = None,
    rate: Annotated[
        float | None,
        typer.Option(help="At most so many messages a second.", metavar="N", min=0.001, show_default=False),
    ] = None,
    deadline: Annotated[
        float,
        typer.Option(
            help="Each message is tried for so many seconds.", metavar="SECONDS", min=0.001, max=_LONGEST_SECONDS
        ),
    ] = 10.0,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """
    Send them again, oldest first and in their order per key, and take out what the broker has confirmed.

    It may be stopped at any moment, in whatever way, and run again. A message whose certainty is MAYBE_STORED may be in
    the topic already: sending it again can make a duplicate.

    Exit code 0: all that matched are in the topic. 3: some are still kept. 1: an error, or stopped. 2: usage.

    With --json one object: selected (how many matched), delivered, duplicate, failed (tried again, and still kept),
    skipped (not tried, because one before it in its lane failed), seconds and dry_run.
    """
    where = only(topic, key, error, older_than, certainty, ids)
    client = client_settings(url, debug=context.obj.debug)
    path = failed_path(failed)
    with opened(path, store_keys, seal_keys) as store:
        if dry_run:
            report, stopped = ReplayReport(selected=store.count(where)), False
            if not json:
                print_table(store.find(where, limit=_SHOWN))
        else:
            settings = SenderSettings(deadline_seconds=deadline, retry=_ALWAYS_AGAIN, drain_on_sigterm=False)
            sender = RetryingSender(client, failed_messages=store, settings=settings)
            report, stopped = _send(store, sender, where, rate)
    if json:
        print_json({**asdict(report), "seconds": round(report.seconds, 3), "dry_run": dry_run})
    elif dry_run:
        OUT.print(f"{count(report.selected, 'message')} would be sent")
    else:
        _print_report(report, path)
    if stopped:
        complain("stopped; run it again to go on")
        raise typer.Exit(ExitCode.ERROR)
    if not dry_run and not _all_sent(report):
        raise typer.Exit(ExitCode.KEPT)


def _send(
    store: FailedMessageStore, sender: RetryingSender, where: FailedMessageFilter, rate: float | None
) -> tuple[ReplayReport, bool]:
    """
    Replay, and close the sender; whether a signal stopped it.
    """
    began = time.monotonic()
    selected = store.count(where)
    done = 0
    with StopSignals() as stop:

        def progressed(now_done: int, _selected: int) -> None:
            nonlocal done
            done = now_done
            if stop.requested and done < selected:
                raise Stopped

        with sender, close_on_signal(sender, stop):
            try:
                with progress_bar(
                    "replay", total=selected, done=lambda: done, numbers=lambda: f"{done:,} of {selected:,}"
                ):
                    report = send_again(store, sender, where=where, rate=rate, on_progress=progressed)
                # With its sender closed by the signal, a replay may also end as if everything had failed.
                return report, stop.requested and not _all_sent(report)
            except (Stopped, SenderClosed):
                counts = sender.close().counts
    return (
        ReplayReport(
            selected=selected,
            delivered=counts.delivered,
            duplicate=counts.duplicate,
            failed=counts.failed,
            seconds=time.monotonic() - began,
        ),
        True,
    )


def _all_sent(report: ReplayReport) -> bool:
    return report.delivered + report.duplicate >= report.selected


def _print_report(report: ReplayReport, path: Path) -> None:
    parts = [f"{report.delivered:,} delivered"]
    parts += [f"{report.duplicate:,} there before"] if report.duplicate else []
    parts += [f"{report.failed:,} failed again"] if report.failed else []
    parts += [f"{report.skipped:,} behind those in their lanes"] if report.skipped else []
    OUT.print(f"{count(report.selected, 'message')} selected: {', '.join(parts)} in {report.seconds:.1f} s")
    kept = report.selected - report.delivered - report.duplicate
    if kept:
        say(f"{count(kept, 'message')} still kept in {path}; nothing is lost, run it again when the cause is gone")
