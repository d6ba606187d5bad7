"""
What a producer's code sees of the fake broker: a client and producers that behave like the official client's.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from safepulsar.broker.outcomes import Phase, classify
from safepulsar.broker.transport import Stored
from safepulsar.message import MessageId, numbered
from safepulsar.testing.session import Batch, Line
from safepulsar.testing.topic_log import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from safepulsar.broker.transport import OnResult, Slot
    from safepulsar.errors import BrokerError
    from safepulsar.message import Outgoing
    from safepulsar.settings import ClientSettings, ProducerSettings
    from safepulsar.testing.network import Network
    from safepulsar.testing.session import Session

_TOO_BIG = "MessageTooBig"


class FakeClient:
    """
    A `safepulsar.broker.transport.TransportClient` of a `FakeBroker`, made by its `connect`. Thread-safe.

    Its thread, which makes the callbacks, starts with its first producer and ends in `close`.
    """

    def __init__(self, network: Network, settings: ClientSettings) -> None:
        self._network = network
        self._settings = settings
        self._line = Line()
        self._producers: list[FakeProducer] = []  # guarded by the network's lock
        self._thread: threading.Thread | None = None
        with network.changed:
            network.lines.append(self._line)
            network.counts.clients_created += 1
            network.counts.clients_open += 1

    def __repr__(self) -> str:
        return f"<FakeClient {'closed' if self._line.closed else 'open'}>"

    def create_producer(self, settings: ProducerSettings) -> FakeProducer:
        """
        Open a producer. Waits while the broker or the topic is frozen, up to the operation timeout.

        A broker that is down refuses at once, so that no test waits for it.

        Raises:
            BrokerError: with its verdict.
        """
        session = self._network.open_session(self._line, settings, self._settings.operation_timeout_seconds)
        producer = FakeProducer(self._network, session)
        with self._network.changed:
            late = self._line.closed  # it was closed since the session was opened
            if not late:
                self._producers.append(producer)
            if self._network.threaded and self._thread is None and not late:
                # A daemon: a client that nobody closes must not keep the process of a test alive.
                self._thread = threading.Thread(target=self._run, name="safepulsar-fake-network", daemon=True)
                self._thread.start()
        if late:
            producer.close()
            raise classify("AlreadyClosed", Phase.CREATE, settings.topic)
        return producer

    def last_message_ids(self, topic: str, *, timeout_seconds: float) -> dict[int, MessageId | None]:
        """
        Where the topic, which is not partitioned here, ends now; see `TransportClient.last_message_ids`.

        Raises:
            BrokerError: with its verdict.
        """
        messages = self._network.read(self._line, topic, timeout_seconds)
        return {-1: messages[-1].message_id if messages else None}

    def read_back(
        self, topic: str, partition: int, after: MessageId | None, *, timeout_seconds: float
    ) -> Iterator[Stored]:
        """
        Read what is behind `after`; see `TransportClient.read_back`.

        Raises:
            BrokerError: with its verdict.
        """
        name = topic if partition < 0 else f"{topic}-partition-{partition}"
        for message in self._network.read(self._line, name, timeout_seconds):
            if after is None or message.message_id > after:
                yield Stored(message.message_id, message.producer_name, message.properties)

    def close(self) -> None:
        """
        Close the producers that are still open, and end. Never raises; idempotent.
        """
        with self._network.changed:
            producers, self._producers = self._producers, []
            thread, self._thread = self._thread, None
            if not self._line.closed:
                self._line.closed = True
                self._network.lines.remove(self._line)
                self._network.counts.clients_open -= 1
            self._network.changed.notify_all()
        for producer in producers:
            producer.close()
        if thread is not None:
            thread.join()

    def leak(self) -> None:
        """
        Only counted: there is nothing native here to be kept from its end. Without a lock, in a child that is just forked.
        """
        self._network.counts.leaked += 1

    def _run(self) -> None:
        # The network thread of this client. A callback that raises ends it, seen by `threading.excepthook`: nothing
        # is answered from then on, which is about what the official client does.
        network, line = self._network, self._line
        while True:
            with network.changed:
                network.changed.wait_for(lambda: line.ready or line.closed)
                if line.closed:
                    return
            network.deliver_next(line)


class FakeProducer:
    """
    A `safepulsar.broker.transport.TransportProducer` of a `FakeBroker`. `send_batch` by one thread at a time, the rest by any.

    Attributes:
        mark: see there.
    """

    def __init__(self, network: Network, session: Session) -> None:
        self.mark = ""
        self._network = network
        self._session = session

    def __repr__(self) -> str:
        state = self._session.refusal() or "open"
        return f"<FakeProducer {self.name!r} of {self.settings.topic!r}, {state}, {len(self._session.pending)} pending>"

    @property
    def settings(self) -> ProducerSettings:
        """
        What it was made from.
        """
        return self._session.settings

    @property
    def name(self) -> str:
        """
        The producer name, given or `fake-N`.
        """
        return self._session.name

    @property
    def batch_max_messages(self) -> int:
        """
        How many messages one call of `send_batch` may hand over.
        """
        return self._session.settings.batch_max_messages

    def send_batch(self, messages: Sequence[Outgoing], on_result: OnResult) -> None:
        """
        Hand over `messages` in order; see `TransportProducer.send_batch`.

        As with the official client the boundaries are the caller's matter: what comes before a full count or a
        `flush` joins the open batch, and a message with `deliver_at_ms` travels at once and alone. What is too big is
        not refused but answered, before this returns if that closes its batch.

        Raises:
            BrokerError: the producer is closed or dead, or by order of `FakeBroker.fail_next`: surely not stored.
        """
        network, session = self._network, self._session
        topic = session.settings.topic
        with network.changed:
            closed, code = session.closed, session.dead
            fault = None if closed or code else network.faults.take(Phase.INLINE, topic)
        if closed:
            raise classify("AlreadyClosed", Phase.INLINE, topic)
        if fault is not None:
            code = fault.code
        if code is None:
            last = len(messages) - 1
            for index, message in enumerate(messages):
                code = self._send(message, on_result if index == last else None)
        else:
            on_result(code, None)
        if code is not None:
            raise classify(code, Phase.INLINE, topic)
        if network.early_answers:
            self._pump()

    def flush(self) -> None:
        """
        Close an open batch and wait until everything handed over is answered or the producer is closed.

        Blocks while answers are held and while the broker is frozen or down, as long as it takes.
        """
        network, session = self._network, self._session
        with network.changed:
            network.counts.flushes += 1
            too_big = self._close_batch_locked()
            last = session.handed_over
        self._refuse(too_big)
        while True:
            if not network.threaded:
                self._pump()
            with network.changed:
                network.changed.wait_for(lambda: session.done(last) or (session.line.ready and not network.threaded))
                if session.done(last):
                    return

    def read(self, slot: Slot) -> MessageId | BrokerError | None:
        """
        What a slot says: the last message's id, an error that came after the hand-over, or None (no answer yet).
        """
        if not slot:
            return None
        ((code, message_id),) = slot.items()
        if isinstance(message_id, MessageId):
            return message_id
        return classify(str(code), Phase.LATER, self._session.settings.topic)

    def is_connected(self) -> bool:
        """
        Whether what is sent now goes out now. A frozen broker keeps its connections.
        """
        with self._network.changed:
            return self._network.connected_locked(self._session)

    @property
    def next_sequence_id(self) -> int | None:
        """
        The id that the next message without one gets.
        """
        return self._session.next_sequence_id

    def last_sequence_id(self) -> int:
        """
        The highest sequence id that the broker confirmed for this producer's name, -1 if none.
        """
        return self._session.last_confirmed

    def last_sequence_ids(self) -> dict[int, int]:
        """
        The same by -1: a topic here is not partitioned.
        """
        return {-1: self._session.last_confirmed}

    def close(self) -> None:
        """
        Close; what is not answered fails with `AlreadyClosed`, though it may be stored. Never raises; idempotent.
        """
        with self._session.line.calling:
            with self._network.changed:
                calls = self._network.close_session_locked(self._session)
                batches = list(self._session.pending.values())
            self._network.make_calls(calls)
            self._network.finish(batches)

    def leak(self) -> None:
        """
        Only counted, as `FakeClient.leak`.
        """
        self._network.counts.leaked += 1

    def _pump(self) -> None:
        while self._network.deliver_next(self._session.line):
            pass

    def _refuse(self, too_big: Sequence[Batch]) -> None:
        # On the caller's thread, as the official client does.
        if not too_big:
            return
        with self._session.line.calling:
            with self._network.changed:
                calls = [call for batch in too_big for call in batch.settle(_TOO_BIG, None)]
            self._network.make_calls(calls)
            self._network.finish(too_big)

    def _send(self, message: Outgoing, on_result: OnResult | None) -> str | None:
        """
        Hand over one message; the code if the producer takes none, which the callback has heard then.
        """
        # Message by message, so that a flush or a close by another thread may come between any two, as it may there.
        with self._network.changed:
            code = self._session.refusal()
            too_big = self._add_locked(message, on_result) if code is None else []
        if code is not None and on_result is not None:
            on_result(code, None)
        self._refuse(too_big)
        return code

    def _add_locked(self, message: Outgoing, on_result: OnResult | None) -> list[Batch]:
        session = self._session
        sequence_id = message.sequence_id
        exactly_once = session.settings.exactly_once and sequence_id is not None
        recognised_by = numbered(sequence_id or 0, self.mark) if exactly_once else None
        if sequence_id is None or recognised_by is not None:
            # Counted without regard to ids that were given: so does the official client, and it is a trap.
            sequence_id, session.next_sequence_id = session.next_sequence_id, session.next_sequence_id + 1
        batched = session.settings.batch_max_messages > 1 and message.deliver_at_ms is None
        batch = session.open_batch if batched else None
        if batch is None:
            batch = Batch(session, batched)
        batch.wires.append(Wire.of(message, sequence_id, recognised_by))
        if on_result is not None:
            batch.callbacks.append((len(batch.wires) - 1, on_result))
        if not batched:
            session.add_pending(batch)
            return self._send_locked(batch)
        session.open_batch = batch
        return self._close_batch_locked() if len(batch.wires) == session.settings.batch_max_messages else []

    def _close_batch_locked(self) -> list[Batch]:
        batch = self._session.close_batch()
        return [] if batch is None else self._send_locked(batch)

    def _send_locked(self, batch: Batch) -> list[Batch]:
        too_big = sum(wire.size_bytes() for wire in batch.wires) > self._network.max_message_bytes
        if too_big and not self._session.settings.chunking:
            # The client library sees that by itself, and only now that the batch is whole.
            batch.answered = True
            return [batch]
        self._network.transmit_locked(batch)
        return []
