"""
safepulsar as an application would use it: defaults, and a store of failed messages on disk.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from benchmarks.measuring import repeat, timed
from safepulsar import ClientRegistry, RetryingSender, SenderSettings, TopicSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.case import Sample, Scene
    from safepulsar.broker.transport import Connect
    from safepulsar.observing import Observer
    from safepulsar.steps import Step

# No load comes near: the limits are counted and never hold anything up.
_MESSAGES_PER_SECOND, _BYTES_PER_SECOND = 1e9, 1e12


@contextmanager
def sender(
    scene: Scene,
    topic_defaults: TopicSettings | None = None,
    *,
    connect: Connect | None = None,
    steps: Sequence[Step] = (),
    observers: Sequence[Observer] = (),
) -> Iterator[RetryingSender]:
    """
    Open a sender with every guard on, the rate limits too.
    """
    settings = SenderSettings(
        topic_defaults=topic_defaults or TopicSettings(),
        messages_per_second=_MESSAGES_PER_SECOND,
        bytes_per_second=_BYTES_PER_SECOND,
    )
    registry = None if connect is None else ClientRegistry(connect)
    store = scene.folder / f"failed-{scene.topic('store')}.db"
    with RetryingSender(
        scene.url, failed_messages=store, settings=settings, registry=registry, steps=steps, observers=observers
    ) as opened:
        yield opened


def submit(to: RetryingSender, count: int, call: Callable[[], object], *, threads: int = 1) -> Sample:
    """
    Let `call` submit a message that many times, and wait for every fate.

    Raises:
        AssertionError: not all of them were delivered.
    """
    before = to.stats().counts.delivered

    def work() -> None:
        repeat(count, call, threads)
        to.flush()

    sample = timed(count, work)
    check(to, before + count)
    return sample


def check(to: RetryingSender, delivered: int) -> None:
    """
    Look whether so many messages were delivered.
    """
    counts = to.stats().counts
    if counts.delivered != delivered or not counts.balanced:
        raise AssertionError(f"{delivered} messages should have been delivered: {counts}")
