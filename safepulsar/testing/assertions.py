"""
`assert_sent`: that a topic holds what it should, in one line, and a failure that shows what it holds instead.
"""

from __future__ import annotations

import json
import time
from types import EllipsisType
from typing import TYPE_CHECKING, Final

from safepulsar.checks import check_timeout
from safepulsar.errors import InvalidInput
from safepulsar.serialization import to_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from safepulsar.serialization import Sendable
    from safepulsar.testing.fault_switch import BrokerForTests
    from safepulsar.testing.topic_log import StoredMessage

_POLL_SECONDS: Final = 0.01
_SHOWN_MESSAGES: Final = 20


def assert_sent(
    broker: BrokerForTests,
    topic: str,
    value: Sendable | EllipsisType = ...,
    *,
    partition_key: str | None = None,
    ordering_key: str | None = None,
    properties: Mapping[str, str] | None = None,
    times: int = 1,
    timeout_seconds: float = 5.0,
) -> list[StoredMessage]:
    """
    Check that `topic` holds exactly `times` messages like this one, and return them.

    Waits for what is still on its way, so it may stand right behind `submit`. What would be one too many is seen only
    if it is there by then; so, too, with `times=0`, which waits for nothing: flush the sender before.

    Args:
        broker: a `FakeBroker`, an `EmbeddedPulsar`.
        topic: as given to `send`.
        value: as given to `send`; data are compared as data, whatever the order of their keys. `...` is any.
        partition_key: None is any, or none; so, too, the following.
        ordering_key: likewise.
        properties: these at least.
        times: exactly so many.
        timeout_seconds: to wait for them at most.

    Raises:
        AssertionError: it does not; the text shows what it holds, because those are a test's own data.
        InvalidInput: the number or the timeout makes no sense.
        InvalidMessage: the value is none that could be sent.
    """
    __tracebackhide__ = True
    if times < 0:
        raise InvalidInput("times", f"must be at least 0, not {times}")
    wanted = _Wanted(value, partition_key, ordering_key, properties)
    deadline = time.monotonic() + check_timeout(timeout_seconds)
    while True:
        stored = broker.messages(topic)
        found = [message for message in stored if wanted.is_like(message)]
        if len(found) == times:
            return found
        if len(found) > times or time.monotonic() > deadline:
            raise AssertionError(_complaint(topic, wanted, times, found, stored))
        time.sleep(_POLL_SECONDS)


class _Wanted:
    def __init__(
        self,
        value: Sendable | EllipsisType,
        partition_key: str | None,
        ordering_key: str | None,
        properties: Mapping[str, str] | None,
    ) -> None:
        self._any = isinstance(value, EllipsisType)
        self._payload = None if isinstance(value, EllipsisType) else to_bytes(value)
        self._data = not isinstance(value, (EllipsisType, str, bytes, bytearray, memoryview)) and value is not None
        self._partition_key = partition_key
        self._ordering_key = ordering_key
        self._properties = dict(properties or {})

    def is_like(self, message: StoredMessage) -> bool:
        return (
            (self._any or self._has_payload(message.payload))
            and self._partition_key in (None, message.partition_key)
            and self._ordering_key in (None, message.ordering_key)
            and self._properties.items() <= message.properties.items()
        )

    def _has_payload(self, payload: bytes | None) -> bool:
        if payload == self._payload:
            return True
        if not self._data or payload is None or self._payload is None:
            return False
        try:
            return bool(json.loads(payload) == json.loads(self._payload))
        except ValueError:
            return False

    def __str__(self) -> str:
        parts = [] if self._any else [f"payload {self._payload!r}"]
        parts += [
            f"{name} {value!r}"
            for name, value in (
                ("partition key", self._partition_key),
                ("ordering key", self._ordering_key),
                ("properties", self._properties),
            )
            if value
        ]
        return ", ".join(parts) or "any message"


def _complaint(
    topic: str, wanted: _Wanted, times: int, found: Sequence[StoredMessage], stored: Sequence[StoredMessage]
) -> str:
    lines = [f"topic {topic!r} holds {len(found)} of {len(stored)} messages like this, not {times}: {wanted}"]
    lines += [f"  {message!r} {dict(message.properties)}" for message in stored[:_SHOWN_MESSAGES]]
    if len(stored) > _SHOWN_MESSAGES:
        lines.append(f"  and {len(stored) - _SHOWN_MESSAGES} more")
    return "\n".join(lines)
