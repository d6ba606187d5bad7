"""
Acknowledges messages that are finished, in whatever order they finish, and never one that is not.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Generic

from safepulsar.receiving.consumer import M
from safepulsar.receiving.settings import Acknowledge

if TYPE_CHECKING:
    from safepulsar.receiving.consumer import Consumer


class Acknowledger(Generic[M]):
    """
    Knows what was received and is not finished. Belongs to one thread.

    A cumulative acknowledgement covers all that the broker delivered before, so it is only used for a message that no
    unfinished one was received before; the others that are finished are acknowledged one by one even then.
    """

    def __init__(self, consumer: Consumer[M], how: Acknowledge) -> None:
        self._consumer = consumer
        self._cumulative = how is Acknowledge.CUMULATIVE
        # By topic, what is not finished by message id, in the order received, with its number in that order.
        self._open: dict[str, OrderedDict[bytes, int]] = {}
        self._received = 0
        self._finished: deque[tuple[int | None, M]] = deque()

    def received(self, message: M) -> None:
        """
        Note a message that came. One that came before keeps its place.
        """
        if self._cumulative:
            self._received += 1
            open_here = self._open.setdefault(message.topic_name(), OrderedDict())
            open_here.setdefault(message.message_id().serialize(), self._received)

    def refuse(self, message: M) -> None:
        """
        Give a message back to the broker, which delivers it again later; until it is finished then, it stays open.
        """
        self._consumer.negative_acknowledge(message)

    def finished(self, message: M) -> None:
        """
        Let a message be acknowledged by the next `flush`.
        """
        number = None
        if self._cumulative:
            number = self._open[message.topic_name()].pop(message.message_id().serialize(), None)
        self._finished.append((number, message))

    def flush(self) -> None:
        """
        Acknowledge what is finished. If that raises, what is not acknowledged yet is left for the next time.
        """
        if self._cumulative:
            self._flush_cumulatively()
        while self._finished:
            self._consumer.acknowledge(self._finished[0][1])
            self._finished.popleft()

    def _flush_cumulatively(self) -> None:
        last: dict[str, tuple[int, M]] = {}
        others: deque[tuple[int | None, M]] = deque()
        for number, message in self._finished:
            topic = message.topic_name()
            first_open = next(iter(self._open[topic].values()), None)
            if number is None or (first_open is not None and first_open < number):
                others.append((number, message))
            elif topic not in last or last[topic][0] < number:
                last[topic] = number, message
        for _, message in last.values():
            self._consumer.acknowledge_cumulative(message)
        self._finished = others
