"""
Keys, properties and times: what passes reaches the broker as it is, and everything else is refused with a remedy.
"""

from __future__ import annotations

import re
import unicodedata
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from safepulsar.checks import (
    MAX_KEY_BYTES,
    check_deadline_seconds,
    check_key,
    check_properties,
    check_sequence_id,
    check_time_ms,
)
from safepulsar.errors import InvalidMessage
from safepulsar.receiving import lane_properties

_any_text = st.text(st.characters(), max_size=50)  # with control characters and surrogates


def _travels(text: str) -> bool:
    return all(unicodedata.category(character) not in {"Cc", "Cs"} for character in text)


@example_settings(deadline=None)
@given(key=_any_text)
def test_accepted_keys_survive_the_wire(key: str) -> None:
    """
    Exactly the keys that are UTF-8 without control characters and not empty pass, with their size in bytes.
    """
    if key and _travels(key):
        assert check_key("partition_key", key) == len(key.encode())
        assert key.encode().decode() == key
        return
    with pytest.raises(InvalidMessage) as caught:
        check_key("partition_key", key)
    assert caught.value.field == "partition_key"
    assert str(caught.value).isascii()


@example_settings(deadline=None)
@given(properties=st.dictionaries(_any_text, _any_text, max_size=5))
def test_accepted_properties_survive_the_wire(properties: dict[str, str]) -> None:
    """
    Exactly the properties whose names and values travel pass, as an equal copy with its size in bytes.
    """
    if all(name and _travels(name) and _travels(value) for name, value in properties.items()):
        copy, size = check_properties(properties)
        assert copy == properties
        assert copy is not properties
        assert size == sum(len(name.encode()) + len(value.encode()) for name, value in properties.items())
        return
    with pytest.raises(InvalidMessage) as caught:
        check_properties(properties)
    assert caught.value.field.startswith("properties")
    assert str(caught.value).isascii()


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("", "must not be empty (the client library would drop it silently); leave it out instead"),
        (7, "must be text, not int; convert it with str()"),
        (b"canary", "must be text, not bytes"),
        ("canary\n", "holds the control character U+000A at position 6; remove it"),
        ("\x7f", "holds the control character U+007F at position 0"),
        ("ü\x85", "holds the control character U+0085 at position 1"),
        ("\ud83d", "holds a lone surrogate at position 0, which UTF-8 cannot carry"),
        ("c" * (MAX_KEY_BYTES + 1), "has 32769 bytes; at most 32768 are allowed"),
        ("€" * 11_000, "has 33000 bytes; at most 32768 are allowed"),
    ],
    ids=["empty", "number", "bytes", "line break", "DEL", "C1", "surrogate", "long", "long in UTF-8"],
)
def test_a_bad_key_is_refused_with_the_remedy(key: object, problem: str) -> None:
    """
    A key that would be dropped, would break, or is too long is a typed error that does not quote it.
    """
    with pytest.raises(InvalidMessage, match=re.escape(problem)) as caught:
        check_key("ordering_key", key)
    assert caught.value.field == "ordering_key"
    assert "canary" not in str(caught.value)


