"""
What every store of failed messages promises: nothing kept is lost, and no two replayers hold the same message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from safepulsar.failed_messages.filter import EVERYTHING
from safepulsar.failed_messages.transitions import CLAIM_MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from typing_extensions import Self

    from safepulsar.failed_messages.filter import FailedMessageFilter
    from safepulsar.failed_messages.status import FailedMessageStatus, StoreStats
    from safepulsar.failed_messages.transitions import FailedAgain
    from safepulsar.message import FailedMessage, MessageId


class FailedMessageStore(Protocol):
    """
    Keeps what was accepted and not confirmed, until it is delivered or purged.

    Every method may be called from any thread, and raises a `StoreError` that says what to do. Until `open()`, and
    after `close()`, all others raise `StoreUnavailable`.

    Replay works by *claims*: `claim` leases messages to an owner, who sends them and then says `delivered`,
    `failed_again` or `release`. An owner that says nothing loses its claims when the lease runs out; because it may
    have sent them before, they are `MAYBE_STORED` from then on. Whatever a late owner still says about a message
    that another one took over has no effect, and its answer tells so. It may then `confirm` what it delivered.

    A *lane* (topic and key) is in one owner's hands at a time, and a message is only handed out once everything
    before it in its lane is in the same hands or gone. A filter that leaves out the head of a lane therefore gets
    nothing of that lane, and a damaged row stops its lane until it is purged.

    Leases are counted by the wall clock, because several processes share them. When it jumps forward, leases run
    out early: a message may then be sent by two owners, and is `MAYBE_STORED` for the second. When it jumps back,
    the claims of an owner that died last longer by so much, but never longer than a day.
    """

    def open(self) -> Self:
        """
        Make the store usable, or say why it is not. Returns itself; repeated calls do nothing.
        """
        ...

    def close(self) -> None:
        """
        Let go of it; what is kept stays. Idempotent, and `open()` may be called again.
        """
        ...

    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...

    def after_fork(self) -> None:
        """
        Become new in a forked child. Called by the store's own hook too; once more does no harm.
        """
        ...

    def keep(self, messages: Sequence[FailedMessage]) -> list[int]:
        """
        Keep all of them or none, safely when it returns; several threads share one write.

        Returns:
            The new ids, rising in the order given. An id that a message already has is not looked at.

        Raises:
            InvalidMessage: a field that could not be stored unchanged; nothing is kept.
        """
        ...

    def get(self, failed_message_id: int) -> FailedMessage:
        """
        One that may still be replayed.

        Raises:
            NoSuchFailedMessage: unknown, purged, or delivered (the text says when and as which message id).
            StoreCorrupted: its row is damaged.
        """
        ...

    def status(self, failed_message_id: int) -> FailedMessageStatus:
        """
        What became of it, delivered or not.

        Raises:
            NoSuchFailedMessage: unknown or purged.
        """
        ...

    def find(
        self, where: FailedMessageFilter = EVERYTHING, *, limit: int | None = None, after: int = 0
    ) -> Iterator[FailedMessage]:
        """
        Those that match and have an id above `after`, in the order of ids, at most `limit`.

        They are read page by page, so any number may be walked through. Damaged rows are left out, logged and
        listed by `corrupted_ids()`.
        """
        ...

    def count(self, where: FailedMessageFilter = EVERYTHING) -> int:
        """
        How many match.
        """
        ...

    def stopped_lanes(self, topic: str) -> dict[str, int]:
        """
        The ordering keys of which messages of `topic`, a full name, are kept, and the first one's id of each.
        """
        ...

    def stats(self) -> StoreStats:
        """
        The store in numbers.
        """
        ...

    def corrupted_ids(self) -> tuple[int, ...]:
        """
        The rows found damaged by this object so far; purge them by their ids to let their lanes go on.
        """
        ...

    def claim(
        self,
        owner: str,
        where: FailedMessageFilter = EVERYTHING,
        *,
        limit: int,
        lease_seconds: float,
        max_bytes: int = CLAIM_MAX_BYTES,
    ) -> list[FailedMessage]:
        """
        Lease up to `limit` messages to `owner`, in the order of ids; empty if none can be had now.

        What the owner holds already is not handed out again.

        Args:
            owner: a name that nobody else uses, new for each run of a replayer.
            where: which ones.
            limit: at most so many.
            lease_seconds: how long; `extend` before it is over.
            max_bytes: of payload in one claim; the first message is handed out whatever its size.
        """
        ...

    def extend(self, owner: str, ids: Iterable[int], lease_seconds: float) -> list[int]:
        """
        Renew the leases from now on, and return those that the owner still has: don't send any other.

        A lease that ran out is not renewed, even if nobody took over yet.
        """
        ...

    def delivered(self, owner: str, message_ids: Mapping[int, MessageId]) -> list[int]:
        """
        Remove what the owner sent and got acknowledged, and record when and where; returns what was removed.

        An id that is missing in the answer was taken over, confirmed or purged: nothing was recorded.
        """
        ...

    def confirm(self, failed_message_id: int, message_id: MessageId) -> bool:
        """
        A late acknowledgement proves that it is in the topic: as delivered, whoever holds it.

        A replayer that holds it learns by `extend` or `delivered` that it is gone.

        Returns:
            False if it is not here any more: unknown, delivered or purged.
        """
        ...

    def refute(self, ids: Iterable[int]) -> None:
        """
        Reading back proved that these are not in the topic: `NOT_STORED` from now on, whoever holds them.
        """
        ...

    def failed_again(self, owner: str, failures: Sequence[FailedAgain]) -> list[int]:
        """
        Record replays that were not confirmed and give the claims back; returns what was recorded.

        An id that is missing in the answer was taken over, confirmed or purged: nothing was recorded.
        """
        ...

    def release(self, owner: str, ids: Iterable[int] | None = None) -> list[int]:
        """
        Give back, untouched, claims that were surely not sent (None: all of them); returns which.
        """
        ...

    def purge(self, where: FailedMessageFilter, *, dry_run: bool = False) -> int:
        """
        Delete for good what matches, except what a replayer holds now, and return how many.

        Args:
            where: which ones. `state=DELIVERED` deletes the records of what was delivered.
            dry_run: only count.
        """
        ...
