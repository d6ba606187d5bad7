"""
One producer of the fake broker, as both ends of its connection know it: plain data, guarded by the network's lock.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from safepulsar.message import MessageId
from safepulsar.settings import AccessMode

if TYPE_CHECKING:
    from safepulsar.broker.transport import OnResult
    from safepulsar.settings import ProducerSettings
    from safepulsar.testing.topic_log import Wire

OK = "Ok"


class Call(NamedTuple):
    """
    One callback that is due.
    """

    on_result: OnResult
    code: str
    message_id: MessageId | None

    def make(self) -> None:
        """
        Call it. Never with a lock held that another callback or its waiter could want.
        """
        self.on_result(self.code, self.message_id)


@dataclass(slots=True, eq=False)
class Batch:
    """
    Messages that travel, are stored and are answered together.

    Attributes:
        batched: False for a message outside of any batch: its id then has no batch index.
        callbacks: with the index of the message that each belongs to.
        times_sent: how often it went to the broker; more than once after a broken connection.
        answered: an answer is on its way.
        settled: the answer, or the end of the producer, has decided what its callbacks say.
        number: counts the batches of its session in the order in which they became pending.
    """

    session: Session
    batched: bool
    wires: list[Wire] = field(default_factory=list)
    callbacks: list[tuple[int, OnResult]] = field(default_factory=list)
    times_sent: int = 0
    answered: bool = False
    settled: bool = False
    number: int = 0

    def settle(self, code: str, last_id: MessageId | None) -> list[Call]:
        """
        Decide its fate, once: the callbacks to make, none if it was decided before.
        """
        if self.settled:
            return []
        self.settled = True
        calls = []
        for index, on_result in self.callbacks:
            message_id = last_id
            if last_id is not None and self.batched:
                message_id = MessageId(last_id.ledger_id, last_id.entry_id, last_id.partition, index)
            calls.append(Call(on_result, code, message_id))
        return calls


class Answer(NamedTuple):
    """
    What the broker says of a batch, on its way to the client.
    """

    batch: Batch
    code: str
    last_id: MessageId | None


class Line:
    """
    One client's end of its connection.

    Attributes:
        ready: answers that have arrived and that no callback has heard yet.
        calling: held while callbacks run, so that they run one after the other, in the order of the answers.
        closed: the client is closed.
    """

    def __init__(self) -> None:
        self.ready: deque[Answer] = deque()
        self.calling = threading.Lock()
        self.closed = False


@dataclass(slots=True, eq=False)
class Session:
    """
    One producer.

    Attributes:
        line: of the client that it belongs to.
        name: given, or chosen by the broker.
        next_sequence_id: for the next message that brings none.
        last_confirmed: the highest sequence id that was acknowledged.
        handed_over: so many batches became pending so far.
        open_batch: what waits for its batch to be closed.
        pending: handed over, and not all of its callbacks have returned; by number, in order.
        attached: the topic knows the producer. Not so while another has the topic exclusively.
        dead: why it is of no use any more, e.g. `ProducerFenced`.
        closed: by its owner.
    """

    line: Line
    settings: ProducerSettings
    name: str
    next_sequence_id: int = 0
    last_confirmed: int = -1
    handed_over: int = 0
    open_batch: Batch | None = None
    pending: OrderedDict[int, Batch] = field(default_factory=OrderedDict)
    attached: bool = False
    dead: str | None = None
    closed: bool = False

    @property
    def exclusive(self) -> bool:
        """
        Whether it wants the topic for itself.
        """
        return self.settings.access_mode is not AccessMode.SHARED

    def add_pending(self, batch: Batch) -> None:
        """
        The batch is whole: from now on it waits for its answer.
        """
        self.handed_over += 1
        batch.number = self.handed_over
        self.pending[batch.number] = batch

    def close_batch(self) -> Batch | None:
        """
        Close the open batch, if there is one.
        """
        batch, self.open_batch = self.open_batch, None
        if batch is not None:
            self.add_pending(batch)
        return batch

    def refusal(self) -> str | None:
        """
        Why it takes no message now, None if it does.
        """
        return "AlreadyClosed" if self.closed else self.dead

    def done(self, number: int) -> bool:
        """
        Whether every callback up to this batch has returned.
        """
        return next(iter(self.pending), number + 1) > number
