"""
A saved state is taken whole or not at all: every flipped bit, every cut and every mix-up is a typed error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from safepulsar.receiving import Deduplicator, DeduplicatorSettings, InvalidState, ReorderBuffer
from safepulsar.receiving.saved_state import seal

if TYPE_CHECKING:
    from collections.abc import Callable


def _buffer_state() -> bytes:
    buffer: ReorderBuffer[None] = ReorderBuffer()
    buffer.add("cust-7", 1, None)
    return buffer.state()


def _deduplicator_state() -> bytes:
    deduplicator = Deduplicator()
    deduplicator.add("cust-7", 2)
    deduplicator.add_id("o1")
    return deduplicator.state()


_KINDS = [(_buffer_state(), ReorderBuffer.from_state), (_deduplicator_state(), Deduplicator.from_state)]
_each_kind = pytest.mark.parametrize(("state", "restore"), _KINDS, ids=["buffer", "deduplicator"])


def test_the_format_is_fixed() -> None:
    """
    What an earlier version saved is read for ever, so this is what version 1 looks like.
    """
    assert _buffer_state() == b'safepulsar reorderbuffer 1 f58e4a89\n{"expected":{"cust-7":2}}'


@_each_kind
def test_every_flipped_bit_is_found(state: bytes, restore: Callable[[bytes], object]) -> None:
    """
    Damage anywhere, in the head too, is refused.
    """
    restore(state)
    for bit in range(len(state) * 8):
        damaged = bytearray(state)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(InvalidState):
            restore(bytes(damaged))


@_each_kind
def test_every_cut_is_found(state: bytes, restore: Callable[[bytes], object]) -> None:
    """
    A state that was not written to its end, or has something behind it, is refused.
    """
    for length in range(len(state)):
        with pytest.raises(InvalidState):
            restore(state[:length])
    with pytest.raises(InvalidState, match="checksum"):
        restore(state + b" ")


@pytest.mark.parametrize(
    ("state", "complaint"),
    [
        ("text", "must be the bytes that state"),
        (None, "must be the bytes that state"),
        (b"", "not a state that safepulsar saved"),
        (_deduplicator_state(), "is one of a deduplicator, not of a reorderbuffer"),
        (_buffer_state().replace(b" 1 ", b" 2 "), "has version 2, and this safepulsar reads up to 1; upgrade it"),
        (seal("reorderbuffer", {"expected": {"a": 0}}), "something else than sequences by lane"),
        (seal("reorderbuffer", {"expected": {"a": True}}), "something else than sequences by lane"),
        (seal("reorderbuffer", {}), "something else than sequences by lane"),
        (seal("reorderbuffer", []), "holds no object"),  # type: ignore[arg-type]
    ],
)
def test_what_is_wrong_is_said(state: bytes, complaint: str) -> None:
    """
    The error says what the state is instead.
    """
    with pytest.raises(InvalidState, match=complaint) as caught:
        ReorderBuffer.from_state(state)
    assert caught.value.field == "state"


@pytest.mark.parametrize(
    "body",
    [
        {"missing": {}, "beyond": [], "ids": []},
        {"missing": {}, "beyond": {}, "ids": {}},
        {"missing": {}, "beyond": {"a": 1}, "ids": []},
        {"beyond": {}, "ids": []},
    ],
)
def test_a_deduplicator_knows_its_own(body: dict[str, object]) -> None:
    """
    A body of another shape is refused.
    """
    with pytest.raises(InvalidState):
        Deduplicator.from_state(seal("deduplicator", body))


def test_a_state_over_the_bounds_is_refused() -> None:
    """
    More than the settings allow is an error that names them, since to cut it would forget silently.
    """
    with pytest.raises(InvalidState, match="raise max_lanes, max_beyond or max_ids"):
        Deduplicator.from_state(_deduplicator_state(), DeduplicatorSettings(max_beyond=0))
