"""
A message in the hands of an `OrderedReceiver`, and then in those of the application.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Generic, Protocol

from safepulsar.receiving.consumer import M
from safepulsar.receiving.errors import NotHandedOut

if TYPE_CHECKING:
    from collections.abc import Hashable
    from types import TracebackType

    from typing_extensions import Self


class Holding(str, Enum):
    """
    Where a message is on its way through a receiver.

    HELD -> OUT -> DONE -> COMMITTED. OUT -> HELD when it is given back or taken back; DONE -> HELD when what was done
    is rolled back. Never HELD -> DONE, since what nobody has was not handled; nothing leaves COMMITTED, since its
    progress is saved.
    """

    HELD = "HELD"  # waits behind a gap, or for its turn
    OUT = "OUT"  # the application has it
    DONE = "DONE"  # the application is done with it, and that is not saved yet
    COMMITTED = "COMMITTED"  # that is saved, and it is acknowledged, or about to be


class Holder(Protocol[M]):
    """
    Whom a message goes back to: the receiver's desk.
    """

    def done(self, message: OrderedMessage[M]) -> None:
        """
        The application is done with it.
        """
        ...

    def again(self, message: OrderedMessage[M]) -> None:
        """
        The application wants to have it again.
        """
        ...

    def rollback(self) -> None:
        """
        The application failed.
        """
        ...


class OrderedMessage(Generic[M]):
    """
    A message that was handed out in order. It is acknowledged only when the application is done with it.

    Use it with `with`: the end of the block is `done()`. An exception in it is `OrderedReceiver.rollback()`, because a
    transaction of the application is rolled back as a whole too.

    Attributes:
        message: as the consumer received it.
        lane: None if the message has no sequence; not in the repr, because it is a key and may be private.
        sequence: its number in the lane, from 1; None if it has none.
        holding: where it is on its way; only the receiver changes it.
        key: what the receiver knows it by.
    """

    __slots__ = ("_holder", "copies", "holding", "key", "lane", "message", "sequence")

    def __init__(self, holder: Holder[M], message: M, lane: str | None, sequence: int | None, key: Hashable) -> None:
        self.message = message
        self.lane = lane
        self.sequence = sequence
        self.key = key
        self.holding = Holding.HELD
        self.copies: dict[bytes, M] = {}  # the receiver's: by message id, what came again; acknowledged with it
        self._holder = holder

    def __repr__(self) -> str:
        return f"<OrderedMessage {self.sequence}, {self.holding.value}>"

    def done(self) -> None:
        """
        Say that it is handled. Saves the progress and acknowledges, now or after `commit_messages` of them.

        Raises:
            NotHandedOut: it is done already, or was given back or taken back.
            Exception: what `save` raised; it will be handed out again then. Or what acknowledging raised; it is done
                then, and the acknowledgement is tried again with the next.
        """
        self._must_be_out("done()")
        self._holder.done(self)

    def again(self) -> None:
        """
        Give it back, to be handed out again next; nothing behind it in its lane comes before.

        Raises:
            NotHandedOut: it is done already, or was given back or taken back.
        """
        self._must_be_out("again()")
        self._holder.again(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.holding is not Holding.OUT:
            return
        if error is None:
            self._holder.done(self)
        else:
            self._holder.rollback()

    def _must_be_out(self, call: str) -> None:
        if self.holding is not Holding.OUT:
            raise NotHandedOut(
                f"{call}: message {self.sequence} of a lane is {self.holding.value}, not handed out; call it once, after "
                f"receive() returned the message"
            )
