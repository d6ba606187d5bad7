"""
A consumer that dies at any moment and starts again neither skips nor repeats, if `save` commits its transaction.
"""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from safepulsar.receiving import Acknowledge, OrderedReceiver, ReceiverSettings
from tests.receiving.fakes import Database, FakeConsumer, FakeMessage, ManualClock, Subscription

_LANES: Final = "ab"
_LENGTH: Final = 4
_EACH_ONCE: Final = [(lane, sequence) for lane in _LANES for sequence in range(1, _LENGTH + 1)]
_SHUFFLED: Final = [("a", 2), ("b", 1), ("a", 2), ("b", 4), ("a", 1), ("b", 2), ("a", 4), ("a", 1), ("b", 3), ("a", 3)]


class Crash(BaseException):
    """
    The process is gone: nothing catches it.
    """


class Steps:
    """
    Counts every step that has an effect outside of the receiver, and crashes at chosen ones.

    Args:
        crashes: the numbers of steps, from 1, before which the process dies.
    """

    def __init__(self, crashes: set[int]) -> None:
        self.crashes = crashes
        self.taken = 0

    def __call__(self, name: str) -> None:
        """
        Take a step.
        """
        assert name
        self.taken += 1
        if self.taken in self.crashes:
            raise Crash


def _run(
    places: list[tuple[str, int]],
    crashes: set[int],
    acknowledge: Acknowledge,
    commit_messages: int,
    *,
    rows_of_lanes: bool = False,
    database: type[Database] = Database,
    consumer: type[FakeConsumer] = FakeConsumer,
) -> tuple[Database, Subscription, int]:
    steps = Steps(crashes)
    subscription, application = Subscription(places, ManualClock(), steps), database(steps)
    settings = ReceiverSettings(acknowledge=acknowledge, commit_messages=commit_messages)
    while True:
        receiver = OrderedReceiver(
            consumer(subscription),
            save=application.save,
            state=None if rows_of_lanes else application.state,
            recall=application.lanes.get if rows_of_lanes else None,
            settings=settings,
            clock=subscription.clock,
        )
        try:
            while (message := receiver.receive(0)) is not None:
                with message:
                    application.write(message.message.data().decode())
        except Crash:
            application.transaction.clear()
        else:
            return application, subscription, steps.taken


def _assert_each_once_in_order(database: Database, subscription: Subscription) -> None:
    for lane in _LANES:
        assert [row for row in database.rows if row[0] == lane] == [f"{lane}{n}" for n in range(1, _LENGTH + 1)]
    assert subscription.open == []


@pytest.mark.parametrize("rows_of_lanes", [False, True], ids=["state", "recall"])
@pytest.mark.parametrize("commit_messages", [1, 3])
@pytest.mark.parametrize("acknowledge", Acknowledge)
def test_a_crash_at_every_step(acknowledge: Acknowledge, commit_messages: int, *, rows_of_lanes: bool) -> None:
    """
    Between any two steps of a run with shuffled lanes and copies, also between saving and acknowledging.
    """
    _, _, steps = _run(_SHUFFLED, set(), acknowledge, commit_messages, rows_of_lanes=rows_of_lanes)
    assert steps > 30
    for step in range(1, steps + 1):
        database, subscription, _ = _run(_SHUFFLED, {step}, acknowledge, commit_messages, rows_of_lanes=rows_of_lanes)
        _assert_each_once_in_order(database, subscription)


@example_settings(deadline=None)
@given(
    places=st.permutations(_EACH_ONCE).flatmap(
        lambda order: st.lists(st.sampled_from(_EACH_ONCE), max_size=6).flatmap(
            lambda copies: st.permutations([*order, *copies])
        )
    ),
    crashes=st.sets(st.integers(min_value=1, max_value=150), max_size=6),
    acknowledge=st.sampled_from(Acknowledge),
    commit_messages=st.integers(min_value=1, max_value=5),
    rows_of_lanes=st.booleans(),
)
def test_any_order_any_copies_any_crashes(
    places: list[tuple[str, int]],
    crashes: set[int],
    acknowledge: Acknowledge,
    commit_messages: int,
    *,
    rows_of_lanes: bool,
) -> None:
    """
    Several crashes in a run, with the lanes shuffled in any way and any messages twice.
    """
    database, subscription, _ = _run(places, crashes, acknowledge, commit_messages, rows_of_lanes=rows_of_lanes)
    _assert_each_once_in_order(database, subscription)


class HastyDatabase(Database):
    """
    One in which everything counts at once, whatever becomes of the progress.
    """

    def write(self, row: str) -> None:
        """
        Commit at once.
        """
        super().write(row)
        self.rows.append(self.transaction.pop())


class HastyConsumer(FakeConsumer):
    """
    One that acknowledges what it receives.
    """

    def receive(self, timeout_millis: int | None = None) -> FakeMessage:
        """
        Return the next message, which is gone from the broker then.
        """
        message = super().receive(timeout_millis)
        self.acknowledge(message)
        return message


@pytest.mark.parametrize(
    ("database", "consumer", "rows"),
    [(HastyDatabase, FakeConsumer, 9), (Database, HastyConsumer, 7)],
    ids=["repeats without the transaction", "loses what is acknowledged too early"],
)
def test_the_test_can_see(database: type[Database], consumer: type[FakeConsumer], rows: int) -> None:
    """
    The controls: with either half of the protection off there is a crash that repeats, or loses, a message.
    """
    counts = set()
    for step in range(1, 60):
        run, _, _ = _run(_EACH_ONCE, {step}, Acknowledge.INDIVIDUAL, 1, database=database, consumer=consumer)
        counts.add(len(run.rows))
    assert rows in counts
