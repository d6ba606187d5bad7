"""
Timeouts: one that fails everybody's messages, and one that never comes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from safepulsar.failed_messages import FailedMessageFilter, SqliteFailedMessages
from tests.hazards.proxy import HangingUp
from tests.hazards.trial import HUNG, told

if TYPE_CHECKING:
    from tests.hazards.trial import Trial


def test_control_one_timeout_fails_the_whole_queue(own_trial: Trial) -> None:
    """
    The official client's send timeout of the oldest message fails all others with it, however young; all are stored.
    """
    facts = told(
        own_trial.raw(
            """
            producer = client.create_producer(topic, send_timeout_millis=1500)
            began, failed = {}, {}
            both = threading.Semaphore(0)
            def send(number):
                def callback(result, message_id):
                    failed[number] = [result.name, time.monotonic() - began[number]]
                    both.release()
                began[number] = time.monotonic()
                producer.send_async(b"%d" % number, callback)
            freeze()
            send(0)
            time.sleep(1.2)  # the age of the first when the second comes
            send(1)
            both.acquire(), both.acquire()
            thaw()
            tell(results=[failed[0][0], failed[1][0]], age_of_second=failed[1][1])
            client.close()
            """
        )
    )
    assert facts["results"] == ["Timeout", "Timeout"]
    assert facts["age_of_second"] < 1.0
    assert own_trial.payloads(until=2) == [b"0", b"1"]


def test_each_message_has_its_own_deadline(own_trial: Trial) -> None:
    """
    A deadline fails one message, as MAYBE_STORED and kept; the younger one is delivered when the broker is back.
    """
    facts = told(
        own_trial.safe(
            """
            sender = make_sender()
            sender.send(topic, b"first")
            freeze()
            old = sender.submit(topic, b"old", deadline_seconds=0.6)
            young = sender.submit(topic, b"young", deadline_seconds=30)
            error = old.exception()
            young_done = young.done()
            thaw()
            tell(certainty=error.certainty.value, young_done=young_done, young=young.result().fate.value)
            sender.close()
            """
        )
    )
    assert facts == {"certainty": "MAYBE_STORED", "young_done": False, "young": "DELIVERED"}
    assert own_trial.payloads(until=3) == [b"first", b"old", b"young"]


def test_a_late_answer_is_noted(own_trial: Trial) -> None:
    """
    When the broker's answer comes after the deadline, the store learns that there is nothing left to replay.
    """
    own_trial.safe(
        """
        sender = make_sender()
        sender.send(topic, b"first")
        freeze()
        old = sender.submit(topic, b"old", deadline_seconds=0.6)
        young = sender.submit(topic, b"young", deadline_seconds=30)
        assert old.exception() is not None
        thaw()
        young.result()
        sender.close()
        """
    ).check()
    with SqliteFailedMessages(own_trial.store) as store:
        assert store.count(FailedMessageFilter()) == 0
        assert store.stats()["delivered"] == 1


def test_control_a_timeout_never_comes(trial: Trial) -> None:
    """
    Each reconnect sets the official client's send timeout back: after several times its length `send` has not returned.
    """
    with HangingUp(trial.broker.url) as proxy:
        replace(trial, via=proxy.url).raw(
            """
            producer = client.create_producer(topic, send_timeout_millis=1000)
            signal.alarm(6)
            producer.send(b"x")
            """
        ).check(HUNG)
        assert proxy.messages > 3


def test_a_deadline_comes(trial: Trial) -> None:
    """
    A send ends at its deadline, whatever the connection does meanwhile, and the message is kept.
    """
    with HangingUp(trial.broker.url) as proxy:
        facts = told(
            replace(trial, via=proxy.url).safe(
                """
                sender = make_sender()
                began = time.monotonic()
                try:
                    sender.send(topic, b"x", deadline_seconds=1.5)
                except safepulsar.SendFailed as error:
                    tell(seconds=time.monotonic() - began, certainty=error.certainty.value)
                sender.close()
                """
            )
        )
        assert proxy.messages > 0
    assert facts["certainty"] == "MAYBE_STORED"
    assert 1.5 <= facts["seconds"] < 3.0  # a quarter of a second over at most; the rest is for a busy machine
    assert [row.message.payload for row in trial.kept()] == [b"x"]
