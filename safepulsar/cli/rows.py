r"""
What a file of rows says to send: one payload and key a row, or why a row can't be sent; never both, never neither.

The bytes are part of the contract of the command line:

- `.csv`: a row becomes a JSON object in UTF-8 without blanks, as `{"id":"7","name":"Ä"}`. Columns stand in the order of
  the file, values are texts, and characters outside ASCII stand for themselves.
- `.jsonl` and standard input: the bytes of the line without its end (`\n` or `\r\n`). Lines of white space are skipped.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

from safepulsar.cli.lines import LineTooLong
from safepulsar.errors import InvalidInput, InvalidMessage
from safepulsar.serialization import to_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    from safepulsar.cli.lines import Lines

    # Reads the lines, checks what can be checked before anything is sent, and returns the rest row by row.
    ReadRows: TypeAlias = Callable[[Lines, "str | None"], "Iterator[Row | BadRow]"]

_NAMES_SHOWN: Final = 40
_CSV_LIMIT: Final = "field larger than field limit"
_CSV_UNCLOSED: Final = "unexpected end of data"
_KINDS: Final[dict[type, str]] = {bool: "true or false", list: "a list", dict: "an object"}


@dataclass(frozen=True, slots=True)
class Row:
    """
    One row to send.

    Args:
        where: for a person, e.g. `row 5` or `line 5`.
        payload: the message.
        key: the partition key, None if none was asked for.
    """

    where: str
    payload: bytes
    key: str | None


@dataclass(frozen=True, slots=True)
class BadRow:
    """
    One row that can't be sent.

    Args:
        where: for a person.
        problem: what is wrong with it; quotes nothing of it.
    """

    where: str
    problem: str


def csv_rows(lines: Lines, key_field: str | None) -> Iterator[Row | BadRow]:
    """
    Read the header at once, and then row by row. The header is row 1, as in a spreadsheet.

    Raises:
        InvalidInput: the header is missing, is ambiguous, or lacks the key's column; nothing was read behind it.
    """
    # `map` and no generator, because it goes on after a line that is too long.
    reader = csv.reader(map(_text, lines), strict=True)
    try:
        header = next(reader, [])
    except (csv.Error, LineTooLong) as error:
        raise InvalidInput("row 1", f"is not a header: {error}") from error
    _check_header(header, key_field)
    return _csv_rows(reader, lines, header, key_field)


def json_rows(lines: Lines, key_field: str | None) -> Iterator[Row | BadRow]:
    """
    Read line by line. A number as the key becomes the text that stands in the line.
    """
    while True:
        try:
            line = next(lines)
        except StopIteration:
            return
        except LineTooLong as error:
            yield BadRow(f"line {error.number}", str(error))
            continue
        payload = line[: -2 if line.endswith(b"\r\n") else -1] if line.endswith(b"\n") else line
        if payload.strip():
            yield _json_row(f"line {lines.number}", payload, key_field)


def _text(line: bytes) -> str:
    # Bytes that are not UTF-8 come through as lone surrogates, so that the row that has them can be named.
    return line.decode("utf-8", "surrogateescape")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_header(header: list[str], key_field: str | None) -> None:
    if not header:
        raise InvalidInput("row 1", "is empty; a CSV begins with a header that names its columns")
    if not all(map(_is_utf8, header)):
        raise InvalidInput("row 1", "is not UTF-8; convert the file first, e.g. with iconv")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise InvalidInput("row 1", f"names a column twice, which a JSON object can't have: {_listed(twice)}")
    if key_field is not None and key_field not in header:
        raise InvalidInput("row 1", f"has no column {key_field!r} for the key; its columns are {_listed(header)}")


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_NAMES_SHOWN])
    return shown if len(names) <= _NAMES_SHOWN else f"{shown} and {len(names) - _NAMES_SHOWN} more"


def _csv_rows(
    reader: Iterator[list[str]], lines: Lines, header: list[str], key_field: str | None
) -> Iterator[Row | BadRow]:
    key_column = None if key_field is None else header.index(key_field)
    number = 1
    while True:
        first_line = lines.number + 1
        number += 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except (csv.Error, LineTooLong) as error:
            yield BadRow(_csv_where(number, first_line, lines.number), _csv_problem(error))
            continue
        if values:  # a blank line has none; it counts, as spreadsheets count it
            yield _csv_row(_csv_where(number, first_line, lines.number), header, values, key_column)


def _csv_row(where: str, header: list[str], values: list[str], key_column: int | None) -> Row | BadRow:
    if len(values) != len(header):
        columns = f"{len(values)} column{'' if len(values) == 1 else 's'}"
        return BadRow(where, f"has {columns}, the header has {len(header)}")
    key = None if key_column is None else values[key_column]
    if key == "":
        return BadRow(where, f"has no key: its column {header[key_column or 0]!r} is empty")
    try:
        payload = to_bytes(dict(zip(header, values, strict=True)))
    except InvalidMessage:
        wrong = [name for name, value in zip(header, values, strict=True) if not _is_utf8(value)]
        return BadRow(where, f"is not UTF-8 in {_listed(wrong)}")
    return Row(where, payload or b"", key)


def _csv_where(number: int, first_line: int, last_line: int) -> str:
    if first_line == last_line == number:
        return f"row {number}"
    lines = f"line {first_line}" if first_line == last_line else f"lines {first_line} to {last_line}"
    return f"row {number} ({lines})"


def _csv_problem(error: Exception) -> str:
    problem = str(error)
    if problem.startswith(_CSV_LIMIT):
        return "has a field over the size of a message; a quote may have no end"
    return "a quote has no end" if problem == _CSV_UNCLOSED else problem


def _json_row(where: str, payload: bytes, key_field: str | None) -> Row | BadRow:
    try:
        value = _decode(payload.decode())
    except (ValueError, RecursionError) as error:
        return BadRow(where, _json_problem(error))
    if key_field is None:
        return Row(where, payload, None)
    if not isinstance(value, dict) or key_field not in value:
        what = "" if isinstance(value, dict) else "is not an object, so it "
        return BadRow(where, f"{what}has no field {key_field!r} for the key")
    key = value[key_field]
    if not isinstance(key, str) or not key:
        what = "empty" if key == "" else _KINDS.get(type(key), "null")
        return BadRow(where, f"has no key: its field {key_field!r} is {what}, not text or a number")
    return Row(where, payload, key)


def _json_problem(error: ValueError | RecursionError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"is not UTF-8 at byte {error.start + 1}"
    if isinstance(error, json.JSONDecodeError):
        return f"is not JSON: {error.msg} at column {error.colno}"
    return "is nested too deeply" if isinstance(error, RecursionError) else f"is not JSON: {error}"


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is none of its numbers")


# Numbers stay the text that they are: they are looked at only as a key, and converting them costs and could fail.
_decode = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_no_constant).decode
