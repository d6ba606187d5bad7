"""
Where rows come from: a file or standard input, read in pieces, and given up as soon as a signal asks to stop.
"""

from __future__ import annotations

import os
import select
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from safepulsar.cli.rows import csv_rows, json_rows
from safepulsar.cli.stop import Stopped
from safepulsar.errors import InvalidInput

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from safepulsar.cli.rows import ReadRows
    from safepulsar.cli.stop import StopSignals

STANDARD_INPUT: Final = "-"
_PIECE_BYTES: Final = 64 * 1024
_FORMATS: Final[dict[str, ReadRows]] = {".csv": csv_rows, ".jsonl": json_rows}


class Source:
    """
    An open file; used in a `with` block, by one thread.

    Args:
        file: a path, or `-` for standard input.
        stop: ends the reading.

    Raises:
        InvalidInput: the file is missing, is no file, may not be read, or its name says no format that is known.

    Attributes:
        read_rows: reads what the file's name says that it holds.
        read_bytes: so many so far.
        size_bytes: of what there is to read, None if that is not known.
    """

    def __init__(self, file: str, stop: StopSignals) -> None:
        self.read_rows = _format(file)
        self.read_bytes = 0
        self._stop = stop
        self._ours = file != STANDARD_INPUT
        self._descriptor = _open(file) if self._ours else _standard_input()
        status = os.fstat(self._descriptor)
        self.size_bytes = status.st_size if stat.S_ISREG(status.st_mode) else None

    def __enter__(self) -> Self:
        """
        Itself.
        """
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """
        Close it, but not standard input, which is not ours.
        """
        if self._ours:
            os.close(self._descriptor)

    def read(self) -> bytes:
        """
        The next piece, empty at the end.

        Raises:
            Stopped: a signal asked to; what was read of a line so far is no line.
        """
        # Not by waiting in `read` alone: the handler of a signal raises nothing, and Python would go on waiting.
        select.select([self._descriptor, self._stop.fileno()], [], [])
        if self._stop.requested:
            raise Stopped
        piece = os.read(self._descriptor, _PIECE_BYTES)
        self.read_bytes += len(piece)
        return piece


def _format(file: str) -> ReadRows:
    suffix = ".jsonl" if file == STANDARD_INPUT else Path(file).suffix.lower()
    if suffix not in _FORMATS:
        raise InvalidInput("FILE", f"{file!r} must end in .csv or .jsonl, or be - for JSON lines on standard input")
    return _FORMATS[suffix]


def _standard_input() -> int:
    if sys.stdin is None:  # so it is in a process that was started without
        raise InvalidInput("FILE", "standard input is closed; send something to it, or name a file")
    return sys.stdin.fileno()


def _open(file: str) -> int:
    try:
        if not stat.S_ISREG(Path(file).stat().st_mode):
            what = "a folder" if Path(file).is_dir() else "not a plain file"
            raise InvalidInput("FILE", f"{file!r} is {what}; name a file, or send JSON lines to standard input with -")
        return os.open(file, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise InvalidInput("FILE", f"{file!r} can't be read: {os.strerror(error.errno or 0)}") from error
