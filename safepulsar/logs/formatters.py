"""
Ways to write a record with its fields: a line for people, a JSON object for machines, and a processor for structlog.
"""

from __future__ import annotations

import json
import logging
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from safepulsar.logs.fields import fields_of, visible

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from typing import Any


class TextFormatter(logging.Formatter):
    """
    The record on one line, its fields behind it: `safepulsar.failed topic=… error_code=Timeout`.

    A traceback follows on lines of its own, as usual.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """
        The line.
        """
        record.message = visible(record.message)
        fields = "".join(f" {name}={_word(value)}" for name, value in fields_of(record).items())
        return super().formatMessage(record) + fields


class JsonFormatter(logging.Formatter):
    """
    The record as one JSON object on one line, in ASCII: time, level, logger, event, and each field by its name.

    Fits records of every logger, so that it may format all of an application's.
    """

    def format(self, record: logging.LogRecord) -> str:
        """
        The line.
        """
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "event": visible(record.getMessage()),
        }
        for name, value in fields_of(record).items():
            line[f"{name}_" if name in line else name] = value
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def structlog_fields(_logger: object, _name: str, event_dict: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """
    For structlog's `ProcessorFormatter(foreign_pre_chain=[…])`: add a record's fields to its event.
    """
    record = event_dict.get("_record")
    if isinstance(record, logging.LogRecord):
        for name, value in fields_of(record).items():
            event_dict.setdefault(name, value)
    return event_dict


def _word(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or " " in text or '"' in text or "=" in text else text
