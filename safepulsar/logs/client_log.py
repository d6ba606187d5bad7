"""
The client library's own log, brought into Python's by reading its file: never by a logger that the library calls.

Its threads would have to wait for the GIL, and at the end of the process call into an interpreter that is gone.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from typing import TYPE_CHECKING, Final

from safepulsar.logs.fields import visible

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

_LINE: Final = re.compile(r"\S+ \S+ (DEBUG|INFO|WARN|ERROR|FATAL) +\[[^\]]*\] ([^|]{1,200}?) +\| (.*)", re.DOTALL)
_LEVELS: Final = {
    "DEBUG": logging.DEBUG,
    "INFO": logging.INFO,
    "WARN": logging.WARNING,
    "ERROR": logging.ERROR,
    "FATAL": logging.CRITICAL,
}
_MOST_BYTES: Final = 1 << 20  # of one look: what is behind that is skipped, and said to be
_CLOSE_SECONDS: Final = 2.0


class ClientLog:
    """
    Reads the file that `ClientSettings.log_file` names, and logs each new line as `safepulsar.client_log`.

        with ClientLog("pulsar.log"), RetryingSender(ClientSettings(url=url, log_file="pulsar.log")) as sender:
            ...

    The fields are `source` (where in the library) and `text`. On a thread of its own; a file that is rotated, cut or not
    there yet is no problem. Lines that are there already at the start are left alone.

    Args:
        path: of the file.
        logger: where the lines go; `safepulsar.client` by default.
        poll_seconds: between two looks.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, logger: logging.Logger | None = None, poll_seconds: float = 0.5
    ) -> None:
        self._path = path
        self._log = logger or logging.getLogger("safepulsar.client")
        self._poll_seconds = poll_seconds
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._file: int | None = None  # its inode
        self._at = 0
        self._rest = b""

    def start(self) -> Self:
        """
        Read from now on.
        """
        if self._thread is None:
            self._stop.clear()
            try:
                found = os.stat(self._path)  # noqa: PTH116 - as below
                self._file, self._at = found.st_ino, found.st_size
            except OSError:
                self._file, self._at = None, 0  # it will be made
            self._thread = threading.Thread(target=self._run, name="safepulsar-client-log", daemon=True)
            self._thread.start()
        return self

    def stop(self) -> None:
        """
        Log what is there and end.
        """
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stop.set()
            thread.join(_CLOSE_SECONDS)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        while True:
            last = self._stop.wait(self._poll_seconds)
            try:
                self._look()
            except OSError:
                self._file = None  # not there, or not to be read; the next look may find it
            if last:
                return

    def _look(self) -> None:
        with open(self._path, "rb") as file:  # noqa: PTH123 - the path may be any that `os` takes
            found = os.fstat(file.fileno())
            if found.st_ino != self._file or found.st_size < self._at:
                self._file, self._at, self._rest = found.st_ino, 0, b""
            if found.st_size - self._at > _MOST_BYTES:
                skipped = found.st_size - self._at - _MOST_BYTES
                self._at, self._rest = found.st_size - _MOST_BYTES, b""
                self._log.warning("safepulsar.client_log_skipped", extra={"bytes": skipped})
            file.seek(self._at)
            new = file.read(_MOST_BYTES)
        self._at += len(new)
        *lines, self._rest = (self._rest + new).split(b"\n")
        self._rest = self._rest[-_MOST_BYTES:]
        for line in lines:
            if line.strip():
                self._tell(line.decode(errors="replace"))

    def _tell(self, line: str) -> None:
        match = _LINE.fullmatch(line)
        level, source, text = match.groups() if match else ("INFO", "", line)
        number = _LEVELS[level]
        fields = {"source": visible(source), "text": visible(text)}
        self._log.log(number, "safepulsar.client_log", extra=fields)
