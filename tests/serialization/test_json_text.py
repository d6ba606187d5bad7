"""
One JSON, whichever encoder is installed: the same text, and nothing is changed by it silently.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import sys
from collections import OrderedDict, namedtuple
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from safepulsar.errors import InvalidMessage
from safepulsar.serialization import from_json, json_text, to_json
from tests.subprocesses import run_script

if TYPE_CHECKING:
    from collections.abc import Iterator

_ENCODERS = ("msgspec", "orjson", "json")
_INDIA = timezone(timedelta(hours=5, minutes=30))
_LOCAL_MEAN_TIME = timezone(timedelta(minutes=53, seconds=28))


@pytest.fixture(params=_ENCODERS)
def encoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """
    One encoder in turn, the faster ones not installed.
    """
    name: str = request.param
    for faster in _ENCODERS[: _ENCODERS.index(name)]:
        # Of msgspec the encoder alone, because the structs of this test are there all the same.
        monkeypatch.setitem(sys.modules, "msgspec.json" if faster == "msgspec" else faster, None)
    json_text._fast.cache_clear()
    assert (json_text._fast() is None) == (name == "json")
    yield name
    json_text._fast.cache_clear()


class Colour(enum.Enum):
    """
    An enum of text.
    """

    RED = "red"


class Number(enum.IntEnum):
    """
    An enum of numbers.
    """

    ONE = 1


@dataclasses.dataclass
class Line:
    """
    A dataclass.
    """

    sku: str
    price: Decimal
    _hidden: int = 1
    made: int = dataclasses.field(default=3, init=False)


@dataclasses.dataclass(frozen=True)
class Order:
    """
    A dataclass of dataclasses.
    """

    number: UUID
    at: datetime
    lines: list[Line]


class Struct(msgspec.Struct, rename="camel"):
    """
    A struct with other names in JSON.
    """

    order_id: int
    at: datetime


class Model(pydantic.BaseModel):
    """
    A model with another name in JSON.
    """

    total: Decimal = pydantic.Field(serialization_alias="sum")


class Text(str):
    """
    A subclass of text.
    """

    __slots__ = ()


Pair = namedtuple("Pair", "a b")  # noqa: PYI024 - the plain kind is what is tested


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": 1, "b": [None, True, 'é\u2028\x01"\\/']}, '{"a":1,"b":[null,true,"é\u2028\\u0001\\"\\\\/"]}'),
        (Decimal("1.10"), '"1.10"'),
        (Decimal("1E+3"), '"1E+3"'),
        (UUID(int=7), '"00000000-0000-0000-0000-000000000007"'),
        (date(2026, 2, 3), '"2026-02-03"'),
        (datetime(2026, 2, 3, 4, 5, 6), '"2026-02-03T04:05:06"'),  # noqa: DTZ001 - it has no zone, and gets none
        (datetime(2026, 2, 3, 4, 5, 6, 700, timezone.utc), '"2026-02-03T04:05:06.000700Z"'),
        (datetime(2026, 2, 3, 4, 5, 6, tzinfo=_INDIA), '"2026-02-03T04:05:06+05:30"'),
        (datetime(1879, 2, 3, 4, 5, 6, tzinfo=_LOCAL_MEAN_TIME), '"1879-02-03T04:05:06+00:53:28"'),
        (time(4, 5, 6, 7), '"04:05:06.000007"'),
        (time(4, 5, tzinfo=timezone.utc), '"04:05:00Z"'),
        ([1e15, 1e16, 1e-4, 1e-5, -0.0, 1.5e300, 0.1], "[1000000000000000.0,1e+16,0.0001,1e-05,-0.0,1.5e+300,0.1]"),
        ([2**63, 2**64, -(2**70)], "[9223372036854775808,18446744073709551616,-1180591620717411303424]"),
        ([Colour.RED, Number.ONE, Text("t"), Pair(1, 2), (3,)], '["red",1,"t",[1,2],[3]]'),
        (OrderedDict(b=1, a=MappingProxyType({"c": 2})), '{"b":1,"a":{"c":2}}'),
        (Line("A", Decimal("2.50")), '{"sku":"A","price":"2.50","_hidden":1,"made":3}'),
        (
            Order(UUID(int=1), datetime(2026, 1, 1, tzinfo=timezone.utc), [Line("B", Decimal(1))]),
            '{"number":"00000000-0000-0000-0000-000000000001","at":"2026-01-01T00:00:00Z","lines":[{"sku":"B","price":"1","_hidden":1,"made":3}]}',
        ),
        ([Struct(7, datetime(2026, 1, 1, tzinfo=timezone.utc))], '[{"orderId":7,"at":"2026-01-01T00:00:00Z"}]'),
        (
            Struct(2**70, datetime(1879, 2, 3, 4, 5, 6, tzinfo=_LOCAL_MEAN_TIME)),
            '{"orderId":1180591620717411303424,"at":"1879-02-03T04:05:06+00:53:28"}',
        ),
        ({"m": Model(total=Decimal("3.00"))}, '{"m":{"sum":"3.00"}}'),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "text",
)
def test_each_kind_has_one_text(encoder: str, value: object, text: str) -> None:
    """
    Whatever is installed, the text is the one that is written here.
    """
    assert encoder in _ENCODERS
    assert to_json(value).decode() == text


_texts = st.text(st.characters(exclude_categories=["Cs"]))
_leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | _texts
    | st.uuids()
    | st.decimals()
    | st.dates()
    | st.times()
    | st.datetimes(timezones=st.none() | st.just(timezone.utc) | st.timezones())
)
_values = st.recursive(_leaves, lambda each: st.lists(each) | st.dictionaries(_texts, each), max_leaves=20)


@example_settings(deadline=None, max_examples=150)
@given(value=_values)
def test_the_encoders_write_the_same(value: object) -> None:
    """
    What is written by the fast encoders is what the slow one would write, for anything that JSON can hold.
    """
    plain = json_text._write(json_text._plain(value)).encode()
    assert to_json(value) == plain
    if json_text._is_written_alike(value):
        import orjson  # noqa: PLC0415 - beside the code that imports it

        assert msgspec.json.encode(value) == plain
        try:
            assert orjson.dumps(value, default=str, option=orjson.OPT_UTC_Z) == plain
        except TypeError as error:
            assert "64-bit" in str(error)  # noqa: PT017 - it need not raise


@example_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.recursive(_texts | st.integers() | st.booleans(), st.lists, max_leaves=9))
def test_data_come_back(value: object) -> None:
    """
    The reading twin gives back the data.
    """
    assert from_json(to_json(value)) == value


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"items": [{"price": float("nan")}]}, "value.items[0].price"),
        ({"items": ({"price": float("inf")},)}, "value.items[0].price"),
        (Order(UUID(int=1), datetime(2026, 1, 1, tzinfo=timezone.utc), [Line("B", object())]), "value.lines[0].price"),  # type: ignore[arg-type]
        ({"a": {1: 2}}, "value.a"),
        ({"a": {Colour.RED: 2}}, "value.a"),
        ([{"a": {1, 2}}], "value[0].a"),
        ([b"bytes"], "value[0]"),
        (Struct(b"bytes", datetime.now(timezone.utc)), "value.orderId"),  # type: ignore[arg-type]
        (Struct(float("nan"), datetime.now(timezone.utc)), "value.orderId"),  # type: ignore[arg-type]
        ([timedelta(1)], "value[0]"),
        ([Struct(object(), datetime.now(timezone.utc))], "value[0].order_id"),  # type: ignore[arg-type]
        ({"a": "\ud800"}, "value"),
    ],
)
def test_what_has_no_exact_json_is_refused_with_its_place(encoder: str, value: object, field: str) -> None:
    """
    The error names the path to what is wrong, the same whatever is installed.
    """
    assert encoder in _ENCODERS
    with pytest.raises(InvalidMessage) as caught:
        to_json(value)
    assert caught.value.field == field
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("payload", [b"", b"{", b'{"a":NaN}', b"\xff", b'"\xff"', b"[" * 100_000])
def test_what_is_no_json_is_a_typed_error(payload: bytes) -> None:
    """
    The reading twin refuses what the writing one never makes.
    """
    with pytest.raises(InvalidMessage, match=r"^payload: "):
        from_json(payload)


def test_an_encoder_is_looked_for_when_it_is_needed() -> None:
    """
    Neither `import safepulsar` nor bytes and text import one; data do.
    """
    result = run_script(
        """
        import sys
        import safepulsar
        from safepulsar.serialization import to_bytes
        def there():
            return sorted({"msgspec", "orjson", "pydantic", "fastavro", "google.protobuf", "uuid", "decimal"} & set(sys.modules))
        to_bytes("text")
        print(there())
        print(to_bytes({"a": 1}), "msgspec" in there())
        """,
        timeout_seconds=30,
    )
    assert result.check() == "[]\nb'{\"a\":1}' True\n"


def test_json_is_what_other_readers_take() -> None:
    """
    It is JSON by the standard library's reader.
    """
    value: dict[str, Any] = {"a": [1, 1.5, "x", None, {"b": False}]}
    assert json.loads(to_json(value)) == value
