"""
One failed message as a person reads it; nothing of it can change what the terminal shows.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final

from rich import box
from rich.table import Table

from safepulsar.cli.terminal import OUT, visible
from safepulsar.failed_messages import FailedMessageState
from safepulsar.message import Certainty

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safepulsar.failed_messages import FailedMessageStatus
    from safepulsar.message import Attempt, FailedMessage

_TEXT_SHOWN: Final = 2_000
_BYTES_SHOWN: Final = 256
_MEANING: Final = {
    Certainty.NOT_STORED: "surely not in the topic; sending it again makes no duplicate",
    Certainty.MAYBE_STORED: "may be in the topic; sending it again may make a duplicate",
}


def moment(unix_seconds: float) -> str:
    """
    A time as this machine's clock shows it, to the second.
    """
    return datetime.fromtimestamp(unix_seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def describe(failed: FailedMessage, status: FailedMessageStatus) -> None:
    """
    Print all that is known of it on standard output.
    """
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in _facts(failed, status):
        facts.add_row(name, visible(value))
    OUT.print(facts)
    if failed.attempts:
        OUT.print(_attempts(failed.attempts))
    OUT.print(_preview(failed.message.payload), soft_wrap=True)


def _facts(failed: FailedMessage, status: FailedMessageStatus) -> Iterator[tuple[str, str]]:
    message = failed.message
    claimed = f", by {status.owner} until {moment(status.lease_ends_at or 0.0)}" if status.owner else ""
    yield "failed message", str(failed.id)
    yield "state", f"{status.state.value}{claimed if status.state is FailedMessageState.CLAIMED else ''}"
    yield "topic", message.topic
    yield "error", failed.error
    yield "certainty", f"{failed.certainty.value}: {_MEANING[failed.certainty]}"
    yield "accepted", moment(failed.accepted_at)
    yield "first failed", moment(failed.first_failed_at)
    yield "last failed", moment(failed.last_failed_at)
    for name, text in (
        ("partition key", message.partition_key),
        ("ordering key", message.ordering_key),
        ("producer name", failed.producer_name),
        ("sequence id", None if message.sequence_id is None else str(message.sequence_id)),
        ("event time", None if message.event_timestamp_ms is None else moment(message.event_timestamp_ms / 1000)),
        ("deliver at", None if message.deliver_at_ms is None else moment(message.deliver_at_ms / 1000)),
        ("trace id", failed.trace_id),
    ):
        if text is not None:
            yield name, text
    for name, text in (message.properties or {}).items():
        yield "property", f"{name} = {text}"


def _attempts(attempts: tuple[Attempt, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("attempt", "started", "took", "code", "maybe stored", "next after"):
        table.add_column(title, justify="right" if title in ("attempt", "took", "next after") else "left", no_wrap=True)
    for number, attempt in enumerate(attempts, start=1):
        table.add_row(
            str(number),
            moment(attempt.started_at),
            f"{attempt.elapsed_seconds:.3f} s",
            visible(attempt.code),
            "yes" if attempt.maybe_stored else "no",
            "" if attempt.delay_seconds is None else f"{attempt.delay_seconds:.3f} s",
        )
    return table


def _preview(payload: bytes | None) -> str:
    if payload is None:
        return "no payload: a tombstone"
    size = f"{len(payload):,} bytes"
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        cut = ", the first shown" if len(payload) > _BYTES_SHOWN else ""
        return f"payload, {size}{cut}, not text:\n{payload[:_BYTES_SHOWN].hex(' ')}"
    cut = ", its beginning" if len(text) > _TEXT_SHOWN else ""
    return f"payload, {size}{cut}:\n{visible(text[:_TEXT_SHOWN])}"
