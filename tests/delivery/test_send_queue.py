"""
The queue of one producer: order, pipelining, freezing, sequence ids, rates, and threads that come and go.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from safepulsar.broker.outcomes import Phase
from safepulsar.delivery.group import Delivery
from safepulsar.errors import InvalidMessage, QueueFull, SendFailed
from safepulsar.message import Certainty, Fate
from safepulsar.settings import TopicSettings, WhenFull
from safepulsar.testing import FakeBroker
from tests.senders import LONG_SECONDS, Call, sender_of
from tests.subprocesses import run_script
from tests.waiting import wait_until

if TYPE_CHECKING:
    from safepulsar.books.handle import SendHandle
    from safepulsar.delivery.send_queue import SendQueue
    from safepulsar.sender import RetryingSender


@pytest.fixture
def broker() -> FakeBroker:
    """
    A fake broker whose answers come at once, from a thread.
    """
    return FakeBroker()


def queue_of(sender: RetryingSender) -> SendQueue:
    """
    The one queue of a sender.
    """
    (queue,) = sender._started().queues()
    return queue


# -- groups --------------------------------------------------------------------------------------------------------


def test_groups_are_on_their_way_together(broker: FakeBroker) -> None:
    """
    Messages that go one by one do not wait for the answers of those before: up to three groups are in the air.
    """
    with sender_of(broker) as sender:
        sender.send("orders", b"0", partition_key="k")
        broker.hold()
        handles: list[SendHandle] = []
        for number in range(1, 4):
            handles.append(sender.submit("orders", str(number), partition_key="k"))
            broker.wait_until(lambda: broker.held == len(handles))
        handles.append(sender.submit("orders", "4", partition_key="k"))
        assert len(queue_of(sender).waiting) == 1
        assert repr(queue_of(sender)).endswith("1 waiting>")
        broker.release()
        assert [handle.result().fate for handle in handles] == [Fate.DELIVERED] * 4
    assert broker.payloads("orders") == [b"0", b"1", b"2", b"3", b"4"]


def test_what_comes_meanwhile_is_one_group(broker: FakeBroker) -> None:
    """
    Messages without a key that come while a batch is on its way share the next one.
    """
    with sender_of(broker) as sender:
        broker.hold()
        sender.submit("orders", b"0")
        broker.wait_until(lambda: broker.held == 1)
        for number in range(100):
            sender.submit("orders", str(number))
        broker.release()
        assert sender.flush() == 0
    assert broker.counts.batches == 2


@pytest.fixture
def _slow_gathering(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    What nobody waits for gathers for longer than any test takes.
    """
    monkeypatch.setattr("safepulsar.delivery.crew._GATHER_SECONDS", LONG_SECONDS)


@pytest.mark.usefixtures("_slow_gathering")
@pytest.mark.parametrize("key", [None, "k"], ids=["batches", "one by one"])
@pytest.mark.parametrize("wait", ["result", "flush", "send", "callback"])
def test_what_nobody_waits_for_gathers_until_somebody_does(broker: FakeBroker, wait: str, key: str | None) -> None:
    """
    The first message after a pause goes at once; those behind it go together, as soon as anybody waits for one of them.
    """
    with sender_of(broker) as sender:
        first = sender.submit("orders", b"0", partition_key=key)
        wait_until(first.done, "the first one is delivered")
        handles = [sender.submit("orders", str(number), partition_key=key) for number in range(1, 6)]
        assert len(queue_of(sender).waiting) == len(handles)
        if wait == "result":
            handles[0].result()
        elif wait == "flush":
            assert sender.flush() == 0
        elif wait == "send":
            sender.send("orders", b"6", partition_key=key)
        else:
            told = threading.Event()
            handles[-1].add_done_callback(lambda _handle: told.set())
            assert told.wait(LONG_SECONDS)
        assert all(handle.result().fate is Fate.DELIVERED for handle in handles)
        assert broker.payloads("orders")[: len(handles) + 1] == [str(number).encode() for number in range(6)]
        if key is None:
            assert broker.counts.batches == 2


@pytest.mark.usefixtures("_slow_gathering")
def test_enough_messages_go_although_nobody_waits(broker: FakeBroker) -> None:
    """
    Gathering ends when a good group is there.
    """
    with sender_of(broker) as sender:
        wait_until(sender.submit("orders", b"0").done, "the first one is delivered")
        handles = [sender.submit("orders", str(number)) for number in range(1, 101)]
        wait_until(lambda: all(handle.done() for handle in handles), "they are delivered")


def test_gathering_ends_by_itself(broker: FakeBroker) -> None:
    """
    What nobody ever waits for is delivered a moment later.
    """
    with sender_of(broker) as sender:
        handles = [sender.submit("orders", str(number)) for number in range(3)]
        wait_until(lambda: all(handle.done() for handle in handles), "they are delivered")


