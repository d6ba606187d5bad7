"""
What one call costs the thread that makes it, and how far its slowest ones reach, without a queue that is full.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from benchmarks import ours, raw
from benchmarks.case import Case, Goal, Kind
from benchmarks.measuring import with_latencies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.case import Contender, Sample, Scene

_OURS, _RAW = "safepulsar submit", "raw send_async, batched"
_BURST = 2_000  # far below what may be in flight, so that no call waits for room
_MEDIAN_US, _P99_US = 3.0, 300.0


@contextmanager
def calls(scene: Scene) -> Iterator[dict[str, Contender]]:
    """
    Bursts of calls, each timed by itself, with a wait for all answers behind each burst.
    """
    with raw.client(scene.url) as client, ours.sender(scene) as sender, raw.producer(client, scene.topic("raw")) as to:
        _, callback = raw.answers()
        submit = partial(sender.submit, scene.topic("ours"), scene.payload)
        send = partial(to.send_async, scene.payload, callback)
        yield {
            _RAW: partial(_bursts, scene.effort.messages, send, to.flush),
            _OURS: partial(_bursts, scene.effort.messages, submit, sender.flush),
        }


def _bursts(count: int, call: Callable[[], object], flush: Callable[[], object]) -> Sample:
    latencies: list[int] = []
    clock = time.perf_counter_ns
    cpu = time.process_time()
    began = clock()
    for start in range(0, count, _BURST):
        for _ in range(min(_BURST, count - start)):
            before = clock()
            call()
            latencies.append(clock() - before)
        flush()
    elapsed = (clock() - began) / 1e9
    return with_latencies(latencies, seconds=elapsed, cpu_seconds=time.process_time() - cpu)


CASES = [
    Case(
        name="cost-per-call",
        title="added by submit to the thread that calls",
        subject="cost",
        prepare=calls,
        goals=(
            Goal(
                name="median",
                ours=_OURS,
                against=("raw",),
                kind=Kind.DIFFERENCE,
                figure="p50_us",
                at_most=_MEDIAN_US,
            ),
            Goal(name="p99", ours=_OURS, against=("raw",), kind=Kind.DIFFERENCE, figure="p99_us", at_most=_P99_US),
            Goal(name="CPU per message", ours=_OURS, against=("raw",), kind=Kind.DIFFERENCE, figure="cpu_us"),
        ),
    )
]
