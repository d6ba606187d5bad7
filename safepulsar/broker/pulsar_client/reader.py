"""
Reading a topic back: where it ends, and what stands in it. Never waits inside the native library.

What this relies on was measured with pulsar-client 3.13.0:

- A reader that starts at the latest message, inclusive, and is asked whether there is one, goes to the topic's last
  message, in the middle of a batch, too. On pulsar-lite 0.2.0 it says that there is none.
- `read_next_async` answers before it returns if the message is in the reader's queue. With `read_next`, which gives up
  the interpreter's lock each time, reading takes longer.
- `read_next_async` that finds the queue empty just when a message comes may be given the one behind it; the first is
  in the queue then (`ConsumerImpl::executeNotifyCallback` lets go of its lock before it puts a message there). Twice
  in 150 readings of 5,000 messages on Apache Pulsar, all cores busy.
- A reader that starts behind a place that is gone, or in the middle of a batch, begins with the next message.
- All children that are forked from one process name their readers alike, and a name has one reader at a time. pulsar-lite
  remembers the names of those that were killed, with a place that it may never get over.
- What is encrypted and cannot be decrypted comes with its id and properties, but a whole batch comes as one message.
- pulsar-lite hands some messages to a reader a second time, or nothing any more in the middle of a topic; a new reader
  that starts there goes on. Now and then a reader begins at an earlier place than it was told. It calls asking about an
  empty topic an error.
"""

from __future__ import annotations

import functools
import os
import time
from typing import TYPE_CHECKING, Final

import _pulsar

from safepulsar.broker.outcomes import Phase, classify
from safepulsar.broker.pulsar_client.native import OK, code_of
from safepulsar.broker.transport import Stored
from safepulsar.errors import BrokerError
from safepulsar.message import MessageId
from safepulsar.processes.native_calls import native_calls

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Self

    from safepulsar.broker.pulsar_client.client import PulsarClient

_QUEUE_MESSAGES: Final = 1_000
_LOOK_SECONDS: Final = 0.001
# pulsar-lite sometimes goes silent in the middle of a topic; the next reader goes on from there.
_PATIENCE_SECONDS: Final = 0.2
_NOTHING_COMES_SECONDS: Final = 0.3  # pulsar-lite's first message takes 5 ms
_BEFORE_ALL: Final = (-1, -1, -1)
_SUBSCRIPTION: Final = "safepulsar-end"
_BATCH_SIZE_FIELD: Final = 6


def last_message_id(
    client: PulsarClient, native: _pulsar.Client, topic: str, partition: int, deadline: float
) -> MessageId | None:
    """
    Return the id of the last message of a topic that is not partitioned, None if it is empty.

    Raises:
        BrokerError: with its verdict.
    """
    patience = _PATIENCE_SECONDS
    contradictions = 0  # one, if the first message came between the two questions; more of pulsar-lite alone
    while contradictions < 2:  # noqa: PLR2004
        with _Reader(client, native, topic, _pulsar.MessageId.latest, deadline, inclusive=True) as reader:
            if reader.has_next():
                message = reader.next(patience)
                while message is not None and reader.has_next():  # pulsar-lite goes to another place now and then
                    message = reader.next(patience)
                if message is not None:
                    return _end_of(message, partition)
                patience *= 2
                continue
        with _Reader(client, native, topic, _pulsar.MessageId.earliest, deadline) as reader:
            if not reader.has_next() and reader.next(_NOTHING_COMES_SECONDS) is None:
                return None
        contradictions += 1
    return _last_by_subscription(client, native, topic, partition, deadline)


def read_back(
    client: PulsarClient,
    native: _pulsar.Client,
    topic: str,
    partition: int,
    after: MessageId | None,
    deadline: float,
) -> Iterator[Stored]:
    """
    Yield what is behind `after` in a topic that is not partitioned, up to its end as it is now.

    Raises:
        BrokerError: with its verdict.
    """
    end = last_message_id(client, native, topic, partition, deadline)
    if end is None:
        return
    last = _place(end)
    here = _BEFORE_ALL if after is None else _place(after)
    if here >= last:
        return
    patience = _PATIENCE_SECONDS
    while here < last:
        start = _pulsar.MessageId.earliest if here[0] < 0 else _pulsar.MessageId(-1, *here)
        with _Reader(client, native, topic, start, deadline) as reader:
            while here < last and (message := reader.next(patience)):
                message_id = _id_of(message, partition)
                place = _place(message_id)
                if place > last:  # the last one is gone
                    return
                if place > here:
                    here = place
                    patience = _PATIENCE_SECONDS
                    yield Stored(message_id, message.producer_name(), message.properties())
        patience *= 2


