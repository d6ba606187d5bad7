"""
The store of failed messages: writing as multiples of the disk's own rate, replaying, and opening a large one.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.case import Case, Goal, Kind, Sample
from benchmarks.measuring import for_seconds, timed
from safepulsar import Certainty, FailedMessage, Message, RetryingSender, SqliteFailedMessages, replay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from benchmarks.case import Contender, Scene

DISK = "append and fdatasync"
_KEEP_1, _KEEP_8, _KEEP_100 = "keep, 1 thread", "keep, 8 threads", "keep, 100 in a call"
_REPLAY = "replay"
_OPEN = "open a store"
_REPLAYED, _REPLAY_RATE = 100_000, 40_000
_ROWS, _OPEN_MS = 1_000_000, 1000.0
_FILL = 10_000


def failed(topic: str, payload: bytes) -> FailedMessage:
    """
    Make a message that was surely not stored.
    """
    return FailedMessage(
        message=Message(topic=f"persistent://public/default/{topic}", payload=payload),
        certainty=Certainty.NOT_STORED,
        error="NotConnected",
        accepted_at=1.0,
        first_failed_at=2.0,
        last_failed_at=2.0,
    )


def disk(path: Path, payload: bytes) -> Callable[[], object]:
    """
    Return a function that appends `payload` to the file and waits until it is on the disk.
    """
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    sync = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync

    def call() -> None:
        os.write(file, payload)
        sync(file)

    return call


@contextmanager
def keeping(scene: Scene) -> Iterator[dict[str, Contender]]:
    """
    One thread, eight, and calls of a hundred, beside a plain file on the same disk.
    """
    seconds = scene.effort.seconds
    message = failed("bench", scene.payload)
    append = disk(scene.folder / "plain", scene.payload)
    with SqliteFailedMessages(scene.folder / "kept.db") as store:
        yield {
            DISK: partial(for_seconds, seconds, 1, append),
            _KEEP_1: partial(for_seconds, seconds, 1, partial(store.keep, [message])),
            _KEEP_8: partial(for_seconds, seconds, 8, partial(store.keep, [message])),
            _KEEP_100: partial(hundreds, seconds, partial(store.keep, [message] * 100)),
        }


def hundreds(seconds: float, call: Callable[[], object]) -> Sample:
    """
    Let `call` deal with a hundred messages again and again for that time.
    """
    sample = for_seconds(seconds, 1, call)
    return Sample(figures={"rate": 100 * sample.figures["rate"], "cpu_us": sample.figures["cpu_us"] / 100})


def fill(store: SqliteFailedMessages, topic: str, payload: bytes, count: int) -> None:
    """
    Keep so many messages.
    """
    message = failed(topic, payload)
    for start in range(0, count, _FILL):
        store.keep([message] * min(_FILL, count - start))


@contextmanager
def replaying(scene: Scene) -> Iterator[dict[str, Contender]]:
    """
    Messages without a key, kept and replayed to a broker.
    """
    count = scene.effort.scaled(_REPLAYED)
    with (
        SqliteFailedMessages(scene.folder / "replayed.db") as store,
        RetryingSender(scene.url, failed_messages=store) as sender,
    ):

        def run() -> Sample:
            fill(store, scene.topic("replay"), scene.payload, count)

            def call() -> None:
                report = replay(store, sender)
                if report.delivered != count:
                    raise AssertionError(report)

            return timed(count, call)

        yield {_REPLAY: run}


@contextmanager
def opening(scene: Scene) -> Iterator[dict[str, Contender]]:
    """
    A store of a million rows is opened, and its first message read.
    """
    path = scene.folder / "large.db"
    with SqliteFailedMessages(path) as store:
        fill(store, "bench", scene.payload, scene.effort.scaled(_ROWS))

    def run() -> Sample:
        began = time.perf_counter()
        with SqliteFailedMessages(path) as opened:
            next(iter(opened.find(limit=1)))
            return Sample(figures={"ms": 1000 * (time.perf_counter() - began)})

    yield {_OPEN: run}


CASES = [
    Case(
        name="store-keep",
        title="messages kept, as multiples of the disk's rate",
        subject="store",
        prepare=keeping,
        goals=(
            Goal(name="1 thread", ours=_KEEP_1, against=(DISK,)),
            Goal(name="8 threads", ours=_KEEP_8, against=(DISK,)),
            Goal(name="100 in a call", ours=_KEEP_100, against=(DISK,)),
            Goal(name="the disk's rate", ours=DISK, kind=Kind.VALUE),
        ),
        sizes=(1000,),
        needs_broker=False,
    ),
    Case(
        name="replay",
        title="100,000 kept messages replayed",
        subject="store",
        prepare=replaying,
        goals=(Goal(name="rate", ours=_REPLAY, kind=Kind.VALUE, at_least=_REPLAY_RATE),),
        sizes=(100,),
    ),
    Case(
        name="store-open",
        title="a store of a million rows opened",
        subject="store",
        prepare=opening,
        goals=(Goal(name="time", ours=_OPEN, kind=Kind.VALUE, figure="ms", at_most=_OPEN_MS),),
        sizes=(100,),
        needs_broker=False,
    ),
]
