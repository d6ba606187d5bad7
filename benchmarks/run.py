"""
Runs cases on brokers one after the other, shows how far it is, and saves after each.
"""

from __future__ import annotations

import traceback
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks import machine, results
from benchmarks.case import NotHereError
from benchmarks.rounds import measure
from benchmarks.stage import Broker, stage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from benchmarks.case import Case, Effort, Scene


def run(
    cases: Sequence[Case],
    kinds: Sequence[Broker],
    effort: Effort,
    *,
    orders: Path,
    rounds: int | None = None,
    save_to: Path | None = None,
    add: bool = False,
    quiet: bool = False,
) -> results.Results:
    """
    Return everything that was found; what can't run here is named in `missing`.

    Raises:
        ResultsError: `add`, and the file is none that can be added to.
    """
    effort = replace(effort, rounds=rounds) if rounds else effort
    found = results.Results(
        machine=machine.describe(),
        effort=asdict(effort),
        began=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    old = results.load(save_to) if add and save_to is not None and save_to.exists() else None
    if old is not None and not machine.same_machine(old.machine, found.machine):
        raise results.ResultsError(f"{save_to} comes from another machine or Python; name another file")
    runs = list(_runs(cases, kinds))
    with _bar(quiet=quiet) as bar:
        task = bar.add_task("starting", total=len(runs))
        for kind in (Broker.NONE, *kinds):
            mine = [(case, size) for case, size, on in runs if on is kind]
            if not mine:
                continue
            for result in _on_stage(kind, mine, effort, orders, found, bar):
                bar.advance(task)
                if result is not None:
                    found.results.append(result)
                if save_to is not None:
                    results.save(results.added(old, found) if old else found, save_to)
    return found


def _runs(cases: Sequence[Case], kinds: Sequence[Broker]) -> Iterator[tuple[Case, int, Broker]]:
    for case in cases:
        for kind in kinds if case.needs_broker else (Broker.NONE,):
            for size in case.sizes:
                yield case, size, kind


def _on_stage(
    kind: Broker,
    mine: list[tuple[Case, int]],
    effort: Effort,
    orders: Path,
    found: results.Results,
    bar: Progress,
) -> Iterator[results.Result | None]:
    task = bar.task_ids[0]
    with ExitStack() as opened:
        try:
            bar.update(task, description=f"starting {kind.value}" if kind.value else "no broker needed")
            scene = opened.enter_context(stage(kind, effort, orders))
        except NotHereError as error:
            for case, size in mine:
                found.missing[results.place(case.name, kind.value, size)] = str(error)
                yield None
            return
        for case, size in mine:
            yield _one(case, replace(scene, size_bytes=size), found, bar)


def _one(case: Case, scene: Scene, found: results.Results, bar: Progress) -> results.Result | None:
    rounds = min(scene.effort.rounds, case.max_rounds or scene.effort.rounds)
    task = bar.task_ids[0]
    place = results.place(case.name, scene.broker, scene.size_bytes)

    def on_turn(contender: str) -> None:
        bar.update(task, description=f"{place}: {contender}")

    try:
        return measure(case, scene, rounds=rounds, on_turn=on_turn)
    except NotHereError as error:
        found.missing[place] = str(error)
    except Exception as error:  # noqa: BLE001 - told below and in the results; the other cases go on
        found.failed[place] = f"{type(error).__name__}: {error}"
        bar.console.print(traceback.format_exc(), markup=False, highlight=False, soft_wrap=True)
    return None


def _bar(*, quiet: bool) -> Progress:
    return Progress(
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
        console=Console(stderr=True),
        transient=True,
        disable=quiet,
    )
