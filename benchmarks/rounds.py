"""
Lets contenders take turns, round by round, so that a slow moment of the machine hits all of them.
"""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING

from benchmarks.latency import Latencies
from benchmarks.results import Result, judge

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from benchmarks.case import Case, Contender, Scene


def measure(
    case: Case, scene: Scene, *, rounds: int, on_turn: Callable[[str], None] = lambda _contender: None
) -> Result:
    """
    Run a case on a scene: a first round that does not count, where the case has one, and then `rounds` that do.

    Raises:
        NotHereError: it can't run here.
    """
    began = time.monotonic()
    with case.prepare(scene) as contenders:
        figures, latencies = take_turns(contenders, rounds=rounds, warm_up=case.warm_up, on_turn=on_turn)
    findings = [finding for goal in case.goals if (finding := judge(goal, figures)) is not None]
    return Result(
        case=case.name,
        title=case.title,
        subject=case.subject,
        broker=scene.broker,
        size_bytes=scene.size_bytes,
        series=case.series,
        x=case.x,
        figures=figures,
        latencies={name: found.as_json() for name, found in latencies.items() if found},
        findings=findings,
        seconds=round(time.monotonic() - began, 1),
    )


def take_turns(
    contenders: Mapping[str, Contender],
    *,
    rounds: int,
    warm_up: bool = True,
    on_turn: Callable[[str], None] = lambda _contender: None,
) -> tuple[dict[str, dict[str, list[float]]], dict[str, Latencies]]:
    """
    Return the figures of each contender by round, and its latencies over all rounds.

    Every second round goes the other way round, so that none has always the same one before it.
    """
    figures: dict[str, dict[str, list[float]]] = {name: {} for name in contenders}
    latencies = {name: Latencies() for name in contenders}
    for number in range(0 if warm_up else 1, rounds + 1):
        order = list(contenders) if number % 2 else list(contenders)[::-1]
        for name in order:
            on_turn(name)
            gc.collect()  # what another one left behind is not this one's to clean up
            sample = contenders[name]()
            if number:
                for figure, value in sample.figures.items():
                    figures[name].setdefault(figure, []).append(value)
                latencies[name].add(sample.latencies_ns)
    return figures, latencies
