"""
Ordered messages: lanes by key, with keys mixed in a batch, or one by one as a Key_Shared subscription needs them.
"""

from __future__ import annotations

import itertools
import uuid
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from benchmarks import ours, raw
from benchmarks.case import Case, Goal
from benchmarks.measuring import repeat, timed
from safepulsar.settings import TopicSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.case import Contender, Sample, Scene

_OURS = "safepulsar submit"
_KEYS = 1_000


@contextmanager
def keyed(scene: Scene, *, mixed: bool) -> Iterator[dict[str, Contender]]:
    """
    One thread, and messages of a thousand keys in turn.
    """
    count, payload = scene.effort.messages, scene.payload
    keys = [f"customer-{number}" for number in range(_KEYS)]
    # With a name the broker deduplicates, where it can.
    settings = TopicSettings(mix_keys=True, producer_name=f"bench-{uuid.uuid4().hex}") if mixed else TopicSettings()
    with (
        raw.client(scene.url) as client,
        ours.sender(scene, settings) as sender,
        raw.producer(client, scene.topic("raw"), batched=mixed) as to,
    ):
        topic = scene.topic("ours")
        turns = itertools.cycle(keys)
        theirs = itertools.cycle(keys)

        def call() -> None:
            sender.submit(topic, payload, partition_key=next(turns))

        def their_turn() -> Sample:
            found, callback = raw.answers()

            def their_call() -> None:
                to.send_async(payload, callback, partition_key=next(theirs))

            return timed(count, partial(_all, count, their_call, to.flush, found))

        yield {
            f"raw send_async, {'batched' if mixed else 'unbatched'}": their_turn,
            _OURS: lambda: ours.submit(sender, count, call),
        }


def _all(count: int, call: Callable[[], object], flush: Callable[[], object], found: list[object]) -> None:
    repeat(count, call)
    flush()
    raw.wait_for(found, count)


CASES = [
    Case(
        name="keyed-mixed",
        title="keyed lanes, keys mixed, against raw unordered",
        subject="keyed",
        prepare=partial(keyed, mixed=True),
        goals=(Goal(name="rate", ours=_OURS, against=("raw",), at_least=2.5),),
    ),
    Case(
        name="keyed-shared",
        title="keyed lanes, safe for Key_Shared, against raw unbatched",
        subject="keyed",
        prepare=partial(keyed, mixed=False),
        goals=(Goal(name="rate", ours=_OURS, against=("raw",), at_least=0.9),),
    ),
]
