"""
An input that can be read again, such as a file: each of its rows ends in the topic exactly once, whatever is killed when.

    with DurableSource("pulsar://localhost:6650", "import.db", topic="orders", producer_name="orders-import") as source:
        for number, row in enumerate(rows, 1):
            source.submit(number, row)

Nothing of the rows is kept: the input has them. What is kept on disk is how far they are stored, and where in the topic
to look for more. Whoever begins again with the same name first looks there, and leaves out what is stored.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from safepulsar.checks import check_sequence_id
from safepulsar.errors import InvalidMessage
from safepulsar.failed_messages import InMemoryFailedMessages, SqliteFailedMessages
from safepulsar.sender import RetryingSender
from safepulsar.sending.intake import prepare
from safepulsar.settings import SenderSettings, TopicSettings

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from typing_extensions import Self

    from safepulsar.books.handle import SendHandle
    from safepulsar.broker.client_registry import ClientRegistry
    from safepulsar.exactly_once.resolution import ExactlyOnce
    from safepulsar.sending.engine import CloseReport
    from safepulsar.serialization import Sendable
    from safepulsar.settings import ClientSettings, RetrySettings


class _Rows(InMemoryFailedMessages):
    """
    Where rows go that fail: nowhere, because the input has them.
    """

    def __init__(self, journal_store: SqliteFailedMessages) -> None:
        super().__init__()
        self.journal_store = journal_store


class DurableSource:
    """
    Sends the rows of an input under a producer name of its own, in order. Rows are submitted by one thread at a time.

    The first row that fails stops all behind it, whatever their keys: nothing overtakes. Begin again then, with the same
    input and name. Killed at any moment, it begins again likewise.

    Args:
        client: the cluster.
        journal: path of the SQLite file that knows how far the input is stored; a store of failed messages may be there, too.
        topic: where to.
        producer_name: used by nobody else; one input, one name.
        source: a fingerprint of the input, None for none: with another one, the same name is refused.
        mix_keys: see `TopicSettings`.
        deadline_seconds: of each row.
        retry: within the deadline.
        registry: see `RetryingSender`.
    """

    def __init__(
        self,
        client: str | ClientSettings,
        journal: str | os.PathLike[str],
        *,
        topic: str,
        producer_name: str,
        source: str | None = None,
        mix_keys: bool = False,
        deadline_seconds: float = 10.0,
        retry: RetrySettings | None = None,
        registry: ClientRegistry | None = None,
    ) -> None:
        named = TopicSettings(producer_name=producer_name, exactly_once=True, mix_keys=mix_keys)
        settings = SenderSettings(topics={topic: named}, deadline_seconds=deadline_seconds, drain_on_sigterm=False)
        if retry is not None:
            settings = replace(settings, retry=retry)
        self._store = SqliteFailedMessages(journal)
        self._topic = topic
        self._source = source
        self._last = 0
        self._adopted: ExactlyOnce | None = None  # asked about each row, so not looked up for each
        self.sender = RetryingSender(client, failed_messages=_Rows(self._store), settings=settings, registry=registry)

    def __repr__(self) -> str:
        return f"<DurableSource to {self._topic!r}, journal {self._store!r}>"

    def open(self) -> Self:
        """
        Take the name, and find out what is stored. Waits for the broker as long as the deadline of a row.

        Raises:
            ProducerNameInUse: another process sends under this name.
            StoreOfAnotherProducer: the name belongs to another topic or input.
            BrokerError: the broker is away, or the name is in use, or the topic cannot be read back.
            StoreError: the journal cannot be used.
        """
        self._store.open()
        try:
            self.sender.open()
            self._adopt()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> CloseReport:
        """
        Wait for what is in flight, write down how far it is, and let go of the name. Idempotent.
        """
        report = self.sender.close()
        self._store.close()
        return report

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def is_stored(self, number: int) -> bool:
        """
        Whether this row was stored by an earlier run.
        """
        exactly_once = self._exactly_once
        return number <= exactly_once.confirmed or number in exactly_once.stored

    def submit(
        self,
        number: int,
        value: Sendable,
        *,
        partition_key: str | None = None,
        ordering_key: str | None = None,
        properties: Mapping[str, str] | None = None,
    ) -> SendHandle | None:
        """
        Accept one row, None if it is stored already.

        Args:
            number: its place in the input, from 1, the same in every run; rising.
            value: as for `RetryingSender.submit`, as all that follows.
            partition_key: see there.
            ordering_key: see there.
            properties: see there.

        Raises:
            LanePaused: a row before it failed.
            InvalidInput: refused; the rows before it are sent.
            QueueFull: see `RetryingSender.submit`; submit it again.
        """
        number = check_sequence_id(number)
        if number <= self._last:
            raise InvalidMessage("number", f"{number} is not above {self._last}, the last one; rows are given in order")
        if self.is_stored(number):
            self._last = number
            return None
        handle = prepare(
            self.sender._started(), self._topic, value, partition_key, ordering_key, properties, None, None, None, None
        )
        handle.sequence_id = number
        exactly_once = self._exactly_once
        if exactly_once.gap is None:
            between = range(max(self._last, exactly_once.confirmed) + 1, number)
            exactly_once.gap = next((each for each in between if each not in exactly_once.stored), None)
        self.sender._accept(handle)
        self._last = number
        return handle

    @property
    def _exactly_once(self) -> ExactlyOnce:
        if self._adopted is None:
            self._adopted = self.sender._started().queue(self._topic, keyed=True).exactly_once
            assert self._adopted is not None  # noqa: S101 - the settings say so
        return self._adopted

    def _adopt(self) -> None:
        engine = self.sender._started()
        queue = engine.queue(self._topic, keyed=True)
        queue.lanes.one = True
        exactly_once = self._exactly_once
        exactly_once.numbered_by_caller = True
        exactly_once.source = self._source
        queue.borrower.open(self.sender.settings.deadline_seconds)
        if self._source is not None and exactly_once.claim is not None:
            exactly_once.claim.set_source(self._source)