def test_a_later_group_that_is_done_first_is_remembered(broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    An earlier failure is not sent again behind a later message of its key, even if that one's fate was booked before.
    """
    settle = Delivery.settle
    later_is_booked = threading.Event()

    def settle_last(delivery: Delivery) -> None:
        if delivery.group[0].payload == b"1":
            assert later_is_booked.wait(LONG_SECONDS)
        settle(delivery)

    with sender_of(broker) as sender:
        sender.send("orders", b"0", partition_key="k")
        monkeypatch.setattr(Delivery, "settle", settle_last)
        broker.hold()
        broker.fail_next(1, "MemoryBufferIsFull")
        first = sender.submit("orders", b"1", partition_key="k")
        broker.wait_until(lambda: broker.held == 1)
        second = sender.submit("orders", b"2", partition_key="k")
        broker.wait_until(lambda: broker.held == 2)
        broker.release()
        assert second.result().fate is Fate.DELIVERED
        later_is_booked.set()
        assert isinstance(first.exception(), SendFailed)
    assert broker.payloads("orders") == [b"0", b"2"]


def test_memory_is_bounded_behind_a_group_that_is_not_done(broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    While one group has no answer, only so many later ones are remembered; then the queue waits, and goes on after it.
    """
    settle = Delivery.settle
    go_on = threading.Event()

    def settle_late(delivery: Delivery) -> None:
        if delivery.group[0].payload == b"slow":
            assert go_on.wait(LONG_SECONDS)
        settle(delivery)

    monkeypatch.setattr(Delivery, "settle", settle_late)
    monkeypatch.setattr("safepulsar.delivery.send_queue._FLYING", 4)
    with sender_of(broker) as sender:
        slow = sender.submit("orders", b"slow", partition_key="k")
        wait_until(lambda: bool(queue_of(sender).flying), "it is handed over")
        for number in range(3):
            sender.send("orders", str(number), partition_key="k")
        waiting = sender.submit("orders", "3", partition_key="k")
        assert len(queue_of(sender).flying) == 4
        assert not slow.done()
        assert not waiting.done()
        go_on.set()
        assert waiting.result().fate is Fate.DELIVERED
        wait_until(lambda: not queue_of(sender).flying, "nothing is remembered")
    assert broker.payloads("orders") == [b"slow", b"0", b"1", b"2", b"3"]


# -- freezing ------------------------------------------------------------------------------------------------------


def test_behind_a_refusal_nobody_hands_over(broker: FakeBroker) -> None:
    """
    As soon as a message is refused, also other threads of the queue wait until it is settled what becomes of it.
    """
    with sender_of(broker) as sender:
        sender.send("orders", b"0", partition_key="k")
        broker.hold()
        sender.submit("orders", b"1", partition_key="k")
        broker.wait_until(lambda: broker.held == 1)
        broker.fail_next(1, "ProducerQueueIsFull", phase=Phase.INLINE)
        refused = sender.submit("orders", b"2", partition_key="k")
        wait_until(lambda: queue_of(sender).frozen, "it was refused")
        behind = sender.submit("orders", b"3", partition_key="k")
        assert "frozen" in repr(queue_of(sender))
        assert broker.counts.messages == 2
        broker.release()
        assert [refused.result().attempts, behind.result().attempts] == [2, 1]
    assert broker.payloads("orders") == [b"0", b"1", b"2", b"3"]


@pytest.mark.parametrize("key", [None, "k"], ids=["batches", "one by one"])
@pytest.mark.parametrize("fault", ["freeze", "kill"])
def test_a_frozen_queue_recovers(broker: FakeBroker, fault: str, key: str | None) -> None:
    """
    After an outage that was longer than the deadlines, the queue has a new producer and delivers as before.
    """
    with sender_of(broker, deadline_seconds=0.2) as sender:
        sender.send("orders", b"0", partition_key=key, deadline_seconds=LONG_SECONDS)
        getattr(broker, fault)()
        lost = [sender.submit("orders", b"lost", partition_key=key) for _ in range(10)]
        errors = [handle.exception() for handle in lost]
        assert all(isinstance(error, SendFailed) for error in errors)
        broker.start()
        broker.thaw()
        for number in range(3):
            sender.send("orders", str(number), partition_key=key, deadline_seconds=LONG_SECONDS)
        assert not queue_of(sender).frozen
        assert not queue_of(sender).flying
        certainties = {error.certainty for error in errors if isinstance(error, SendFailed)}
        assert Certainty.MAYBE_STORED in certainties


def test_an_outage_that_is_shorter_than_the_deadlines_is_not_noticed(broker: FakeBroker) -> None:
    """
    Killed and started again, or frozen and thawed in time, the broker gets every message once, in order.
    """
    with sender_of(broker) as sender:
        for stop, go in ((broker.freeze, broker.thaw), (broker.kill, broker.start)):
            stop()
            handles = [sender.submit("orders", str(number), partition_key="k") for number in range(50)]
            go()
            assert {handle.result().fate for handle in handles} == {Fate.DELIVERED}
    assert broker.payloads("orders") == [str(number).encode() for number in range(50)] * 2


# -- sequence ids --------------------------------------------------------------------------------------------------

NAMED = {"orders": TopicSettings(producer_name="shop")}


def test_sequence_ids_only_rise(broker: FakeBroker) -> None:
    """
    An id that is not above the last one accepted is refused; gaps are allowed.
    """
    with sender_of(broker, topics=NAMED) as sender:
        for number in (1, 2, 10):
            sender.send("orders", b"x", sequence_id=number)
        for number in (10, 3):
            with pytest.raises(InvalidMessage, match=f"sequence_id: {number} is not above 10"):
                sender.submit("orders", b"x", sequence_id=number)
        assert sender.send("orders", b"x", sequence_id=11).fate is Fate.DELIVERED
    assert [each.sequence_id for each in broker.messages("orders")] == [1, 2, 10, 11]


def test_sequence_ids_are_for_all_messages_of_a_name_or_for_none(broker: FakeBroker) -> None:
    """
    Ids of the application and of the client library are not mixed, whichever come first.
    """
    for first, second in ((1, None), (None, 1)):
        with sender_of(broker, topics=NAMED) as sender:
            sender.send("orders", b"x", sequence_id=first)
            with pytest.raises(InvalidMessage, match="for all messages of a producer name or for none"):
                sender.submit("orders", b"x", sequence_id=second)


def test_a_message_that_was_not_accepted_uses_no_id(broker: FakeBroker) -> None:
    """
    Where there was no room, the same id may be given again.
    """
    broker.hold()
    with sender_of(broker, topics=NAMED, max_in_flight_messages=1, when_full=WhenFull.RAISE) as sender:
        sender.submit("orders", b"x", sequence_id=1)
        with pytest.raises(QueueFull):
            sender.submit("orders", b"y", sequence_id=2)
        broker.release()
        assert sender.flush() == 0
        assert sender.send("orders", b"y", sequence_id=2).fate is Fate.DELIVERED


def test_a_named_queue_remembers_its_ids_when_it_was_idle(broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Its threads end as all others do, and what it knows of sequence ids stays.
    """
    monkeypatch.setattr("safepulsar.delivery.crew._IDLE_SECONDS", 0.02)
    with sender_of(broker, topics=NAMED) as sender:
        sender.send("orders", b"x", sequence_id=5)
        wait_until(lambda: not queue_of(sender).crew._threads, "its threads have ended")
        with pytest.raises(InvalidMessage, match="5 is not above 5"):
            sender.submit("orders", b"x", sequence_id=5)
        assert sender.send("orders", b"x", sequence_id=6).fate is Fate.DELIVERED


# -- the rate ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "size_bytes"),
    [(50, None), (None, 50_000)],
    ids=["messages", "bytes"],
)
def test_the_rate_is_kept_without_lumps(broker: FakeBroker, messages: float | None, size_bytes: float | None) -> None:
    """
    At every moment no more is in the topic than the rate allows and one burst; nothing fails that is in time.
    """
    with sender_of(broker, messages_per_second=messages, bytes_per_second=size_bytes) as sender:
        sender.send("bills", b"")
        began = time.monotonic()
        handles = [sender.submit("orders", b"x" * 1000) for _ in range(25)]

        def all_done() -> bool:
            stored = len(broker.payloads("orders"))
            elapsed = time.monotonic() - began
            # A burst of a tenth of a second, and the group that begins before it is used up.
            assert stored <= 50 * (elapsed + 0.2) + 1, f"{stored} after {elapsed:.3f} s"
            return all(handle.done() for handle in handles)

        wait_until(all_done, "all are sent")
        assert {handle.result().fate for handle in handles} == {Fate.DELIVERED}
        assert time.monotonic() - began > 25 / 50 - 0.2


# -- interrupts ----------------------------------------------------------------------------------------------------

_INTERRUPTS = """
    import signal, sys, threading, time
    from safepulsar.errors import SafePulsarError
    from safepulsar.testing import FakeBroker
    from tests.senders import sender_of

    broker = FakeBroker()
    sender = sender_of(broker, deadline_seconds=30, max_in_flight_messages={bound}, {settings}).open()
    send = sender.{call}
    sender.send("orders", b"", partition_key="k")
    main = threading.main_thread().ident
    accepted = interrupted = raised = 0
    end = time.monotonic() + 4

    def handler(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, handler)
    number = 0
    while time.monotonic() < end:
        number += 1
        try:
            # From some microseconds up to about the time of some calls: it comes anywhere.
            signal.setitimer(signal.ITIMER_REAL, 0.00002 + (number % 97) * 0.000003)
            for _ in range(50):
                send("orders", b"x", partition_key="k" if number % 2 else None)
                accepted += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            interrupted += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert interrupted > 100, interrupted
    counts = sender.stats().counts
    assert counts.balanced, counts
    assert accepted <= counts.accepted - 1 <= accepted + interrupted, (accepted, interrupted, counts)
    began = time.monotonic()
    pending = sender.flush()
    assert pending == 0, (pending, sender.stats())
    # A message that nobody looked for would have waited for its deadline.
    assert time.monotonic() - began < 10, time.monotonic() - began
    sender.send("orders", b"", partition_key="k")
    report = sender.close()
    assert (report.clean, report.drained) == (True, True), report
    assert report.counts.accepted == report.counts.delivered + report.counts.failed, report
    kept = sender.failed_messages.open().count()
    assert report.counts.failed == kept, (report, kept)
    assert len(broker.payloads("orders")) == report.counts.delivered, (report, len(broker.payloads("orders")))
    print(accepted, interrupted, report.counts)
    """


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "bound", "settings"),
    [("submit", 10_000, ""), ("send", 10_000, ""), ("submit", 5, ""), ("submit", 5, "when_full=WhenFull.KEEP")],
    ids=["submit", "send", "full", "keep"],
)
def test_ctrl_c_at_any_moment_loses_nothing(call: str, bound: int, settings: str) -> None:
    """
    Interrupted hundreds of times in the middle of sending, the books balance, and every message has its fate in time.
    """
    script = _INTERRUPTS.format(call=call, bound=bound, settings=settings)
    if settings:
        script = "    from safepulsar.settings import WhenFull\n" + script
    run_script(script, timeout_seconds=90).check()


@pytest.mark.slow
def test_a_signal_handler_may_close() -> None:
    """
    Closing from a handler, wherever it interrupts the main thread, drains and reports as anywhere else, again and again.
    """
    run_script(
        """
        import signal, time
        from safepulsar.errors import SenderClosed
        from safepulsar.testing import FakeBroker
        from tests.senders import sender_of

        reports = []
        signal.signal(signal.SIGALRM, lambda *_: reports.append(sender.close()))
        accepted = 0
        for number in range(300):
            broker = FakeBroker()
            sender = sender_of(broker, deadline_seconds=30).open()
            accepted = 0
            sender.send("orders", b"")
            began = time.monotonic()
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0001 + (number % 97) * 0.000007)
                while True:
                    sender.submit("orders", b"x", partition_key="k" if number % 2 else None)
                    accepted += 1
            except SenderClosed:
                pass
            report = sender.close()
            assert report is reports[-1]
            assert (report.drained, report.clean) == (True, True), (number, report)
            assert report.counts.accepted == report.counts.delivered == accepted + 1, (accepted, report)
            assert len(broker.payloads("orders")) == accepted + 1
            assert time.monotonic() - began < 5
        print(len(reports))
        """,
        timeout_seconds=110,
    ).check()


def test_who_waits_for_room_can_be_interrupted() -> None:
    """
    Ctrl-C ends a `submit` that waits for room at once, and its message is nowhere.
    """
    run_script(
        """
        import signal, time
        from safepulsar.testing import FakeBroker
        from tests.senders import sender_of

        broker = FakeBroker()
        sender = sender_of(broker, max_in_flight_messages=1).open()
        broker.hold()
        sender.submit("orders", b"x")
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        began = time.monotonic()
        try:
            sender.submit("orders", b"y")
        except KeyboardInterrupt:
            assert time.monotonic() - began < 2
        else:
            raise AssertionError
        broker.release()
        assert sender.close().counts.accepted == 1
        """,
        timeout_seconds=30,
    ).check()


def test_many_threads_send_at_once(broker: FakeBroker) -> None:
    """
    Each thread's messages of a key stand in its order, and none is missing or twice.
    """
    with sender_of(broker, max_in_flight_messages=50) as sender:

        def work(name: str) -> None:
            for number in range(200):
                if number % 10:
                    sender.submit("orders", f"{name}/{number}", partition_key=name)
                else:
                    sender.send("orders", f"{name}/{number}", partition_key=name)

        calls = [Call(work, f"thread {number}") for number in range(8)]
        assert [call.outcome() for call in calls] == [None] * 8
    for name in (f"thread {number}" for number in range(8)):
        mine = [each.payload for each in broker.messages("orders") if each.partition_key == name]
        assert mine == [f"{name}/{number}".encode() for number in range(200)]
