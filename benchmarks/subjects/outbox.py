"""
The outbox: messages that are on disk before they are accepted, as multiples of what the disk takes one by one.
"""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from benchmarks import ours, raw
from benchmarks.case import Case, Goal
from benchmarks.measuring import for_seconds, timed
from benchmarks.subjects.store import DISK, disk, failed, hundreds
from safepulsar import SqliteFailedMessages
from safepulsar.outbox import Outbox
from safepulsar.settings import Durability, TopicSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.case import Contender, Scene

_PUT_1, _PUT_8, _PUT_100 = "outbox put, 1 thread", "outbox put, 8 threads", "outbox put, 100 in a call"
_SUBMIT_1, _SUBMIT_8, _MANY = "submit, 1 thread", "submit, 8 threads", "send_many"
_RAW = "raw send_async, batched"
_THREADS = 8


@contextmanager
def putting(scene: Scene) -> Iterator[dict[str, Contender]]:
    """
    The file alone, without a broker.
    """
    seconds = scene.effort.seconds
    message = failed("bench", scene.payload).message
    append = disk(scene.folder / "plain-outbox", scene.payload)
    with SqliteFailedMessages(scene.folder / "outbox.db") as store:
        outbox = Outbox(store, producer_name=lambda _message: "bench")
        yield {
            DISK: partial(for_seconds, seconds, 1, append),
            _PUT_1: partial(for_seconds, seconds, 1, partial(outbox.put, [message])),
            _PUT_8: partial(for_seconds, seconds, 8, partial(outbox.put, [message])),
            _PUT_100: partial(hundreds, seconds, partial(outbox.put, [message] * 100)),
        }


@contextmanager
def sending(scene: Scene) -> Iterator[dict[str, Contender]]:
    """
    From the call to the acknowledgement: on disk, handed over, answered, and removed.
    """
    count, payload = scene.effort.messages, scene.payload
    few = max(_THREADS, count // 10)
    append = disk(scene.folder / f"plain-{uuid.uuid4().hex}", payload)
    settings = TopicSettings(durability=Durability.OUTBOX, producer_name=f"bench-{uuid.uuid4().hex}", mix_keys=True)
    with (
        raw.client(scene.url) as client,
        raw.producer(client, scene.topic("raw")) as to,
        ours.sender(scene, settings) as sender,
    ):
        topic = scene.topic("outbox")
        submit = partial(sender.submit, topic, payload)

        def many() -> None:
            report = sender.send_many(topic, (payload for _ in range(count)))
            if report.delivered != count:
                raise AssertionError(report)

        yield {
            DISK: partial(for_seconds, scene.effort.seconds, 1, append),
            _RAW: lambda: raw.send_async(to, payload, count),
            _SUBMIT_1: lambda: ours.submit(sender, few, submit),
            _SUBMIT_8: lambda: ours.submit(sender, few, submit, threads=_THREADS),
            _MANY: lambda: timed(count, many),
        }


CASES = [
    Case(
        name="outbox-put",
        title="messages put into an outbox, as multiples of the disk's rate",
        subject="outbox",
        prepare=putting,
        goals=(
            Goal(name="1 thread", ours=_PUT_1, against=(DISK,), at_least=0.8),
            Goal(name="8 threads", ours=_PUT_8, against=(DISK,), at_least=2.5),
            Goal(name="100 in a call", ours=_PUT_100, against=(DISK,)),
        ),
        sizes=(1000,),
        needs_broker=False,
    ),
    Case(
        name="outbox",
        title="through an outbox, from the call to the acknowledgement",
        subject="outbox",
        prepare=sending,
        goals=(
            Goal(name="submit, 1 thread, to the disk's rate", ours=_SUBMIT_1, against=(DISK,), at_least=0.8),
            Goal(name="submit, 8 threads, to the disk's rate", ours=_SUBMIT_8, against=(DISK,), at_least=2.5),
            Goal(name="send_many, to raw send_async", ours=_MANY, against=(_RAW,), at_least=1.5),
        ),
        sizes=(1000,),
    ),
]
