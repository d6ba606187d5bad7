"""
Lanes: the messages of one ordering key in one order, and what happens behind one that fails.

A lane that is well has no object here, so that any number of keys costs nothing. Only one that a failure has stopped is
remembered, until it is resumed. Whoever accepts a message looks here; whoever gives messages up tells it here.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from operator import attrgetter
from typing import TYPE_CHECKING

from safepulsar.books.handle import State, now
from safepulsar.books.keeper import GivenUp
from safepulsar.errors import BrokerError, DeadlineExceeded, LanePaused, SafePulsarError, SenderClosed
from safepulsar.settings import LanePolicy

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from safepulsar.books.handle import SendHandle
    from safepulsar.delivery.send_queue import SendQueue


_DEADLINE = attrgetter("_deadline")


class LaneState(str, Enum):
    """
    Where a lane is. Every change happens under the sender's one lock.

    OPEN -> RECOVERING    something that was handed over failed; nobody hands over until the fate of all is known
    RECOVERING -> OPEN    what was not stored goes again at its old place
    RECOVERING -> PAUSED  one of its messages is given up, and the policy is not to skip it
    OPEN -> PAUSED        one is given up before it was handed over: its deadline passed, or there was no room
    PAUSED -> OPEN        resumed, by the application or by the probe
    OPEN, RECOVERING, PAUSED -> DRAINING   the sender closes: nothing is accepted, what is in flight goes or is kept
    DRAINING -> CLOSED    the sender is closed

    Illegal: PAUSED -> RECOVERING (a paused lane hands nothing over that could fail), CLOSED -> anything and
    DRAINING -> OPEN (make a new sender), OPEN -> CLOSED (what is in flight would have no fate).
    """

    OPEN = "OPEN"
    RECOVERING = "RECOVERING"
    PAUSED = "PAUSED"
    DRAINING = "DRAINING"
    CLOSED = "CLOSED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """
    A lane at one moment.

    Args:
        topic: the full name.
        ordering_key: of all its messages. Not shown in the repr: keys may be private.
        state: see `LaneState`.
        depth: messages accepted and not final.
        oldest_age_seconds: since the first of those was accepted; 0 if there is none.
        cause: why it is paused: the code of the failure, None otherwise.
        failed_message_id: the message that stopped it, in the store; None if it is not paused, or not kept yet.
    """

    topic: str
    ordering_key: str = field(repr=False)
    state: LaneState
    depth: int = 0
    oldest_age_seconds: float = 0.0
    cause: str | None = None
    failed_message_id: int | None = None


class Stop:
    """
    What stopped a lane, and what waits behind it.

    Args:
        cause: the code of the failure.
        head: the message that failed, None if an earlier run of the application left it in the store.
        failed_message_id: of that one.
    """

    __slots__ = ("_failed_message_id", "_head", "behind", "cause", "parked")

    def __init__(self, cause: str, head: SendHandle | None = None, failed_message_id: int | None = None) -> None:
        self.cause = cause
        self._head = head
        self._failed_message_id = failed_message_id
        self.behind: deque[SendHandle] = deque()  # accepted meanwhile, with the policy BLOCK
        self.parked = 0  # so many went to the store meanwhile, with the policy PARK

    @property
    def failed_message_id(self) -> int | None:
        """
        Of the message that failed, once it is kept.
        """
        return self._failed_message_id if self._head is None else self._head._failed_id


class LaneStops:
    """
    The stopped lanes of one queue. Every method needs the ledger's lock.

    Args:
        queue: whose messages these are.
        policy: of its topic.

    Attributes:
        stops: by ordering key.
        one: all messages are of one lane, whatever their keys: nothing goes on behind a failure.
    """

    def __init__(self, queue: SendQueue, policy: LanePolicy) -> None:
        self.stops: dict[str, Stop] = {}
        self.one = False
        self._queue = queue
        self._policy = policy

    # -- a message is accepted ---------------------------------------------------------------------------------

    def stop_of(self, handle: SendHandle) -> Stop | None:
        """
        What stops a message. Nothing stops one that comes from the store: it is what its lane waits for.
        """
        key = self._key(handle)
        return self.stops.get(key) if key is not None and handle._failed_id is None else None

    def _key(self, handle: SendHandle) -> str | None:
        return "" if self.one else handle.ordering_key

    def stopping(self, handle: SendHandle) -> str | None:
        """
        The lane that stops should this message fail, None if none does.
        """
        return None if self._policy is LanePolicy.SKIP else self._key(handle)

    def admit_locked(self, handle: SendHandle, stop: Stop) -> GivenUp | None:
        """
        None if the message may wait behind `stop`, or in the line; or that it goes to the store.

        Raises:
            LanePaused: the lane takes none.
        """
        if self._policy is LanePolicy.BLOCK:
            return None
        error = self.paused(stop)
        if self._policy is LanePolicy.PARK:
            if self._key(handle) in self._open_lanes():  # it is parked from the line, once that is known
                return None
            stop.parked += 1
            return GivenUp(handle, error)
        raise error

    def hold_locked(self, handle: SendHandle, stop: Stop) -> None:
        """
        Let a message, just appended to those that wait, wait behind `stop` instead.

        Interrupted in between it is in both lines, and whoever takes it from one leaves it alone in the other.
        """
        if self._policy is not LanePolicy.BLOCK:
            return
        if self.stops.get(self._key(handle) or "") is stop and self._queue.waiting[-1] is handle:
            stop.behind.append(handle)
            self._queue.waiting.pop()

    # -- messages are given up ---------------------------------------------------------------------------------

    def give_up_locked(self, given_up: Sequence[GivenUp]) -> None:
        """
        Keep what was handed over or taken from the queue and failed; their lanes stop, and what waits behind stays behind.
        """
        stopped = [self._stop_locked(each.handle, each.cause) for each in given_up]
        self._queue.keeper.give_up_locked(given_up)
        if any(stopped):
            self._queue.keeper.give_up_locked(self.sweep_locked())

    def stop_locked(self, handle: SendHandle, cause: SafePulsarError) -> None:
        """
        One of its messages goes to the store without having been in the queue.
        """
        self._stop_locked(handle, cause)

    def stop_kept_locked(self, kept: Mapping[str, int]) -> None:
        """
        Stop the lanes of which an earlier run left messages in the store: by ordering key, the first one's id.
        """
        for key, failed_message_id in kept.items():
            self.stops.setdefault(key, Stop("KeptBefore", failed_message_id=failed_message_id))

    def late_locked(self, moment: float) -> set[int]:
        """
        By their ids, the handles that are to be given up at `moment`: their deadline is over, or that of one behind them.

        What a message leaves in the store stands behind what was left before. So one whose lane is to stop does not go
        there while another of its lane, accepted earlier, may come there later.
        """
        queue = self._queue
        lines = [*(each.group for each in queue.flying), queue.waiting]
        lines += [stop.behind for stop in self.stops.values() if stop.behind]
        # In C: with a full queue this is most of what the watch does.
        if min((min(map(_DEADLINE, line), default=moment + 1) for line in lines), default=moment + 1) > moment:
            return set()
        late: set[int] = set()
        lanes: set[str] = set()
        for line in reversed(lines):
            for handle in reversed(line):
                if handle._state > State.HANDED_OVER:
                    continue
                key = self.stopping(handle)
                if handle._deadline <= moment:
                    late.add(id(handle))
                    if key is not None:
                        lanes.add(key)
                elif key in lanes:
                    late.add(id(handle))
        return late

    def sweep_locked(
        self, late: Collection[int] = (), reason: SafePulsarError | None = None, *, everything: bool = False
    ) -> list[GivenUp]:
        """
        Take out of the waiting line, in its order, what is late and what stands behind that in its lane.

        Args:
            late: see `late_locked`.
            reason: why those are given up.
            everything: give up all, and what blocked lanes hold; no lane stops, because nothing comes after.
        """
        queue = self._queue
        reason = reason or DeadlineExceeded("the deadline passed")
        unsettled = frozenset() if everything or not self.stops else self._open_lanes()
        given_up: list[GivenUp] = []
        on: deque[SendHandle] = deque()
        for handle in queue.waiting:
            if handle._state != State.QUEUED:  # cancelled
                continue
            if everything or id(handle) in late:
                given_up.append(self._take_out(handle, late_because(handle, reason)))
                if not everything:
                    self._stop_locked(handle, reason)
                continue
            stop = self.stop_of(handle)
            if stop is None or self._key(handle) in unsettled:
                on.append(handle)
            elif self._policy is LanePolicy.BLOCK:
                stop.behind.append(handle)
            else:
                given_up.append(self._take_out(handle, self.paused(stop)))
        queue.waiting.clear()  # in place: a signal handler may have interrupted whoever is about to append
        queue.waiting.extend(on)
        for stop in self.stops.values():
            if stop.behind:
                over = [
                    each for each in stop.behind if each._state == State.QUEUED and (everything or id(each) in late)
                ]
                given_up += [self._take_out(each, late_because(each, reason)) for each in over]
                still = [each for each in stop.behind if each._state == State.QUEUED]
                stop.behind.clear()
                stop.behind.extend(still)
        return given_up

    def _open_lanes(self) -> Collection[str | None]:
        """
        The lanes of what was handed over and has no fate: should it come to the store, it stands before what waits.
        """
        return {
            self._key(handle)
            for delivery in self._queue.flying
            for handle in delivery.group
            if handle._state == State.HANDED_OVER
        }

    def _take_out(self, handle: SendHandle, cause: SafePulsarError) -> GivenUp:
        handle._state = State.FAILING
        return GivenUp(handle, cause, self._queue.borrower.attempts_of(handle))

    def _stop_locked(self, handle: SendHandle, cause: SafePulsarError) -> bool:
        """
        Stop the lane of a message that is given up; True if that was news.

        One that came from the store is its replay's, which stops by itself.
        """
        key = self.stopping(handle)
        if key is None or key in self.stops or handle._failed_id is not None or isinstance(cause, SenderClosed):
            return False
        self.stops[key] = Stop(cause.code if isinstance(cause, BrokerError) else type(cause).__name__, handle)
        return True

    def paused(self, stop: Stop) -> LanePaused:
        """
        The error that names what stopped a lane.
        """
        return LanePaused(self._queue.topic, cause=stop.cause, failed_message_id=stop.failed_message_id)

    # -- the application looks, and goes on --------------------------------------------------------------------

    def resume_locked(self, ordering_key: str, stop: Stop, parked: int) -> bool:
        """
        Let the lane go on; False if it is not stopped by `stop` any more, or more was parked since the caller looked.
        """
        if self.stops.get(ordering_key) is not stop or stop.parked != parked:
            return False
        if stop.behind:
            self._queue.rouse_locked()
            self._queue.waiting.extend(each for each in stop.behind if each._state == State.QUEUED)
        del self.stops[ordering_key]
        return True

    def lanes_locked(self, moment: float, *, closing: bool) -> list[Lane]:
        """
        All lanes that are stopped or have something in flight.
        """
        queue = self._queue
        found: dict[str, list[SendHandle]] = {key: [] for key in self.stops}
        flying: set[str] = set()
        for handle in queue.pending():
            key = handle.ordering_key
            if key is not None and handle._state < State.FAILING:
                found.setdefault(key, []).append(handle)
                if handle._state == State.HANDED_OVER:
                    flying.add(key)
        lanes: list[Lane] = []
        for key, handles in found.items():
            stop = self.stops.get(key)
            state = LaneState.OPEN
            if closing:
                state = LaneState.DRAINING
            elif stop is not None:
                state = LaneState.PAUSED
            elif queue.frozen and key in flying:
                state = LaneState.RECOVERING
            lanes.append(
                Lane(
                    topic=queue.topic,
                    ordering_key=key,
                    state=state,
                    depth=len(handles),
                    oldest_age_seconds=max((moment - each._accepted_at for each in handles), default=0.0),
                    cause=None if stop is None else stop.cause,
                    failed_message_id=None if stop is None else stop.failed_message_id,
                )
            )
        return lanes


def late_because(handle: SendHandle, reason: SafePulsarError) -> SafePulsarError:
    """
    Why a late message is given up, which may be for the sake of one behind it; see `LaneStops.late_locked`.
    """
    if isinstance(reason, DeadlineExceeded) and handle._deadline > now():
        return DeadlineExceeded("the deadline of a message behind it in its lane passed")
    return reason
