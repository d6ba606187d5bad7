"""
Accepting and closing: the books balance whatever comes whenever, and nothing accepted is left behind.
"""

from __future__ import annotations

import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from safepulsar.broker.outcomes import Phase
from safepulsar.errors import SenderClosed, SendFailed
from safepulsar.failed_messages import EVERYTHING, InMemoryFailedMessages, SqliteFailedMessages
from safepulsar.message import Certainty, Fate
from safepulsar.sending import engine as engine_module
from safepulsar.settings import RetrySettings
from safepulsar.testing import FakeBroker
from tests.senders import LONG_SECONDS, TOPIC, Call, HangingStore, sender_of, within
from tests.subprocesses import run_script
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from safepulsar.books.handle import SendHandle
    from safepulsar.books.ledger import Counts
    from safepulsar.sending.engine import CloseReport
    from tests.brokers import LiteBroker


@pytest.fixture
def broker() -> FakeBroker:
    """
    A fake broker whose answers come at once, from a thread.
    """
    return FakeBroker()


def _threads() -> list[str]:
    # But the process's, which waits for SIGTERM: it stays once a sender of any test has begun it.
    names = [each.name for each in threading.enumerate()]
    return [name for name in names if name.startswith("safepulsar") and name != "safepulsar-sigterm"]


# -- the books -----------------------------------------------------------------------------------------------------


def test_the_books_balance_at_every_moment(broker: FakeBroker) -> None:
    """
    Sampled from two threads while eight send and every kind of fault comes, accepted is always what became of it.
    """
    unbalanced: list[Counts] = []
    done = threading.Event()
    sender = sender_of(broker, deadline_seconds=2, max_in_flight_messages=100)

    def sample() -> None:
        while not done.is_set():
            counts = sender.stats().counts
            if not counts.balanced or counts.in_flight > 100:
                unbalanced.append(counts)

    def send(number: int) -> None:
        for each in range(300):
            sender.submit("orders", f"{number}/{each}", partition_key=f"k{number}" if each % 3 else None)

    with sender:
        samplers = [Call(sample) for _ in range(2)]
        with ThreadPoolExecutor(8) as pool:
            futures = [pool.submit(send, number) for number in range(8)]
            for code in ("AlreadyClosed", "ServiceUnitNotReady", "MessageTooBig", "ProducerFenced", "Timeout"):
                broker.fail_next(2, code)
                broker.cut()
                wait_until(lambda: "faults to come" not in repr(broker) or all(f.done() for f in futures), "they came")
            for future in futures:
                future.result(LONG_SECONDS)
        assert sender.flush() == 0
        done.set()
        for sampler in samplers:
            sampler.outcome()
    counts = sender.close().counts
    assert not unbalanced
    assert (counts.accepted, counts.in_flight, counts.in_flight_bytes) == (2400, 0, 0)
    assert counts.failed > 0, "the faults came"


