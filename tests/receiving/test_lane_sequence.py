"""
The place of a message: written by senders, read back the same, and refused where it is not one.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safepulsar.receiving import InvalidSequence, lane_properties, lane_sequence
from tests.receiving.fakes import FakeMessage


@given(st.integers(min_value=1, max_value=2**63 - 1))
def test_what_is_written_is_read(sequence: int) -> None:
    """
    Every sequence there can be comes back.
    """
    message = FakeMessage(0, given_properties=lane_properties(sequence, "cust-7"))
    assert lane_sequence(message) == ("cust-7", sequence)


@pytest.mark.parametrize(
    ("lane", "ordering_key", "partition_key", "expected"),
    [
        ("lane", "ordering", "partition", "lane"),
        (None, "ordering", "partition", "ordering"),
        (None, "", "partition", "partition"),
        (None, "", "", ""),
    ],
)
def test_which_lane_it_is(lane: str | None, ordering_key: str, partition_key: str, expected: str) -> None:
    """
    The property, or else the ordering key, or else the partition key, or else the lane of those without a key.
    """
    properties = lane_properties(5, lane)
    message = FakeMessage(0, given_properties=properties, key=partition_key, ordering=ordering_key)
    assert lane_sequence(message) == (expected, 5)


def test_the_properties_are_these() -> None:
    """
    Their names and form are a promise, because senders in other languages write them too.
    """
    assert lane_properties(7) == {"safepulsar-sequence": "7"}
    assert lane_properties(7, "a") == {"safepulsar-sequence": "7", "safepulsar-lane": "a"}
    assert lane_sequence(FakeMessage(0)) is None


@pytest.mark.parametrize(
    "text", ["", "0", "01", "-1", "+1", "1.0", " 1", "1\n", "1_0", "\u0661", "one", "9223372036854775808", "9" * 5000]
)
def test_a_malformed_sequence_is_refused(text: str) -> None:
    """
    Only plain digits without a leading zero, up to the largest sequence; the text itself is not quoted.
    """
    with pytest.raises(InvalidSequence, match="safepulsar-sequence: the property must be a whole number"):
        lane_sequence(FakeMessage(0, given_properties={"safepulsar-sequence": text}))


@pytest.mark.parametrize(
    ("sequence", "lane", "field"),
    [(0, None, "sequence"), (True, None, "sequence"), ("1", None, "sequence"), (1, "", "lane"), (1, b"a", "lane")],
)
def test_a_sender_cannot_write_nonsense(sequence: int, lane: str, field: str) -> None:
    """
    A wrong sequence or lane is refused before anything is sent.
    """
    with pytest.raises(InvalidSequence) as caught:
        lane_properties(sequence, lane)
    assert caught.value.field == field
