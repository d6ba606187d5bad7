"""
What the seam promises while its broker is frozen, killed and started again, on every system.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

import pytest

from safepulsar.errors import BrokerError
from safepulsar.message import Certainty, Message, MessageId
from safepulsar.settings import ProducerSettings
from tests.contract.systems import Call
from tests.history import History, Rules, assert_valid
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from safepulsar.broker.transport import TransportClient, TransportProducer
    from tests.contract.systems import System
    from tests.history.recorder import Readable

pytestmark = pytest.mark.timeout(120)

BATCH: Final = 10
SECONDS: Final = 60.0
TRANSPORT: Final = Rules(failed_is_kept=False)  # there is no store at this seam


@pytest.fixture
def broken_client(breakable: System) -> Iterator[TransportClient]:
    """
    A client of the breakable system, closed after the test.
    """
    client = breakable.connect()
    yield client
    client.close()


class Sending:
    """
    A producer whose calls are written into a history.
    """

    def __init__(self, client: TransportClient, topic: str) -> None:
        self.producer: TransportProducer = client.create_producer(
            ProducerSettings(topic=topic, producer_name="shop", batch_max_messages=BATCH)
        )
        self.history = History()
        self.calls: list[tuple[list[Message], Call]] = []
        self._topic = topic
        self._number = 0

    def send(self, count: int = BATCH) -> Call:
        """
        One call.
        """
        messages = []
        for _ in range(count):
            self._number += 1
            messages.append(Message(topic=self._topic, payload=b"%d" % self._number, sequence_id=self._number))
            self.history.attempted(identify(messages[-1]), self._topic, messages[-1], lane="all")
            self.history.accepted(identify(messages[-1]))
        call = Call(self.producer, *messages)
        self.calls.append((messages, call))
        return call

    def settle(self) -> None:
        """
        Write down what became of all calls, once they are answered.
        """
        for messages, call in self.calls:
            answer = call.answer()
            for index, message in enumerate(messages):
                name = identify(message)
                if isinstance(answer, BrokerError):
                    sure = Certainty.MAYBE_STORED if answer.maybe_stored else Certainty.NOT_STORED
                    self.history.failed(name, sure)
                elif answer.ledger_id < 0:
                    self.history.duplicate(name)
                else:
                    self.history.acked(name, MessageId(answer.ledger_id, answer.entry_id, batch_index=index))


def identify(readable: Readable | Message) -> str:
    """
    The payload names a message.
    """
    return (readable.payload or b"").decode()


def in_thread(call: Callable[[], None]) -> threading.Thread:
    """
    Run it on a thread; a daemon, so that a hang ends with its test.
    """
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def ended(thread: threading.Thread) -> bool:
    """
    Whether it ends in good time.
    """
    thread.join(SECONDS)
    return not thread.is_alive()


def test_a_frozen_broker_answers_nothing_until_it_thaws(
    breakable: System, broken_client: TransportClient, topic: str
) -> None:
    """
    While frozen, calls return and slots stay empty; after the thaw everything is stored, once and in order.
    """
    sending = Sending(broken_client, topic)
    sending.send().message_id()
    breakable.broker.freeze()
    frozen = [sending.send(), sending.send(), sending.send(3)]
    flush = in_thread(sending.producer.flush)
    assert not any(call.slot for call in frozen)
    breakable.broker.thaw()
    assert ended(flush)
    sending.settle()
    sending.history.found(topic, breakable.records(topic, 33), identify)
    report = assert_valid(sending.history, TRANSPORT)
    assert (report.counts.delivered, report.counts.found) == (33, 33)


def test_closing_on_a_frozen_broker_ends_the_wait_and_leaves_it_open(
    breakable: System, broken_client: TransportClient, topic: str
) -> None:
    """
    A close ends another thread's flush; what was on its way failed as maybe stored, and is there or is not.
    """
    sending = Sending(broken_client, topic)
    sending.send().message_id()
    breakable.broker.freeze()
    pending = [sending.send(), sending.send(3)]
    flush = in_thread(sending.producer.flush)
    sending.producer.close()
    assert ended(flush)
    for call in pending:
        failure = call.failure()
        assert (failure.code, failure.maybe_stored) == ("AlreadyClosed", True)
    breakable.broker.thaw()
    sending.settle()
    sending.history.found(topic, breakable.records(topic, 10), identify)
    report = assert_valid(sending.history, TRANSPORT)
    assert (report.counts.delivered, report.counts.maybe_stored) == (10, 13)


def test_what_is_pending_survives_the_brokers_death(
    breakable: System, broken_client: TransportClient, topic: str
) -> None:
    """
    Killed with calls pending and started again, the broker gets them from the client, in order; a flush waits for it.
    """
    sending = Sending(broken_client, topic)
    sending.send().message_id()
    sending.history.broken()
    breakable.broker.freeze()
    for _ in range(5):
        sending.send()
    breakable.broker.kill()
    wait_until(lambda: not sending.producer.is_connected(), "the broken connection", timeout_seconds=SECONDS)
    for _ in range(5):
        sending.send()
    last = sending.send(3)
    breakable.broker.start()

    def answered() -> bool:
        sending.producer.flush()  # may return early, between two connections
        return bool(last.slot)

    wait_until(answered, "the answers", timeout_seconds=SECONDS)
    sending.history.healed()
    sending.settle()
    sending.history.found(topic, breakable.records(topic, 113), identify)
    report = assert_valid(sending.history, Rules(failed_is_kept=False, connection_broken=not breakable.deduplication))
    assert report.counts.delivered + report.counts.duplicate == 113
