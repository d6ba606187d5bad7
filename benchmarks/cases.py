"""
What is measured: each case a function that returns a rate in messages per second, ours beside the raw client's.
"""

from __future__ import annotations

import threading
import time
import uuid
from typing import TYPE_CHECKING

import pulsar

from safepulsar import RetryingSender

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Self

Case = "Callable[[], float]"


class Cases:
    """
    The producers of one comparison on one broker, opened once and used in turn.

    The raw client is used as its documentation shows: a callback in Python for `send_async`, and for `send` the best
    of three settings, because it has no single one that suits every number of threads.

    Args:
        url: of the broker.
        payload: what every message carries.
        messages: of one asynchronous round.
        seconds: of one synchronous round.
    """

    def __init__(self, url: str, payload: bytes, *, messages: int, seconds: float) -> None:
        self._payload = payload
        self._messages = messages
        self._seconds = seconds
        self._tag = f"bench-{uuid.uuid4().hex[:8]}"
        self._client = pulsar.Client(url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
        self._sender = RetryingSender(url).open()
        self._raw = {
            "unbatched": self._client.create_producer(f"{self._tag}-unbatched"),
            "batched 1 ms": self._client.create_producer(
                f"{self._tag}-1ms", batching_enabled=True, batching_max_publish_delay_ms=1
            ),
            "batched 10 ms": self._client.create_producer(f"{self._tag}-10ms", batching_enabled=True),
        }
        self._raw_async = self._client.create_producer(
            f"{self._tag}-async", batching_enabled=True, block_if_queue_full=True, max_pending_messages=10_000
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._sender.close()
        for producer in (*self._raw.values(), self._raw_async):
            producer.flush()
            producer.close()
        self._client.close()

    def asynchronous(self, threads: int) -> dict[str, Callable[[], float]]:
        """
        `submit` beside `send_async` with a callback in Python, batching on.
        """
        return {"raw": lambda: self._raw_async_rate(threads), "safepulsar": lambda: self._submit_rate(threads)}

    def synchronous(self, threads: int) -> dict[str, Callable[[], float]]:
        """
        `send` beside the raw client's in each of its settings.
        """
        cases: dict[str, Callable[[], float]] = {
            f"raw {name}": lambda producer=producer: self._sync_rate(  # type: ignore[misc]
                lambda: producer.send(self._payload), threads
            )
            for name, producer in self._raw.items()
        }
        topic = f"{self._tag}-sync"
        cases["safepulsar"] = lambda: self._sync_rate(lambda: self._sender.send(topic, self._payload), threads)
        return cases

    def _raw_async_rate(self, threads: int) -> float:
        def callback(result: pulsar.Result, _message_id: object) -> None:
            if result != pulsar.Result.Ok:
                raise AssertionError(result)
            answered.append(None)

        answered: list[None] = []
        began = time.perf_counter()
        _side_by_side(threads, lambda: self._each(threads, lambda: self._raw_async.send_async(self._payload, callback)))
        self._raw_async.flush()
        return self._messages / (time.perf_counter() - began)

    def _submit_rate(self, threads: int) -> float:
        topic = f"{self._tag}-submit"
        began = time.perf_counter()
        _side_by_side(threads, lambda: self._each(threads, lambda: self._sender.submit(topic, self._payload)))
        if self._sender.flush():
            raise AssertionError("not everything got its fate")
        return self._messages / (time.perf_counter() - began)

    def _each(self, threads: int, call: Callable[[], object]) -> None:
        for _ in range(self._messages // threads):
            call()

    def _sync_rate(self, send: Callable[[], object], threads: int) -> float:
        counts: list[int] = []

        def work() -> None:
            count = 0
            while time.perf_counter() < end:
                send()
                count += 1
            counts.append(count)

        began = time.perf_counter()
        end = began + self._seconds
        _side_by_side(threads, work)
        return sum(counts) / (time.perf_counter() - began)


def _side_by_side(threads: int, work: Callable[[], None]) -> None:
    running = [threading.Thread(target=work) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
