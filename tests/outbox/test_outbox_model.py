"""
Any sequence of calls by two processes' outboxes leaves the file as a plain model says.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from safepulsar.errors import ProducerNameInUse
from safepulsar.exactly_once.producer_journal import ProducerJournal
from safepulsar.failed_messages import SqliteFailedMessages
from safepulsar.outbox import Outbox, OutboxClaim
from tests.failed_messages.samples import ManualClock
from tests.outbox.samples import ORDERS, PAYMENTS, Sender, failure, name_of, order

_WHO = st.integers(0, 1)
_COUNT = st.integers(1, 4)


class OutboxMachine(RuleBasedStateMachine):
    """
    Two outboxes on one file, and what must be in it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="safepulsar-outbox-")
        self.clock = ManualClock()
        path = Path(self.folder.name) / "store.db"
        self.stores = [SqliteFailedMessages(path, clock=self.clock).open() for _ in range(2)]
        self.outboxes = [Outbox(store, producer_name=name_of, clock=self.clock) for store in self.stores]
        self.claims: list[OutboxClaim | None] = [None, None]
        self.rows: dict[int, bytes] = {}  # what waits
        self.last = 0  # the highest id given
        self.holder: int | None = None  # whose claim it is, and until when, and what it was handed out
        self.lease_ends_at = 0.0
        self.lease = 0.0
        self.handed_out = 0
        self.failed = 0
        self.entered = False  # whether the outbox numbers this producer's messages yet
        self.known = 0  # to the broker

    @initialize()
    def begin(self) -> None:
        """
        The fixtures of every run.
        """
        assert self.outboxes[0].stats()["waiting"] == 0

    def teardown(self) -> None:
        """
        Close the files.
        """
        for store in self.stores:
            store.close()
        self.folder.cleanup()

    def _live(self) -> bool:
        return self.holder is not None and self.clock.now < self.lease_ends_at

    @rule(who=_WHO, count=_COUNT, other=st.booleans())
    def put(self, who: int, count: int, other: bool) -> None:  # noqa: FBT001 - a strategy's
        """
        Put messages, of one topic or of two.
        """
        self.entered, self.last = True, max(self.last, self.known)
        payloads = [f"{self.last + 1 + number}".encode() for number in range(count)]
        sender = Sender()
        messages = [
            order(payload, topic=PAYMENTS if other and number % 2 else ORDERS)
            for number, payload in enumerate(payloads)
        ]
        ids = self.outboxes[who].put(messages, sender)
        assert ids == list(range(self.last + 1, self.last + count + 1))
        is_next = self._live() and who == self.holder and self.handed_out == self.last
        assert (sender.sent, sender.not_yet) == ((ids, []) if is_next else ([], ids))
        self.last += count
        if is_next:
            self.handed_out = self.last
        self.rows.update(zip(ids, payloads, strict=True))

    @rule(who=_WHO, data=st.data())
    def remove(self, who: int, data: st.DataObject) -> None:
        """
        Remove some that are there, and some that are not.
        """
        ids = data.draw(st.lists(st.integers(1, self.last + 2), max_size=5))
        self.outboxes[who].remove(ids)
        for number in ids:
            self.rows.pop(number, None)

    @rule(who=_WHO, data=st.data())
    def fail(self, who: int, data: st.DataObject) -> None:
        """
        Move some to the failed messages.
        """
        ids = data.draw(st.lists(st.integers(1, self.last + 2), max_size=3, unique=True))
        failures = {number: failure(order(self.rows.get(number)), number) for number in ids}
        if self.holder != who:
            try:
                moved = self.outboxes[who].fail(failures)
            except ProducerNameInUse:
                return
            raise AssertionError(moved)
        moved = self.outboxes[who].fail(failures)
        assert sorted(moved) == sorted(number for number in ids if number in self.rows)
        for number in moved:
            del self.rows[number]
        self.failed += len(moved)

    @rule(who=_WHO, seconds=st.sampled_from([5.0, 30.0]))
    def claim(self, who: int, seconds: float) -> None:
        """
        Become the one that sends, if nobody is.
        """
        if self._live():
            try:
                self.outboxes[who].claim(f"w{who}", lease_seconds=seconds)
            except ProducerNameInUse:
                return
            raise AssertionError(who)
        self.claims[who] = self.outboxes[who].claim(f"w{who}", lease_seconds=seconds)
        self.holder, self.lease, self.handed_out = who, seconds, 0
        self.lease_ends_at = self.clock.now + seconds
        if self.claims[1 - who] is not None:
            self.claims[1 - who] = None

    @rule(limit=_COUNT)
    def take(self, limit: int) -> None:
        """
        Take the next ones.
        """
        if self.holder is None:
            return
        claim = self.claims[self.holder]
        assert claim is not None
        taken = claim.take(limit)
        if self.clock.now >= self.lease_ends_at - self.lease / 2:
            self.lease_ends_at = self.clock.now + self.lease
        expected = [number for number in sorted(self.rows) if number > self.handed_out]
        assert [row.id for row in taken] == expected[:limit]
        assert all(row.message.payload == self.rows[row.id] for row in taken)
        self.handed_out = self.last if len(expected) <= limit else taken[-1].id

    @rule()
    def extend(self) -> None:
        """
        Renew the lease, also one that ran out while nobody took over.
        """
        if self.holder is not None:
            claim = self.claims[self.holder]
            assert claim is not None
            claim.extend(10)
            self.lease, self.lease_ends_at = 10, self.clock.now + 10

    @rule()
    def release(self) -> None:
        """
        Let go.
        """
        if self.holder is not None:
            claim = self.claims[self.holder]
            assert claim is not None
            claim.release()
            self.holder = None

    @rule(seconds=st.sampled_from([1.0, 7.0, 40.0]))
    def wait(self, seconds: float) -> None:
        """
        Time goes by.
        """
        self.clock.now += seconds

    @rule(beyond=st.integers(0, 12))
    def advance(self, beyond: int) -> None:
        """
        The broker turns out to know a higher id.
        """
        journal = ProducerJournal(self.stores[0]).claim("shop-orders", ORDERS, owner="x", lease_seconds=1)
        self.known = max(self.known, self.last + beyond)
        journal.advance(self.known)
        journal.release()
        if self.entered:
            self.last = self.known

    @rule(who=_WHO)
    def reopen(self, who: int) -> None:
        """
        The file is closed and opened again.
        """
        self.stores[who].close()
        self.stores[who].open()

    @invariant()
    def as_the_model_says(self) -> None:
        """
        The same rows wait, and nothing else.
        """
        stats = self.outboxes[0].stats()
        assert stats["waiting"] == len(self.rows)
        assert stats["bytes"] == sum(map(len, self.rows.values()))
        assert self.stores[1].stats()["kept"] == self.failed


TestOutbox = OutboxMachine.TestCase
TestOutbox.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
