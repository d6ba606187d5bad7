"""
The fields of a log record, made harmless: a control character in one could forge a line, or change what a terminal shows.
"""

from __future__ import annotations

import logging
from typing import Final

_PLAIN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_MOST: Final = 2000  # characters of one field


def visible(text: str) -> str:
    """
    The text with everything that is not printable written as Python would escape it, cut if it is very long.
    """
    if len(text) > _MOST:
        text = f"{text[:_MOST]}… ({len(text) - _MOST} more)"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in text)


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """
    What stands in a record beside what every record has: numbers and truth values as they are, all else as visible text.
    """
    return {visible(name): _harmless(value) for name, value in vars(record).items() if name not in _PLAIN}


def _harmless(value: object) -> object:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return visible(str(value))
