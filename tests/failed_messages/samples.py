"""
Failed messages to keep, a clock that only moves when told, and a hand in the database.
"""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING

from safepulsar.message import Attempt, Certainty, FailedMessage, Message

if TYPE_CHECKING:
    from pathlib import Path

START = 1_000_000.0  # where the clock of every test begins
ORDERS = "persistent://public/default/orders"


class ManualClock:
    """
    Unix time in seconds, set by hand; starts at `START`.
    """

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        """
        What time it is.
        """
        return self.now


def failed(
    payload: bytes | None = b"order",
    *,
    topic: str = ORDERS,
    key: str | None = None,
    error: str = "SendTimeout",
    certainty: Certainty = Certainty.NOT_STORED,
    first_failed_at: float = START,
) -> FailedMessage:
    """
    A failed message with little in it.
    """
    return FailedMessage(
        message=Message(topic=topic, payload=payload, partition_key=key),
        certainty=certainty,
        error=error,
        accepted_at=first_failed_at - 1,
        first_failed_at=first_failed_at,
        last_failed_at=first_failed_at,
    )


def attempt(code: str = "Timeout", *, maybe_stored: bool = False) -> Attempt:
    """
    One try.
    """
    return Attempt(started_at=START, elapsed_seconds=0.25, code=code, maybe_stored=maybe_stored)


def meddle(path: Path, statement: str, *arguments: object) -> None:
    """
    Change the database behind the store's back.
    """
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement, arguments)


FULL = FailedMessage(
    message=Message(
        topic=ORDERS,
        payload=bytes(range(256)),
        properties={"trace": "t-1", "schlüssel": "wert\0 \n\U0001f600", "": ""},
        partition_key="kunde-ß",
        ordering_key="Größe",
        sequence_id=2**63 - 1,
        event_timestamp_ms=0,
        deliver_at_ms=1_700_000_000_123,
    ),
    certainty=Certainty.MAYBE_STORED,
    error="ProducerFenced",
    attempts=(
        Attempt(started_at=1.5, elapsed_seconds=0.1, code="ServiceUnitNotReady", maybe_stored=False, delay_seconds=0.1),
        Attempt(started_at=2.5, elapsed_seconds=1e-9, code="Timeout", maybe_stored=True),
    ),
    accepted_at=1.25,
    first_failed_at=1.7976931348623157e308,
    last_failed_at=0.1 + 0.2,
    producer_name="shop-1",
    trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
)
BARE = FailedMessage(
    message=Message(topic=ORDERS, payload=None),
    certainty=Certainty.NOT_STORED,
    error="",
    accepted_at=0.0,
    first_failed_at=-0.0,
    last_failed_at=-1.5,
)
