"""
Runs cases in turn, round by round, so that a slow moment of the machine hits all of them.
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """
    One line of the result.

    Args:
        name: what was compared.
        broker: on which one.
        size_bytes: of each payload.
        rates: median messages per second by case.
        ratio: ours to the best raw one, the median over the rounds of the ratio within a round.
        goal: at least this.
    """

    name: str
    broker: str
    size_bytes: int
    rates: dict[str, float]
    ratio: float
    goal: float

    def as_json(self) -> dict[str, object]:
        """
        Plain data.
        """
        return asdict(self)


def compare(
    name: str, broker: str, size_bytes: int, cases: Mapping[str, Callable[[], float]], *, rounds: int, goal: float
) -> Comparison:
    """
    Run each case once per round, after a first round that does not count.
    """
    rates: dict[str, list[float]] = {case: [] for case in cases}
    for number in range(rounds + 1):
        for case, run in cases.items():
            rate = run()
            if number:
                rates[case].append(rate)
    medians = {case: statistics.median(values) for case, values in rates.items()}
    raw = max((case for case in cases if case.startswith("raw")), key=lambda case: medians[case])
    ratio = statistics.median(ours / theirs for ours, theirs in zip(rates["safepulsar"], rates[raw], strict=True))
    return Comparison(name=name, broker=broker, size_bytes=size_bytes, rates=medians, ratio=ratio, goal=goal)


def import_milliseconds(rounds: int) -> tuple[float, float]:
    """
    Median time to import `pulsar`, and what `safepulsar` adds to it, each in new processes.
    """
    times: dict[str, list[float]] = {"pulsar": [], "safepulsar": []}
    for _ in range(rounds):
        for module, values in times.items():
            program = (
                "import time; began = time.perf_counter(); "
                f"import {module}; print(1000 * (time.perf_counter() - began))"
            )
            ran = subprocess.run(  # noqa: S603 - our own interpreter and program
                [sys.executable, "-c", program], check=True, capture_output=True, text=True
            )
            values.append(float(ran.stdout))
    raw, ours = (statistics.median(values) for values in times.values())
    return raw, ours - raw


def machine() -> dict[str, object]:
    """
    What it ran on.
    """
    import os  # noqa: PLC0415 - for this one number

    return {"python": platform.python_version(), "system": platform.platform(), "cores": os.cpu_count()}
