"""
Producers: what finding an open one costs, and how many are opened when everybody asks at once.
"""

from __future__ import annotations

import random
import threading
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from benchmarks import ours
from benchmarks.case import Case, Goal, Kind, Sample
from benchmarks.measuring import nanoseconds_per_call, side_by_side, timed
from safepulsar import ClientRegistry, RetryingSender
from safepulsar.testing import FakeBroker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.case import Contender, Scene

_LEASE, _LOOK_UP = "lease and give back", "look-up of a topic's queue"
_THREADS, _TOPICS = 64, 1_000
_HOT_US = 0.3


@contextmanager
def hot(scene: Scene) -> Iterator[dict[str, Contender]]:
    """
    An open producer is found: by each message (its topic's queue, which holds it), and by each group (a lease).
    """
    broker = FakeBroker()
    registry = ClientRegistry(broker.connect)
    with RetryingSender(broker.url, registry=registry) as sender:
        topic = scene.topic("hot")
        sender.send(topic, b"x")
        engine = sender._started()  # noqa: SLF001 - what a message does there has no other door
        (settings,) = (queue.settings for queue in engine.queues())

        def lease() -> None:
            engine.pool.lease(settings, 1.0).release()

        def sample(call: Callable[[], object]) -> Sample:
            sender.send(topic, b"x")  # or its queue, idle for as long as the other's turns, would have ended
            return Sample(figures={"call_us": nanoseconds_per_call(call, scene.effort.seconds) / 1000})

        yield {_LEASE: partial(sample, lease), _LOOK_UP: partial(sample, partial(engine.plain.__getitem__, topic))}


@contextmanager
def race(scene: Scene) -> Iterator[dict[str, Contender]]:
    """
    64 threads, each sending to all of 1,000 new topics in an order of its own.
    """
    topics = scene.effort.scaled(_TOPICS, at_least=20)

    def run() -> Sample:
        names = [scene.topic("race") for _ in range(topics)]
        start = threading.Barrier(_THREADS)

        with ours.sender(scene) as sender:

            def work(number: int) -> None:
                mine = list(names)
                random.Random(number).shuffle(mine)  # noqa: S311 - an order, not a secret
                start.wait()
                for name in mine:
                    sender.submit(name, b"x", deadline_seconds=600.0)

            def everyone() -> None:
                side_by_side(_THREADS, work)
                sender.flush()

            sample = timed(topics * _THREADS, everyone)
            ours.check(sender, topics * _THREADS)
            created = sender.stats().pool.created
        return Sample(figures={**sample.figures, "count": created / topics})

    yield {"safepulsar": run}


CASES = [
    Case(
        name="pool-hot",
        title="an open producer is found",
        subject="pool",
        prepare=hot,
        goals=(
            Goal(name="by a message", ours=_LOOK_UP, kind=Kind.VALUE, figure="call_us", at_most=_HOT_US),
            Goal(name="by a group, leased", ours=_LEASE, kind=Kind.VALUE, figure="call_us"),
        ),
        sizes=(0,),
        needs_broker=False,
    ),
    Case(
        name="pool-race",
        title="64 threads race on 1,000 topics",
        subject="pool",
        prepare=race,
        goals=(
            Goal(
                name="producers opened per topic",
                ours="safepulsar",
                kind=Kind.VALUE,
                figure="count",
                at_least=1.0,
                at_most=1.0,
            ),
        ),
        sizes=(0,),
        max_rounds=1,
        warm_up=False,
    ),
]
