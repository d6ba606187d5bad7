"""
Memory: how far it grows while a frozen broker answers nothing, and whether it grows with the number of messages.

Each turn is a process of its own, because memory that another one used and gave back would hide growth.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.case import Case, Goal, Kind, NotHereError, Sample
from benchmarks.resources import resident_mb
from benchmarks.statistics import slope
from safepulsar import QueueFull, RetryingSender, SenderSettings, WhenFull

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.case import Contender, Scene
    from safepulsar import SendHandle

_OURS = "safepulsar"
_BOUND_BYTES = 64 * 1024 * 1024
_GROWTH_PER_BOUND, _GROWTH_MB = 2.5, 30.0
_MILLIONS = 10
_LOOKS = 50
_WARM_UP = 0.2  # of the messages: until then caches and pools fill
_LIMIT_SECONDS = 3600


def full(url: str, topic: str, size_bytes: int, bound_bytes: int) -> dict[str, float]:
    """
    Submit until the bound on bytes is reached, while nothing is answered; the growth as a share of what is allowed.
    """
    settings = SenderSettings(
        max_in_flight_messages=10_000_000,
        max_in_flight_bytes=bound_bytes,
        when_full=WhenFull.RAISE,
        deadline_seconds=300.0,
        close_seconds=0.0,
        drain_on_sigterm=False,
    )
    payload = os.urandom(size_bytes)
    sender = RetryingSender(url, settings=settings).open()
    sender.send(topic, payload)  # so that what follows is handed over, as far as the client library takes it
    print("ready", flush=True)
    sys.stdin.readline()  # the broker is frozen now
    before = resident_mb()
    handles: list[SendHandle] = []
    try:
        while True:
            # A payload of its own for each, as in an application.
            handles.append(sender.submit(topic, payload[:-8] + len(handles).to_bytes(8, "big")))
    except QueueFull:
        counts = sender.stats().counts
    grown = resident_mb() - before
    if counts.in_flight_bytes > bound_bytes:
        raise AssertionError(f"{counts.in_flight_bytes} bytes are in flight, more than the bound of {bound_bytes}")
    allowed = _GROWTH_PER_BOUND * bound_bytes / 1e6 + _GROWTH_MB
    return {"mb": grown, "bound_share": grown / allowed, "count": counts.in_flight}


def soak(url: str, topic: str, size_bytes: int, messages: int) -> dict[str, float]:
    """
    Submit so many messages; the growth per million of them after a warm-up.
    """
    payload = os.urandom(size_bytes)
    points: list[tuple[float, float]] = []
    with RetryingSender(url) as sender:
        print("ready", flush=True)
        sys.stdin.readline()
        for look in range(_LOOKS):
            for _ in range(messages // _LOOKS):
                sender.submit(topic, payload, deadline_seconds=300.0)
            sender.flush()
            if look >= _WARM_UP * _LOOKS:
                points.append((look * (messages // _LOOKS) / 1e6, resident_mb()))
        counts = sender.stats().counts
    if counts.delivered != messages // _LOOKS * _LOOKS:
        raise AssertionError(f"not everything was delivered: {counts}")
    return {"mb_per_million": slope(points), "mb": points[-1][1]}


@contextmanager
def in_process(scene: Scene, what: str) -> Iterator[dict[str, Contender]]:
    """
    One of the two above, in a process of its own.
    """
    if what == "full" and (scene.freeze is None or scene.thaw is None):
        raise NotHereError("the broker can't be frozen here")
    amount = scene.effort.scaled(_BOUND_BYTES if what == "full" else _MILLIONS * 1_000_000, at_least=_LOOKS * 20)

    def run() -> Sample:
        arguments = json.dumps([what, scene.url, scene.topic("memory"), scene.size_bytes, amount])
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.subjects.memory", arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                if process.stdout is None or process.stdout.readline() != "ready\n":
                    raise AssertionError("the process that is measured did not start")
                if what == "full" and scene.freeze is not None:
                    scene.freeze()
                said, _ = process.communicate("go\n", timeout=_LIMIT_SECONDS)
            finally:
                process.kill()
                if what == "full" and scene.thaw is not None:
                    scene.thaw()
        return Sample(figures=json.loads(said.splitlines()[-1]))

    yield {_OURS: run}


def main(arguments: str) -> None:
    """
    The process that is measured.
    """
    what, url, topic, size_bytes, amount = json.loads(arguments)
    figures = (full if what == "full" else soak)(url, topic, size_bytes, amount)
    print(json.dumps(figures), flush=True)
    os._exit(0)  # with a frozen broker there is nothing to wait for


CASES = [
    Case(
        name="memory-full",
        title="growth with 64 MiB in flight, of 2.5 x that and 30 MB",
        subject="memory",
        prepare=partial(in_process, what="full"),
        goals=(
            Goal(name="growth", ours=_OURS, kind=Kind.VALUE, figure="bound_share", at_most=1.0),
            Goal(name="growth in MB", ours=_OURS, kind=Kind.VALUE, figure="mb"),
        ),
        max_rounds=2,
        warm_up=False,
    ),
    Case(
        name="memory-slope",
        title="growth over 10 million messages",
        subject="memory",
        prepare=partial(in_process, what="soak"),
        goals=(Goal(name="growth", ours=_OURS, kind=Kind.VALUE, figure="mb_per_million", at_most=1.0),),
        sizes=(100,),
        max_rounds=1,
        warm_up=False,
    ),
]

if __name__ == "__main__":
    main(sys.argv[1])
