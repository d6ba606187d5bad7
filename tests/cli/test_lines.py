"""
Lines of any length, in constant memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safepulsar.cli.lines import Lines, LineTooLong

if TYPE_CHECKING:
    from collections.abc import Callable


def reader(data: bytes, piece: int) -> Callable[[], bytes]:
    """
    Return what reads `data` in pieces of that size.
    """
    rest = [data[at : at + piece] for at in range(0, len(data), piece)]
    rest.reverse()
    return lambda: rest.pop() if rest else b""


@given(st.lists(st.binary().map(lambda line: line.replace(b"\n", b"").replace(b"\xef", b""))), st.integers(1, 50))
def test_lines_come_back_whole_wherever_the_pieces_end(lines: list[bytes], piece: int) -> None:
    """
    Every line comes back as it is, with its number, whatever the pieces that are read.
    """
    found = Lines(reader(b"".join(line + b"\n" for line in lines), piece), 1_000_000)
    assert [(found.number, line) for line in found] == [
        (number, line + b"\n") for number, line in enumerate(lines, start=1)
    ]


@pytest.mark.parametrize("piece", [1, 3, 1000])
def test_a_line_over_the_limit_is_named_and_the_next_one_read(piece: int) -> None:
    """
    What is too long is skipped with an error that names it; the lines around it are read.
    """
    lines = Lines(reader(b"one\n" + b"x" * 11 + b"\n" + b"y" * 10 + b"\nlast", piece), 10)
    assert next(lines) == b"one\n"
    with pytest.raises(LineTooLong) as caught:
        next(lines)
    assert caught.value.number == 2
    assert next(lines) == b"y" * 10 + b"\n"
    assert next(lines) == b"last"
    with pytest.raises(StopIteration):
        next(lines)


def test_a_last_line_over_the_limit_is_named() -> None:
    """
    Also without an end, a line that is too long is an error and not half a line.
    """
    lines = Lines(reader(b"x" * 100, 7), 10)
    with pytest.raises(LineTooLong):
        next(lines)
    with pytest.raises(StopIteration):
        next(lines)


def test_what_is_held_does_not_grow_with_a_line_that_is_too_long() -> None:
    """
    Of a line without end, no more is held than the limit and one piece.
    """
    pieces = 0

    def read() -> bytes:
        nonlocal pieces
        pieces += 1
        held = sum(map(len, lines._open))
        assert held <= 1_000
        return b"x" * 100 if pieces < 10_000 else b""

    lines = Lines(read, 1_000)
    with pytest.raises(LineTooLong):
        next(lines)


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    """
    The mark that some editors write before a file is left out, once.
    """
    mark = b"\xef\xbb\xbf"
    assert list(Lines(reader(mark + b"a\n" + mark + b"b\n", 5), 100)) == [b"a\n", mark + b"b\n"]
