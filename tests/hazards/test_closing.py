"""
The ends of a client and its producers: without close, without flush, twice, in a race, and by nobody holding it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from safepulsar.failed_messages import SqliteFailedMessages
from tests.hazards.trial import ABORTED, CRASHED, told

if TYPE_CHECKING:
    from tests.hazards.trial import Trial

_MANY: Final = 5000


def test_control_exit_without_close_aborts(trial: Trial) -> None:
    """
    The official client aborts a program that ends while messages are under way.
    """
    trial.raw(
        f"""
        producer = client.create_producer(topic, max_pending_messages=0)
        for number in range({_MANY}):
            producer.send_async(b"%d" % number, lambda result, message_id: None)
        """
    ).check(ABORTED)


def test_exit_without_close_delivers(trial: Trial) -> None:
    """
    A program that just ends leaves with its own exit code, and everything it submitted is in the topic, in order.
    """
    trial.safe(
        f"""
        sender = make_sender()
        for number in range({_MANY}):
            sender.submit(topic, b"%d" % number)
        """
    ).check()
    assert trial.payloads(until=_MANY) == [b"%d" % number for number in range(_MANY)]
    assert trial.kept() == []


def test_control_close_without_flush_drops_what_is_pending(trial: Trial) -> None:
    """
    The official client's `close` fails what waits in a batch, and sends nothing of it.
    """
    facts = told(
        trial.raw(
            """
            producer = client.create_producer(topic, batching_enabled=True, batching_max_publish_delay_ms=60_000)
            results = collections.Counter()
            for number in range(500):
                producer.send_async(b"%d" % number, lambda result, message_id: results.update([result.name]))
            client.close()
            tell(**results)
            """
        )
    )
    assert facts == {"AlreadyClosed": 500}
    assert trial.payloads() == []


def test_close_without_flush_drains(trial: Trial) -> None:
    """
    `close` is a flush, too: what was submitted is delivered before anything is closed.
    """
    facts = told(
        trial.safe(
            """
            sender = make_sender()
            for number in range(500):
                sender.submit(topic, b"%d" % number)
            report = sender.close()
            tell(delivered=report.counts.delivered, drained=report.drained, clean=report.clean)
            """
        )
    )
    assert facts == {"delivered": 500, "drained": True, "clean": True}
    assert len(trial.payloads(until=500)) == 500


def test_control_second_close_raises(trial: Trial) -> None:
    """
    The official client's second `close` is an error.
    """
    facts = told(
        trial.raw(
            """
            client.close()
            try:
                client.close()
            except pulsar.PulsarException as error:
                tell(raised=type(error).__name__)
            """
        )
    )
    assert facts == {"raised": "AlreadyClosed"}


def test_second_close_tells_the_same(trial: Trial) -> None:
    """
    `close` may be called again, by anyone, and returns what it returned first.
    """
    facts = told(
        trial.safe(
            """
            with make_sender() as sender:
                sender.send(topic, b"once")
                first = sender.close()
            tell(same=sender.close() == first, delivered=first.counts.delivered)
            """
        )
    )
    assert facts == {"same": True, "delivered": 1}


def test_control_already_closed_says_two_things(own_trial: Trial) -> None:
    """
    The official client has one code for a message that was never sent and for one that is in the topic.
    """
    facts = told(
        own_trial.raw(
            """
            producer = client.create_producer(topic)
            results = []
            done = threading.Event()
            freeze()
            producer.send_async(b"under way", lambda result, message_id: (results.append(result.name), done.set()))
            time.sleep(0.5)  # for the network thread, which has no other sign of having written
            closing = threading.Thread(target=producer.close)
            closing.start()
            done.wait(10)
            thaw()
            closing.join()
            try:
                producer.send(b"afterwards")
            except pulsar.PulsarException as error:
                tell(under_way=results, afterwards=type(error).__name__)
            client.close()
            """
        )
    )
    assert facts == {"under_way": ["AlreadyClosed"], "afterwards": "AlreadyClosed"}
    assert own_trial.payloads(until=1) == [b"under way"]


def test_already_closed_is_told_apart(own_trial: Trial) -> None:
    """
    What was under way at the close is MAYBE_STORED and kept; what comes afterwards is refused, and is not sent.
    """
    facts = told(
        own_trial.safe(
            """
            sender = make_sender()
            sender.send(topic, b"first")
            freeze()
            handle = sender.submit(topic, b"under way")
            report = sender.close(timeout=0.5)
            try:
                sender.submit(topic, b"afterwards")
            except safepulsar.SenderClosed as error:
                afterwards = type(error).__name__
            thaw()
            error = handle.exception()
            tell(certainty=error.certainty.value, kept=error.failed_message_id, afterwards=afterwards,
                 failed=report.counts.failed, drained=report.drained)
            """
        )
    )
    assert facts == {
        "certainty": "MAYBE_STORED",
        "kept": 1,
        "afterwards": "SenderClosed",
        "failed": 1,
        "drained": False,
    }
    assert own_trial.payloads(until=2) == [b"first", b"under way"]
    assert [row.message.payload for row in own_trial.kept()] == [b"under way"]


def test_control_create_racing_close_returns_a_producer_that_crashes(trial: Trial) -> None:
    """
    The official client's `create_producer` beside `close` returns a producer of nothing; its name crashes the program.
    """
    result = trial.raw(
        """
        for delay in range(400):
            racer = pulsar.Client(url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
            created = []
            def create():
                try:
                    created.append(racer.create_producer(topic))
                except pulsar.PulsarException:
                    pass
            thread = threading.Thread(target=create)
            thread.start()
            time.sleep(delay * 0.00005)
            racer.close()
            thread.join()
            for producer in created:
                try:
                    producer.send(b"x")
                except pulsar.PulsarException as error:
                    if type(error).__name__ == "ProducerNotInitialized":
                        print("returned a producer of nothing", flush=True)
                        producer.producer_name()
        """
    )
    assert "returned a producer of nothing" in result.check(CRASHED).splitlines()


def test_create_racing_close_fails_as_it_should(trial: Trial) -> None:
    """
    A first send beside `close` is delivered, refused or kept, whoever comes first.
    """
    result = trial.safe(
        """
        fates = collections.Counter()
        for delay in range(60):
            sender = make_sender()
            def send():
                try:
                    fates[sender.send(topic, b"x").fate.value] += 1
                except (safepulsar.SenderClosed, safepulsar.SendFailed) as error:
                    fates[type(error).__name__] += 1
            thread = threading.Thread(target=send)
            thread.start()
            time.sleep(delay * 0.0001)
            report = sender.close(timeout=delay * 0.0001)
            thread.join()
            assert report.counts.balanced and report.counts.in_flight == 0, report
        tell(**fates)
        """
    )
    facts = told(result)
    assert sum(facts.values()) == 60
    delivered, failed = facts.get("DELIVERED", 0), facts.get("SendFailed", 0)
    with SqliteFailedMessages(trial.store) as store:
        stats = store.stats()
    # Delivered is what was acknowledged after it had been given up.
    assert stats["kept"] + stats["delivered"] == failed, result  # its log says why one was not kept
    assert delivered <= len(trial.payloads(until=delivered)) <= delivered + failed


@pytest.mark.slow  # mostly; the client's end holds the interpreter for ten seconds
def test_control_a_dropped_client_never_calls_back(trial: Trial) -> None:
    """
    The official client, let go of with messages under way, never tells what became of many of them.
    """
    facts = told(
        trial.raw(
            """
            producer = client.create_producer(topic, max_pending_messages=0)
            called = []
            for number in range(20_000):
                producer.send_async(b"x" * 100, lambda result, message_id: called.append(result))
            del producer, client
            last = -1
            while last != len(called):  # until half a second brings no more
                last = len(called)
                time.sleep(0.5)
            tell(called=last)
            """
        )
    )
    assert 0 <= facts["called"] < 20_000


def test_a_dropped_sender_delivers(trial: Trial) -> None:
    """
    A sender that nobody holds any more still delivers what it had accepted.
    """
    trial.safe(
        """
        def accept():
            sender = make_sender(max_in_flight_messages=100_000)
            for number in range(20_000):
                sender.submit(topic, b"%d" % number)
        accept()
        gc.collect()
        """
    ).check()
    assert trial.payloads(until=20_000) == [b"%d" % number for number in range(20_000)]
    assert trial.kept() == []
