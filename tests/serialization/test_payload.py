"""
Payloads: bytes as they are, text as UTF-8, data as JSON that says exactly the same; everything else is refused.
"""

from __future__ import annotations

import array
import json
import traceback
from collections import OrderedDict
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from safepulsar.errors import InvalidMessage
from safepulsar.serialization import least_size, to_bytes

_text = st.text(st.characters(exclude_categories=["Cs"]))
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _text,
    lambda each: st.lists(each) | st.dictionaries(_text, each),
    max_leaves=20,
)


@example_settings(deadline=None)
@given(value=st.lists(_json) | st.dictionaries(_text, _json))
def test_data_come_back_from_the_payload(value: object) -> None:
    """
    What any JSON reader makes of the payload is the value that was sent.
    """
    payload = to_bytes(value)
    assert payload is not None
    assert json.loads(payload) == value


@example_settings(deadline=None)
@given(value=st.binary() | _text)
def test_bytes_and_text_come_back_from_the_payload(value: bytes | str) -> None:
    """
    Bytes are the payload, and text is its UTF-8.
    """
    payload = to_bytes(value)
    assert payload is not None
    assert (payload if isinstance(value, bytes) else payload.decode()) == value


@pytest.mark.parametrize(
    ("value", "payload"),
    [
        (None, None),
        (b"", b""),
        ("", b""),
        ("Größe 5 €", "Größe 5 €".encode()),
        ({}, b"{}"),
        ([], b"[]"),
        ((1, "a"), b'[1,"a"]'),
        ({"b": 1, "a": [None, True, 1.5]}, b'{"b":1,"a":[null,true,1.5]}'),
        ({"name": "Größe"}, '{"name":"Größe"}'.encode()),
        (OrderedDict(a=1), b'{"a":1}'),
        (MappingProxyType({"a": MappingProxyType({"b": (1,)})}), b'{"a":{"b":[1]}}'),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"abcd")[::2], b"ac"),
        (memoryview(array.array("H", [1, 2])).cast("B"), array.array("H", [1, 2]).tobytes()),
    ],
)
def test_each_kind_has_its_payload(value: object, payload: bytes | None) -> None:
    """
    JSON is compact, in the order of the fields, and not escaped; None is a tombstone, and empty is not None.
    """
    made = to_bytes(value)
    assert made == payload
    assert made is None or type(made) is bytes


def test_bytes_are_not_copied_and_buffers_are() -> None:
    """
    Immutable bytes are sent as they are, while later changes to a buffer don't reach the message.
    """
    plain = b"payload"
    assert to_bytes(plain) is plain
    buffer = bytearray(b"before")
    payload = to_bytes(buffer)
    buffer[:] = b"behind"
    assert payload == b"before"


def test_a_key_that_is_no_plain_word_is_not_shown() -> None:
    """
    The path to what is wrong shows the names of fields, and not keys that may be data.
    """
    with pytest.raises(InvalidMessage) as caught:
        to_bytes({"canary@example.org": object(), "x" * 41: object()})
    assert caught.value.field == "value[...]"


@pytest.mark.parametrize(
    ("value", "least"),
    [(b"abc", 3), ("äb", 2), (bytearray(4), 4), ({"a": 1}, 5), ([1, 2], 4), ((), 0), (None, 0), (object(), 0)],
)
def test_the_least_size_is_never_above_the_real_one(value: object, least: int) -> None:
    """
    What is refused before it is encoded would have been too big after it.
    """
    assert least_size(value) == least
    if value is not None and type(value) is not object:
        assert len(to_bytes(value) or b"") >= least


def _circle() -> list[Any]:
    circle: list[Any] = []
    circle.append(circle)
    return circle


def _deep() -> dict[str, Any]:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    return deep


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (7, "must be bytes, text, a mapping, a list, a dataclass or None (a tombstone), not int"),
        (1.5, "not float"),
        (True, "not bool"),
        ({1, 2}, "not set"),
        (object(), "not object"),
        ({"a": object()}, "value.a: is of the type object, which JSON cannot hold"),
        ({"a": b"canary"}, "value.a: is of the type bytes, which JSON cannot hold"),
        ({"a": float("nan")}, "value.a: is NaN or infinity"),
        ([{"a canary": [{1}]}], "value[0][...][0]: is of the type set"),
        ([float("-inf")], "value[0]: is NaN or infinity"),
        ({1: "canary", "1": "canary"}, "keys must be text"),
        ({"a": [{None: "canary"}]}, "value.a[0]: has a key of the type NoneType; keys must be text"),
        (MappingProxyType({True: "canary"}), "keys must be text"),
        (_circle(), "is nested too deeply for JSON, or holds itself"),
        (_deep(), "is nested too deeply for JSON, or holds itself"),
        ("canary\ud800", "holds a lone surrogate at character 6"),
        ({"canary": "\udfff"}, "holds a lone surrogate"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isascii() else type(value).__name__,
)
def test_what_has_no_exact_payload_is_refused(value: object, problem: str) -> None:
    """
    Other types, and data that JSON would change silently, are typed errors that quote nothing of the data.
    """
    with pytest.raises(InvalidMessage) as caught:
        to_bytes(value)
    assert problem in str(caught.value)
    assert str(caught.value).startswith(f"{caught.value.field}: ")
    assert "canary" not in "".join(traceback.format_exception(caught.value))


def test_a_released_memoryview_is_refused() -> None:
    """
    A view whose memory is gone is a typed error.
    """
    view = memoryview(b"abc")
    view.release()
    with pytest.raises(InvalidMessage, match="released"):
        to_bytes(view)


def test_data_that_change_meanwhile_are_refused() -> None:
    """
    A mapping that another thread changes while it is read is a typed error.
    """

    class Changing(dict[str, object]):
        def items(self) -> Any:  # noqa: ANN401 - as dict's
            for item in list(super().items()):
                yield item
                raise RuntimeError("dictionary changed size during iteration")

    with pytest.raises(InvalidMessage, match="changed by another thread meanwhile; pass a copy"):
        to_bytes(Changing(a=1))
