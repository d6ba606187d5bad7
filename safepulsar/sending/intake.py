"""
From the arguments of a call, through the steps, to a handle that may be accepted: bytes, checked and copied; or an error.
"""

from __future__ import annotations

import time
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from safepulsar.books.handle import SendHandle
from safepulsar.checks import (
    check_deadline_seconds,
    check_detached,
    check_key,
    check_properties,
    check_sequence_id,
    check_time_ms,
)
from safepulsar.errors import InvalidMessage
from safepulsar.serialization.payload import to_bytes, too_big
from safepulsar.steps import Draft

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from safepulsar.sending.engine import Engine
    from safepulsar.steps import Chain


_PLAIN = frozenset({str, bytes, bytearray, memoryview, dict, list, tuple, type(None)})


def preparing(chain: Chain) -> Callable[..., SendHandle]:
    """
    `prepare` behind the steps of `chain`; without any it is `prepare` itself, and costs nothing.
    """
    return partial(_prepare_through, chain) if chain else prepare


def prepare(
    engine: Engine,
    topic: str,
    value: object,
    partition_key: str | None,
    ordering_key: str | None,
    properties: Mapping[str, str] | None,
    sequence_id: int | None,
    event_timestamp_ms: int | None,
    deliver_at_ms: int | None,
    deadline_seconds: float | None,
    *,
    reserved: bool = False,
) -> SendHandle:
    """
    Check everything and make the handle; nothing is accepted yet.

    Arguments as for `RetryingSender.send`, and `reserved`: whether properties may have names that are safepulsar's own.

    Raises:
        InvalidInput: with the argument's name, the limit and the remedy.
    """
    size = 0
    if type(value) not in _PLAIN:
        value = check_detached("value", value)
    if partition_key is not None:
        if type(partition_key) is not str:
            partition_key = _text("partition_key", partition_key)
        size += check_key("partition_key", partition_key)
    if ordering_key is not None:
        if type(ordering_key) is not str:
            ordering_key = _text("ordering_key", ordering_key)
        size += check_key("ordering_key", ordering_key)
    if properties is not None:
        properties, properties_size = check_properties(properties, reserved=reserved)
        size += properties_size
    keyed = partition_key is not None or ordering_key is not None
    try:
        queue = (engine.keyed if keyed else engine.plain)[topic]
    except (KeyError, TypeError):
        queue = engine.queue(topic, keyed=keyed)
    settings = engine.settings
    limit = inf if queue.settings.chunking else settings.max_message_bytes
    payload = value if type(value) is bytes else to_bytes(value, limit)
    if payload is not None:
        size += len(payload)
    if size > limit:
        raise too_big("", size, limit)
    moment = time.monotonic()
    if deadline_seconds is None:
        deadline_seconds = settings.deadline_seconds
    else:
        deadline_seconds = check_deadline_seconds(deadline_seconds)
    handle = SendHandle(
        queue, payload, partition_key, ordering_key, properties, size, moment, moment + deadline_seconds
    )
    if sequence_id is not None:
        handle.sequence_id = check_sequence_id(sequence_id)
        if queue.settings.exactly_once:
            if not reserved:  # or it is what the message had before
                raise InvalidMessage("sequence_id", "is given by safepulsar where exactly_once is set; leave it out")
        elif queue.settings.producer_name is None or queue.settings.batch_max_messages > 1:
            problem = "needs a producer_name and batch_max_messages=1 in the topic's settings"
            raise InvalidMessage("sequence_id", problem)
    if event_timestamp_ms is not None:
        handle.event_timestamp_ms = check_time_ms("event_timestamp_ms", event_timestamp_ms)
    if deliver_at_ms is not None:
        handle.deliver_at_ms = check_time_ms("deliver_at_ms", deliver_at_ms)
    return handle


def prepare_payloads(
    engine: Engine, topic: str, values: Iterable[object], deadline_seconds: float | None
) -> list[SendHandle]:
    """
    As `prepare` without keys and properties, for the first of `values`, up to one that is not just bytes of a fitting size.
    """
    try:
        queue = engine.plain[topic]
    except (KeyError, TypeError):
        queue = engine.queue(topic, keyed=False)
    limit = engine.settings.max_message_bytes
    moment = time.monotonic()
    if deadline_seconds is None:
        deadline_seconds = engine.settings.deadline_seconds
    else:
        deadline_seconds = check_deadline_seconds(deadline_seconds)
    deadline = moment + deadline_seconds
    handles = []
    for value in values:
        if type(value) is not bytes or len(value) > limit:
            break
        handles.append(SendHandle(queue, value, None, None, None, len(value), moment, deadline))
    return handles


def _text(field: str, key: object) -> str:
    plain = check_detached(field, key)
    if not isinstance(plain, str):
        check_key(field, plain)  # which refuses it
    return str.__str__(plain)  # a class of its own could hold more than text


def _prepare_through(
    chain: Chain,
    engine: Engine,
    topic: str,
    value: object,
    partition_key: str | None,
    ordering_key: str | None,
    properties: Mapping[str, str] | None,
    sequence_id: int | None,
    event_timestamp_ms: int | None,
    deliver_at_ms: int | None,
    deadline_seconds: float | None,
) -> SendHandle:
    draft = chain.run(
        Draft(
            topic,
            value if type(value) in _PLAIN else check_detached("value", value),
            partition_key,
            ordering_key,
            check_properties(properties)[0] if properties is not None else None,
            sequence_id,
            event_timestamp_ms,
            deliver_at_ms,
            deadline_seconds,
        )
    )
    handle = prepare(
        engine, draft.topic, draft.value, draft.partition_key, draft.ordering_key, draft.properties, draft.sequence_id,
        draft.event_timestamp_ms, draft.deliver_at_ms, draft.deadline_seconds, reserved=True,
    )  # fmt: skip
    handle.trace_id = draft.trace_id
    handle.span = draft.span
    return handle
