"""
The messages that a receiver holds: their turns, who has them, and what is done and not committed yet.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic

from safepulsar.receiving.consumer import M
from safepulsar.receiving.ordered_message import Holding, OrderedMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable


class Desk(Generic[M]):
    """
    Hands out at most one message of a lane at a time, and can take everything back since the last commit.

    Args:
        after_done: called after each message that is done.
    """

    def __init__(self, after_done: Callable[[], None]) -> None:
        self._after_done = after_done
        self._held: dict[Hashable, OrderedMessage[M]] = {}  # from their coming to their commit
        self._queues: dict[str, deque[OrderedMessage[M]]] = {}  # by lane, in order and not done; the first may be out
        self._ready: deque[OrderedMessage[M]] = deque()  # the first of each lane of which none is out
        self._out: dict[Hashable, OrderedMessage[M]] = {}
        self._uncommitted: list[OrderedMessage[M]] = []
        self.handed_out = self.done_count = 0

    def __len__(self) -> int:
        return len(self._held)

    @property
    def is_ready(self) -> bool:
        """
        Whether `hand_out` has something.
        """
        return bool(self._ready)

    @property
    def out(self) -> int:
        """
        How many the application has.
        """
        return len(self._out)

    @property
    def uncommitted(self) -> int:
        """
        How many are done and not committed.
        """
        return len(self._uncommitted)

    def find(self, key: Hashable) -> OrderedMessage[M] | None:
        """
        The message of this key that is held.
        """
        return self._held.get(key)

    def hold(self, message: OrderedMessage[M]) -> None:
        """
        Know a message that is not in order yet, or is about to be queued.
        """
        self._held[message.key] = message

    def queue(self, messages: Iterable[OrderedMessage[M]]) -> None:
        """
        Put messages that are held, and in order now, at the end of their lanes; those without a lane wait for nothing.
        """
        for message in messages:
            queue = None if message.lane is None else self._queues.get(message.lane)
            if queue is not None:
                queue.append(message)
                continue
            if message.lane is not None:
                self._queues[message.lane] = deque([message])
            self._ready.append(message)

    def hand_out(self) -> OrderedMessage[M]:
        """
        Return the next message; one must be ready.
        """
        message = self._ready.popleft()
        message.holding = Holding.OUT
        self._out[message.key] = message
        self.handed_out += 1
        return message

    def done(self, message: OrderedMessage[M]) -> None:
        """
        Note that a message that is out is done, which makes the next of its lane ready.
        """
        del self._out[message.key]
        message.holding = Holding.DONE
        self._uncommitted.append(message)
        self.done_count += 1
        if message.lane is not None:
            queue = self._queues[message.lane]
            queue.popleft()
            if queue:
                self._ready.append(queue[0])
            else:
                del self._queues[message.lane]
        self._after_done()

    def again(self, message: OrderedMessage[M]) -> None:
        """
        Take back a message that is out, to hand it out next.
        """
        del self._out[message.key]
        message.holding = Holding.HELD
        self._ready.appendleft(message)

    def rollback(self) -> None:
        """
        Take back all that is out or not committed, to hand it out again in order.
        """
        back = [*self._uncommitted, *self._out.values(), *self._ready]
        for message in reversed(self._uncommitted):
            if message.lane is not None:
                self._queues.setdefault(message.lane, deque()).appendleft(message)
        self.done_count -= len(self._uncommitted)
        self._uncommitted.clear()
        self._out.clear()
        for message in back:
            message.holding = Holding.HELD
        self._ready = deque(each for each in back if each.lane is None or self._queues[each.lane][0] is each)

    def commit(self) -> list[M]:
        """
        Let go of all that is done, and return what is to be acknowledged for it.
        """
        finished: list[M] = []
        for message in self._uncommitted:
            message.holding = Holding.COMMITTED
            del self._held[message.key]
            finished += [message.message, *message.copies.values()]
        self._uncommitted.clear()
        return finished

    def changed(self) -> dict[str, int]:
        """
        By lane, the sequence behind the last that is done, of the lanes in which something is not committed.
        """
        return {
            each.lane: each.sequence + 1
            for each in self._uncommitted
            if each.lane is not None and each.sequence is not None
        }

    def not_done(self) -> dict[str, int]:
        """
        By lane, the first sequence that is in order and not done.
        """
        return {lane: queue[0].sequence for lane, queue in self._queues.items() if queue[0].sequence is not None}

    def lanes(self) -> set[str]:
        """
        All lanes of which a message is held.
        """
        return {message.lane for message in self._held.values() if message.lane is not None}