def test_the_longest_key_passes() -> None:
    """
    The limit itself is allowed, in bytes.
    """
    assert check_key("k", "c" * MAX_KEY_BYTES) == MAX_KEY_BYTES
    assert check_key("k", "é" * (MAX_KEY_BYTES // 2)) == MAX_KEY_BYTES


@pytest.mark.parametrize(
    ("properties", "field", "problem"),
    [
        ([("a", "b")], "properties", "must be a mapping of text to text, not list"),
        ("a=b", "properties", "must be a mapping of text to text, not str"),
        ({"": "canary"}, "properties", "each name must be text, not empty"),
        ({7: "canary"}, "properties", "each name must be text, not int"),
        ({"n": 7}, "properties['n']", "must be text, not int; convert it with str()"),
        ({"n": None}, "properties['n']", "must be text, not NoneType"),
        ({"n": b"canary"}, "properties['n']", "must be text, not bytes"),
        ({"n": "canary\x00"}, "properties['n']", "holds the control character U+0000 at position 6"),
        ({"n\x00": "canary"}, "properties", "holds the control character U+0000 at position 1"),
        ({"ü": "\udfff"}, "properties['\\xfc']", "holds a lone surrogate at position 0"),
        ({"n" * 1000: "\n"}, f"properties['{'n' * 80}']", "holds the control character"),
    ],
)
def test_a_bad_property_is_refused_by_name(properties: object, field: str, problem: str) -> None:
    """
    The error names the property and never quotes its value.
    """
    with pytest.raises(InvalidMessage) as caught:
        check_properties(properties)
    assert caught.value.field == field
    assert problem in str(caught.value)
    assert "canary" not in str(caught.value)


def test_any_mapping_of_properties_is_copied() -> None:
    """
    Later changes to the application's mapping don't reach the message.
    """
    source = {"a": "1"}
    copy, size = check_properties(MappingProxyType(source))
    source["a"] = "2"
    assert (copy, size) == ({"a": "1"}, 2)
    assert check_properties({"empty": ""}) == ({"empty": ""}, 5)


@pytest.mark.parametrize("value", [1, 1_700_000_000_000, 253_402_300_799_999])
def test_a_time_is_unix_milliseconds(value: int) -> None:
    """
    Whole milliseconds of the years 1970 to 9999 pass.
    """
    assert check_time_ms("event_timestamp_ms", value) == value


@pytest.mark.parametrize(
    "value", [0, -1, 253_402_300_800_000, 1.5, True, "1", None, 10**5000], ids=lambda v: type(v).__name__
)
def test_a_bad_time_is_refused(value: object) -> None:
    """
    Zero, which the client library drops silently, fractions, text and far futures are typed errors.
    """
    with pytest.raises(InvalidMessage, match="must be Unix milliseconds as a whole number from 1 to 253402300799999"):
        check_time_ms("deliver_at_ms", value)


@pytest.mark.parametrize("value", [1, 2**63 - 1])
def test_sequence_ids_begin_at_one(value: int) -> None:
    """
    Every id that deduplication can work with passes.
    """
    assert check_sequence_id(value) == value


@pytest.mark.parametrize("value", [0, -1, 2**63, 1.0, True, "7", None, 10**5000], ids=lambda v: type(v).__name__)
def test_a_bad_sequence_id_is_refused(value: object) -> None:
    """
    Zero, which the client library drops silently, negative and huge ids are typed errors.
    """
    with pytest.raises(InvalidMessage, match="must be a whole number from 1 to 9223372036854775807"):
        check_sequence_id(value)


@pytest.mark.parametrize("value", [0.001, 5, 365 * 86_400])
def test_a_deadline_is_in_seconds(value: float) -> None:
    """
    Anything above 0 and up to a year passes.
    """
    assert check_deadline_seconds(value) == value


@pytest.mark.parametrize(
    "value",
    [0, -1, float("inf"), float("nan"), 1e300, True, "5", None, 10**5000],
    ids=["zero", "negative", "infinity", "nan", "huge", "bool", "text", "none", "very long"],
)
def test_a_bad_deadline_is_refused(value: object) -> None:
    """
    What a timer would refuse with an untyped error, or never come to, is a typed error before.
    """
    with pytest.raises(InvalidMessage, match="must be a number above 0 and at most 31536000") as caught:
        check_deadline_seconds(value)
    assert caught.value.field == "deadline_seconds"


@pytest.mark.parametrize("name", ["safepulsar-seal", "safepulsar-", "safepulsar-\u00e9", "safepulsar-lane2"])
def test_names_of_ours_are_refused_from_applications(name: str) -> None:
    """
    A property that only safepulsar may set is a typed error that names it; steps set what they like.
    """
    with pytest.raises(InvalidMessage, match="set by safepulsar alone") as caught:
        check_properties({"a": "b", name: "canary"})
    assert caught.value.field == f"properties[{name!a}]"
    assert "canary" not in str(caught.value)
    assert check_properties({name: "x"}, reserved=True) == ({name: "x"}, len(name.encode()) + 1)


def test_what_gives_a_message_its_place_in_a_lane_is_the_application_s() -> None:
    """
    The properties of `lane_properties()` are set by whoever sends.
    """
    properties = lane_properties(7, "lane")
    assert check_properties(properties)[0] == properties
