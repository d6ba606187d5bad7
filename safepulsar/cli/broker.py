"""
`safepulsar broker`: the local broker, in the foreground.
"""

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Final

import typer

from safepulsar.broker_process import BrokerNotStarted, BrokerState
from safepulsar.cli.stop import StopSignals
from safepulsar.cli.terminal import ExitCode, complain, say
from safepulsar.local_broker import LocalBroker, start_broker

_USUAL_PORT: Final = 6650  # what `send` takes when it is told nothing
_LOOK_SECONDS: Final = 0.5
_LOG_LINES_SHOWN: Final = 8


def broker(
    data: Annotated[
        Path | None,
        typer.Option(
            help="A folder for its data, which stay. Left out: a temporary one, removed at the end.",
            metavar="DIR",
            show_default=False,
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            help=f"Of 127.0.0.1. Left out: {_USUAL_PORT}, or a free one if that is taken.",
            metavar="N",
            min=1,
            max=65_535,
            show_default=False,
        ),
    ] = None,
) -> None:
    """
    Run a small broker for development in the foreground, until Ctrl-C or SIGTERM.

    The first line on standard output is its URL. It needs the extra `local`. It has no deduplication, and its makers
    promise no durability for production.
    """
    with ExitStack() as stack:
        stop = stack.enter_context(StopSignals())
        if data is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="safepulsar-broker-")))
        else:
            folder = data
        running = _start(folder, port)
        stack.callback(running.stop)
        sys.stdout.write(f"{running.url}\n")
        sys.stdout.flush()
        kept = "removed at the end" if data is None else "kept"
        say(f"{running.name} runs on {running.folder} ({kept}); Ctrl-C stops it")
        while not stop.wait(_LOOK_SECONDS):
            if running.state is BrokerState.STOPPED:
                log = running.log_path.read_text(encoding="utf-8", errors="replace").splitlines()
                complain("\n    ".join(["the broker ended by itself; its log says:", *log[-_LOG_LINES_SHOWN:]]))
                raise typer.Exit(ExitCode.ERROR)


def _start(folder: Path, port: int | None) -> LocalBroker:
    if port is None:
        try:
            return start_broker(folder, _USUAL_PORT)
        except BrokerNotStarted:
            return start_broker(folder)  # which tells, if it was not the port
    return start_broker(folder, port)
