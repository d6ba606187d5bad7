"""
Sends failed messages again: claimed under a lease, in the original order, and marked only by what the broker says.

It may be killed at any moment and run again, and two may run at once. What it holds when it dies comes back when the
lease runs out, as `MAYBE_STORED`, because it may have been sent.
"""

from __future__ import annotations

import logging
import math
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safepulsar.delivery.rate_limit import RateLimit
from safepulsar.errors import InvalidInput, SafePulsarError, SenderClosed, SendFailed, shown
from safepulsar.failed_messages import EVERYTHING, FailedAgain
from safepulsar.failed_messages.transitions import MAX_LEASE_SECONDS
from safepulsar.message import Certainty, Fate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from safepulsar.books.handle import SendHandle
    from safepulsar.failed_messages import FailedMessageFilter, FailedMessageStore
    from safepulsar.message import FailedMessage, MessageId
    from safepulsar.sender import RetryingSender

log = logging.getLogger("safepulsar")

_AT_ONCE = 1000  # messages of one claim
_LEASE_SECONDS = 60.0  # and the deadline of a message, so that a lease never runs out while one flies
_RENEW_SECONDS = 15.0
_PACE_SECONDS = 0.5  # a slow rate is kept in steps of so long


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayReport:
    """
    What a replay did.

    Args:
        selected: matched the filter when it began.
        delivered: stored now.
        duplicate: stored before, says the broker.
        failed: tried and not confirmed; still in the store.
        skipped: not tried, because one before it in its lane failed, or because the sender refuses it; still in
            the store.
        seconds: from beginning to end.
    """

    selected: int
    delivered: int = 0
    duplicate: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0


def replay(
    store: FailedMessageStore,
    sender: RetryingSender,
    *,
    where: FailedMessageFilter = EVERYTHING,
    rate: float | None = None,
    limit: int | None = None,
    dry_run: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
    owner: str | None = None,
) -> ReplayReport:
    """
    Send again what matches `where`, oldest first, and within a lane in its order.

    Of one lane only one message is on its way at a time. A failure stops its lane for this run. When all that are on
    their way fail, and one of them for a reason that may pass, the broker is away, and the run ends. What stays in the
    store keeps its place.

    Args:
        store: open.
        sender: sends; it must have `store` as its own, so that a late acknowledgement finds its message.
        where: which ones. `certainty=NOT_STORED` sends only what can't become a duplicate.
        rate: messages per second at most; None as fast as the sender goes.
        limit: at most so many are claimed.
        dry_run: only count.
        on_progress: called with (done, selected) after each round, on this thread.
        owner: the name on the claims; a new one by default.

    Raises:
        InvalidInput: the sender keeps its failed messages elsewhere, or the rate or the limit is none.
        StoreError: the store failed. What was delivered and could not be marked comes back as `MAYBE_STORED`.
        QueueFull: the sender had no room, see `RetryingSender.submit`.
        SenderClosed: meanwhile.
    """
    if limit is not None and not (type(limit) is int and limit >= 0):
        raise InvalidInput("limit", f"must be a whole number from 0, not {shown(limit)}")
    if rate is not None and not (isinstance(rate, (int, float)) and 0 < rate < math.inf):
        raise InvalidInput("rate", f"must be a number of messages per second above 0, not {shown(rate)}")
    if sender.failed_messages is not store:
        raise InvalidInput("sender", "must keep its failed messages in the store that is replayed")
    selected = store.count(where)
    if limit is not None:
        selected = min(selected, limit)
    if dry_run:
        return ReplayReport(selected=selected)
    run = _Run(store, sender, owner or f"{os.uname().nodename}-{os.getpid()}-{os.urandom(4).hex()}", rate)
    try:
        while run.done < selected and run.round(where, selected):
            if on_progress is not None:
                on_progress(min(run.done, selected), selected)
    finally:
        run.give_back()
    return ReplayReport(
        selected=selected,
        delivered=run.delivered,
        duplicate=run.duplicate,
        failed=run.failed,
        skipped=run.skipped,
        seconds=time.monotonic() - run.began,
    )


