"""
What holds for the whole run of a command: whether details are shown, and where the package's log goes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from safepulsar.cli.terminal import complain

_log: Final = logging.getLogger("safepulsar")
_PLAIN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


@dataclass(slots=True)
class Invocation:
    """
    One run of a command, made before the options are read.

    Args:
        debug: show tracebacks and every log, the client library's own too.
    """

    debug: bool = False

    def start_log(self) -> None:
        """
        Send the package's log to standard error: all of it when debugging, else only errors, as a line each.
        """
        if self.debug:
            handler: logging.Handler = logging.StreamHandler()
            handler.setFormatter(_Fields("%(asctime)s %(levelname)s %(message)s"))
            _log.setLevel(logging.DEBUG)
        else:
            handler = _Lines(logging.ERROR)
        _log.addHandler(handler)
        _log.propagate = False


class _Fields(logging.Formatter):
    """
    Appends the fields of a record to its event.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """
        The line with the fields behind it.
        """
        fields = " ".join(f"{k}={v!r}" for k, v in vars(record).items() if k not in _PLAIN)
        return f"{super().formatMessage(record)} {fields}".rstrip()


class _Lines(logging.Handler):
    """
    Shows a record as a complaint, without traceback.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """
        Print it.
        """
        fields = ", ".join(f"{k}: {v}" for k, v in vars(record).items() if k not in _PLAIN)
        complain(
            f"{record.getMessage().removeprefix('safepulsar.').replace('_', ' ')}{f' ({fields})' if fields else ''}"
        )
