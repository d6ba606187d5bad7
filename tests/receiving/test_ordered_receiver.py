"""
The receiver on a subscription in memory: order, turns, acknowledgements, copies, bounds, gaps and bad input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from safepulsar.errors import InvalidInput, InvalidSettings
from safepulsar.receiving import (
    Acknowledge,
    BufferFull,
    Gap,
    GapPolicy,
    InvalidSequence,
    InvalidState,
    NotHandedOut,
    OrderedReceiver,
    ReceiverSettings,
    ReorderSettings,
    SequenceGap,
    TooManyLanes,
    Unsequenced,
)
from tests.receiving.fakes import Database, FakeMessage, Subscription

if TYPE_CHECKING:
    from collections.abc import Callable

    from safepulsar.receiving import OrderedMessage

SKIP = GapPolicy.SKIP_WITH_REPORT


def _receiver(subscription: Subscription, **settings: object) -> OrderedReceiver[FakeMessage]:
    given = ReceiverSettings(**settings)  # type: ignore[arg-type]
    return OrderedReceiver(subscription.connect(), save=None, settings=given, clock=subscription.clock)


def _take(receiver: OrderedReceiver[FakeMessage]) -> OrderedMessage[FakeMessage]:
    message = receiver.receive(0)
    assert message is not None
    return message


def _drain(receiver: OrderedReceiver[FakeMessage]) -> list[str]:
    rows: list[str] = []
    while (message := receiver.receive(0)) is not None:
        with message:
            rows.append(message.message.data().decode())
    return rows


@pytest.mark.parametrize("acknowledge", Acknowledge)
def test_what_overtook_is_put_back_in_order(acknowledge: Acknowledge) -> None:
    """
    Two lanes that were mixed and shuffled are handed out in order, and nothing stays unacknowledged.
    """
    subscription = Subscription([("a", 2), ("b", 1), ("a", 3), ("b", 3), ("a", 1), ("b", 2)])
    receiver = _receiver(subscription, acknowledge=acknowledge)
    assert _drain(receiver) == ["b1", "a1", "a2", "a3", "b2", "b3"]
    assert subscription.open == []
    stats = receiver.stats()
    assert (stats.received, stats.handed_out, stats.done, stats.committed, stats.held) == (6, 6, 6, 6, 0)


def test_nothing_is_acknowledged_before_it_is_done() -> None:
    """
    What waits and what is handed out stays with the broker.
    """
    subscription = Subscription([("a", 3), ("a", 1), ("a", 2)])
    receiver = _receiver(subscription)
    message = _take(receiver)
    assert (message.lane, message.sequence, message.message.data()) == ("a", 1, b"a1")
    assert subscription.open == ["a3", "a1", "a2"]
    message.done()
    assert subscription.open == ["a3", "a2"]
    assert repr(message) == "<OrderedMessage 1, COMMITTED>"


def test_progress_is_saved_before_anything_is_acknowledged() -> None:
    """
    When `save` is called with what is done, the broker still has the message.
    """
    subscription, open_then = Subscription([("a", 1), ("a", 2)]), list[tuple[list[str], dict[str, int]]]()
    receiver = OrderedReceiver(
        subscription.connect(), save=lambda progress: open_then.append((subscription.open, dict(progress.changed)))
    )
    _drain(receiver)
    assert open_then == [(["a1", "a2"], {"a": 2}), (["a2"], {"a": 3})]


def test_one_of_a_lane_at_a_time() -> None:
    """
    While a message is out the next of its lane waits, and those of other lanes don't.
    """
    receiver = _receiver(Subscription([("a", 1), ("a", 2), ("b", 1)]))
    first, second = _take(receiver), _take(receiver)
    assert [first.lane, second.lane] == ["a", "b"]
    assert receiver.receive(0) is None
    first.done()
    assert _take(receiver).sequence == 2


def test_what_is_given_back_comes_next() -> None:
    """
    A message that was given back is handed out again before all others.
    """
    receiver = _receiver(Subscription([("a", 1), ("b", 1), ("a", 2)]))
    message = _take(receiver)
    message.again()
    assert _drain(receiver) == ["a1", "b1", "a2"]


def test_an_exception_takes_back_all_since_the_last_save() -> None:
    """
    What was done and not saved is handed out again too, in order, since a transaction is rolled back as a whole.
    """
    subscription = Subscription([("a", 1), ("a", 2), ("b", 1), ("a", 3), ("b", 2), ("a", 4)])
    receiver = _receiver(subscription, commit_messages=3)
    for _ in range(3):
        _take(receiver).done()  # a1, a2, b1: committed
    _take(receiver).done()  # a3
    _take(receiver).done()  # b2
    failing = _take(receiver)
    with pytest.raises(ZeroDivisionError), failing:
        raise ZeroDivisionError
    assert subscription.open == ["a3", "b2", "a4"]
    assert receiver.stats().done == 3
    assert _drain(receiver) == ["a3", "b2", "a4"]
    assert subscription.open == []


def test_a_save_that_fails_acknowledges_nothing() -> None:
    """
    Its error comes out of the `with` block, and the message is handed out again.
    """
    subscription, database = Subscription([("a", 1)]), Database()

    def save(_: object) -> None:
        raise OSError

    receiver = OrderedReceiver(subscription.connect(), save=save)
    for _ in range(2):
        with pytest.raises(OSError), _take(receiver) as message:  # noqa: PT011 - it has no text
            database.write(message.message.data().decode())
    assert subscription.open == ["a1"]


def test_many_are_saved_at_once_and_the_rest_when_nothing_comes() -> None:
    """
    With `commit_messages` of 3, five messages take two saves, the second one when there is nothing to receive.
    """
    subscription, database = Subscription([("a", number) for number in range(1, 6)]), Database()
    receiver = OrderedReceiver(subscription.connect(), save=database.save, settings=ReceiverSettings(commit_messages=3))
    assert len(_drain(receiver)) == 5
    assert (database.saves, database.lanes, subscription.open) == (2, {"a": 6}, [])


def test_nothing_is_saved_under_a_message_that_is_out() -> None:
    """
    While the application has a message, idling saves nothing, because its transaction may be half written.
    """
    database = Database()
    receiver = OrderedReceiver(
        Subscription([("a", 1), ("b", 1)]).connect(), save=database.save, settings=ReceiverSettings(commit_messages=3)
    )
    _take(receiver).done()
    message = _take(receiver)
    assert receiver.receive(0) is None
    assert database.saves == 0
    message.done()
    with receiver:
        pass
    assert database.saves == 1


def test_leaving_by_an_exception_saves_nothing() -> None:
    """
    A `with` block of the receiver that fails leaves what is not saved to be delivered again.
    """
    subscription, database = Subscription([("a", 1)]), Database()
    settings = ReceiverSettings(commit_messages=3)
    receiver = OrderedReceiver(subscription.connect(), save=database.save, settings=settings)
    _take(receiver).done()
    with pytest.raises(ZeroDivisionError), receiver:
        raise ZeroDivisionError
    assert (database.saves, subscription.open) == (0, ["a1"])


@pytest.mark.parametrize("acknowledge", Acknowledge)
def test_copies_are_dropped_and_acknowledged_with_the_first(acknowledge: Acknowledge) -> None:
    """
    A copy of what is not done stays unacknowledged until it is; a copy of what is done goes at once.
    """
    subscription = Subscription([("a", 2), ("a", 2), ("a", 1), ("a", 1)])
    receiver = _receiver(subscription, acknowledge=acknowledge)
    message = _take(receiver)
    assert receiver.receive(0) is None
    assert subscription.open == ["a2", "a2", "a1", "a1"]
    message.done()
    assert subscription.open == ["a2", "a2"]
    assert _drain(receiver) == ["a2"]
    assert subscription.open == []
    subscription.messages.append(FakeMessage(4, b"a1", {"safepulsar-sequence": "1"}, key="a"))
    late = OrderedReceiver(subscription.connect(), save=None, recall={"a": 3}.get)
    assert _drain(late) == []
    assert subscription.open == []
    assert receiver.stats().duplicates == 2


def test_the_same_message_again_is_no_second_one() -> None:
    """
    After a reconnect the broker delivers again what is held; that is done once, and each delivery is acknowledged.
    """
    subscription = Subscription([("a", 1)])
    consumer = subscription.connect()
    acknowledged: list[FakeMessage] = []
    consumer.acknowledge = acknowledged.append  # type: ignore[method-assign, assignment]
    receiver = OrderedReceiver(consumer, save=None)
    message = _take(receiver)
    again = FakeMessage(0, b"a1", {"safepulsar-sequence": "1"}, key="a")
    consumer.queue.extend([again, again])
    assert receiver.receive(0) is None
    message.done()
    assert acknowledged == [message.message, again]


def test_cumulatively_what_is_before_all_gaps_and_singly_what_is_behind() -> None:
    """
    A cumulative acknowledgement never covers what is not done, however much of it was received before.
    """
    subscription = Subscription([("a", 1), ("b", 2), ("a", 2), ("b", 1), ("a", 3)])
    receiver = _receiver(subscription, acknowledge=Acknowledge.CUMULATIVE, commit_messages=2)
    _take(receiver).done()
    _take(receiver).done()  # a1 cumulatively, a2 singly, since b2 waits
    assert (subscription.cumulative, subscription.open) == (1, ["b2", "b1", "a3"])
    assert _drain(receiver) == ["b1", "b2", "a3"]
    assert (subscription.cumulative, subscription.open) == (3, [])


@pytest.mark.parametrize("acknowledge", Acknowledge)
def test_what_is_refused_is_delivered_again(acknowledge: Acknowledge) -> None:
    """
    Under WAIT a message without room is given back and named; the missing one gets through, and all come out in order.
    """
    subscription = Subscription([("a", 2), ("a", 3), ("b", 1), ("a", 4), ("a", 1)])
    receiver = _receiver(subscription, reorder=ReorderSettings(max_messages=2), acknowledge=acknowledge)
    assert [_take(receiver).lane] == ["b"]
    with pytest.raises(BufferFull):
        receiver.receive(0)
    receiver.rollback()
    assert _drain(receiver) == ["b1", "a1", "a2", "a3"]
    assert _drain(receiver) == ["a4"]
    assert subscription.open == []
    assert receiver.stats().refused == 1


def test_too_many_in_hand_are_named() -> None:
    """
    Whoever has as many as the bound and asks for more is told to finish some.
    """
    receiver = _receiver(Subscription([("a", 1), ("b", 1), ("c", 1)]), reorder=ReorderSettings(max_messages=2))
    first = _take(receiver)
    _take(receiver)
    with pytest.raises(BufferFull, match="2 messages are handed out"):
        receiver.receive(0)
    first.done()
    assert _take(receiver).lane == "c"


def test_the_bound_counts_what_is_done_and_not_saved() -> None:
    """
    At the bound what is done is saved early, however many `commit_messages` says.
    """
    subscription = Subscription([("a", number) for number in range(1, 10)])
    receiver = _receiver(subscription, reorder=ReorderSettings(max_messages=2), commit_messages=100)
    for _ in range(3):
        _take(receiver).done()
    assert receiver.stats().committed == 2


def test_a_gap_is_skipped_after_its_time() -> None:
    """
    Under SKIP_WITH_REPORT the wait ends exactly then, what waited comes out, and a late one is dropped.
    """
    subscription, skipped = Subscription([("a", 1), ("a", 3)]), list[Gap]()
    settings = ReceiverSettings(reorder=ReorderSettings(gap_policy=SKIP, max_wait_seconds=1.75))
    receiver = OrderedReceiver(
        subscription.connect(), save=None, settings=settings, on_skip=skipped.append, clock=subscription.clock
    )
    began = subscription.clock.now
    _take(receiver).done()
    message = receiver.receive(60)
    assert message is not None
    assert (message.sequence, subscription.clock.now - began) == (3, 1.75)
    assert [(gap.first_missing, gap.last_missing) for gap in skipped] == [(2, 2)]


def test_a_gap_is_raised_once_in_its_time_and_receiving_goes_on() -> None:
    """
    Under RAISE each call goes on receiving; the gap is raised at most once in `max_wait_seconds`, and can be skipped.
    """
    subscription = Subscription([("a", 2), ("b", 1)])
    receiver = _receiver(subscription, reorder=ReorderSettings(gap_policy=GapPolicy.RAISE, max_wait_seconds=10))
    _take(receiver).done()
    began = subscription.clock.now
    for times in (1, 2):
        with pytest.raises(SequenceGap):
            receiver.receive(60)
        assert subscription.clock.now - began == 10 * times
    assert receiver.receive(1) is None
    assert [gap.lane for gap in receiver.gaps()] == ["a"]
    receiver.skip("a")
    assert _drain(receiver) == ["a2"]


def test_a_message_without_a_sequence_is_refused() -> None:
    """
    Under RAISE it is named and given back, and receiving goes on; so is one that is malformed.
    """
    subscription = Subscription([("a", 1)])
    bad = [FakeMessage(1, b"x"), FakeMessage(2, b"y", {"safepulsar-sequence": "0"})]
    subscription.messages[:0] = bad
    receiver = _receiver(subscription)
    with pytest.raises(InvalidSequence, match="is missing; send with the properties"):
        receiver.receive(0)
    with pytest.raises(InvalidSequence, match="must be a whole number"):
        receiver.receive(0)
    assert _drain(receiver) == ["a1"]
    assert subscription.open == ["x", "y"]
    assert (receiver.stats().refused, receiver.stats().unsequenced) == (2, 2)


def test_a_message_without_a_sequence_is_handed_out_at_once() -> None:
    """
    Under HAND_OUT it is in no lane, comes again when it fails, is not doubled by a redelivery, and is acknowledged.
    """
    subscription = Subscription([("a", 2)])
    subscription.messages += [FakeMessage(1, b"x"), FakeMessage(2, b"y", {"safepulsar-sequence": "0"})]
    consumer = subscription.connect()
    consumer.queue.insert(2, subscription.messages[1])
    receiver = OrderedReceiver(consumer, save=None, settings=ReceiverSettings(unsequenced=Unsequenced.HAND_OUT))
    message, _ = _take(receiver), _take(receiver)
    assert (message.lane, message.sequence) == (None, None)
    with pytest.raises(ZeroDivisionError), message:
        raise ZeroDivisionError
    assert _drain(receiver) == ["x", "y"]
    assert subscription.open == ["a2"]


def test_many_lanes_live_in_little_memory_with_recall() -> None:
    """
    Lanes that are done are forgotten at the bound and looked up again, so that copies stay copies.
    """
    places = [(f"l{number}", sequence) for sequence in (1, 2, 1) for number in range(20)]
    subscription, database = Subscription(places), Database()
    settings = ReceiverSettings(reorder=ReorderSettings(max_lanes=4))
    receiver = OrderedReceiver(subscription.connect(), save=database.save, recall=database.lanes.get, settings=settings)
    assert len(_drain(receiver)) == 40
    assert receiver.stats().reorder.lanes <= 4
    assert receiver.stats().duplicates == 20
    assert subscription.open == []


def test_too_many_lanes_are_refused_without_recall() -> None:
    """
    Without a way to find them again, no lane is forgotten unless the application says so.
    """
    subscription = Subscription([("a", 1), ("b", 1)])
    receiver = _receiver(subscription, reorder=ReorderSettings(max_lanes=1))
    message = _take(receiver)
    with pytest.raises(InvalidInput, match="not done"):
        receiver.forget("a")
    with pytest.raises(TooManyLanes):
        receiver.receive(0)
    message.done()
    receiver.forget("a")
    assert receiver.receive(0) is None  # b1 was given back, and comes again
    assert _drain(receiver) == ["b1"]


@pytest.mark.parametrize("call", ["done", "again"])
def test_only_what_is_out_can_be_done(call: str) -> None:
    """
    A message that is done, or was taken back, is a typed error, and is not counted twice.
    """
    receiver = _receiver(Subscription([("a", 1), ("b", 1)]))
    message, other = _take(receiver), _take(receiver)
    message.done()
    receiver.rollback()
    for each in (message, other):
        with pytest.raises(NotHandedOut, match="not handed out"):
            getattr(each, call)()
    assert (receiver.stats().done, _drain(receiver)) == (1, ["b1"])


def test_done_within_its_block() -> None:
    """
    Whoever said it already, in the block, has not said it twice.
    """
    receiver = _receiver(Subscription([("a", 1)]))
    with _take(receiver) as message:
        message.done()
    with _take(_receiver(Subscription([("a", 1)]))) as other:
        other.again()
    assert receiver.stats().done == 1


def test_acknowledging_is_tried_again() -> None:
    """
    If the broker is away when a message is acknowledged, it stays done, and is acknowledged with the next.
    """
    subscription = Subscription([("a", 1), ("a", 2)])
    away = True

    def step(name: str) -> None:
        if away and name == "acknowledge":
            raise ConnectionError

    subscription.on_step = step
    receiver = _receiver(subscription)
    with pytest.raises(ConnectionError):
        _take(receiver).done()
    away = False
    assert _drain(receiver) == ["a2"]
    assert subscription.open == []


def test_errors_of_the_consumer_come_out() -> None:
    """
    What is no timeout is the application's to know; Pulsar's own timeout is one by its name.
    """

    class Timeout(Exception):
        pass

    subscription = Subscription()
    consumer = subscription.connect()
    receiver = OrderedReceiver(consumer, save=None, clock=subscription.clock)
    for error, outcome in ((Timeout(), None), (ConnectionError(), ConnectionError)):

        def receive(timeout_millis: int | None = None, error: Exception = error) -> FakeMessage:
            subscription.clock.now += (timeout_millis or 0) / 1000
            raise error

        consumer.receive = receive  # type: ignore[method-assign]
        if outcome is None:
            assert receiver.receive(2) is None
        else:
            with pytest.raises(outcome):
                receiver.receive(2)


@pytest.mark.parametrize("seconds", [-1, True, "1", float("nan"), float("inf")])
def test_a_wrong_timeout_is_refused(seconds: float) -> None:
    """
    Seconds from 0 to a year, or None.
    """
    with pytest.raises(InvalidInput, match="timeout_seconds"):
        _receiver(Subscription()).receive(seconds)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: OrderedReceiver(Subscription().connect(), save=None, settings=1), InvalidSettings),  # type: ignore[arg-type]
        (lambda: OrderedReceiver(Subscription().connect(), save=None, state=b"x"), InvalidState),
        (
            lambda: OrderedReceiver(Subscription().connect(), save=None, state=b"x", recall=dict[str, int]().get),
            InvalidInput,
        ),
        (lambda: ReceiverSettings(reorder={}), InvalidSettings),  # type: ignore[arg-type]
        (lambda: ReceiverSettings(acknowledge="INDIVIDUAL"), InvalidSettings),  # type: ignore[arg-type]
        (lambda: ReceiverSettings(unsequenced=None), InvalidSettings),  # type: ignore[arg-type]
        (lambda: ReceiverSettings(commit_messages=0), InvalidSettings),
    ],
)
def test_other_bad_input_is_refused(make: Callable[[], object], error: type[Exception]) -> None:
    """
    Settings and states that make no sense are typed errors before anything is received.
    """
    with pytest.raises(error):
        make()


def test_it_says_what_it_is() -> None:
    """
    The repr has numbers and no keys.
    """
    receiver = _receiver(Subscription([("secret", 1), ("secret", 3)]))
    _take(receiver)
    assert repr(receiver) == "<OrderedReceiver 1 held, 1 handed out>"
