"""
How long the machine kept this process waiting for a processor: no fault of the code under test.
"""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

_TASKS: Final = Path("/proc/self/task")
_EVERY_SECONDS: Final = 0.02
_NANO: Final = 1e-9


class Starvation:
    """
    Notes, in a `with` block, how long threads of this process were ready to run and had no processor.

    Linux counts that for each thread. Waiting for the interpreter's lock, for a lock or for a disk is not part of it,
    so code that holds up others is not excused. Elsewhere than on Linux it notes nothing.
    """

    def __init__(self) -> None:
        self._samples: list[tuple[float, float]] = []  # when, and how long since the sample before
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="starvation")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def between(self, begin: float, end: float) -> float:
        """
        Return the seconds between two moments of the monotonic clock, those of all threads together.
        """
        # A sample tells of the time before it: so one more belongs to the stretch.
        seconds, after = 0.0, False
        for moment, waited in self._samples:
            if moment >= begin and not after:
                seconds += waited
                after = moment >= end
        return seconds

    def _run(self) -> None:
        before: dict[str, int] = {}
        while not self._stop.wait(_EVERY_SECONDS):
            waited = _waited()
            delta = sum(ns - before.get(thread, ns) for thread, ns in waited.items())
            self._samples.append((time.monotonic(), delta * _NANO))
            before = waited


def _waited() -> dict[str, int]:
    waited = {}
    if _TASKS.is_dir():
        for task in _TASKS.iterdir():
            with contextlib.suppress(OSError):  # it ended meanwhile
                waited[task.name] = int((task / "schedstat").read_text().split()[1])
    return waited
