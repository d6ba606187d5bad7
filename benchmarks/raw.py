"""
The official client as its documentation shows it, and the naive code: what safepulsar is compared with.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pulsar

from benchmarks.measuring import repeat, timed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.case import Sample, Scene

# More than the default of 1,000, which would hold it up.
_PENDING = 10_000
_ASYNC_TIMEOUT_MS = 120_000
_ANSWERS_SECONDS = 60.0
_LOOK_SECONDS = 0.0005
# For `send` no single setting suits every number of threads.
SYNC_SETTINGS: dict[str, dict[str, int | bool]] = {
    "unbatched": {},
    "batched 1 ms": {"batching_enabled": True, "batching_max_publish_delay_ms": 1},
    "batched 10 ms": {"batching_enabled": True, "batching_max_publish_delay_ms": 10},
}


@contextmanager
def client(url: str) -> Iterator[pulsar.Client]:
    """
    Open a client that logs errors only.
    """
    opened = pulsar.Client(url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
    try:
        yield opened
    finally:
        opened.close()


@contextmanager
def producer(of: pulsar.Client, topic: str, *, batched: bool = True) -> Iterator[pulsar.Producer]:
    """
    Open a producer for `send_async`, that waits where its queue is full.
    """
    opened = of.create_producer(
        topic,
        batching_enabled=batched,
        block_if_queue_full=True,
        max_pending_messages=_PENDING,
        send_timeout_millis=_ASYNC_TIMEOUT_MS,
    )
    try:
        yield opened
    finally:
        opened.flush()
        opened.close()


@contextmanager
def sync_sends(scene: Scene) -> Iterator[dict[str, Callable[[], object]]]:
    """
    Open a producer for each setting; yields their `send` of the scene's payload.
    """
    with client(scene.url) as opened:
        producers = {
            name: opened.create_producer(scene.topic("sync"), **settings)  # type: ignore[arg-type]
            for name, settings in SYNC_SETTINGS.items()
        }
        yield {f"raw, {name}": partial(each.send, scene.payload) for name, each in producers.items()}
        for each in producers.values():
            each.close()


def answers() -> tuple[list[object], Callable[[pulsar.Result, object], None]]:
    """
    Return a list, and a callback in Python that puts each message's id into it.
    """
    found: list[object] = []

    def callback(result: pulsar.Result, message_id: object) -> None:
        if result == pulsar.Result.Ok:
            found.append(message_id)

    return found, callback


def send_async(to: pulsar.Producer, payload: bytes, count: int, *, threads: int = 1) -> Sample:
    """
    Send that many and wait for every answer.

    Raises:
        AssertionError: one of them was not good.
    """
    found, callback = answers()
    send = partial(to.send_async, payload, callback)

    def work() -> None:
        repeat(count, send, threads)
        to.flush()
        wait_for(found, count)

    return timed(count, work)


def wait_for(found: list[object], count: int) -> None:
    """
    Wait until all callbacks were made: `flush` may return while those of the last batch still are.

    Raises:
        AssertionError: some answers were not good, or did not come.
    """
    deadline = time.monotonic() + _ANSWERS_SECONDS
    while len(found) < count:
        if time.monotonic() > deadline:
            raise AssertionError(f"{count - len(found)} of {count} messages of the raw client got no good answer")
        time.sleep(_LOOK_SECONDS)


def naive_send(url: str, topic: str, payload: bytes) -> None:
    """
    The code that beginners write: a client and a producer for each message.
    """
    opened = pulsar.Client(url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
    opened.create_producer(topic).send(payload)
    opened.close()