class _Run:
    """
    One replay under way.
    """

    def __init__(self, store: FailedMessageStore, sender: RetryingSender, owner: str, rate: float | None) -> None:
        self.delivered = self.duplicate = self.failed = self.skipped = 0
        self.began = time.monotonic()
        self._store = store
        self._sender = sender
        self._owner = owner
        self._limit = RateLimit(rate, None)
        self._at_once = _AT_ONCE if rate is None else max(1, min(_AT_ONCE, int(rate * _PACE_SECONDS)))
        self._lease_seconds = min(_LEASE_SECONDS + sender.settings.deadline_seconds, MAX_LEASE_SECONDS)
        self._renewed_at = self.began
        self._stopped: set[tuple[str, str]] = set()  # lanes in which something failed
        # Claimed, and the store has not heard what became of it. What failed or was skipped stays among these until the
        # end, or the next claim would hand it out again.
        self._claimed: set[int] = set()
        self._sent: set[int] = set()  # of these, what may be stored by now, for all that is known
        self._failures: list[FailedAgain] = []
        self._next: Sequence[FailedMessage] | None = None  # claimed for the next round already

    @property
    def done(self) -> int:
        return self.delivered + self.duplicate + self.failed + self.skipped

    def round(self, where: FailedMessageFilter, selected: int) -> bool:
        """
        Claim, send, wait, mark; False if there is nothing to do, or the broker is away.
        """
        claimed, self._next = self._next, None
        if claimed is None:
            claimed = self._claim(where, selected - self.done)
        *waves, last = _waves(claimed) or [[]]
        # While the last ones are on their way there is time to read the next. At a rate there is time enough.
        ahead = selected if self._at_once == _AT_ONCE else None
        return (
            bool(claimed) and all(self._wave(rows) for rows in waves) and self._wave(last, where=where, selected=ahead)
        )

    def _claim(self, where: FailedMessageFilter, most: int) -> Sequence[FailedMessage]:
        most = min(most, self._at_once)
        self._pause(self._limit.take(most, 0))  # before the claim, whose lease is for the sending
        claimed = self._store.claim(self._owner, where, limit=most, lease_seconds=self._lease_seconds)
        self._claimed.update(row.id for row in claimed if row.id is not None)
        return claimed

    def give_back(self) -> None:
        """
        Record what failed, and let go of the rest.

        What may be stored is not let go of: it comes back when the lease runs out, as `MAYBE_STORED`.
        """
        if self._failures:
            self._store.failed_again(self._owner, self._failures)
        if self._claimed:
            self._store.release(self._owner, self._claimed - self._sent)

    def _wave(
        self, rows: Sequence[FailedMessage], *, where: FailedMessageFilter = EVERYTHING, selected: int | None = None
    ) -> bool:
        """
        Send rows of different lanes, and wait for them; False if the broker is away.

        Args:
            rows: of different lanes.
            where: of which messages more are claimed meanwhile.
            selected: how many in all; None claims none.
        """
        self._renew(_RENEW_SECONDS)
        sent: list[tuple[int, FailedMessage, SendHandle]] = []
        try:
            for row in rows:
                if row.id in self._claimed:  # or somebody else has it now
                    self._send(row.id, row, sent)
            if selected is not None and (left := selected - self.done - len(sent)) > 0:
                self._next = self._claim(where, left)
        except SafePulsarError:
            self._settle(sent)
            raise
        return self._settle(sent)

    def _send(self, number: int, row: FailedMessage, sent: list[tuple[int, FailedMessage, SendHandle]]) -> None:
        if _lane(row) in self._stopped:
            self.skipped += 1
            return
        self._sent.add(number)
        try:
            sent.append((number, row, self._sender.resend(row)))
        except InvalidInput as error:
            self._sent.discard(number)
            self.skipped += 1
            self._stop(row)
            log.error(  # noqa: TRY400 - the traceback could hold what the message says
                "safepulsar.not_replayed", extra={"failed_message_id": number, "error": str(error)}
            )
        except SafePulsarError:
            self._sent.discard(number)
            raise

    def _settle(self, sent: Sequence[tuple[int, FailedMessage, SendHandle]]) -> bool:
        stored: dict[int, MessageId] = {}
        away, closed = False, False
        for number, row, handle in sent:
            error = handle.exception_once_kept()
            result = handle.result() if error is None else None
            if result is not None and result.fate is Fate.DUPLICATE and row.certainty is Certainty.NOT_STORED:
                # Surely not stored, and yet dropped as a duplicate: a higher sequence id of its producer name was
                # stored meanwhile. The message is nowhere, so it stays here.
                self.failed += 1
                self._stop(row)
                self._sent.discard(number)
                known = Certainty.NOT_STORED
                self._failures.append(FailedAgain(id=number, attempts=(), certainty=known, error="SequenceIdTooLow"))
            elif result is not None:
                stored[number] = result.message_id
                self.duplicate += result.fate is Fate.DUPLICATE
                self.delivered += result.fate is Fate.DELIVERED
            elif isinstance(error, SendFailed):
                self.failed += 1
                self._stop(row)
                self._sent.discard(number)
                self._failures.append(_failed_again(number, error))
                away = away or getattr(error.__cause__, "retriable", False)
                closed = closed or isinstance(error.__cause__, SenderClosed)
        if stored:
            self._store.delivered(self._owner, stored)
            self._sent.difference_update(stored)
            self._claimed.difference_update(stored)
        if closed:
            raise SenderClosed("the sender was closed in the middle of the replay; run it again with another one")
        return bool(stored) or not away

    def _stop(self, row: FailedMessage) -> None:
        if row.message.lane_key is not None:
            self._stopped.add(_lane(row))

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _RENEW_SECONDS))
            self._renew(_RENEW_SECONDS)

    def _renew(self, after_seconds: float) -> None:
        moment = time.monotonic()
        if self._claimed and moment - self._renewed_at >= after_seconds:
            self._renewed_at = moment
            self._claimed.intersection_update(self._store.extend(self._owner, self._claimed, self._lease_seconds))


def _waves(rows: Sequence[FailedMessage]) -> list[list[FailedMessage]]:
    """
    The rows in their order, but one of each lane at a time: only when it is stored may the next one go.
    """
    waves: list[list[FailedMessage]] = []
    depths: dict[tuple[str, str], int] = {}
    for row in rows:
        depth = 0
        if row.message.lane_key is not None:
            depth = depths.get(_lane(row), 0)
            depths[_lane(row)] = depth + 1
        if depth == len(waves):
            waves.append([])
        waves[depth].append(row)
    return waves


def _lane(row: FailedMessage) -> tuple[str, str]:
    return row.message.topic, row.message.lane_key or ""


def _failed_again(number: int, error: SendFailed) -> FailedAgain:
    code = error.attempts[-1].code if error.attempts else type(error.__cause__).__name__
    return FailedAgain(id=number, attempts=error.attempts, certainty=error.certainty, error=code)