def test_where_no_thread_can_be_had_nothing_is_accepted(broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Whichever of its threads cannot be started, the call raises, and nothing waits for a thread that is not there.
    """
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith(refused):
            raise RuntimeError("can't start new thread")
        start(thread)

    for refused in ("safepulsar-send", "safepulsar-watch", "safepulsar-keeper"):  # noqa: B007  # `refuse` looks at it
        with sender_of(broker) as sender:
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", refuse)
                for _ in range(2):
                    with pytest.raises(RuntimeError, match="can't start new thread"):
                        sender.submit("orders", b"x")
            assert sender.stats().counts.accepted == 0
            assert sender.send("orders", b"x").fate is Fate.DELIVERED, "later, there are threads"


def test_where_no_further_thread_can_be_had_one_does_it(broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A queue that has a thread goes on with that one, and no message is lost or given up.
    """
    with sender_of(broker) as sender:
        sender.send("orders", b"first", partition_key="k")
        start = threading.Thread.start

        def refuse(thread: threading.Thread) -> None:
            if thread.name.startswith("safepulsar-send"):
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", refuse)
        report = sender.send_many("orders", [b"x"] * 5000, partition_key="k")
        assert report.delivered == 5000


# -- closing -------------------------------------------------------------------------------------------------------


def test_closing_drains(broker: FakeBroker) -> None:
    """
    Everything accepted is delivered before `close` returns, every thread ends, and client and producers are closed.
    """
    sender = sender_of(broker).open()
    handles = [sender.submit("orders", str(number), partition_key=str(number % 7)) for number in range(500)]
    handles += [sender.submit("bills", b"x") for _ in range(500)]
    report = sender.close()
    assert (report.drained, report.clean) == (True, True)
    assert (report.counts.accepted, report.counts.delivered, report.counts.in_flight) == (1000, 1000, 0)
    assert {handle.result().fate for handle in handles} == {Fate.DELIVERED}
    assert (broker.counts.clients_open, broker.counts.producers_open) == (0, 0)
    assert _threads() == []


def test_closing_keeps_the_rest(broker: FakeBroker) -> None:
    """
    What the broker does not answer in time is in the store: handed over as MAYBE_STORED, waiting as NOT_STORED.
    """
    store = InMemoryFailedMessages()
    sender = sender_of(broker, store, deadline_seconds=100)
    sender.send("orders", b"0")
    broker.hold()
    handed_over = sender.submit("orders", b"1")
    broker.wait_until(lambda: broker.held == 1)
    waiting = sender.submit("orders", b"2")
    report = sender.close(0.05)
    assert (report.drained, report.clean) == (False, True)
    assert (report.counts.accepted, report.counts.delivered, report.counts.failed) == (3, 1, 2)
    assert (report.counts.in_flight, report.counts.in_flight_bytes, report.counts.not_kept) == (0, 0, 0)
    kept = [(row.message.payload, row.certainty, row.error) for row in store.find(EVERYTHING)]
    assert kept == [
        (b"1", Certainty.MAYBE_STORED, "SenderClosed"),
        (b"2", Certainty.NOT_STORED, "SenderClosed"),
    ]
    for handle in (handed_over, waiting):
        with pytest.raises(SendFailed, match="closed before the broker answered"):
            handle.result()
    assert _threads() == []


@pytest.mark.parametrize("fault", ["freeze", "kill"])
def test_closing_at_once_keeps_everything(broker: FakeBroker, fault: str, tmp_path: Path) -> None:
    """
    With a timeout of 0 and a broker that is gone, closing takes moments, and every message is in the store.
    """
    path = tmp_path / "failed.db"
    sender = sender_of(broker, SqliteFailedMessages(path), deadline_seconds=100)
    with sender.failed_messages:
        sender.send("orders", b"first")
        getattr(broker, fault)()
        for number in range(200):
            sender.submit("orders", str(number))
            sender.submit("bills", str(number), partition_key="k")
        with within(1.0):
            report = sender.close(0)
        assert report.counts.failed == 400 == sender.failed_messages.count(EVERYTHING)
        assert report.counts.in_flight == 0
        by_topic: dict[str, list[bytes | None]] = {}
        for row in sender.failed_messages.find(EVERYTHING):
            by_topic.setdefault(row.message.topic, []).append(row.message.payload)
        expected = [str(number).encode() for number in range(200)]
        assert list(by_topic.values()) == [expected, expected], "in the order of acceptance"


def test_closing_keeps_what_is_just_being_tried_again(broker: FakeBroker) -> None:
    """
    A message that waits for its next attempt when the sender closes is kept, surely not stored.
    """
    retry = RetrySettings(first_delay_seconds=50, max_delay_seconds=50, jitter_seconds=0)
    sender = sender_of(broker, retry=retry, deadline_seconds=100)
    sender.send("orders", b"first")
    broker.fail_next(1, "AlreadyClosed", phase=Phase.INLINE)
    handle = sender.submit("orders", b"second")
    wait_until(lambda: len(handle._attempts) == 1, "it waits for its second attempt")
    with within(1.0):
        report = sender.close(0)
    assert (report.counts.failed, report.counts.in_flight, report.clean) == (1, 0, True)
    error = handle.exception()
    assert isinstance(error, SendFailed)
    assert error.certainty is Certainty.NOT_STORED


def test_closing_is_idempotent(broker: FakeBroker) -> None:
    """
    Every call, also from other threads, returns the one report.
    """
    sender = sender_of(broker)
    sender.send("orders", b"x")
    broker.hold()
    sender.submit("orders", b"y")
    calls = [Call(sender.close) for _ in range(4)]
    wait_until(lambda: not sender._started().ledger.open, "closing has begun")
    broker.wait_until(lambda: broker.held == 1)
    broker.release()
    reports: list[CloseReport] = [call.outcome() for call in calls]
    assert {id(report) for report in reports} == {id(sender.close())}
    assert reports[0].counts.delivered == 2


def test_a_sender_that_was_never_used_closes(broker: FakeBroker) -> None:
    """
    Closing before the first use opens nothing.
    """
    report = sender_of(broker).close()
    assert (report.counts.accepted, report.drained, report.clean) == (0, True, True)
    assert broker.counts.clients_created == 0


def test_closing_wakes_who_waits_for_room(broker: FakeBroker) -> None:
    """
    A `submit` that waits for room raises SenderClosed when the sender closes; its message is nowhere.
    """
    broker.hold()
    sender = sender_of(broker, max_in_flight_messages=1)
    sender.submit("orders", b"x")
    blocked = Call(sender.submit, "orders", b"y")
    wait_until(lambda: bool(sender._started().ledger._waiters), "the second waits for room")
    closing = Call(sender.close)
    assert isinstance(blocked.outcome(), SenderClosed)
    broker.release()
    assert closing.outcome().counts.accepted == 1
    assert broker.payloads("orders") == [b"x"]


def test_a_done_callback_may_close(broker: FakeBroker) -> None:
    """
    Closing in a callback drains and reports as anywhere else.
    """
    sender = sender_of(broker)
    reports: list[CloseReport] = []
    closed = threading.Event()

    def close(_handle: SendHandle) -> None:
        reports.append(sender.close())
        closed.set()

    sender.submit("orders", b"x").add_done_callback(close)
    assert closed.wait(LONG_SECONDS)
    assert (reports[0].drained, reports[0].clean, reports[0].counts.delivered) == (True, True, 1)
    assert sender.close() is reports[0]


def test_a_done_callback_may_close_while_the_sender_closes(broker: FakeBroker, tmp_path: Path) -> None:
    """
    The callback gets at once what is known, does not hold up the real closing, and spoils neither report nor store.
    """
    sender = sender_of(broker, SqliteFailedMessages(tmp_path / "failed.db"), deadline_seconds=100)
    store = sender.failed_messages.open()
    sender.send("orders", b"0")
    broker.hold()
    first = sender.submit("orders", b"1", partition_key="k")
    entered, go_on = threading.Event(), threading.Event()
    reports: list[CloseReport] = []

    def close(_handle: SendHandle) -> None:
        entered.set()
        assert go_on.wait(LONG_SECONDS)
        reports.append(sender.close())

    first.add_done_callback(close)
    broker.wait_until(lambda: broker.held == 1)
    broker.release()
    assert entered.wait(LONG_SECONDS)
    broker.freeze()
    second = sender.submit("orders", b"2", partition_key="k")
    closing = Call(sender.close, 1.0)
    wait_until(lambda: not sender._started().ledger.open, "closing has begun")
    go_on.set()
    with within(5.0):
        report = closing.outcome()
    assert (report.counts.failed, report.counts.not_kept, report.clean) == (1, 0, True)
    assert isinstance(second.exception(), SendFailed)
    with store:
        assert store.count(EVERYTHING) == 1
    assert sender.close() is report
    assert reports[0].counts.balanced


def test_closing_does_not_wait_for_ever_for_the_store(broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A store that hangs holds closing up for a bounded time; the report says that something is still in flight.
    """
    monkeypatch.setattr(engine_module, "_KEEP_SECONDS", 0.3)
    store = HangingStore()
    sender = sender_of(broker, store, deadline_seconds=100)
    broker.freeze()
    sender.submit("orders", b"x")
    with within(2.5):
        report = sender.close(0)
    assert (report.drained, report.clean) == (False, False)
    assert report.counts.in_flight == 1
    assert report.counts.balanced
    store.answer.set()
    wait_until(lambda: store.count(EVERYTHING) == 1, "it is kept in the end")


def test_closing_leaves_a_blocked_callback_behind(broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A callback that does not return makes the report unclean, and nothing else.
    """
    monkeypatch.setattr(engine_module, "_NATIVE_SECONDS", 0.2)
    sender = sender_of(broker)
    entered, go_on = threading.Event(), threading.Event()
    handle = sender.submit("orders", b"x")

    def block(_handle: SendHandle) -> None:
        entered.set()
        go_on.wait(LONG_SECONDS)

    handle.add_done_callback(block)
    assert entered.wait(LONG_SECONDS)
    with within(1.0):
        report = sender.close(0.1)
    assert (report.drained, report.clean, report.counts.delivered) == (True, False, 1)
    go_on.set()


def test_interrupted_closing_can_be_repeated(broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    When Ctrl-C ends `close`, the next call closes as if there had been none.
    """
    sender = sender_of(broker, deadline_seconds=100)
    broker.freeze()
    sender.submit("orders", b"x")

    def interrupt(_deadline: float) -> bool:
        raise KeyboardInterrupt

    for part in ("ledger.wait_until_empty", "watch.close", "pool.close", "keeper.close"):
        name, method = part.split(".")
        with monkeypatch.context() as patch:
            patch.setattr(getattr(sender._started(), name), method, interrupt)
            with pytest.raises(KeyboardInterrupt):
                sender.close(0)
    report = sender.close(0)
    assert (report.counts.failed, report.counts.in_flight, report.clean) == (1, 0, True)


# -- topics that nobody uses any more ------------------------------------------------------------------------------


def test_a_queue_that_is_not_used_goes_and_comes_back(broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Idle queues and their threads end; the next message finds a queue that works, under every name of the topic.
    """
    monkeypatch.setattr("safepulsar.delivery.crew._IDLE_SECONDS", 0.05)
    with sender_of(broker) as sender:
        for round_ in range(3):
            for name in ("orders", TOPIC):
                handle = sender.submit(name, str(round_))
                assert handle.result().fate is Fate.DELIVERED
            wait_until(lambda: sender.stats().queues == 0, "the queue is gone")
            assert not [name for name in _threads() if name.startswith("safepulsar-send")]
            assert handle.topic == TOPIC
            assert repr(handle) == f"<SendHandle for '{TOPIC}', delivered>"
    assert sender.close().counts.delivered == 6


def test_a_message_that_meets_its_queue_on_its_way_out_is_sent(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Threads that send now and then, while the queue ends again and again, lose nothing.
    """
    monkeypatch.setattr("safepulsar.delivery.crew._IDLE_SECONDS", 0.001)
    with sender_of(broker) as sender, ThreadPoolExecutor(4) as pool:

        def send(number: int) -> int:
            delivered = 0
            for each in range(100):
                delivered += sender.send("orders", f"{number}/{each}").fate is Fate.DELIVERED
            return delivered

        assert sum(pool.map(send, range(4))) == 400
    assert set(broker.payloads("orders")) == {f"{a}/{b}".encode() for a in range(4) for b in range(100)}
    assert len(broker.payloads("orders")) == 400


_TOPICS = """
import resource, sys
from safepulsar import RetryingSender

url, prefix = sys.argv[1:]
topics = [f"{prefix}-{number}" for number in range(300)]
with RetryingSender(url) as sender:
    def switches(rounds):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
        for _ in range(rounds):
            for topic in topics:
                sender.submit(topic, b"x")
        sender.flush()
        return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before

    switches(1)  # makes producers
    print(switches(30) / (30 * len(topics)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts switches as Linux does")
def test_the_threads_of_many_topics_do_not_wake_each_other(lite_broker: LiteBroker) -> None:
    """
    They wait their turn asleep, and not for the interpreter's lock, which each would ask for every 5 ms.
    """
    said = run_script(_TOPICS, lite_broker.url, f"topics-{uuid.uuid4().hex}").check()
    assert float(said) < 2


@pytest.mark.skipif(sys.platform != "linux", reason="counts switches as Linux does")
def test_many_threads_on_one_sender_are_no_convoy() -> None:
    """
    They don't hand the ledger's lock to each other with each message, which was a switch of threads each time.
    """
    said = run_script(
        """
        import resource, threading
        from safepulsar import ClientRegistry, RetryingSender
        from safepulsar.testing import FakeBroker

        broker = FakeBroker()
        with RetryingSender(broker.url, registry=ClientRegistry(broker.connect)) as sender:
            def submit(count):
                for _ in range(count):
                    sender.submit("orders", b"x")

            def switches():
                before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
                threads = [threading.Thread(target=submit, args=(5000,)) for _ in range(8)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                sender.flush()
                return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before

            print(sorted(switches() for _ in range(5))[2] / 40_000)
        """
    ).check()
    assert float(said) < 0.3


def test_a_sender_of_many_topics_uses_as_few_threads_as_it_can(broker: FakeBroker) -> None:
    """
    A topic costs one thread while it is used by one caller at a time.
    """
    with sender_of(broker) as sender:
        for number in range(20):
            for _ in range(3):
                sender.send(f"t{number}", b"x")
        assert len([name for name in _threads() if name.startswith("safepulsar-send")]) == 20
    assert _threads() == []


# -- the end of the process ----------------------------------------------------------------------------------------

_EXIT = """
    import os, signal, sys, threading
    from safepulsar.failed_messages import SqliteFailedMessages
    from safepulsar.testing import FakeBroker
    from tests.senders import sender_of

    fault, path, close_seconds, interrupt = sys.argv[1:]
    broker = FakeBroker()
    sender = sender_of(broker, SqliteFailedMessages(path).open(), close_seconds=float(close_seconds))
    sender.send("orders", b"0")
    sender.send("bills", b"0", partition_key="k")
    getattr(broker, fault)()
    for number in range(1000):
        sender.submit("orders", b"x")
        handle = sender.submit("bills", b"x", partition_key="k")
    handle.add_done_callback(lambda _: os.write(1, b"told"))
    if float(interrupt):
        timer = threading.Timer(float(interrupt), signal.raise_signal, (signal.SIGINT,))
        timer.daemon = True
        timer.start()
    """


@pytest.mark.parametrize("fault", ["freeze", "kill", "hold"])
def test_the_exit_keeps_what_it_cannot_deliver(fault: str, tmp_path: Path) -> None:
    """
    An interpreter that ends with messages on their way and a broker that is away keeps each, and exits as it would have.
    """
    path = tmp_path / "failed.db"
    assert run_script(_EXIT, fault, path, 0.3, 0, timeout_seconds=30).check() == "told"
    with SqliteFailedMessages(path) as store:
        assert store.count(EVERYTHING) == 2000


def test_an_impatient_exit_keeps_all_the_same(tmp_path: Path) -> None:
    """
    Ctrl-C while the exit waits for the broker ends that wait, and nothing accepted is lost.
    """
    path = tmp_path / "failed.db"
    result = run_script(_EXIT, "freeze", path, 60, 1.0, timeout_seconds=30)
    assert not result.hung, result
    with SqliteFailedMessages(path) as store:
        assert store.count(EVERYTHING) == 2000
