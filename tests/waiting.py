"""
Waiting for a fact, in place of sleeping for as long as it usually takes.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def wait_until(fact: Callable[[], bool], what: str, *, timeout_seconds: float = 10.0) -> None:
    """
    Return as soon as the fact holds; asked again every 10 ms.

    Raises:
        AssertionError: it does not hold after the time allowed; the text names what was waited for.
    """
    deadline = time.monotonic() + timeout_seconds
    while not fact():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_seconds:g} s for: {what}")
        time.sleep(0.01)
