"""
A sender on trial: its broker, its topic, its store on disk, the history of it all, and the verdict.
"""

from __future__ import annotations

import random
import threading
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from safepulsar import LanePolicy, RetryingSender, SenderSettings, SqliteFailedMessages, TopicSettings, replay
from safepulsar.failed_messages import FailedMessageState
from tests.brokers import read_topic
from tests.faults.load import Load
from tests.faults.orders import identify, identity_in
from tests.faults.ways import Ways
from tests.history import History, Rules, What, assert_valid
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self

    from safepulsar import Certainty, Counts, FailedMessage, ReplayReport
    from tests.brokers import Broker, Record
    from tests.history import Report

_READ_SECONDS: Final = 60.0
_FATES: Final = frozenset({What.ACKED, What.DUPLICATE, What.FAILED})
_STORED: Final = frozenset({What.ACKED, What.DUPLICATE, What.REPLAYED})
_LATE_SECONDS: Final = 0.5  # for what a producer that was closed had sent, and the broker still has to take
_RESUMED: Final = 200
_IN_FLIGHT: Final = 1000  # while the broker is away no more than this piles up, which would only cost time
_RESUME_SECONDS: Final = 40.0


class _Store(SqliteFailedMessages):
    """
    Remembers what it was given: what it takes for delivered by now has no payload any more that could tell which it was.

    Attributes:
        given: by its id, whose message it is, and how certain.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.given: dict[int, tuple[str, Certainty]] = {}

    def keep(self, messages: Sequence[FailedMessage]) -> list[int]:
        """
        As every store.
        """
        ids = super().keep(messages)
        for number, message in zip(ids, messages, strict=True):
            self.given[number] = identity_in(message.message.payload or b""), message.certainty
        return ids


class Trial:
    """
    In a `with` block; at its end everything is closed. Nothing is sent before `open`.

    Args:
        broker: running.
        topic: full name; nobody else's.
        store: the path of the store, not made yet.
        seed: of the load.

    Attributes:
        broker: the same.
        history: so far.
        rng: for what a test does at random.
        sender: after `open`.
    """

    sender: RetryingSender

    def __init__(self, broker: Broker, topic: str, store: Path, seed: int) -> None:
        self.broker = broker
        self.topic = topic
        self.history = History()
        self.rng = random.Random(seed)  # noqa: S311  # guards nothing
        self.store_path = store
        self.store = _Store(store)
        self._seed = seed
        self._opened = False
        self._closed = False

    def __enter__(self) -> Self:
        self.store.open()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._opened and not self._closed:
            self.sender.close(1.0)
        self.store.close()

    def open(self, *, url: str | None = None, **settings: Any) -> RetryingSender:  # noqa: ANN401  # as SenderSettings
        """
        Open the sender.

        Args:
            url: where the broker is reached, if not at its own.
            settings: of the sender.
        """
        settings = {
            "max_in_flight_messages": _IN_FLIGHT,
            "drain_on_sigterm": False,
            # A lane that stops would take the load away.
            "topic_defaults": TopicSettings(lane_policy=LanePolicy.SKIP),
            **settings,
        }
        self.sender = RetryingSender(
            url or self.broker.url, failed_messages=self.store, settings=SenderSettings(**settings)
        ).open()
        self._opened = True
        return self.sender

    def load(self, **options: Any) -> Load:  # noqa: ANN401  # as Load
        """
        Put the sender under load, in a `with` block.
        """
        return Load(self.sender, self.topic, self.history, seed=self._seed, **options)

    def ways(self) -> Ways:
        """
        Send by hand; what is sent is in the history as under load.
        """
        return Ways(self.sender, self.topic, self.history, deadline_seconds=30.0, closed=threading.Event())

    def wait_for_more(self, number: int = _RESUMED, *, timeout_seconds: float = _RESUME_SECONDS) -> None:
        """
        Return when so many more than now are delivered.
        """
        before = self.delivered()
        wait_until(
            lambda: self.delivered() >= before + number,
            f"{number} more delivered than {before}; {self.sender.stats()}",
            timeout_seconds=timeout_seconds,
        )

    def wait_for_accepted(self, number: int, *, timeout_seconds: float = _RESUME_SECONDS) -> None:
        """
        Return when so many more than now are accepted.
        """
        before = self.sender.stats().counts.accepted
        wait_until(
            lambda: self.sender.stats().counts.accepted >= before + number,
            f"{number} more accepted than {before}",
            timeout_seconds=timeout_seconds,
        )

    def outlast_deadline(self) -> None:
        """
        Return when a message has failed that was accepted after this call: so has all that was under way before.
        """
        begin = len(list(self.history.events()))

        def failed() -> bool:
            attempted = set()
            for what, identity, _facts in islice(self.history.events(), begin, None):
                if what is What.ATTEMPTED:
                    attempted.add(identity)
                elif what is What.FAILED and identity in attempted:
                    return True
            return False

        wait_until(failed, "a message to fail", timeout_seconds=_RESUME_SECONDS)

    def delivered(self) -> int:
        """
        How many are delivered so far, or were already.
        """
        counts = self.sender.stats().counts
        return counts.delivered + counts.duplicate

    def close(self) -> None:
        """
        Close the sender, as an application would, and note its books.
        """
        report = self.sender.close()
        assert report.drained, report
        assert report.clean, report
        self.note(report.counts)

    def note(self, counts: Counts) -> None:
        """
        Note the books of the closed sender.
        """
        self._closed = True
        self.history.ledger(
            accepted=counts.accepted,
            delivered=counts.delivered,
            duplicate=counts.duplicate,
            failed=counts.failed,
            in_flight=counts.in_flight,
        )
        assert counts.not_kept == 0, counts

    def learn_from_store(self) -> None:
        """
        Note what the store got and no caller was told, because its call was interrupted or could not wait for it.

        Before a replay, which removes what another process has put there.
        """
        told = {event.identity for event in self.history.events() if event.what in _FATES}
        kept = {
            row.id: (identity_in(row.message.payload or b""), row.certainty)
            for row in self.store.find()
            if row.id is not None
        }
        for number, (identity, certainty) in (self.store.given | kept).items():
            if identity not in told:
                self.history.failed(identity, certainty, number)

    def replay(self, settings: SenderSettings | None = None) -> ReplayReport:
        """
        Replay the store by a sender of its own, with settings of its own.
        """
        self.learn_from_store()
        with RetryingSender(self.broker.url, failed_messages=self.store, settings=settings) as sender:
            return replay(self.store, sender)

    def broken_connections(self, *, replay_keeps_order: bool = True) -> Rules:
        """
        The rules where connections broke: what was in flight may be there twice, unless the broker deduplicates.
        """
        excuse = not self.broker.features.deduplication
        return Rules(connection_broken=excuse, replay_keeps_order=replay_keeps_order)

    def read(self, partitions: int = 0, *, complete: bool = True) -> list[Record]:
        """
        Read the topic, or one of its partitions after the other.

        A topic has at least what we were told is stored, if it is to be `complete`: a slow machine is no reason to stop
        before.
        """
        if partitions:
            topics = [f"{self.topic}-partition-{number}" for number in range(partitions)]
            return [record for topic in topics for record in self._read(topic, 0)]
        told = {event.identity for event in self.history.events() if event.what in _STORED and complete}
        return self._read(self.topic, len(told))

    def _read(self, topic: str, until: int) -> list[Record]:
        return read_topic(self.broker, topic, until=until, idle_seconds=_LATE_SECONDS, timeout_seconds=_READ_SECONDS)

    def judge(self, rules: Rules | None = None, *, partitions: int = 0) -> Report:
        """
        Read the topic and the store, and let the checker decide. The sender is closed.

        Args:
            rules: those of `broken_connections` unless given.
            partitions: of the topic, if it is partitioned: a key must stay in one of them.
        """
        rules = rules or self.broken_connections()
        replayed, confirmed = self._look_into_store()
        records = self.read(partitions)
        self.history.found(self.topic, records, identify)
        report = assert_valid(self.history, rules)
        homes = {(record.partition_key, record.position[-1]) for record in records if record.partition_key}
        assert len(homes) == len({key for key, _ in homes}), "a key is in two partitions"
        # Later copies replace earlier ones here: a replay made the last one.
        places = {identify(record): place for place, record in enumerate(records)}
        unfounded = confirmed - places.keys()
        assert not unfounded, f"the store takes them for delivered, and the topic has them not: {unfounded}"
        latest: dict[str, int] = {}
        for what, identity, facts in self.history.events():
            if what is What.ATTEMPTED and identity in replayed and facts["lane"] is not None:
                assert places[identity] > latest.get(facts["lane"], -1), f"{identity} was replayed too late"
                latest[facts["lane"]] = places[identity]
        print(report)  # noqa: T201  # for whoever looks how hard the test was
        return report

    def _look_into_store(self) -> tuple[set[str], set[str]]:
        """
        Record what the store says of every failed message; return those that were replayed, and those acknowledged late.
        """
        replayed, confirmed = set(), set()
        for what, identity, facts in list(self.history.events()):
            if what is not What.FAILED or facts["kept_id"] is None:
                continue
            status = self.store.status(facts["kept_id"])
            if status.state is FailedMessageState.DELIVERED and status.owner is not None:
                self.history.replayed(identity)
                replayed.add(identity)
                continue
            self.history.kept(identity, facts["kept_id"])
            if status.state is FailedMessageState.DELIVERED:
                confirmed.add(identity)
        return replayed, confirmed
