"""
Where rows go: to a sender that keeps what fails, or to one whose input keeps it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Final

from safepulsar.cli.rows import BadRow, Row
from safepulsar.durable_source import DurableSource
from safepulsar.failed_messages import SqliteFailedMessages
from safepulsar.sender import RetryingSender
from safepulsar.settings import LanePolicy, RetrySettings, SenderSettings, TopicSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from typing_extensions import Self

    from safepulsar.cli.sending import Submit
    from safepulsar.failed_messages.encryption import PayloadEncryption
    from safepulsar.settings import ClientSettings

MAX_ROW_BYTES: Final = SenderSettings().max_message_bytes
# The deadline alone ends the tries: it is what the user gave.
_ALWAYS_AGAIN: Final = RetrySettings(max_retries=1_000_000)


@dataclass(frozen=True, slots=True)
class Opened:
    """
    What a row is given to. Closed at the end of a `with` block.

    Args:
        sender: has the books.
        submit: accepts a row.
        source: what it keeps rows or their places in; to be closed as well.
    """

    sender: RetryingSender
    submit: Submit
    source: DurableSource | SqliteFailedMessages

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.source.close()


@dataclass(frozen=True, slots=True)
class Target:
    """
    What the command line says of the topic.

    Args:
        topic: as given.
        ordered: whether the key is the ordering key, too.
        mix_keys: see `TopicSettings`.
        deadline_seconds: of each row.
    """

    topic: str
    ordered: bool
    mix_keys: bool
    deadline_seconds: float

    def sender(self, client: ClientSettings, path: Path, encryption: PayloadEncryption | None) -> Opened:
        """
        A sender that keeps rows in the store at `path`: one that fails, and in order what stands behind it in its lane.

        Raises:
            StoreError: the store cannot be opened.
        """
        settings = SenderSettings(
            deadline_seconds=self.deadline_seconds,
            retry=_ALWAYS_AGAIN,
            drain_on_sigterm=False,
            topics={self.topic: TopicSettings(mix_keys=self.mix_keys, lane_policy=LanePolicy.PARK)},
        )
        store = SqliteFailedMessages(path, encryption=encryption).open()
        try:
            sender = RetryingSender(client, failed_messages=store, settings=settings).open()
        except BaseException:
            store.close()
            raise
        return Opened(
            sender,
            lambda _, row: sender.submit(
                self.topic, row.payload, partition_key=row.key, ordering_key=row.key if self.ordered else None
            ),
            store,
        )

    def durable(
        self, client: ClientSettings, journal: Path, producer_name: str, rows: Iterator[Row | BadRow]
    ) -> tuple[Opened, Iterator[Row | BadRow]]:
        """
        A sender that knows from `journal` and from the topic which rows are stored; and the rows again, from the first.

        Raises:
            SafePulsarError: see `DurableSource.open`.
        """
        first = next(rows, None)
        source = DurableSource(
            client,
            journal,
            topic=self.topic,
            producer_name=producer_name,
            source=_fingerprint(first),
            mix_keys=self.mix_keys,
            deadline_seconds=self.deadline_seconds,
            retry=_ALWAYS_AGAIN,
        ).open()
        opened = Opened(
            source.sender,
            lambda number, row: source.submit(
                number, row.payload, partition_key=row.key, ordering_key=row.key if self.ordered else None
            ),
            source,
        )
        return opened, chain([] if first is None else [first], rows)


def _fingerprint(first: Row | BadRow | None) -> str | None:
    """
    By the first row: an input that grew at its end is still the same, and another one is most likely told apart.
    """
    if not isinstance(first, Row):
        return None
    return hashlib.blake2b(repr((first.payload, first.key)).encode(), digest_size=16).hexdigest()
