"""
A failed message becomes a row and comes back exactly, and every damaged byte is found.
"""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safepulsar.failed_messages import codec, to_json
from safepulsar.message import Attempt, Certainty, FailedMessage, Message
from tests.failed_messages.samples import BARE, FULL, failed

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
WHOLE = st.integers(-(2**63), 2**63 - 1)
SECONDS = st.floats(allow_nan=False, allow_infinity=False)
MESSAGES = st.builds(
    Message,
    topic=TEXT,
    payload=st.none() | st.binary(),
    properties=st.none() | st.dictionaries(TEXT, TEXT),
    partition_key=st.none() | TEXT,
    ordering_key=st.none() | TEXT,
    sequence_id=st.none() | WHOLE,
    event_timestamp_ms=st.none() | WHOLE,
    deliver_at_ms=st.none() | WHOLE,
)
ATTEMPTS = st.builds(
    Attempt,
    started_at=SECONDS,
    elapsed_seconds=SECONDS,
    code=TEXT,
    maybe_stored=st.booleans(),
    delay_seconds=st.none() | SECONDS,
)
FAILED = st.builds(
    FailedMessage,
    message=MESSAGES,
    certainty=st.sampled_from(Certainty),
    error=TEXT,
    attempts=st.lists(ATTEMPTS, max_size=4).map(tuple),
    accepted_at=SECONDS,
    first_failed_at=SECONDS,
    last_failed_at=SECONDS,
    producer_name=st.none() | TEXT,
    trace_id=st.none() | TEXT,
)


def as_read(message: FailedMessage, number: int) -> codec.Row:
    """
    The row as SQLite hands it out: text as bytes.
    """
    columns, payload, checksum = codec.encode(message)
    stored = tuple(value.encode() if isinstance(value, str) else value for value in columns)
    return (number, *stored, codec.with_id(checksum, number), payload)


@given(FAILED, st.integers(1, 2**63 - 1))
def test_every_message_survives_the_round_trip(message: FailedMessage, number: int) -> None:
    """
    Whatever a failed message holds, its row gives it back.
    """
    assert codec.decode(as_read(message, number)) == replace(message, id=number)


@pytest.mark.parametrize("message", [FULL, BARE], ids=["full", "bare"])
def test_every_flipped_bit_is_found(message: FailedMessage) -> None:
    """
    A single flipped bit anywhere in a column of text or bytes makes the row damaged.
    """
    row = as_read(message, 7)
    for place, value in enumerate(row):
        if not isinstance(value, bytes):
            continue
        for bit in range(len(value) * 8):
            flipped = bytearray(value)
            flipped[bit // 8] ^= 1 << bit % 8
            with pytest.raises(codec.RowDamaged):
                codec.decode((*row[:place], bytes(flipped), *row[place + 1 :]))


@pytest.mark.parametrize("message", [FULL, BARE], ids=["full", "bare"])
def test_every_changed_value_is_found(message: FailedMessage) -> None:
    """
    A number that changed, a value that went missing or came from nowhere, and exchanged columns are damage.
    """
    row = as_read(message, 7)
    for place, value in enumerate(row):
        for other in (None, b"", b"x", 0, 1, 8, 2.5):
            # A tombstone and an empty payload are told apart; equal numbers are equal.
            if other != value or type(other) is not type(value):
                with pytest.raises(codec.RowDamaged):
                    codec.decode((*row[:place], other, *row[place + 1 :]))
    if row[2] != row[3]:
        with pytest.raises(codec.RowDamaged):
            codec.decode((row[0], row[1], row[3], row[2], *row[4:]))


def test_the_checksum_is_the_same_on_every_python() -> None:
    """
    A store written by one version of Python is read by another: the checksums are fixed numbers.
    """
    assert codec.with_id(codec.encode(FULL)[2], 7) == 1_714_368_551
    assert codec.with_id(codec.encode(BARE)[2], 7) == 317_402_611


def test_subclasses_of_plain_types_are_kept_as_plain() -> None:
    """
    A text that is an enum member, or a number that is a bool's cousin, comes back as what it means.
    """
    message = replace(failed(), error=Certainty.NOT_STORED, trace_id=Certainty.MAYBE_STORED)
    again = codec.decode(as_read(message, 1))
    assert (again.error, type(again.error)) == ("NOT_STORED", str)
    assert again.trace_id == "MAYBE_STORED"


def test_json_has_everything() -> None:
    """
    The JSON form holds every field as plain data, the payload in base64, and as text where it is text.
    """
    data = json.loads(json.dumps(to_json(replace(FULL, id=7))))
    assert base64.b64decode(data.pop("payload")) == FULL.message.payload
    assert data == {
        "id": 7,
        "topic": "persistent://public/default/orders",
        "payload_text": None,
        "properties": {"trace": "t-1", "schlüssel": "wert\0 \n\U0001f600", "": ""},
        "partition_key": "kunde-ß",
        "ordering_key": "Größe",
        "sequence_id": 2**63 - 1,
        "event_timestamp_ms": 0,
        "deliver_at_ms": 1_700_000_000_123,
        "certainty": "MAYBE_STORED",
        "error": "ProducerFenced",
        "attempts": [
            {
                "started_at": 1.5,
                "elapsed_seconds": 0.1,
                "code": "ServiceUnitNotReady",
                "maybe_stored": False,
                "delay_seconds": 0.1,
            },
            {
                "started_at": 2.5,
                "elapsed_seconds": 1e-09,
                "code": "Timeout",
                "maybe_stored": True,
                "delay_seconds": None,
            },
        ],
        "accepted_at": 1.25,
        "first_failed_at": 1.7976931348623157e308,
        "last_failed_at": 0.1 + 0.2,
        "producer_name": "shop-1",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    }
    assert to_json(failed(b"text"))["payload_text"] == "text"
    assert to_json(BARE)["payload"] is None
