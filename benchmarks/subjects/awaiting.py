"""
`await submit` beside `pulsar.asyncio` in each of its settings, with so many messages outstanding at once.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pulsar
import pulsar.asyncio

from benchmarks import ours
from benchmarks.case import Case, Goal
from benchmarks.measuring import with_latencies

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from benchmarks.case import Contender, Sample, Scene

_OURS = "safepulsar await submit"
_OUTSTANDING = ((1, 1.0), (100, 1.3), (10_000, 1.3))
_PENDING = 20_000
# By name: whether it batches, and after how many milliseconds a batch goes.
_SETTINGS = {"unbatched": (False, 10), "batched 1 ms": (True, 1), "batched 10 ms": (True, 10)}


async def _for_seconds(seconds: float, outstanding: int, send: Callable[[], Awaitable[object]]) -> Sample:
    """
    Let so many tasks send one message after the other.
    """
    latencies: list[int] = []
    clock = time.perf_counter_ns
    cpu = time.process_time()
    began = clock()
    end = began + round(seconds * 1e9)

    async def work() -> None:
        moment = clock()
        while True:
            await send()
            before, moment = moment, clock()
            latencies.append(moment - before)
            if moment >= end:
                return

    await asyncio.gather(*(work() for _ in range(outstanding)))
    elapsed = (clock() - began) / 1e9
    return with_latencies(latencies, seconds=elapsed, cpu_seconds=time.process_time() - cpu)


@contextmanager
def outstanding(scene: Scene, count: int) -> Iterator[dict[str, Contender]]:
    """
    So many coroutines on one event loop, each waiting for its message before it sends the next.
    """
    logger = pulsar.ConsoleLogger(pulsar.LoggerLevel.Error)
    seconds, payload = scene.effort.seconds, scene.payload
    count = min(count, scene.effort.messages)
    with closing(asyncio.new_event_loop()) as loop, ours.sender(scene) as sender:

        async def opened() -> tuple[pulsar.asyncio.Client, dict[str, pulsar.asyncio.Producer]]:
            client = pulsar.asyncio.Client(scene.url, logger=logger)
            return client, {
                f"pulsar.asyncio, {name}": await client.create_producer(
                    scene.topic("asyncio"),
                    max_pending_messages=_PENDING,
                    batching_enabled=batched,
                    batching_max_publish_delay_ms=delay_ms,
                )
                for name, (batched, delay_ms) in _SETTINGS.items()
            }

        async def closed() -> None:
            for each in producers.values():
                await each.close()
            await client.close()

        client, producers = loop.run_until_complete(opened())
        topic = scene.topic("ours")

        async def submit() -> None:
            await sender.submit(topic, payload)

        calls: dict[str, Callable[[], Awaitable[object]]] = {
            name: partial(each.send, payload) for name, each in producers.items()
        }
        calls[_OURS] = submit

        def turn(call: Callable[[], Awaitable[object]]) -> Sample:
            return loop.run_until_complete(_for_seconds(seconds, count, call))

        try:
            yield {name: partial(turn, call) for name, call in calls.items()}
        finally:
            loop.run_until_complete(closed())


CASES = [
    Case(
        name=f"await-{count}",
        title=f"await submit, {count:,} outstanding",
        subject="awaiting",
        prepare=partial(outstanding, count=count),
        goals=(
            Goal(name="rate", ours=_OURS, against=("pulsar.asyncio",), at_least=goal),
            Goal(name="median latency", ours=_OURS, against=("pulsar.asyncio",), figure="p50_us"),
        ),
    )
    for count, goal in _OUTSTANDING
]
