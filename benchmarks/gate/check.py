"""
`python -m benchmarks check`: counts first, then ratios on pulsar-lite, measured on until the noise is out of the way.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.console import Console

from benchmarks import machine, tables
from benchmarks.case import FIGURES, FULL, QUICK, Effort, Kind
from benchmarks.gate import baseline as files
from benchmarks.gate.decide import Bound, Verdict, decide, worse_counts
from benchmarks.results import judge, place
from benchmarks.rounds import take_turns
from benchmarks.stage import Broker, stage
from benchmarks.statistics import median
from benchmarks.subjects import cases

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from benchmarks.case import Case, Scene

_COUNTING_SECONDS = 120
_COUNTS_ALLOWED = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """
    What is checked.

    Args:
        cases: by name; the smallest of their sizes.
        effort: of each, with the rounds that are measured at once.
        most_rounds: when measuring on ends, and the median decides.
        allowed: how much throughput may fall, as a share.
    """

    cases: tuple[str, ...]
    effort: Effort
    most_rounds: int
    allowed: float


LONG = Plan(
    cases=("submit-1", "submit-8", "send-many-100", "send-1", "send-8", "send-64", "await-100", "keyed-shared"),
    effort=replace(FULL, seconds=1.0),
    most_rounds=25,
    allowed=0.1,
)
# What halves is caught, and what a busy machine does is not. So nothing here waits for the broker message by message: the
# counts tell of that.
SHORT = Plan(
    cases=("submit-1", "send-many-100"),
    effort=replace(QUICK, rounds=5, messages=10_000, seconds=0.2),
    most_rounds=15,
    allowed=0.45,
)
# Only what fills its rounds with work: of a round that waits for the broker, the CPU time is mostly noise.
_GOALS = ("rate", "CPU per message")


def main(*, short: bool = False, update: bool = False, baseline: Path | None = None) -> int:
    """
    Return 0 if nothing got worse, else 1.

    Raises:
        ResultsError: there is no baseline.
        NotHereError: there is no pulsar-lite.
    """
    console = tables.console()
    path = baseline or files.PATH
    plan = SHORT if short else LONG
    old = None if update else files.load(path)
    counts = counted()
    with stage(Broker.LITE, plan.effort) as scene:
        if old is None:
            return _update(path, scene, counts, console)
        worse = _worse_counts(old, counts, console)
        for case in _cases(plan):
            worse += check_case(case, replace(scene, size_bytes=case.sizes[0]), old.ratios, plan, console)
    for line in worse:
        console.print(f"worse: {line}", style="bold red")
    if not worse:
        console.print("nothing got worse", style="green")
    return int(bool(worse))


def counted() -> dict[str, float]:
    """
    Return the counts, taken in a process of their own.
    """
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.gate.counting"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=_COUNTING_SECONDS,
    )
    found: dict[str, float] = json.loads(ran.stdout)
    return found


def check_case(
    case: Case, scene: Scene, ratios: Mapping[str, float], plan: Plan, console: Console | None = None
) -> list[str]:
    """
    Measure a case until each of its ratios is decided, and return those that got worse.
    """
    console = console or Console(quiet=True)
    figures: dict[str, dict[str, list[float]]] = {}
    worse: list[str] = []
    rounds = 0
    with case.prepare(scene) as contenders:
        while not rounds or (rounds < plan.most_rounds and not _decided(case, scene, ratios, figures, plan)):
            more, _ = take_turns(contenders, rounds=plan.effort.rounds, warm_up=not rounds)
            rounds += plan.effort.rounds
            for contender, by_figure in more.items():
                for figure, values in by_figure.items():
                    figures.setdefault(contender, {}).setdefault(figure, []).extend(values)
    for name, verdict, now, bound in _verdicts(case, scene, ratios, figures, plan, last=True):
        line = f"{name}: {now:.2f}, baseline {bound.baseline:.2f}, limit {bound.limit:.2f}, {rounds} rounds"
        console.print(f"{verdict.value:6} {line}")
        if verdict is Verdict.WORSE:
            worse.append(line)
    return worse


def _decided(
    case: Case,
    scene: Scene,
    ratios: Mapping[str, float],
    figures: Mapping[str, Mapping[str, list[float]]],
    plan: Plan,
) -> bool:
    verdicts = _verdicts(case, scene, ratios, figures, plan, last=False)
    return not any(verdict is Verdict.UNDECIDED for _, verdict, _, _ in verdicts)


def _verdicts(
    case: Case,
    scene: Scene,
    ratios: Mapping[str, float],
    figures: Mapping[str, Mapping[str, list[float]]],
    plan: Plan,
    *,
    last: bool,
) -> list[tuple[str, Verdict, float, Bound]]:
    found = []
    for name, rounds, more_is_better in _ratios(case, scene, figures):
        if name in ratios:
            bound = Bound(baseline=ratios[name], allowed=plan.allowed, more_is_better=more_is_better)
            found.append((name, decide(rounds, bound, last=last), median(rounds), bound))
    return found


def _ratios(
    case: Case, scene: Scene, figures: Mapping[str, Mapping[str, list[float]]]
) -> list[tuple[str, list[float], bool]]:
    where = place(case.name, scene.broker, scene.size_bytes)
    return [
        (f"{where}: {goal.name}", finding.rounds, FIGURES[goal.figure].more_is_better)
        for goal in case.goals
        if goal.kind is Kind.RATIO and goal.name in _GOALS and (finding := judge(goal, figures)) is not None
    ]


def _worse_counts(old: files.Baseline, counts: Mapping[str, float], console: Console) -> list[str]:
    if old.python != files.python():
        console.print(f"counts are not compared: the baseline's are of Python {old.python}", style="yellow")
        return []
    worse = worse_counts(old.counts, counts, _COUNTS_ALLOWED)
    console.print(f"{len(old.counts) - len(worse)} of {len(old.counts)} counts hold")
    return [f"{name}: {what}" for name, what in worse.items()]


def _update(path: Path, scene: Scene, counts: dict[str, float], console: Console) -> int:
    ratios: dict[str, float] = {}
    for case in _cases(LONG):
        here = replace(scene, size_bytes=case.sizes[0])
        console.print(f"measuring {case.name}")
        with case.prepare(here) as contenders:
            figures, _ = take_turns(contenders, rounds=scene.effort.rounds)
        ratios |= {name: round(median(rounds), 4) for name, rounds, _ in _ratios(case, here, figures)}
    files.save(files.Baseline(python=files.python(), machine=machine.describe(), ratios=ratios, counts=counts), path)
    console.print(f"wrote {path}")
    return 0


def _cases(plan: Plan) -> list[Case]:
    return [case for case in cases() if case.name in plan.cases]
