"""
The fake broker behind its connections: what arrives and is stored, what is answered, and what breaks in between.

    Session ── transmit ──> in transit (frozen) ──> arrive: fault? duplicate? store ──> answer
                                                                                          │
    callback <── deliver_next <── the client's ready answers <── held (hold) <────────────┘

Whatever ends in `_locked` needs `changed` held. It is held for moments only, never while a callback runs.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from typing import TYPE_CHECKING

from safepulsar.broker.outcomes import Phase, classify
from safepulsar.broker_process import BrokerState
from safepulsar.settings import AccessMode
from safepulsar.testing.counts import BrokerCounts
from safepulsar.testing.faults import ENDS_A_PRODUCER, FaultScript
from safepulsar.testing.session import OK, Answer, Session
from safepulsar.testing.topic_log import TopicLog

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from safepulsar.message import MessageId
    from safepulsar.settings import ProducerSettings
    from safepulsar.testing.session import Batch, Call, Line
    from safepulsar.testing.topic_log import StoredMessage

_TOPIC = re.compile(r"(non-)?persistent://[^/]+/[^/]+/[^/].*", re.DOTALL)


class Network:
    """
    Thread-safe. See `FakeBroker` for what each control means.

    Args:
        deduplication: of all topics.
        max_message_bytes: of a batch.
        threaded: answers are delivered by threads of the clients.
        early_answers: answers are delivered before `send_batch` returns.
    """

    def __init__(self, *, deduplication: bool, max_message_bytes: int, threaded: bool, early_answers: bool) -> None:
        self.deduplication = deduplication
        self.max_message_bytes = max_message_bytes
        self.threaded = threaded
        self.early_answers = early_answers
        self.changed = threading.Condition()  # guards everything here, the sessions and the lines; told of each change
        self.counts = BrokerCounts()
        self.faults = FaultScript()
        self.read_faults: deque[str] = deque()
        self.state = BrokerState.RUNNING
        self.held: deque[Answer] = deque()
        self.lines: list[Line] = []
        self.logs: dict[str, TopicLog] = {}
        self._sessions: dict[str, list[Session]] = {}  # by topic, in the order of creation
        self._connected = True
        self._frozen_topics: set[str] = set()
        self._held_topics: set[str] = set()
        self._hold_all = False
        self._in_transit: deque[Batch] = deque()

    # -- producers -------------------------------------------------------------------------------------------

    def open_session(self, line: Line, settings: ProducerSettings, timeout_seconds: float) -> Session:
        """
        Let a producer in; waits while the broker or the topic is frozen.

        Raises:
            BrokerError: with its verdict.
        """
        topic = settings.topic
        with self.changed:
            self.counts.creating += 1
            self.changed.notify_all()
            try:
                self.changed.wait_for(lambda: line.closed or not self._frozen(topic), timeout_seconds)
            finally:
                self.counts.creating -= 1
            name = settings.producer_name or f"fake-{self.counts.producers_created}"
            session = Session(line, settings, name)
            code = self._refusal_locked(session) or self._attach_locked(session)
            self.changed.notify_all()
            if code is not None:
                self.counts.creations_failed += 1
                raise classify(code, Phase.CREATE, topic)
            known = self.log_locked(topic).last_sequence_id(name)
            session.last_confirmed = known if settings.initial_sequence_id is None else settings.initial_sequence_id
            session.next_sequence_id = session.last_confirmed + 1
            self._sessions.setdefault(topic, []).append(session)
            self.counts.producers_created += 1
            self.counts.producers_open += 1
            return session

    def close_session_locked(self, session: Session) -> list[Call]:
        """
        The producer is closed by its owner: the callbacks of what it had not heard of.
        """
        if session.closed:
            return []
        session.closed = True
        session.close_batch()
        calls = [call for batch in session.pending.values() for call in batch.settle("AlreadyClosed", None)]
        self._sessions[session.settings.topic].remove(session)
        self.counts.producers_open -= 1
        if session.attached:
            session.attached = False
            self._rejoin_locked(self._sessions[session.settings.topic])
        self.changed.notify_all()
        return calls

    def connected_locked(self, session: Session) -> bool:
        """
        Whether what the producer sends goes out now.
        """
        return self._connected and session.attached and not session.closed

    def log_locked(self, topic: str) -> TopicLog:
        """
        The topic, made at first sight.
        """
        log = self.logs.get(topic)
        if log is None:
            log = self.logs[topic] = TopicLog(topic, len(self.logs), deduplication=self.deduplication)
        return log

    def read(self, line: Line, topic: str, timeout_seconds: float) -> list[StoredMessage]:
        """
        Return what the topic holds; waits while the broker or the topic is frozen.

        Raises:
            BrokerError: with its verdict.
        """
        with self.changed:
            self.changed.wait_for(lambda: line.closed or not self._frozen(topic), timeout_seconds)
            code = self._unreachable_locked(line, topic)
            if code is None and self.read_faults:
                code = self.read_faults.popleft()
            if code is not None:
                raise classify(code, Phase.CREATE, topic)
            return list(self.log_locked(topic).messages)

    def _refusal_locked(self, session: Session) -> str | None:
        topic = session.settings.topic
        code = self._unreachable_locked(session.line, topic)
        fault = self.faults.take(Phase.CREATE, topic) if code is None else None
        return code if fault is None else fault.code

    def _unreachable_locked(self, line: Line, topic: str) -> str | None:
        if line.closed:
            return "AlreadyClosed"
        if _TOPIC.fullmatch(topic) is None:
            return "InvalidTopicName"
        if self._frozen(topic):
            return "Timeout"
        return "ConnectError" if self.state is BrokerState.STOPPED else None

    def _attach_locked(self, session: Session) -> str | None:
        others = [other for other in self._sessions.get(session.settings.topic, ()) if other.attached]
        if session.settings.access_mode is AccessMode.SHARED:
            if any(other.exclusive or other.name == session.name for other in others):
                return "ProducerBusy"
        elif session.settings.access_mode is AccessMode.EXCLUSIVE:
            if others:
                return "ProducerFenced"
        else:
            for other in others:
                # A shared one may come back when the topic is free again; an exclusive one lost it for good.
                other.attached = False
                if other.exclusive:
                    self._end_locked(other, "ProducerFenced")
        session.attached = True
        return None

    def _end_locked(self, session: Session, code: str) -> None:
        session.attached = False
        session.dead = code
        session.close_batch()
        for batch in session.pending.values():
            if not (batch.answered or batch.settled):
                self._answer_locked(batch, code)

    def _rejoin_locked(self, sessions: Iterable[Session]) -> None:
        for session in sessions:
            if session.dead or (not session.attached and self._attach_locked(session)):
                continue
            for batch in list(session.pending.values()):  # a copy: a fault may end the producer meanwhile
                if not (batch.answered or batch.settled):
                    self.transmit_locked(batch)

    # -- messages and answers --------------------------------------------------------------------------------

    def transmit_locked(self, batch: Batch) -> None:
        """
        Send a pending batch, or leave it pending for the next connection.
        """
        if not self.connected_locked(batch.session):
            return
        batch.times_sent += 1
        if batch.times_sent == 1:
            self.counts.batches += 1
            self.counts.messages += len(batch.wires)
        else:
            self.counts.resent_batches += 1
        if self._frozen(batch.session.settings.topic):
            self._in_transit.append(batch)
        else:
            self._arrive_locked(batch)
        self.changed.notify_all()

    def deliver_next(self, line: Line) -> bool:
        """
        Make the callbacks of the client's next answer; False if there is none.
        """
        with line.calling:
            with self.changed:
                if not line.ready:
                    return False
                answer = line.ready.popleft()
                calls = answer.batch.settle(answer.code, answer.last_id)
                if calls and answer.code == OK:
                    wires, session = answer.batch.wires, answer.batch.session
                    # The official client counts up from a batch's first id, whatever the ids of the others were.
                    session.last_confirmed = max(session.last_confirmed, wires[0].sequence_id + len(wires) - 1)
            self.make_calls(calls)
            self.finish((answer.batch,))
        return True

    def make_calls(self, calls: Iterable[Call]) -> None:
        """
        Make callbacks, with no lock held but `Line.calling`.
        """
        for call in calls:
            call.make()

    def finish(self, batches: Iterable[Batch]) -> None:
        """
        Their callbacks have returned: whoever waits for them in `flush` may go on.
        """
        with self.changed:
            for batch in batches:
                if batch.session.pending.pop(batch.number, None) is not None:
                    self.counts.answers += 1
            self.changed.notify_all()

    def _arrive_locked(self, batch: Batch) -> None:
        session = batch.session
        topic = session.settings.topic
        fault = self.faults.take(Phase.LATER, topic)
        log = self.log_locked(topic)
        if fault is not None and not fault.stored:
            last_id: MessageId | None = None
        else:
            last_id = log.append(session.name, batch.wires, batched=batch.batched)
            self.counts.duplicate_batches += last_id.ledger_id < 0
        if fault is None:
            self._answer_locked(batch, OK, last_id)
            return
        self._answer_locked(batch, fault.code)
        if fault.code in ENDS_A_PRODUCER:
            self._end_locked(session, fault.code)

    def _answer_locked(self, batch: Batch, code: str, last_id: MessageId | None = None) -> None:
        if batch.session.closed:
            return  # nobody listens, though what was on the wire is stored
        batch.answered = True
        held = self._hold_all or batch.session.settings.topic in self._held_topics
        (self.held if held else batch.session.line.ready).append(Answer(batch, code, last_id))
        self.changed.notify_all()

    # -- faults ----------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """
        See `FakeBroker.kill`.
        """
        with self.changed:
            self.state = BrokerState.STOPPED
            self._frozen_topics.clear()
            self._disconnect_locked()

    def start(self) -> None:
        """
        See `FakeBroker.start`.
        """
        with self.changed:
            if self.state is BrokerState.STOPPED:
                self.state = BrokerState.RUNNING
                self._reconnect_locked()

    def cut(self) -> None:
        """
        See `FakeBroker.cut`.
        """
        with self.changed:
            self._disconnect_locked()
            if self.state is BrokerState.RUNNING:
                self._reconnect_locked()

    def freeze(self, topic: str | None) -> None:
        """
        See `FakeBroker.freeze`.
        """
        with self.changed:
            if self.state is BrokerState.STOPPED:
                return
            if topic is None:
                self.state = BrokerState.FROZEN
            else:
                self._frozen_topics.add(topic)
            self.changed.notify_all()

    def thaw(self, topic: str | None) -> None:
        """
        See `FakeBroker.thaw`.
        """
        with self.changed:
            if topic is not None:
                self._frozen_topics.discard(topic)
            else:
                self._frozen_topics.clear()
                if self.state is BrokerState.FROZEN:
                    self.state = BrokerState.RUNNING
            if self.state is BrokerState.RUNNING and not self._connected:
                self._reconnect_locked()
            waiting, self._in_transit = self._in_transit, deque()
            for batch in waiting:
                if self._frozen(batch.session.settings.topic):
                    self._in_transit.append(batch)
                elif not (batch.answered or batch.session.dead):
                    self._arrive_locked(batch)
            self.changed.notify_all()

    def hold(self, topic: str | None) -> None:
        """
        See `FakeBroker.hold`.
        """
        with self.changed:
            if topic is None:
                self._hold_all = True
            else:
                self._held_topics.add(topic)

    def release(self, count: int | None, topic: str | None) -> None:
        """
        See `FakeBroker.release`.
        """
        with self.changed:
            those = [answer for answer in self.held if topic in (None, answer.batch.session.settings.topic)]
            if count is None:
                self._held_topics = self._held_topics - {topic} if topic is not None else set()
                self._hold_all = self._hold_all and topic is not None
            elif count > len(those):
                raise ValueError(f"count: {count} answers can't be released, {len(those)} are held; see wait_until")
            else:
                those = those[:count]
            for answer in those:
                self.held.remove(answer)
                answer.batch.session.line.ready.append(answer)
            self.changed.notify_all()

    def _frozen(self, topic: str) -> bool:
        return self.state is BrokerState.FROZEN or topic in self._frozen_topics

    def _disconnect_locked(self) -> None:
        # What was on the wire is gone, in both directions. Errors stay: they are the client library's own words, or
        # ordered, and what failed by order must not be stored by a resend, behind later messages.
        self._connected = False
        self._in_transit.clear()
        for answers in (self.held, *(line.ready for line in self.lines)):
            for answer in answers:
                answer.batch.answered = answer.code != OK
            kept = [answer for answer in answers if answer.code != OK]
            answers.clear()
            answers.extend(kept)
        self.changed.notify_all()

    def _reconnect_locked(self) -> None:
        self._connected = True
        self._rejoin_locked(self._all_sessions())
        self.changed.notify_all()

    def _all_sessions(self) -> Iterator[Session]:
        for sessions in self._sessions.values():
            yield from sessions
