"""
Short words for the tests of the fake broker.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

import pytest

from safepulsar.errors import BrokerError
from safepulsar.message import Message, MessageId
from safepulsar.settings import AccessMode, ClientSettings, ProducerSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from safepulsar.broker.transport import OnResult, Slot
    from safepulsar.testing import FakeBroker, FakeClient, FakeProducer

TOPIC: Final = "persistent://public/default/orders"
OTHER: Final = "persistent://public/default/invoices"
SECONDS: Final = 30.0  # for what happens at once unless something is wrong


def client_of(broker: FakeBroker) -> FakeClient:
    """
    A client.
    """
    return broker.connect(ClientSettings(url=broker.url))


def settings(
    topic: str = TOPIC,
    *,
    name: str | None = None,
    batch: int = 1,
    mode: AccessMode = AccessMode.SHARED,
    initial_sequence_id: int | None = None,
    chunking: bool = False,
) -> ProducerSettings:
    """
    Producer settings.
    """
    return ProducerSettings(
        topic=topic,
        producer_name=name,
        batch_max_messages=batch,
        access_mode=mode,
        initial_sequence_id=initial_sequence_id,
        chunking=chunking,
    )


def nobody() -> OnResult:
    """
    A callback whose slot nobody reads.
    """
    slot: Slot = {}
    return slot.setdefault


class Sent:
    """
    One call of `send_batch` and its slot.
    """

    def __init__(self, producer: FakeProducer, *payloads: str, **fields: int) -> None:
        self._producer = producer
        self.slot: Slot = {}
        messages = []
        for offset, payload in enumerate(payloads):
            first = fields.get("sequence_id")
            messages.append(
                Message(
                    topic=producer.settings.topic,
                    payload=payload.encode(),
                    sequence_id=None if first is None else first + offset,
                    deliver_at_ms=fields.get("deliver_at_ms"),
                )
            )
        self.raised: BrokerError | None = None
        try:
            producer.send_batch(messages, self.slot.setdefault)
        except BrokerError as error:
            self.raised = error

    @property
    def answer(self) -> MessageId | BrokerError | None:
        """
        What the producer reads in the slot.
        """
        return self._producer.read(self.slot)

    @property
    def outcome(self) -> str:
        """
        The answer, or the error of the call, in a word: a message id, a code, or `waiting`.
        """
        answer = self.answer or self.raised
        if answer is None:
            return "waiting"
        return answer.code if isinstance(answer, BrokerError) else str(answer)


class InThread:
    """
    A call on a thread of its own.
    """

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._result: object = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """
        Whether it has not returned.
        """
        return self._thread.is_alive()

    def result(self) -> object:
        """
        Wait for its end; what it returned, or the `BrokerError` that it raised.
        """
        self._thread.join(SECONDS)
        assert not self._thread.is_alive(), "the call has not returned"
        return self._result

    def _run(self) -> None:
        try:
            self._result = self._call()
        except BrokerError as error:
            self._result = error


def refusal(client: FakeClient, **wanted: object) -> str:
    """
    The code with which a producer is refused.
    """
    with pytest.raises(BrokerError) as raised:
        client.create_producer(settings(**wanted))  # type: ignore[arg-type]  # one test's words, checked there
    assert not raised.value.maybe_stored
    return raised.value.code


def outcomes(*sent: Sent) -> list[str]:
    """
    Each one's outcome.
    """
    return [each.outcome for each in sent]
