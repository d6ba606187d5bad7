"""
One record for many of a kind: the first at once, and then one now and then that says how many there were.
"""

from __future__ import annotations

import logging
import threading
import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, cast

from safepulsar.at_fork import renew_in_child
from safepulsar.logs.fields import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

_MOST: Final = 1000  # kinds that are remembered
EMPTY: Final[Mapping[str, object]] = MappingProxyType({})


class Repeats:
    """
    Says of each event whether it is to be told, and how many of its kind were not. Thread-safe.

    Args:
        seconds: between two of a kind that are told.
        clock: seconds, never going back.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()  # guards _kinds
        self._kinds: dict[Hashable, list[float]] = {}  # when to tell the next one, and how many were not told
        renew_in_child(self._after_fork)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        self._kinds = {}

    def count(self, kind: Hashable) -> int | None:
        """
        Note that it happened; None if it is not to be told now, else how many were not before.
        """
        now = self._clock()
        with self._lock:
            return self._count_locked(kind, now)

    def _count_locked(self, kind: Hashable, now: float) -> int | None:
        known = self._kinds.get(kind)
        if known is None:
            if len(self._kinds) >= _MOST:  # forget the one that was told first; who is that varied needs no rate limit
                del self._kinds[next(iter(self._kinds))]
            self._kinds[kind] = [now + self._seconds, 0]
            return 0
        if now < known[0]:
            known[1] += 1
            return None
        missed, known[0], known[1] = int(known[1]), now + self._seconds, 0
        return missed

    def overdue(self, *, everything: bool = False) -> list[tuple[Hashable, int]]:
        """
        The kinds whose time has come and of which some were not told, with how many; they count as told now.
        """
        now = self._clock()
        found = []
        with self._lock:
            for kind, known in list(self._kinds.items()):
                if known[0] <= now or everything:
                    if known[1]:
                        found.append((kind, int(known[1])))
                        known[0], known[1] = now + self._seconds, 0
                    else:
                        del self._kinds[kind]
        return found

    @property
    def waiting(self) -> bool:
        """
        Whether something was not told yet.
        """
        with self._lock:
            return any(known[1] for known in self._kinds.values())


class RepeatLog:
    """
    Logs one record of an event, topic and code at once, and one now and then that says how many there were.

    Args:
        logger: where to.
        seconds: between two of a kind; 0 logs each.
    """

    def __init__(self, logger: logging.Logger, seconds: float) -> None:
        self._logger = logger
        self._repeats = Repeats(seconds)

    def once(self, level: int, event: str, topic: str, code: str, fields: Mapping[str, object] = EMPTY) -> None:
        """
        Log it, or count it.
        """
        if not self._logger.isEnabledFor(level):
            return
        missed = self._repeats.count((level, event, topic, code))
        if missed is not None:
            self._log(level, event, topic, code, missed, fields)

    def remind(self, *, everything: bool = False) -> bool:
        """
        Tell how many were not told, where it is time; True if there are more to be told later.
        """
        for kind, missed in self._repeats.overdue(everything=everything):
            level, event, topic, code = cast("tuple[int, str, str, str]", kind)
            self._log(level, event, topic, code, missed, EMPTY)
        return self._repeats.waiting

    def _log(self, level: int, event: str, topic: str, code: str, missed: int, fields: Mapping[str, object]) -> None:
        every: dict[str, object] = {**fields, "topic": visible(topic), "error_code": visible(code)}
        if missed:
            every["suppressed"] = missed
        self._logger.log(level, event, extra=every)


class RepeatFilter(logging.Filter):
    """
    For a handler: of the records with the same event, topic and error code lets one through in so many seconds.

    The next one of its kind has the field `suppressed`: how many were left out before it.

    Args:
        seconds: see above.
    """

    def __init__(self, seconds: float = 10.0) -> None:
        super().__init__()
        self._repeats = Repeats(seconds)

    def filter(self, record: logging.LogRecord) -> bool:
        """
        Whether it is let through.
        """
        kind = (
            record.name,
            record.levelno,
            str(record.msg),
            str(getattr(record, "topic", "")),
            str(getattr(record, "error_code", "")),
        )
        missed = self._repeats.count(kind)
        if missed:
            record.suppressed = missed
        return missed is not None
