"""
The history checker: what was sent, what we were told of it, and what a reader found, judged together.
"""

from tests.history.checker import Counts, Kind, Report, Rules, Violation, assert_valid, check
from tests.history.recorder import Event, History, What

__all__ = [
    "Counts",
    "Event",
    "History",
    "Kind",
    "Report",
    "Rules",
    "Violation",
    "What",
    "assert_valid",
    "check",
]
