"""
Callbacks that raise, block, or use the client again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tests.hazards.trial import ABORTED, CRASHED, HUNG, told

if TYPE_CHECKING:
    from tests.hazards.trial import Trial

_TEN_MESSAGES: Final = """
producer = client.create_producer(
    topic, batching_enabled=True, batching_max_messages={batch}, batching_max_publish_delay_ms=60_000
)
called = []
answered = threading.Event()
def callback(number):
    def answer(result, message_id):
        called.append(number)
        answered.set()
        if number == 0:
            raise ValueError("oh")
    return answer
for number in range(10):
    producer.send_async(b"%d" % number, callback(number))
"""


def test_control_a_raising_callback_silences_its_batch(trial: Trial) -> None:
    """
    One callback raises, and the official client calls none of the other nine of its batch, not even at the close.
    """
    facts = told(
        trial.raw("answered.wait(10); client.close(); tell(called=called)", before=_TEN_MESSAGES.format(batch=10))
    )
    assert facts == {"called": [0]}
    assert len(trial.payloads(until=10)) == 10


def test_control_a_raising_callback_hangs_a_flush(trial: Trial) -> None:
    """
    One callback raises, and a `flush` of the official client that waits for its batch never returns.
    """
    trial.raw("signal.alarm(2); producer.flush()", before=_TEN_MESSAGES.format(batch=100)).check(HUNG)


def test_control_a_callback_that_raises_at_a_timeout_aborts(own_trial: Trial) -> None:
    """
    A callback that raises when its message times out aborts the official client's program.
    """
    own_trial.raw(
        """
        producer = client.create_producer(topic, send_timeout_millis=500)
        def callback(result, message_id):
            raise ValueError("oh")
        freeze()
        producer.send_async(b"x", callback)
        time.sleep(10)
        """
    ).check(ABORTED)


def test_control_a_callback_that_raises_at_once_crashes(trial: Trial) -> None:
    """
    A callback that raises when the queue is full crashes the official client's program.
    """
    trial.raw(
        """
        producer = client.create_producer(
            topic, max_pending_messages=1, batching_enabled=True, batching_max_publish_delay_ms=60_000
        )
        def callback(result, message_id):
            raise ValueError("oh")
        for _ in range(2):
            producer.send_async(b"x", callback)
        """
    ).check(CRASHED)


def test_raising_callbacks_change_nothing(own_trial: Trial) -> None:
    """
    Callbacks that raise, with a delivered message, a failed one or at once, are logged; all others are called.
    """
    result = own_trial.safe(
        """
        sender = make_sender()
        called = []
        def callback(handle):
            called.append(handle.exception() is None)
            raise ValueError("oh")
        handles = [sender.submit(topic, b"%d" % number) for number in range(10)]
        for handle in handles:
            handle.add_done_callback(callback)
        assert sender.flush(20) == 0
        freeze()
        late = sender.submit(topic, b"late", deadline_seconds=0.5)
        late.add_done_callback(callback)
        late.exception()
        late.add_done_callback(callback)
        thaw()
        report = sender.close()
        tell(called=called, delivered=report.counts.delivered, failed=report.counts.failed, clean=report.clean)
        """
    )
    assert told(result) == {"called": [True] * 10 + [False] * 2, "delivered": 10, "failed": 1, "clean": True}
    assert result.stderr.count("ValueError: oh") == 12


def test_control_a_blocking_callback_stops_everything(trial: Trial) -> None:
    """
    One callback blocks, and the official client hears no answers any more, on other topics neither.
    """
    facts = told(
        trial.raw(
            """
            producer, other = client.create_producer(topic), client.create_producer(topic + "-other")
            gate, blocked, answered = threading.Event(), threading.Event(), threading.Event()
            producer.send_async(b"x", lambda result, message_id: (blocked.set(), gate.wait()))
            blocked.wait(10)
            other.send_async(b"y", lambda result, message_id: answered.set())
            meanwhile = answered.wait(2)
            gate.set()
            tell(meanwhile=meanwhile, afterwards=answered.wait(10))
            client.close()
            """
        )
    )
    assert facts == {"meanwhile": False, "afterwards": True}


def test_a_blocking_callback_stops_no_message(trial: Trial) -> None:
    """
    While a callback blocks, messages of its own and other topics are delivered, and their waiters told.
    """
    facts = told(
        trial.safe(
            """
            sender = make_sender()
            gate, blocked = threading.Event(), threading.Event()
            sender.submit(topic, b"x").add_done_callback(lambda handle: (blocked.set(), gate.wait()))
            blocked.wait(10)
            fates = [sender.send(topic + suffix, b"y").fate.value for suffix in ("", "-other")]
            gate.set()
            tell(fates=fates, clean=sender.close().clean)
            """
        )
    )
    assert facts == {"fates": ["DELIVERED", "DELIVERED"], "clean": True}


@pytest.mark.parametrize(
    "call", ["producer.send(b'again')", "producer.flush()", "client.close()"], ids=["send", "flush", "close"]
)
def test_control_a_callback_that_uses_the_client_hangs(trial: Trial, call: str) -> None:
    """
    A callback that sends synchronously, flushes or closes stops the official client for ever.
    """
    trial.raw(
        f"""
        signal.alarm(2)
        producer = client.create_producer(topic)
        returned = threading.Event()
        def callback(result, message_id):
            {call}
            returned.set()
        # Two, so that a flush has something to wait for.
        producer.send_async(b"x", callback)
        producer.send_async(b"y", lambda result, message_id: None)
        returned.wait()
        """
    ).check(HUNG)


@pytest.mark.parametrize("call", ["producer.send_async(b'again', callback)", "producer.flush()"], ids=["send", "flush"])
def test_control_a_failure_callback_that_retries_hangs_a_close(trial: Trial, call: str) -> None:
    """
    A callback that sends a failed message again, or flushes, while the official client closes, hangs the close.
    """
    trial.raw(
        f"""
        signal.alarm(2)
        producer = client.create_producer(topic, batching_enabled=True, batching_max_publish_delay_ms=60_000)
        def callback(result, message_id):
            {call}
        producer.send_async(b"x", callback)
        client.close()
        """
    ).check(HUNG)


def test_callbacks_may_use_the_sender(trial: Trial) -> None:
    """
    In a callback everything works: a send that waits, a submit, a flush, a close, and a submit that is refused.
    """
    facts = told(
        trial.safe(
            """
            sender = make_sender()
            done = threading.Event()
            steps = []
            def callback(handle):
                steps.append(sender.send(topic, b"in a callback").fate.value)
                sender.submit(topic, b"submitted there")
                steps.append(sender.flush(10))
                steps.append(sender.close().counts.delivered)
                try:
                    sender.submit(topic, b"too late")
                except safepulsar.SenderClosed:
                    steps.append("refused")
                done.set()
            sender.submit(topic, b"first").add_done_callback(callback)
            done.wait(20)
            tell(steps=steps)
            """
        )
    )
    assert facts == {"steps": ["DELIVERED", 0, 3, "refused"]}
    assert trial.payloads(until=3) == [b"first", b"in a callback", b"submitted there"]
