"""
Any sequence of calls, by two owners under a clock that jumps, leaves every store as a plain model says.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from safepulsar.failed_messages import (
    FailedAgain,
    FailedMessageFilter,
    FailedMessageState,
    InMemoryFailedMessages,
    SqliteFailedMessages,
)
from safepulsar.message import Certainty, MessageId
from tests.failed_messages.samples import ManualClock, attempt, failed

if TYPE_CHECKING:
    from safepulsar.failed_messages import FailedMessageStore

DAY = 86_400.0
OWNERS = st.sampled_from(["r1", "r2"])
NUMBERS = st.integers(min_value=1, max_value=12)
SOME = st.lists(NUMBERS, max_size=6)
KEYS = st.sampled_from([None, "a", "b"])
ERRORS = st.sampled_from(["X", "Y"])
CERTAINTIES = st.sampled_from(Certainty)
LEASES = st.sampled_from([1.0, 30.0, DAY])
FILTERS = st.one_of(
    st.just(FailedMessageFilter()),
    st.builds(
        FailedMessageFilter,
        key=KEYS,
        error=st.none() | ERRORS,
        certainty=st.none() | CERTAINTIES,
        state=st.sampled_from([None, FailedMessageState.KEPT, FailedMessageState.CLAIMED]),
        older_than_seconds=st.sampled_from([None, 0.0, 20.0]),
        newer_than_seconds=st.sampled_from([None, 20.0]),
        ids=st.none() | st.builds(tuple, SOME),
    ),
)


@dataclass
class Row:
    """
    What the model knows of one message.
    """

    payload: bytes
    key: str | None
    error: str
    certainty: Certainty
    first_failed_at: float
    attempts: list[str] = field(default_factory=list)
    owner: str | None = None
    ends_at: float = 0.0

    def live(self, now: float) -> bool:
        """
        Somebody holds it.
        """
        return self.owner is not None and now < self.ends_at <= now + DAY

    def doubt(self, now: float) -> Certainty:
        """
        What is known of it now.
        """
        return Certainty.MAYBE_STORED if self.owner is not None and not self.live(now) else self.certainty


class StoreMachine(RuleBasedStateMachine):
    """
    Calls a store and the model alike; each call's answer and the whole content must agree.
    """

    def make_store(self) -> FailedMessageStore:
        """
        The store under test, closed.
        """
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = ManualClock()
        self.store = self.make_store()
        self.rows: dict[int, Row] = {}
        self.delivered: dict[int, MessageId] = {}
        self.last_id = 0

    @initialize()
    def begin(self) -> None:
        """
        Every run begins with an open, empty store.
        """
        self.store.open()

    def teardown(self) -> None:
        """
        Leave no file.
        """
        self.store.close()
        self.folder.cleanup()

    # -- the model's own understanding -------------------------------------------------------------------------

    def matching(self, where: FailedMessageFilter) -> list[int]:
        """
        The ids that a filter means.
        """
        now = self.clock.now
        return [
            number
            for number, row in self.rows.items()
            if (where.key is None or row.key == where.key)
            and (where.error is None or row.error == where.error)
            and (where.certainty is None or row.doubt(now) is where.certainty)
            and (where.state is None or row.live(now) == (where.state is FailedMessageState.CLAIMED))
            and (where.older_than_seconds is None or row.first_failed_at <= now - where.older_than_seconds)
            and (where.newer_than_seconds is None or row.first_failed_at >= now - where.newer_than_seconds)
            and (where.ids is None or number in where.ids)
        ]

    def mine(self, owner: str, ids: list[int] | None) -> list[int]:
        """
        Those of the ids that nobody took over.
        """
        return [n for n, row in self.rows.items() if row.owner == owner and (ids is None or n in ids)]

    # -- calls -------------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.5, 1.0, 29.0, 31.0, DAY, -0.5, -40.0, -2 * DAY]))
    def time_passes(self, seconds: float) -> None:
        """
        The wall clock moves, or is set.
        """
        self.clock.now += seconds

    @rule(keys=st.lists(KEYS, min_size=1, max_size=4), error=ERRORS, certainty=CERTAINTIES)
    def keep(self, keys: list[str | None], error: str, certainty: Certainty) -> None:
        """
        Keep a few.
        """
        now = self.clock.now
        new = range(self.last_id + 1, self.last_id + 1 + len(keys))
        messages = [
            failed(str(number).encode(), key=key, error=error, certainty=certainty, first_failed_at=now)
            for number, key in zip(new, keys, strict=True)
        ]
        assert self.store.keep(messages) == list(new)
        for number, key in zip(new, keys, strict=True):
            self.rows[number] = Row(str(number).encode(), key, error, certainty, now)
        self.last_id += len(keys)

    @rule(owner=OWNERS, where=FILTERS, limit=st.integers(1, 5), lease_seconds=LEASES)
    def claim(self, owner: str, where: FailedMessageFilter, limit: int, lease_seconds: float) -> None:
        """
        Claim a few, in order, never past anything of the same lane that is not the owner's.
        """
        now = self.clock.now
        for row in self.rows.values():
            if row.owner is not None and not row.live(now):
                row.certainty, row.owner = Certainty.MAYBE_STORED, None
        fitting = self.matching(where)
        expected: list[int] = []
        for number, row in self.rows.items():
            lane = {n: r for n, r in self.rows.items() if r.key == row.key} if row.key is not None else {number: row}
            others = [n for n, r in lane.items() if r.owner not in (None, owner)]
            before = [n for n, r in lane.items() if n < number and r.owner != owner and n not in expected]
            if number in fitting and row.owner is None and not others and not before and len(expected) < limit:
                expected.append(number)
        taken = self.store.claim(owner, where, limit=limit, lease_seconds=lease_seconds)
        assert [message.id for message in taken] == expected
        for message in taken:
            row = self.rows[message.id or 0]
            assert (message.message.payload, message.certainty) == (row.payload, row.certainty)
            row.owner, row.ends_at = owner, now + lease_seconds

    @rule(owner=OWNERS, ids=SOME, lease_seconds=LEASES)
    def extend(self, owner: str, ids: list[int], lease_seconds: float) -> None:
        """
        Heartbeat.
        """
        now = self.clock.now
        still = [n for n in self.mine(owner, ids) if self.rows[n].live(now)]
        assert self.store.extend(owner, ids, lease_seconds) == still
        for number in still:
            self.rows[number].ends_at = now + lease_seconds

    @rule(owner=OWNERS, ids=SOME)
    def deliver(self, owner: str, ids: list[int]) -> None:
        """
        Mark as delivered, also what is not the owner's.
        """
        mine = self.mine(owner, ids)
        assert self.store.delivered(owner, {n: MessageId(1, n) for n in ids}) == mine
        for number in mine:
            del self.rows[number]
            self.delivered[number] = MessageId(1, number)

    @rule(number=NUMBERS)
    def confirm(self, number: int) -> None:
        """
        A late acknowledgement.
        """
        assert self.store.confirm(number, MessageId(2, number)) is (number in self.rows)
        if self.rows.pop(number, None):
            self.delivered[number] = MessageId(2, number)

    @rule(owner=OWNERS, ids=SOME, error=ERRORS, certainty=CERTAINTIES)
    def fail_again(self, owner: str, ids: list[int], error: str, certainty: Certainty) -> None:
        """
        Replays that were not confirmed.
        """
        mine = self.mine(owner, ids)
        failures = [FailedAgain(id=n, attempts=(attempt(error),), certainty=certainty, error=error) for n in ids]
        assert self.store.failed_again(owner, failures) == mine
        for number in mine:
            row = self.rows[number]
            row.attempts.append(error)
            row.error, row.owner = error, None
            if certainty is Certainty.MAYBE_STORED:
                row.certainty = certainty

    @rule(owner=OWNERS, ids=st.none() | SOME)
    def release(self, owner: str, ids: list[int] | None) -> None:
        """
        Give back.
        """
        mine = self.mine(owner, ids)
        assert self.store.release(owner, ids) == mine
        for number in mine:
            self.rows[number].owner = None

    @rule(where=FILTERS, dry_run=st.booleans())
    def purge(self, where: FailedMessageFilter, *, dry_run: bool) -> None:
        """
        Delete what nobody holds.
        """
        gone = [n for n in self.matching(where) if not self.rows[n].live(self.clock.now)]
        assert self.store.purge(where, dry_run=dry_run) == len(gone)
        if not dry_run:
            for number in gone:
                del self.rows[number]

    @rule(where=FILTERS, after=st.integers(0, 5), limit=st.none() | st.integers(0, 5))
    def find(self, where: FailedMessageFilter, after: int, limit: int | None) -> None:
        """
        Look.
        """
        matching = self.matching(where)
        assert self.store.count(where) == len(matching)
        found = [message.id for message in self.store.find(where, after=after, limit=limit)]
        assert found == [n for n in matching if n > after][:limit]

    @rule()
    def reopen(self) -> None:
        """
        Nothing depends on the store having been open all the time.
        """
        self.store.close()
        self.store.open()

    @invariant()
    def everything_is_as_the_model_says(self) -> None:
        """
        Content, standing and statistics agree after every call.
        """
        now = self.clock.now
        found = {message.id: message for message in self.store.find()}
        assert list(found) == list(self.rows)
        for number, row in self.rows.items():
            message = found[number]
            assert message.message.payload == row.payload
            assert message.certainty is row.doubt(now)
            assert (message.error, [each.code for each in message.attempts]) == (row.error, row.attempts)
            assert self.store.status(number).owner == (row.owner if row.live(now) else None)
        for number, message_id in self.delivered.items():
            assert self.store.status(number).message_id == message_id
        stats = self.store.stats()
        claimed = sum(row.live(now) for row in self.rows.values())
        assert (stats["kept"], stats["claimed"]) == (len(self.rows) - claimed, claimed)
        assert stats["delivered"] == len(self.delivered)


class InMemoryMachine(StoreMachine):
    """
    On the store in memory.
    """

    def make_store(self) -> FailedMessageStore:
        """
        One in memory.
        """
        return InMemoryFailedMessages(clock=self.clock)


class SqliteMachine(StoreMachine):
    """
    On the store on disk.
    """

    def make_store(self) -> FailedMessageStore:
        """
        One in a folder of its own.
        """
        return SqliteFailedMessages(Path(self.folder.name) / "failed.db", clock=self.clock)


_SETTINGS = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestInMemory = InMemoryMachine.TestCase
TestInMemory.settings = _SETTINGS
TestSqlite = SqliteMachine.TestCase
TestSqlite.settings = _SETTINGS
