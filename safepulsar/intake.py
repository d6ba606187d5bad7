"""
From the arguments of a call to a handle that may be accepted: bytes, checked and copied, or a typed error.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from safepulsar.checks import check_deadline_seconds, check_key, check_properties, check_sequence_id, check_time_ms
from safepulsar.errors import InvalidMessage
from safepulsar.handle import SendHandle
from safepulsar.serialization import to_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from safepulsar.engine import Engine
    from safepulsar.serialization import Sendable


def prepare(
    engine: Engine,
    topic: str,
    value: Sendable,
    partition_key: str | None,
    ordering_key: str | None,
    properties: Mapping[str, str] | None,
    sequence_id: int | None,
    event_timestamp_ms: int | None,
    deliver_at_ms: int | None,
    deadline_seconds: float | None,
) -> SendHandle:
    """
    Check everything and make the handle; nothing is accepted yet. Arguments as for `RetryingSender.send`.

    Raises:
        InvalidInput: with the argument's name, the limit and the remedy.
    """
    payload = value if type(value) is bytes else to_bytes(value)
    size = len(payload) if payload is not None else 0
    if partition_key is not None:
        size += check_key("partition_key", partition_key)
    if ordering_key is not None:
        size += check_key("ordering_key", ordering_key)
    if properties is not None:
        properties, properties_size = check_properties(properties)
        size += properties_size
    keyed = partition_key is not None or ordering_key is not None
    try:
        queue = (engine.keyed if keyed else engine.plain)[topic]
    except (KeyError, TypeError):
        queue = engine.queue(topic, keyed=keyed)
    settings = engine.settings
    if size > settings.max_message_bytes and not queue.settings.chunking:
        problem = (
            f"the message has {size} bytes with its keys and properties; at most {settings.max_message_bytes} are "
            "allowed: send a reference, or see `chunking` and `max_message_bytes`"
        )
        raise InvalidMessage("value", problem)
    moment = time.monotonic()
    if deadline_seconds is None:
        deadline_seconds = settings.deadline_seconds
    else:
        deadline_seconds = check_deadline_seconds(deadline_seconds)
    handle = SendHandle(
        queue, payload, partition_key, ordering_key, properties, size, moment, moment + deadline_seconds
    )
    if sequence_id is not None:
        if queue.settings.producer_name is None or queue.settings.batch_max_messages > 1:
            problem = "needs a producer_name and batch_max_messages=1 in the topic's settings"
            raise InvalidMessage("sequence_id", problem)
        handle.sequence_id = check_sequence_id(sequence_id)
    if event_timestamp_ms is not None:
        handle.event_timestamp_ms = check_time_ms("event_timestamp_ms", event_timestamp_ms)
    if deliver_at_ms is not None:
        handle.deliver_at_ms = check_time_ms("deliver_at_ms", deliver_at_ms)
    return handle