class _Reader:
    """
    One native reader, open as long as its `with` block.
    """

    def __init__(
        self,
        client: PulsarClient,
        native: _pulsar.Client,
        topic: str,
        start: _pulsar.MessageId,
        deadline: float,
        *,
        inclusive: bool = False,
    ) -> None:
        self._client = client
        self._topic = topic
        self._deadline = deadline
        self._held: _pulsar.Message | None = None  # read before its turn
        self._asked: dict[_pulsar.Result, _pulsar.Message] | None = None  # the slot of a message that is waited for
        configuration = _pulsar.ReaderConfiguration()
        configuration.receiver_queue_size(_QUEUE_MESSAGES)
        configuration.start_message_id_inclusive(inclusive)
        configuration.subscription_role_prefix(f"safepulsar-{os.urandom(8).hex()}")
        # What is encrypted comes as it is: properties never are. The other choice would be to wait for it for ever.
        configuration.crypto_failure_action(_pulsar.ConsumerCryptoFailureAction.CONSUME)
        try:
            answer = client.ask(native.create_reader_async, topic, start, configuration)
            self._native: _pulsar.Reader = client.wait(answer, topic, deadline)
        except BrokerError as error:
            raise _no_right(error, topic) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.dispose(self._native)

    def has_next(self) -> bool:
        """
        Say what the broker answers; nothing that its `UnknownError` means more than "I don't know".
        """
        if self._held is not None:
            return True
        answer = self._client.ask(self._native.has_message_available_async)
        try:
            return bool(self._client.wait(answer, self._topic, self._deadline))
        except BrokerError as error:
            if error.code == "UnknownError":
                return False
            raise

    def next(self, patience_seconds: float) -> _pulsar.Message | None:
        """
        Return the next message; None if it does not come within so many seconds.
        """
        if self._held is not None:
            held, self._held = self._held, None
            return held
        if self._asked is None and (message := self._at_once()) is not None:
            return message
        message = self._waited_for(patience_seconds)
        if message is None:
            return None
        # It may be the second of two; then the first is there at once.
        other = self._at_once()
        if other is None:
            return message
        first, self._held = sorted((message, other), key=lambda each: _place(_id_of(each, -1)))
        return first

    def _at_once(self) -> _pulsar.Message | None:
        """
        Return the next message if it is here. If not, it is asked for, and `_waited_for` has it.
        """
        slot: dict[_pulsar.Result, _pulsar.Message] = {}
        function = functools.partial(slot.setdefault)  # in C, and its end can be watched
        native_calls.begin(id(function))
        try:
            self._native.read_next_async(function)
        except BaseException:
            native_calls.end(id(function))
            raise
        if slot:
            native_calls.end(id(function))
            return self._message_in(slot)
        self._client.watch(function)
        self._asked = slot
        return None

    def _waited_for(self, patience_seconds: float) -> _pulsar.Message | None:
        until = time.monotonic() + patience_seconds
        while not self._asked:
            now = time.monotonic()
            if now > self._deadline:
                raise classify("Timeout", Phase.CREATE, self._topic)
            if now > until:
                return None
            time.sleep(_LOOK_SECONDS)
        slot, self._asked = self._asked, None
        return self._message_in(slot)

    def _message_in(self, slot: dict[_pulsar.Result, _pulsar.Message]) -> _pulsar.Message:
        ((result, message),) = slot.items()
        if result.value != OK:
            raise classify(code_of(result), Phase.CREATE, self._topic)
        context = message.encryption_context()
        if context is not None and context.batch_size() >= 0:
            detail = "an encrypted batch cannot be looked into; send encrypted messages with batch_max_messages=1"
            raise classify("CryptoError", Phase.CREATE, self._topic, detail=detail)
        return message


def _last_by_subscription(
    client: PulsarClient, native: _pulsar.Client, topic: str, partition: int, deadline: float
) -> MessageId:
    """
    Return the id of the last message, asked by a subscription that is there for a moment.

    For pulsar-lite alone, because a subscription outlives the process that is killed in this moment.
    """
    consumer: _pulsar.Consumer = client.wait(
        client.ask(native.subscribe_async, topic, _SUBSCRIPTION, _pulsar.ConsumerConfiguration()), topic, deadline
    )
    try:
        last: _pulsar.MessageId = client.wait(client.ask(consumer.get_last_message_id_async), topic, deadline)
        client.wait(client.ask(consumer.unsubscribe_async), topic, deadline)
    finally:
        client.dispose(consumer)
    # It names the entry, not the message.
    start = _pulsar.MessageId(-1, last.ledger_id(), last.entry_id(), -1)
    patience = _PATIENCE_SECONDS
    while True:
        with _Reader(client, native, topic, start, deadline, inclusive=True) as reader:
            while message := reader.next(patience):
                end = _end_of(message, partition)
                if (end.ledger_id, end.entry_id) >= (last.ledger_id(), last.entry_id()):
                    return end  # or pulsar-lite began at an earlier place
        patience *= 2


def _end_of(message: _pulsar.Message, partition: int) -> MessageId:
    """
    Return the id of the last message of the batch that a message is in: a batch is stored as a whole.
    """
    native = message.message_id()
    last_index = max(native.batch_index(), _batch_size(native.serialize()) - 1)
    return MessageId(native.ledger_id(), native.entry_id(), partition, last_index)


def _batch_size(serialized: bytes) -> int:
    """
    Return how many messages the batch of a message id has, 0 without a batch: the one thing that only this form tells.

    Its fields are protocol buffers' numbers: a tag, and the value in sevens of bits, the lowest first.
    """
    numbers: list[int] = []
    value = shift = 0
    for byte in serialized:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:  # noqa: PLR2004  # the highest bit says that there is more
            numbers.append(value)
            value = shift = 0
    return dict(zip(numbers[::2], numbers[1::2], strict=True)).get(_BATCH_SIZE_FIELD << 3, 0)


def _id_of(message: _pulsar.Message, partition: int) -> MessageId:
    native = message.message_id()
    return MessageId(native.ledger_id(), native.entry_id(), partition, native.batch_index())


def _place(message_id: MessageId) -> tuple[int, int, int]:
    """
    Return the id in the order of the topic.
    """
    return message_id.ledger_id, message_id.entry_id, message_id.batch_index


def _no_right(error: BrokerError, topic: str) -> BrokerError:
    if error.code != "AuthorizationError":
        return error
    detail = "the credentials carry no right to consume from the topic, which reading it back needs"
    return classify(error.code, Phase.CREATE, topic, detail=detail)
