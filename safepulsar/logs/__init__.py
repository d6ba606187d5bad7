"""
What the package tells Python's `logging`: one name for each event, and everything else in fields.

It configures nothing: levels, handlers and formats are the application's. What is here can be put into them.
"""

from safepulsar.logs.client_log import ClientLog
from safepulsar.logs.fields import fields_of, visible
from safepulsar.logs.formatters import JsonFormatter, TextFormatter, structlog_fields
from safepulsar.logs.outcomes import KeyField, LogOutcomes
from safepulsar.logs.repeats import RepeatFilter

__all__ = [
    "ClientLog",
    "JsonFormatter",
    "KeyField",
    "LogOutcomes",
    "RepeatFilter",
    "TextFormatter",
    "fields_of",
    "structlog_fields",
    "visible",
]
