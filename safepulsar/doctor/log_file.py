"""
An application's log, read for what the package says in it: JSON lines, or lines with the event and `name=value` fields.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_EVENT: Final = re.compile(r"\bsafepulsar\.[a-z_]+\b")
_FIELD: Final = re.compile(r'\b([a-z_]+)=("(?:[^"\\]|\\.)*"|\S+)')
_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:[.,](\d{1,6}))?(Z|[+-]\d\d:?\d\d)?")
_LONGEST: Final = 100_000  # characters of a line that are looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """
    One record of the package's.

    Args:
        event: its name.
        level: of `logging`; empty where the line does not say.
        at: Unix time in seconds, None where the line does not say.
        fields: as text or numbers.
    """

    event: str
    level: str
    at: float | None
    fields: dict[str, object] = field(default_factory=dict)

    def number(self, name: str, otherwise: int = 0) -> int:
        """
        A field that counts something.
        """
        try:
            return int(str(self.fields.get(name, otherwise)))
        except ValueError:
            return otherwise


def read_log(path: str | os.PathLike[str]) -> Iterator[Entry]:
    """
    The records of the package in a file, in its order; all other lines are passed over.

    Raises:
        OSError: it can't be read.
    """
    with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - any path that `open` takes
        while line := file.readline(_LONGEST):
            entry = _entry(line)
            if entry is not None:
                yield entry


def _entry(line: str) -> Entry | None:
    if line.lstrip().startswith("{"):
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if isinstance(value, dict):
            event = value.get("event", value.get("message", value.get("msg")))
            if not isinstance(event, str) or not _EVENT.fullmatch(event):
                return None
            level = value.get("level", value.get("levelname", ""))
            at = next((value[name] for name in ("time", "timestamp", "@timestamp", "asctime") if name in value), None)
            return Entry(event=event, level=str(level).upper(), at=_seconds(at), fields=value)
    # The logger has the package's name, too, but no name of an event.
    event = next((found for found in _EVENT.findall(line) if found != "safepulsar.client"), None)
    if event is None:
        return None
    level = next((word for word in re.findall(r"\b[A-Z]{4,8}\b", line) if word in _LEVELS), "")
    fields: dict[str, object] = {name: _plain(value) for name, value in _FIELD.findall(line)}
    return Entry(event=event, level=level, at=_seconds(line), fields=fields)


def _plain(value: str) -> str:
    if value.startswith('"'):
        try:
            return str(json.loads(value))
        except ValueError:
            return value
    return value


def _seconds(value: object) -> float | None:
    if isinstance(value, (int, float)):
        return float(value)
    found = _TIME.search(value) if isinstance(value, str) else None
    if found is None:
        return None
    day, clock, fraction, zone = found.groups()
    text = f"{day}T{clock}.{(fraction or '0').ljust(6, '0')}"
    try:
        moment = datetime.fromisoformat(text)
        if zone is None:
            return moment.astimezone().timestamp()  # as `logging` writes it: the local time
        shift = "+00:00" if zone == "Z" else zone if ":" in zone else f"{zone[:3]}:{zone[3:]}"
        return datetime.fromisoformat(text + shift).astimezone(timezone.utc).timestamp()
    except ValueError:
        return None
