"""
A subscription in memory with consumers that come and go, a database that forgets what was not committed, and a clock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from safepulsar.receiving import lane_properties

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from safepulsar.receiving import Progress


class ManualClock:
    """
    Seconds, moved by hand.
    """

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """
        What time it is.
        """
        return self.now


@dataclass(frozen=True, slots=True)
class FakeMessageId:
    """
    Where the topic has a message.
    """

    index: int

    def serialize(self) -> bytes:
        """
        Return the bytes of this place.
        """
        return b"%d" % self.index


@dataclass(frozen=True, slots=True, eq=False)
class FakeMessage:
    """
    A message as a consumer gives it.
    """

    index: int
    payload: bytes = b""
    given_properties: dict[str, str] = field(default_factory=dict)
    key: str = ""
    ordering: str = ""
    topic: str = "orders"

    def data(self) -> bytes:
        """
        Return the payload.
        """
        return self.payload

    def properties(self) -> dict[str, str]:
        """
        Return the properties.
        """
        return self.given_properties

    def partition_key(self) -> str:
        """
        Return the partition key.
        """
        return self.key

    def ordering_key(self) -> str:
        """
        Return the ordering key.
        """
        return self.ordering

    def topic_name(self) -> str:
        """
        Return the topic.
        """
        return self.topic

    def message_id(self) -> FakeMessageId:
        """
        Return the place in the topic.
        """
        return FakeMessageId(self.index)


def at(lane: str, sequence: int, index: int = 0) -> FakeMessage:
    """
    Return the message of a place, whose payload names it.
    """
    return FakeMessage(index, f"{lane}{sequence}".encode(), lane_properties(sequence), key=lane)


class Subscription:
    """
    What the broker knows: the messages of a topic, and which of them are acknowledged.

    Args:
        places: lane and sequence of each message, in the order of the topic.
        clock: moved on by the time that a consumer waits in vain.
        on_step: called before and after each effect on the broker, with its name; may raise.
    """

    def __init__(
        self,
        places: Iterable[tuple[str, int]] = (),
        clock: ManualClock | None = None,
        on_step: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.messages = [at(lane, sequence, index) for index, (lane, sequence) in enumerate(places)]
        self.acknowledged: set[int] = set()
        self.cumulative = 0  # calls
        self.clock = clock or ManualClock()
        self.on_step = on_step

    @property
    def open(self) -> list[str]:
        """
        The payloads of what is not acknowledged.
        """
        return [each.payload.decode() for each in self.messages if each.index not in self.acknowledged]

    def connect(self) -> FakeConsumer:
        """
        Return a new consumer, which gets all that is not acknowledged.
        """
        return FakeConsumer(self)


class FakeConsumer:
    """
    A consumer of a subscription.
    """

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.queue = deque(each for each in subscription.messages if each.index not in subscription.acknowledged)
        self.given_back: list[FakeMessage] = []

    def receive(self, timeout_millis: int | None = None) -> FakeMessage:
        """
        Return the next message. When there is none, the time passes at once, and what was given back comes again.
        """
        self.subscription.on_step("receive")
        if not self.queue:
            self.subscription.clock.now += (timeout_millis or 0) / 1000
            self.queue.extend(self.given_back)
            self.given_back.clear()
            raise TimeoutError
        return self.queue.popleft()

    def acknowledge(self, message: FakeMessage) -> None:
        """
        Acknowledge one.
        """
        self.subscription.on_step("acknowledge")
        self.subscription.acknowledged.add(message.index)
        self.subscription.on_step("acknowledged")

    def acknowledge_cumulative(self, message: FakeMessage) -> None:
        """
        Acknowledge one and all before it.
        """
        self.subscription.on_step("acknowledge")
        self.subscription.cumulative += 1
        self.subscription.acknowledged.update(range(message.index + 1))
        self.subscription.on_step("acknowledged")

    def negative_acknowledge(self, message: FakeMessage) -> None:
        """
        Take one back.
        """
        self.given_back.append(message)


class Database:
    """
    An application's own, with a transaction: what is written counts from the next `save` on, and is gone in a crash.

    Args:
        on_step: as for `Subscription`.
    """

    def __init__(self, on_step: Callable[[str], None] = lambda _: None) -> None:
        self.rows: list[str] = []
        self.state: bytes | None = None
        self.lanes: dict[str, int] = {}
        self.saves = 0
        self.transaction: list[str] = []
        self._on_step = on_step

    def write(self, row: str) -> None:
        """
        Write into the open transaction.
        """
        self._on_step("write")
        self.transaction.append(row)
        self._on_step("written")

    def save(self, progress: Progress) -> None:
        """
        Commit the transaction and the progress together.
        """
        self._on_step("save")
        self.rows += self.transaction
        self.transaction.clear()
        self.state = progress.state()
        self.lanes.update(progress.changed)
        self.saves += 1
        self._on_step("saved")
