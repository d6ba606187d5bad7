"""
`submit` beside the raw client's `send_async` with a callback in Python: every message's fate is known in both.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from benchmarks import ours, raw
from benchmarks.case import Case, Goal
from benchmarks.measuring import timed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from benchmarks.case import Contender, Scene

_OURS, _RAW, _UNBATCHED = "safepulsar submit", "raw send_async, batched", "raw send_async, unbatched"
_MANY, _GENERATED = "safepulsar send_many", "safepulsar send_many of a generator"
_OWN_ONE = "safepulsar submit, 1 thread"
_THREADS = (4, 8)


@contextmanager
def one_thread(scene: Scene) -> Iterator[dict[str, Contender]]:
    """
    One thread, one topic each.
    """
    count, payload = scene.effort.messages, scene.payload
    with (
        raw.client(scene.url) as client,
        ours.sender(scene) as sender,
        raw.producer(client, scene.topic("raw")) as batched,
        raw.producer(client, scene.topic("raw"), batched=False) as unbatched,
    ):
        call = partial(sender.submit, scene.topic("ours"), payload)
        yield {
            _RAW: lambda: raw.send_async(batched, payload, count),
            _UNBATCHED: lambda: raw.send_async(unbatched, payload, count),
            _OURS: lambda: ours.submit(sender, count, call),
        }


@contextmanager
def many_threads(scene: Scene, threads: int) -> Iterator[dict[str, Contender]]:
    """
    Several threads on one sender and one topic, beside as many on one producer, and beside one thread alone.
    """
    count, payload = scene.effort.messages, scene.payload
    with raw.client(scene.url) as client, ours.sender(scene) as sender, raw.producer(client, scene.topic("raw")) as to:
        call = partial(sender.submit, scene.topic("ours"), payload)
        yield {
            _RAW: lambda: raw.send_async(to, payload, count, threads=threads),
            _OURS: lambda: ours.submit(sender, count, call, threads=threads),
            _OWN_ONE: lambda: ours.submit(sender, count, call),
        }


@contextmanager
def in_bulk(scene: Scene) -> Iterator[dict[str, Contender]]:
    """
    `send_many` of a list, and of a generator, whose values must not wait for each other.
    """
    count, payload = scene.effort.messages, scene.payload
    with raw.client(scene.url) as client, ours.sender(scene) as sender, raw.producer(client, scene.topic("raw")) as to:
        topic = scene.topic("ours")

        def call(values: Iterable[bytes]) -> None:
            report = sender.send_many(topic, values)
            if report.delivered != count:
                raise AssertionError(report)

        yield {
            _RAW: lambda: raw.send_async(to, payload, count),
            _MANY: lambda: timed(count, lambda: call([payload] * count)),
            _GENERATED: lambda: timed(count, lambda: call(payload for _ in range(count))),
        }


CASES = [
    Case(
        name="submit-1",
        title="submit, 1 thread",
        subject="submit",
        prepare=one_thread,
        goals=(
            Goal(name="rate", ours=_OURS, against=("raw",), at_least=2.0),
            Goal(name="CPU per message", ours=_OURS, against=("raw",), figure="cpu_us"),
        ),
    ),
    *(
        Case(
            name=f"submit-{threads}",
            title=f"submit, {threads} threads on one sender",
            subject="submit",
            prepare=partial(many_threads, threads=threads),
            goals=(
                Goal(name="rate", ours=_OURS, against=("raw",), at_least=1.5),
                Goal(name="rate, to its own of 1 thread", ours=_OURS, against=(_OWN_ONE,), at_least=0.85),
            ),
        )
        for threads in _THREADS
    ),
    *(
        Case(
            name=f"send-many-{size}",
            title="send_many",
            subject="submit",
            prepare=in_bulk,
            goals=(Goal(name="rate", ours=_MANY, against=("raw",), at_least=goal),),
            sizes=(size,),
        )
        for size, goal in ((100, 5.0), (1000, 3.0))
    ),
]
