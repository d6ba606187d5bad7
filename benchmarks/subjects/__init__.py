"""
Everything that is measured, a module a subject: each has a list `CASES`, and is named here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.case import Case

# In the order in which they run and are shown.
SUBJECTS = (
    "imports",
    "submit",
    "sync",
    "awaiting",
    "web",
    "cost",
    "steps",
    "pipeline",
    "pool",
    "keyed",
    "orders",
    "store",
    "outbox",
    "reorder",
    "threads",
    "shape",
    "languages",
    "memory",
)


def cases() -> list[Case]:
    """
    Return all of them.
    """
    return [case for subject in SUBJECTS for case in import_module(f"benchmarks.subjects.{subject}").CASES]


def chosen(patterns: list[str]) -> list[Case]:
    """
    Return those whose name or subject is one of `patterns`; `*` stands for anything.

    Raises:
        LookupError: a pattern fits none; the text has names that are alike.
    """
    import fnmatch  # noqa: PLC0415 - only where something is chosen

    everything = cases()
    found = []
    for pattern in patterns:
        fitting = [case for case in everything if fnmatch.fnmatch(case.name, pattern) or case.subject == pattern]
        if not fitting:
            raise LookupError(_unknown(pattern, everything))
        found += fitting
    return [case for case in everything if case in found] if patterns else everything


def _unknown(pattern: str, everything: list[Case]) -> str:
    import difflib  # noqa: PLC0415 - only where something is wrong

    names = [*(case.name for case in everything), *SUBJECTS]
    alike = difflib.get_close_matches(pattern, names, n=3)
    hint = f"; is it {' or '.join(alike)}?" if alike else ""
    return f"there is no case {pattern!r}{hint} (--list shows all)"
