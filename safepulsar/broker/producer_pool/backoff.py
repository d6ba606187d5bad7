"""
Topics whose producer could not be opened a moment ago, and when each may be tried again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from safepulsar.errors import CreationBackoff

if TYPE_CHECKING:
    from safepulsar.settings import PoolSettings, ProducerSettings


class Backoff:
    """
    The failures and their pauses, doubled each time. Not thread-safe: the pool's lock guards it.

    A failure is forgotten when the producer opens, or when nobody has tried again for long.

    Args:
        settings: the pauses.
    """

    def __init__(self, settings: PoolSettings) -> None:
        self._first = settings.creation_backoff_seconds
        self._longest = settings.creation_backoff_max_seconds
        self._failures: dict[ProducerSettings, _Failure] = {}

    def check(self, settings: ProducerSettings, moment: float) -> None:
        """
        Pass if this producer may be tried at this moment.

        Raises:
            CreationBackoff: not yet; with the last failure as its cause.
        """
        failure = self._failures.get(settings)
        if failure is not None and failure.retry_at > moment:
            raise CreationBackoff(settings.topic, failure.retry_at - moment) from failure.error

    def failed(self, settings: ProducerSettings, error: Exception, moment: float) -> None:
        """
        Note a failure.
        """
        before = self._failures.get(settings)
        pause = self._first if before is None else min(self._longest, before.pause * 2)
        self._failures[settings] = _Failure(error=error, pause=pause, retry_at=moment + pause)

    def succeeded(self, settings: ProducerSettings) -> None:
        """
        Forget the failures of this producer.
        """
        self._failures.pop(settings, None)

    def forget_old(self, moment: float) -> None:
        """
        Forget the failures that nobody has tried again for as long as the longest pause.
        """
        for settings in [key for key, each in self._failures.items() if each.retry_at + self._longest < moment]:
            del self._failures[settings]


class _Failure(NamedTuple):
    """
    The last try to open a producer.
    """

    error: Exception
    pause: float
    retry_at: float
