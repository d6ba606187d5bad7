"""
Results as data and as a file: every figure of every round, so that whoever reads it can judge the noise.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from benchmarks.case import FIGURES, Kind
from benchmarks.statistics import median, median_interval

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from benchmarks.case import Goal

FORMAT = 1


class ResultsError(Exception):
    """
    A file of results can't be used; the text says why and what to do.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """
    What became of a goal.

    Args:
        name: of the goal.
        kind: see `Kind`.
        figure: see `FIGURES`.
        ours: the contender.
        against: the one that it was compared with, None for a value.
        rounds: what each round gave.
        median: of those.
        low: the true median is hardly below; see `median_interval`.
        high: or above.
        at_least: the goal.
        at_most: likewise.
    """

    name: str
    kind: str
    figure: str
    ours: str
    against: str | None
    rounds: list[float]
    median: float
    low: float
    high: float
    at_least: float | None
    at_most: float | None

    @property
    def met(self) -> bool | None:
        """
        Whether the median reaches the goal; None if there is none.
        """
        if self.at_least is None and self.at_most is None:
            return None
        return (self.at_least is None or self.median >= self.at_least) and (
            self.at_most is None or self.median <= self.at_most
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """
    One case on one broker with one size of payload.

    Args:
        case: its name.
        title: for people.
        subject: its module.
        broker: the kind, empty if none was needed.
        size_bytes: of each payload, 0 if there was none.
        series: see `Case`.
        x: see `Case`.
        figures: of each contender, by round.
        latencies: of each contender: percentiles in µs, and the whole histogram, encoded by HdrHistogram.
        findings: see `Finding`.
        seconds: that it took.
    """

    case: str
    title: str
    subject: str
    broker: str
    size_bytes: int
    series: str
    x: float
    figures: dict[str, dict[str, list[float]]]
    latencies: dict[str, dict[str, float | str]]
    findings: list[Finding]
    seconds: float

    @property
    def key(self) -> tuple[str, str, int]:
        """
        What it is the result of.
        """
        return self.case, self.broker, self.size_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """
    A whole run.

    Args:
        machine: see `machine.describe`.
        effort: of the run.
        began: when, as ISO 8601 in UTC.
        results: one a case, broker and size.
        missing: cases that can't run here, and why.
        failed: cases that ended with an error, and which.
    """

    machine: dict[str, object]
    effort: dict[str, float]
    began: str
    results: list[Result] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def find(self, case: str, broker: str | None = None, size_bytes: int | None = None) -> Result | None:
        """
        Return the first result that it fits.
        """
        for result in self.results:
            if result.case == case and broker in (None, result.broker) and size_bytes in (None, result.size_bytes):
                return result
        return None


def place(case: str, broker: str, size_bytes: int) -> str:
    """
    Return how a case on a broker with a size is called.
    """
    return ", ".join(filter(None, [case, f"{size_bytes:,} B" if size_bytes else "", broker]))


def judge(goal: Goal, figures: Mapping[str, Mapping[str, list[float]]]) -> Finding | None:
    """
    Hold a goal against the figures of its case; None if a contender that it needs did not take part.
    """
    ours = figures.get(goal.ours, {}).get(goal.figure)
    if not ours:
        return None
    against = None
    if goal.kind is Kind.VALUE:
        rounds = list(ours)
    else:
        others = {
            name: series[goal.figure]
            for name, series in figures.items()
            if name != goal.ours and name.startswith(goal.against) and goal.figure in series
        }
        if not others:
            return None
        best = max if FIGURES[goal.figure].more_is_better else min
        against = best(others, key=lambda name: median(others[name]))
        pairs = zip(ours, others[against], strict=True)
        rounds = [mine / theirs if goal.kind is Kind.RATIO else mine - theirs for mine, theirs in pairs]
    low, high = median_interval(rounds)
    return Finding(
        name=goal.name,
        kind=goal.kind.value,
        figure=goal.figure,
        ours=goal.ours,
        against=against,
        rounds=rounds,
        median=median(rounds),
        low=low,
        high=high,
        at_least=goal.at_least,
        at_most=goal.at_most,
    )


def save(results: Results, path: Path) -> None:
    """
    Write the file, whole or not at all.
    """
    text = json.dumps({"format": FORMAT, **asdict(results)}, indent=1, ensure_ascii=False) + "\n"
    scratch = path.with_name(f".{path.name}.new")
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, path)  # noqa: PTH105 - as a pair with the name above


def load(path: Path) -> Results:
    """
    Read a file that `save` wrote.

    Raises:
        ResultsError: there is none, or it is something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ResultsError(f"there is no {path}: make it with `python -m benchmarks run --json {path}`") from None
    except (OSError, ValueError) as error:
        raise ResultsError(f"{path} can't be read as JSON: {error}") from error
    if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
        raise ResultsError(f"{path} is no file of results in format {FORMAT}; run the benchmarks again")
    try:
        results = [
            Result(**{**result, "findings": [Finding(**finding) for finding in result["findings"]]})
            for result in found.pop("results")
        ]
        return Results(**found, results=results)
    except (KeyError, TypeError) as error:
        raise ResultsError(f"{path} is no file of results in format {FORMAT}: {error}") from error


def added(old: Results, new: Results) -> Results:
    """
    Return `new` with what only `old` has.
    """
    fresh = {result.key for result in new.results}
    again = {place(*key) for key in fresh}
    return Results(
        machine=new.machine,
        effort=new.effort,
        began=new.began,
        results=[*(result for result in old.results if result.key not in fresh), *new.results],
        missing={**{where: why for where, why in old.missing.items() if where not in again}, **new.missing},
        failed={**{where: why for where, why in old.failed.items() if where not in again}, **new.failed},
    )
