"""
An application that is ended under load, in a process of its own; its history is a file, which outlives it.
"""

from __future__ import annotations

import sys
import threading
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from safepulsar import RetryingSender, SenderSettings
from tests.faults.load import Load
from tests.history import History
from tests.subprocesses import Script
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.faults.trial import Trial

WORKERS: Final = 5
_UNDER_LOAD: Final = 300
_SAID: Final = "under load"


class Ending(str, Enum):
    """
    What the main thread does while the workers send.
    """

    WAIT = "WAIT"  # until a signal ends the process
    SEND = "SEND"  # too, in a `with` block, until a signal interrupts it
    EXIT = "EXIT"  # calls `sys.exit(3)`; the workers are daemons and go on
    EXIT_BLOCK = "EXIT_BLOCK"  # calls it in a `with` block; the workers end when they see the sender closed


def application(trial: Trial, history: Path, ending: Ending, *, close_seconds: float, seed: int) -> Script:
    """
    Make the process, to be used in a `with` block; see `wait_until_under_load`.
    """
    return Script(
        "from tests.faults.application import main; main()",
        *(trial.broker.url, trial.topic, history, trial.store_path, seed, ending.value, close_seconds),
    )


def wait_until_under_load(script: Script) -> None:
    """
    Return when it has sent some hundred messages and goes on.
    """
    script.wait_for(_SAID)


def main() -> None:
    """
    Be the application; the arguments are those of `application`.
    """
    url, topic, history, store, seed, ending, close_seconds = sys.argv[1:]
    settings = SenderSettings(close_seconds=float(close_seconds), max_in_flight_messages=500)
    sender = RetryingSender(url, failed_messages=store, settings=settings).open()
    load = Load(
        sender,
        topic,
        History(Path(history)),
        seed=int(seed),
        workers=WORKERS,
        daemon=ending in (Ending.WAIT, Ending.EXIT),
        pause_seconds=0.005,
        most=60,
        deadline_seconds=30.0,
    )
    load.start()
    wait_until(lambda: sender.stats().counts.delivered >= _UNDER_LOAD, "the load", timeout_seconds=30.0)
    if ending == Ending.SEND:
        with sender:
            print(_SAID, flush=True)  # noqa: T201  # to the test, whose signal may come at once
            load.work_here()
    print(_SAID, flush=True)  # noqa: T201  # likewise
    if ending == Ending.WAIT:
        threading.Event().wait()
    elif ending == Ending.EXIT_BLOCK:
        with sender:
            sys.exit(3)
    sys.exit(3)
