"""
A producer of one topic: hands over, flushes, and reads the answers, by the shortest way into the native library.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import _pulsar

from safepulsar.broker.outcomes import Phase, classify
from safepulsar.broker.pulsar_client.native import OK, code_of, leak
from safepulsar.message import ID_PROPERTY, MessageId, numbered

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from safepulsar.broker.pulsar_client.native import Closings
    from safepulsar.broker.transport import OnResult, Slot
    from safepulsar.errors import BrokerError
    from safepulsar.message import Outgoing
    from safepulsar.settings import ProducerSettings


class PulsarProducer:
    """
    A `safepulsar.broker.transport.TransportProducer` of one topic, or of one partition. Thread-safe as described there.

    `send_batch` and `flush` are never called on the main thread: the native library runs signal handlers in the
    middle of them and loses what they raise.

    Attributes:
        settings: what it was made from.
        name: its producer name, given or chosen by the broker.
        batch_max_messages: as the settings say.
        mark: see `TransportProducer`.
    """

    def __init__(
        self, settings: ProducerSettings, native: _pulsar.Producer, closings: Closings, partition: int = -1
    ) -> None:
        self.settings = settings
        self.name = native.producer_name()
        self.batch_max_messages = settings.batch_max_messages
        self.mark = ""
        self._closings = closings
        self._partition = partition
        # Re-entrant, because a signal handler may close in the middle of a close.
        # Guards that one call closes, and that nothing is handed over meanwhile: the library may forget what it takes
        # while it closes, and never answer.
        self._lock = threading.RLock()
        # None once it is closed: a closed producer that is still referenced hangs a forked child at its exit.
        self._native: _pulsar.Producer | None = native
        self._last_sequence_id = native.last_sequence_id()
        # Where the broker goes by ids across producers, messages without one are counted here: the library counts anew
        # when it reconnects before the first acknowledgement, and a broker that deduplicates drops what repeats an id.
        # Without a name it need not go on where another ended, and can be told where to begin, see `configuration.py`.
        self._next_id = max(1, self._last_sequence_id + 1) if settings.producer_name is not None else None

    def __repr__(self) -> str:
        state = "closed" if self._native is None else "connected" if self.is_connected() else "not connected"
        return f"<PulsarProducer {self.name!r} of {self.settings.topic!r}, {state}>"

    def send_batch(self, messages: Sequence[Outgoing], on_result: OnResult) -> None:
        """
        Hand over `messages`; see `TransportProducer.send_batch`. About 3 µs a message in batches.

        Raises:
            BrokerError: all of `messages` were refused; surely not stored. `on_result` may have fired, too.
        """
        native = self._native
        if native is None:
            raise classify("AlreadyClosed", Phase.INLINE, self.settings.topic)
        # All are built before the first is handed over, so that one that can't be built leaves none behind.
        built = _build(messages, self._next_id, self.mark if self.settings.exactly_once else None)
        if not built:
            raise classify("InvalidMessage", Phase.INLINE, self.settings.topic)
        if self._next_id is not None:
            self._next_id += len(built)
        send = native.send_async
        with self._lock:
            if self._native is None:
                raise classify("AlreadyClosed", Phase.INLINE, self.settings.topic)
            for message in built[:-1]:
                send(message, None)
            send(built[-1], on_result)
        # The library stamps a message when it takes it into its queue. One without a stamp was refused before, for
        # a reason that holds for all behind it, too.
        if (slot := getattr(on_result, "__self__", None)) and built[0].publish_timestamp() == 0:
            (result,) = slot
            raise classify(code_of(result), Phase.INLINE, self.settings.topic)

    def flush(self) -> None:
        """
        Close an open batch and wait; see `TransportProducer.flush`.

        A slot may be empty for some milliseconds more: the network thread takes an answered batch off its queue,
        which ends the flush, before it gets the interpreter's lock, which it needs to fill the slot.
        """
        native = self._native
        if native is not None:
            try:  # noqa: SIM105 - suppress() costs three calls for each group
                native.flush()
            except _pulsar.PulsarException:
                pass  # it tells of one batch; the slots tell of each

    def read(self, slot: Slot) -> MessageId | BrokerError | None:
        """
        Say what a slot says; see `TransportProducer.read`.
        """
        result: Any
        answer: Any
        for result, answer in slot.items():
            if result.value == OK:
                ids = answer.ledger_id(), answer.entry_id()
                return MessageId(*ids, self._partition, answer.batch_index())
            return classify(code_of(result), Phase.LATER, self.settings.topic)
        return None

    def is_connected(self) -> bool:
        """
        Whether it has a connection right now.
        """
        native = self._native
        return native is not None and native.is_connected()

    @property
    def next_sequence_id(self) -> int | None:
        """
        The id that the next message gets; None without a producer name, where the library counts.
        """
        return self._next_id

    def last_sequence_id(self) -> int:
        """
        Return the highest sequence id that the broker confirmed for its name; -1 if none.
        """
        native = self._native
        return self._last_sequence_id if native is None else native.last_sequence_id()

    def last_sequence_ids(self) -> dict[int, int]:
        """
        Return the same by its partition.
        """
        return {self._partition: self.last_sequence_id()}

    def close(self) -> None:
        """
        Close; see `TransportProducer.close`. Does not wait for the broker, and so never hangs.

        What was not answered has its error, and a blocked `flush` ends, before this returns. The broker gets to know
        before it hears of any later producer, so that its name is free again at once.
        """
        with self._lock:
            native, self._native = self._native, None
            if native is not None:
                self._last_sequence_id = native.last_sequence_id()
        if native is not None:
            native.close_async(self._closings.add())

    def leak(self) -> None:
        """
        Never destroy the native producer.
        """
        leak(self._native)


def _build(  # noqa: C901  # field by field
    messages: Iterable[Outgoing], next_id: int | None, mark: str | None
) -> list[_pulsar.Message]:
    """
    Build the native messages; none if one can't be built.

    Without the checks of the binding's Python half, which cost as much again: all was checked long ago.
    """
    built: list[_pulsar.Message] = []
    new = _pulsar.MessageBuilder
    try:
        for message in messages:
            builder = new()
            if (payload := message.payload) is None:
                builder.set_null_value()
            else:
                builder.content(payload)
            if properties := message.properties:
                builder.properties(properties)
            if (key := message.partition_key) is not None:
                builder.partition_key(key)
            if (key := message.ordering_key) is not None:
                builder.ordering_key(key)
            if (number := message.sequence_id) is not None and mark is None:
                builder.sequence_id(number)
            elif next_id is not None:
                builder.sequence_id(next_id + len(built))
                if mark is not None:
                    builder.property(ID_PROPERTY, numbered(number or 0, mark))
            if (number := message.event_timestamp_ms) is not None:
                builder.event_timestamp(number)
            if (number := message.deliver_at_ms) is not None:
                builder.deliver_at(number)
            built.append(builder.build())
    except Exception:  # noqa: BLE001  # dropped like those of `native.quietly`, which would cost a call more
        return []
    return built
