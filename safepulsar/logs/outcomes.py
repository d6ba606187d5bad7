"""
An observer that logs what became of messages, one event name for each fate.
"""

from __future__ import annotations

import hashlib
import logging
from enum import Enum
from typing import TYPE_CHECKING

from safepulsar.logs.fields import visible
from safepulsar.logs.repeats import RepeatLog
from safepulsar.message import Fate
from safepulsar.observing import Cancelled, Finished, RateLimited, Refused, Retrying

if TYPE_CHECKING:
    from safepulsar.observing import Fact, Outcome

log = logging.getLogger("safepulsar")
_HASH_BYTES = 6


class KeyField(str, Enum):
    """
    What the field `key` says of a message's key.
    """

    HASHED = "HASHED"  # 12 hexadecimal digits: enough to find all records of one key, not to read it
    SHOWN = "SHOWN"  # the key itself


class LogOutcomes:
    """
    Logs each outcome with its fields; never a payload, a property or a secret.

    A sender that has no other one has one of these by itself, for what fails. Give it one of your own to choose:

        RetryingSender(url, observers=[LogOutcomes(delivered=logging.INFO)])

    Failures of the same topic and code are told once in `repeat_seconds`, with the count of those that were not.

    Args:
        delivered: the level of `safepulsar.delivered`.
        duplicate: of `safepulsar.duplicate`.
        failed: of `safepulsar.failed`.
        retrying: of `safepulsar.retry_scheduled`.
        refused: of `safepulsar.refused`; the caller has the error, too.
        rate_limited: of `safepulsar.rate_limited`.
        cancelled: of `safepulsar.cancelled`.
        key: see `KeyField`.
        repeat_seconds: see above; 0 tells each.
    """

    def __init__(
        self,
        *,
        delivered: int = logging.DEBUG,
        duplicate: int = logging.INFO,
        failed: int = logging.WARNING,
        retrying: int = logging.INFO,
        refused: int = logging.INFO,
        rate_limited: int = logging.DEBUG,
        cancelled: int = logging.DEBUG,
        key: KeyField = KeyField.HASHED,
        repeat_seconds: float = 10.0,
    ) -> None:
        self._levels = {Fate.DELIVERED: delivered, Fate.DUPLICATE: duplicate, Fate.FAILED: failed}
        self._retrying = retrying
        self._refused = refused
        self._rate_limited = rate_limited
        self._cancelled = cancelled
        self._key = KeyField(key)
        self._log = RepeatLog(log, repeat_seconds)

    def observe(self, fact: Fact) -> None:
        """
        Log it, if its level is wanted.
        """
        if isinstance(fact, Finished):
            if log.isEnabledFor(self._levels[fact.fate]):
                self._finished(fact)
        elif isinstance(fact, Retrying):
            fields: dict[str, object] = {"messages": fact.messages, "delay_seconds": round(fact.delay_seconds, 3)}
            self._log.once(self._retrying, "safepulsar.retry_scheduled", fact.topic, fact.error_code, fields)
        elif isinstance(fact, Refused):
            self._log.once(self._refused, "safepulsar.refused", fact.topic, fact.error_code)
        elif isinstance(fact, Cancelled):
            log.log(self._cancelled, "safepulsar.cancelled", extra={"topic": visible(fact.topic)})
        elif isinstance(fact, RateLimited) and log.isEnabledFor(self._rate_limited):
            fields = {"topic": visible(fact.topic), "messages": fact.messages, "seconds": round(fact.seconds, 3)}
            log.log(self._rate_limited, "safepulsar.rate_limited", extra=fields)

    def remind(self, *, everything: bool = False) -> bool:
        """
        Tell how many were not told, where it is time; True if there are more to be told later.
        """
        return self._log.remind(everything=everything)

    def _finished(self, fact: Finished) -> None:
        level = self._levels[fact.fate]
        for outcome in fact.outcomes():
            fields = self._fields(outcome)
            if fact.fate is Fate.DELIVERED:
                log.log(level, "safepulsar.delivered", extra=fields)
            elif fact.fate is Fate.DUPLICATE:
                log.log(level, "safepulsar.duplicate", extra=fields)
            else:
                self._log.once(level, "safepulsar.failed", fact.topic, fact.error_code, fields)

    def _fields(self, outcome: Outcome) -> dict[str, object]:
        fields: dict[str, object] = {
            "topic": visible(outcome.topic),
            "outcome": outcome.fate.value,
            "attempt": outcome.attempt_count,
            "elapsed_ms": round(outcome.elapsed_seconds * 1000, 3),
            "size_bytes": outcome.size_bytes,
        }
        key = outcome.ordering_key if outcome.ordering_key is not None else outcome.partition_key
        if key is not None:
            fields["key"] = visible(key) if self._key is KeyField.SHOWN else _hashed(key)
        if outcome.sequence_id is not None:
            fields["sequence_id"] = outcome.sequence_id
        if outcome.message_id is not None:
            fields["message_id"] = str(outcome.message_id)
        if outcome.trace_id:
            fields["trace_id"] = visible(outcome.trace_id)
        if outcome.certainty is not None:
            fields["error_code"] = visible(outcome.error_code)
            fields["certainty"] = outcome.certainty.value
            fields["failed_message_id"] = outcome.failed_message_id
        return fields


def _hashed(key: str) -> str:
    return hashlib.blake2s(key.encode(errors="surrogatepass"), digest_size=_HASH_BYTES).hexdigest()
