"""
What the service does without safepulsar: the raw client as good code has it, and as the naive code does.
"""

from __future__ import annotations

import gc
import os
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from benchmarks import raw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

URL, TOPIC = "SAFEPULSAR_URL", "BENCH_TOPIC"  # in the environment
# Batches of 10 ms are no match for these with so few clients.
_SETTINGS = {name: raw.SYNC_SETTINGS[name] for name in ("unbatched", "batched 1 ms")}


def freeze() -> None:
    """
    Have the garbage collector leave what lives as long as the service alone.

    To look through all of it takes 40 ms, in which no request is served; they would be what the 99th percentile shows.
    """
    gc.collect()
    gc.freeze()


class ByHand:
    """
    Producers that are made once, and calls that send the bytes of an order.
    """

    def __init__(self, submit: Callable[[bytes], None], sends: Mapping[str, Callable[[bytes], object]]) -> None:
        self.submit = submit
        self.sends = sends
        self.naive = partial(raw.naive_send, os.environ[URL], os.environ[TOPIC])


@contextmanager
def open_by_hand() -> Iterator[tuple[ByHand, Callable[[int], dict[str, float]]]]:
    """
    Open the producers; yields them, and what waits for their answers and then tells how many messages were delivered.

    The argument of that are those that safepulsar delivered.
    """
    found, callback = raw.answers()
    asked = 0
    with ExitStack() as opened:
        client = opened.enter_context(raw.client(os.environ[URL]))
        producer = opened.enter_context(raw.producer(client, os.environ[TOPIC]))

        def submit(payload: bytes) -> None:
            nonlocal asked
            asked += 1
            producer.send_async(payload, callback)

        def settle(delivered: int) -> dict[str, float]:
            producer.flush()
            raw.wait_for(found, asked)
            return {"delivered": delivered + len(found), "cpu_seconds": time.process_time()}

        sends = {
            name: client.create_producer(os.environ[TOPIC], **settings).send  # type: ignore[arg-type]
            for name, settings in _SETTINGS.items()
        }
        yield ByHand(submit, sends), settle
