"""
`send`, which waits for each message's fate, beside the raw client's in each of its settings, and the naive code.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from benchmarks import ours, raw
from benchmarks.case import Case, Goal
from benchmarks.measuring import for_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.case import Contender, Scene

_OURS, _NAIVE = "safepulsar send", "naive, a client per send"
_THREADS = (1, 8, 64, 256)
_NAIVE_THREADS = 8  # more of them only wear out the broker


@contextmanager
def waiting(scene: Scene, threads: int) -> Iterator[dict[str, Contender]]:
    """
    So many threads, each waiting for its message before it sends the next.
    """
    with raw.sync_sends(scene) as theirs, ours.sender(scene) as sender:
        calls: dict[str, Callable[[], object]] = {
            **theirs,
            _OURS: partial(sender.send, scene.topic("ours"), scene.payload),
        }
        if threads <= _NAIVE_THREADS:
            calls[_NAIVE] = partial(raw.naive_send, scene.url, scene.topic("naive"), scene.payload)
        yield {name: partial(for_seconds, scene.effort.seconds, threads, call) for name, call in calls.items()}


CASES = [
    Case(
        name=f"send-{threads}",
        title=f"send, {threads} thread{'s' if threads > 1 else ''}",
        subject="sync",
        prepare=partial(waiting, threads=threads),
        goals=(
            Goal(name="rate", ours=_OURS, against=("raw",), at_least=0.95),
            Goal(name="median latency", ours=_OURS, against=("raw",), figure="p50_us"),
            *(
                [Goal(name="rate, to the naive code", ours=_OURS, against=("naive",))]
                if threads <= _NAIVE_THREADS
                else []
            ),
        ),
        series="send by threads",
        x=threads,
    )
    for threads in _THREADS
]
