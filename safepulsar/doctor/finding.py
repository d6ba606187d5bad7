"""
What the doctor says: one finding for each thing that was looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Level(str, Enum):
    """
    How serious it is.
    """

    OK = "ok"
    WARN = "warn"  # works, with a risk that should be known; or could not be looked at
    BAD = "bad"  # will fail, or lose or expose messages


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """
    One thing that was looked at.

    Args:
        id: stable, for scripts; e.g. `deduplication`.
        level: see `Level`.
        what: what was found; never a secret.
        remedy: what to do, empty if there is nothing to do.
    """

    id: str
    level: Level
    what: str
    remedy: str = ""
