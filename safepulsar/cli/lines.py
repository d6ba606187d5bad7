"""
The lines of a file of any size: in constant memory, and able to go on behind a line that is too long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class LineTooLong(Exception):
    """
    A line is over the limit and was skipped; the next call goes on behind it.

    Attributes:
        number: of the line, from 1.
    """

    def __init__(self, number: int, max_bytes: int) -> None:
        super().__init__(f"has more than {max_bytes} bytes, the most that a message may have")
        self.number = number


class Lines:
    r"""
    An iterator over lines with their ends (`\n`, which the last may lack). Used by one thread.

    A byte order mark before the first line belongs to the file and not to the line, and is left out.

    Args:
        read: returns the next bytes, none at the end.
        max_bytes: of a line; what is held at a time is this and one piece of what `read` returns.
    """

    def __init__(self, read: Callable[[], bytes], max_bytes: int) -> None:
        self._read = read
        self._max_bytes = max_bytes
        self._ready: list[bytes] = []  # complete lines without their ends, the next one last
        self._open: list[bytes] = []  # pieces of the line whose end is not read yet
        self._open_bytes = 0
        self._too_long = False
        self._ended = False
        self.number = 0  # of the line returned last

    def __iter__(self) -> Self:
        """
        Itself.
        """
        return self

    def __next__(self) -> bytes:
        """
        The next line.

        Raises:
            LineTooLong: it was skipped.
        """
        while not self._ready:
            if self._ended:
                raise StopIteration
            piece = self._read()
            if not piece:
                self._ended = True
                return self._last()
            self._add(piece)
        line = self._ready.pop() + b"\n"
        return self._numbered(line)

    def _add(self, piece: bytes) -> None:
        first, *more = piece.split(b"\n")
        self._open.append(first)
        self._open_bytes += len(first)
        if more:
            rest = more.pop()
            more.reverse()
            self._ready = [*more, b"".join(self._open)]
            self._open, self._open_bytes = [rest], len(rest)
        elif self._open_bytes > self._max_bytes:
            self._open, self._open_bytes, self._too_long = [], 0, True

    def _last(self) -> bytes:
        line = b"".join(self._open)
        if not line and not self._too_long:
            raise StopIteration
        return self._numbered(line)

    def _numbered(self, line: bytes) -> bytes:
        self.number += 1
        too_long, self._too_long = self._too_long or len(line) > self._max_bytes + 1, False
        if too_long:
            raise LineTooLong(self.number, self._max_bytes)
        if self.number == 1 and line.startswith(_BYTE_ORDER_MARK):
            return line[len(_BYTE_ORDER_MARK) :]
        return line
