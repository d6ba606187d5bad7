"""
The exact bytes that rows become, and how each broken one is named.
"""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safepulsar.cli.lines import Lines
from safepulsar.cli.rows import BadRow, Row, csv_rows, json_rows
from safepulsar.errors import InvalidInput
from tests.cli.test_lines import reader

LIMIT = 1_000
# csv.writer can't write a lone "\r" so that it comes back, and NUL is refused before Python 3.11.
texts = st.text(st.characters(exclude_characters="\r\0", exclude_categories=["Cs"]))


def from_csv(data: bytes, key: str | None = None) -> list[Row | BadRow]:
    """
    The rows of a CSV.
    """
    return list(csv_rows(Lines(reader(data, 7), LIMIT), key))


def from_json(data: bytes, key: str | None = None) -> list[Row | BadRow]:
    """
    The rows of JSON lines.
    """
    return list(json_rows(Lines(reader(data, 7), LIMIT), key))


def test_a_row_of_a_csv_is_a_json_object_of_texts_in_the_order_of_the_columns() -> None:
    """
    The bytes: no blanks, columns as in the file, values as texts, UTF-8 and not escapes.
    """
    assert from_csv('id,name\r\n7,"Ä ""x"""\r\n007,\r\n'.encode()) == [
        Row("row 2", '{"id":"7","name":"Ä \\"x\\""}'.encode(), None),
        Row("row 3", b'{"id":"007","name":""}', None),
    ]


def test_a_json_line_is_sent_verbatim_without_its_end() -> None:
    """
    The bytes: blanks, escapes and numbers as they stand; only the end of the line is no part of it.
    """
    lines = [b'  {"a" : 1.50e1, "b":"\\u00e4"} ', b'{"a":"\xc3\xa4"}', b"[1, 2]", b'"x"', b"7"]
    assert from_json(b"\r\n".join(lines) + b"\n\n \t\n" + b"null") == [
        *(Row(f"line {number}", line, None) for number, line in enumerate(lines, start=1)),
        Row("line 8", b"null", None),
    ]


@given(st.lists(texts, min_size=1, max_size=5, unique=True), st.data())
def test_any_csv_comes_back_value_for_value(header: list[str], data: st.DataObject) -> None:
    """
    What csv writes, quotes, line breaks and all, arrives as it was.
    """
    rows = data.draw(st.lists(st.lists(texts, min_size=len(header), max_size=len(header)), max_size=5))
    file = io.StringIO()
    csv.writer(file, quoting=csv.QUOTE_ALL).writerows([header, *rows])
    found = list(csv_rows(Lines(reader(file.getvalue().encode(), 64), 1_000_000), None))
    assert [json.loads(row.payload) for row in found if isinstance(row, Row)] == [
        dict(zip(header, row, strict=True)) for row in rows
    ]
    assert len(found) == len(rows)


def test_the_key_of_a_csv_row_is_its_columns_value() -> None:
    """
    The key is the text in the column, unchanged.
    """
    assert [row.key for row in from_csv(b"a,b\n1, x\n2,Y\n", "b") if isinstance(row, Row)] == [" x", "Y"]


@pytest.mark.parametrize(
    ("value", "key"),
    [('"x"', "x"), ("7", "7"), ("-0.50", "-0.50"), ("1e400", "1e400"), ("1" * 30, "1" * 30), ('"\\u00e4"', "ä")],
)
def test_the_key_of_a_json_line_is_its_fields_text_or_number_as_it_stands(value: str, key: str) -> None:
    """
    Texts are decoded; numbers become the text that stands in the line, whatever their size.
    """
    (row,) = from_json(f'{{"b": 1, "k": {value}}}'.encode(), "k")
    assert isinstance(row, Row)
    assert row.key == key


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"k": null}', "its field 'k' is null"),
        (b'{"k": true}', "its field 'k' is true or false"),
        (b'{"k": []}', "its field 'k' is a list"),
        (b'{"k": {}}', "its field 'k' is an object"),
        (b'{"k": ""}', "its field 'k' is empty"),
        (b'{"K": 1}', "has no field 'k'"),
        (b"[1]", "is not an object"),
        (b"{", "is not JSON: Expecting property name enclosed in double quotes at column 2"),
        (b"{} {}", "is not JSON: Extra data at column 4"),
        (b'{"k": NaN}', "is not JSON: NaN"),
        (b'{"k": "\xff"}', "is not UTF-8 at byte 8"),
        (b'{"k": "' + b"x" * LIMIT, "has more than 1000 bytes"),
    ],
)
def test_a_broken_json_line_is_named_and_the_others_are_read(line: bytes, problem: str) -> None:
    """
    The number and the reason of each; never a part of its content.
    """
    first, bad, last = from_json(b'{"k":1}\n' + line + b'\n{"k":3}\n', "k")
    assert isinstance(first, Row)
    assert last == Row("line 3", b'{"k":3}', "3")
    assert isinstance(bad, BadRow)
    assert bad.where == "line 2"
    assert problem in bad.problem


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"1", "has 1 column, the header has 2"),
        (b"1,2,3", "has 3 columns, the header has 2"),
        (b"1,", "its column 'k' is empty"),
        (b"\xe4,2", "is not UTF-8 in 'a'"),
        (b'"1"x,2', "',' expected after '\"'"),
        (b"x" * 2 * LIMIT, "has more than 1000 bytes"),
    ],
)
def test_a_broken_csv_row_is_named_and_the_others_are_read(line: bytes, problem: str) -> None:
    """
    The number, as a spreadsheet counts, and the reason of each.
    """
    first, bad, last = from_csv(b"a,k\n1,2\n" + line + b"\n5,6\n", "k")
    assert isinstance(first, Row)
    assert last == Row("row 4", b'{"a":"5","k":"6"}', "6")
    assert isinstance(bad, BadRow)
    assert bad.where == "row 3"
    assert problem in bad.problem


def test_a_quote_without_an_end_is_named_with_the_lines_it_swallowed() -> None:
    """
    Nothing of what stands behind the quote is sent, and it is said which lines those are.
    """
    assert from_csv(b'a,b\n1,2\n3,"4\n5,6\n7,8\n')[1:] == [BadRow("row 3 (lines 3 to 5)", "a quote has no end")]


def test_rows_over_several_lines_and_blank_ones_are_counted_as_a_spreadsheet_does() -> None:
    """
    A row's number counts rows; where lines differ they are named, too.
    """
    rows = from_csv(b'a,b\n1,"x\ny"\n\n3\n')
    assert [row.where for row in rows] == ["row 2 (lines 2 to 3)", "row 4 (line 5)"]


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (b"", "row 1: is empty"),
        (b"\n1,2\n", "row 1: is empty"),
        (b"a,b\n1,2\n", "row 1: has no column 'k' for the key; its columns are 'a', 'b'"),
        (b"k,a,a\n", "row 1: names a column twice, which a JSON object can't have: 'a'"),
        (b"k,\xff\n", "row 1: is not UTF-8"),
        (b'k,"x', "row 1: is not a header"),
        (b"k" * 2 * LIMIT, "row 1: is not a header: has more than 1000 bytes"),
    ],
)
def test_a_header_that_will_not_do_is_refused_before_anything_is_read(header: bytes, problem: str) -> None:
    """
    Not row by row, but once, with the columns that there are.
    """
    with pytest.raises(InvalidInput) as caught:
        csv_rows(Lines(reader(header, 7), LIMIT), "k")
    assert problem in str(caught.value)
