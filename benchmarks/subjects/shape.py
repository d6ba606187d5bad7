"""
What the shape of the load costs: the number of topics and of keys, the size of messages, and sends that fail.
"""

from __future__ import annotations

import itertools
import os
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from benchmarks import ours, raw
from benchmarks.case import Case, Goal
from benchmarks.failing import failing
from benchmarks.measuring import repeat, timed
from safepulsar.settings import TopicSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pulsar

    from benchmarks.case import Contender, Sample, Scene

_OURS, _RAW = "safepulsar submit", "raw send_async, batched"
_RAW_UNBATCHED = "raw send_async, unbatched"
_NO_FAILURE = "safepulsar submit, none fails"
_MANY_BYTES = 50_000_000  # of one turn at most


@contextmanager
def topics(scene: Scene, number: int) -> Iterator[dict[str, Contender]]:
    """
    One thread sends to so many topics in turn, a producer each.
    """
    count = scene.effort.messages
    number = scene.effort.scaled(number) if number > 1 else 1
    with raw.client(scene.url) as client, ours.sender(scene) as sender, ExitStack() as opened:
        names = itertools.cycle([scene.topic("ours") for _ in range(number)])
        producers = [opened.enter_context(raw.producer(client, scene.topic("raw"))) for _ in range(number)]

        def call() -> None:
            sender.submit(next(names), scene.payload)

        yield {
            _RAW: partial(_in_turn, scene, producers),
            _OURS: lambda: ours.submit(sender, count, call),
        }


def _in_turn(scene: Scene, producers: list[pulsar.Producer]) -> Sample:
    found, callback = raw.answers()
    turns = itertools.cycle(producers)

    def call() -> None:
        next(turns).send_async(scene.payload, callback)

    def everything() -> None:
        repeat(scene.effort.messages, call)
        for each in producers:
            each.flush()
        raw.wait_for(found, scene.effort.messages)

    return timed(scene.effort.messages, everything)


@contextmanager
def keys(scene: Scene, number: int) -> Iterator[dict[str, Contender]]:
    """
    One thread sends messages of so many keys in turn, with the defaults: one by one.
    """
    count = scene.effort.messages
    with (
        raw.client(scene.url) as client,
        ours.sender(scene) as sender,
        raw.producer(client, scene.topic("raw"), batched=False) as to,
    ):
        topic = scene.topic("ours")
        names = [f"key-{each}" for each in range(number)]
        mine, theirs = itertools.cycle(names), itertools.cycle(names)

        def call() -> None:
            sender.submit(topic, scene.payload, partition_key=next(mine))

        def their_turn() -> None:
            found, callback = raw.answers()
            repeat(count, lambda: to.send_async(scene.payload, callback, partition_key=next(theirs)))
            to.flush()
            raw.wait_for(found, count)

        yield {
            _RAW_UNBATCHED: lambda: timed(count, their_turn),
            _OURS: lambda: ours.submit(sender, count, call),
        }


@contextmanager
def sizes(scene: Scene, size_bytes: int) -> Iterator[dict[str, Contender]]:
    """
    One thread sends messages of that size.
    """
    count = max(100, min(scene.effort.messages, round(_MANY_BYTES * min(1.0, 10 * scene.effort.scale)) // size_bytes))
    payload = os.urandom(size_bytes)
    with raw.client(scene.url) as client, ours.sender(scene) as sender, raw.producer(client, scene.topic("raw")) as to:
        call: Callable[[], object] = partial(sender.submit, scene.topic("ours"), payload)
        yield {
            _RAW: lambda: raw.send_async(to, payload, count),
            _OURS: lambda: ours.submit(sender, count, call),
        }


@contextmanager
def failures(scene: Scene, percent: int) -> Iterator[dict[str, Contender]]:
    """
    That share of all hand-overs is refused and made again, beside a sender where none is.

    Messages go one by one here, so that a hand-over is a message.
    """
    # After each failure there is a pause, so that there is no need for many.
    count = max(50, scene.effort.messages // (1 + 40 * percent))
    alone = TopicSettings(batch_max_messages=1)
    every = 100 // percent if percent else 0
    with ours.sender(scene, alone) as sound, ours.sender(scene, alone, connect=failing(every)) as troubled:
        contenders: dict[str, Contender] = {}
        for name, sender in ((_NO_FAILURE, sound), (_OURS, troubled)):
            call = partial(sender.submit, scene.topic("ours"), scene.payload, deadline_seconds=600.0)
            contenders[name] = partial(ours.submit, sender, count, call)
        yield contenders


def _points(
    series: str, prepare: Callable[..., object], parameter: str, values: tuple[int, ...], against: str, title: str
) -> list[Case]:
    return [
        Case(
            name=f"{series}-{value}",
            title=title.format(f"{value:,}", "" if value == 1 else "s"),
            subject="shape",
            prepare=partial(prepare, **{parameter: value}),  # type: ignore[arg-type]
            goals=(
                Goal(name="rate", ours=_OURS, against=(against,)),
                Goal(name="CPU per message", ours=_OURS, against=(against,), figure="cpu_us"),
            ),
            sizes=(0,) if series == "size" else (100,),
            series=series,
            x=value,
            max_rounds=3,
        )
        for value in values
    ]


CASES = [
    *_points("topics", topics, "number", (1, 10, 100, 1_000), "raw", "{} topic{} in turn"),
    *_points("keys", keys, "number", (1, 100, 10_000), "raw", "{} key{} in turn, one message at a time"),
    *_points("size", sizes, "size_bytes", (10, 100, 1_000, 10_000, 100_000, 1_000_000), "raw", "messages of {} bytes"),
    *_points("failing", failures, "percent", (0, 1, 10), _NO_FAILURE, "{} % of the hand-overs fail"),
]
