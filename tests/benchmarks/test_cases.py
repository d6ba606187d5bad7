"""
Every case runs, in its quickest form.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from benchmarks.case import FIGURES, NotHereError
from benchmarks.rounds import measure
from benchmarks.subjects import SUBJECTS, cases, chosen, languages
from tools.pulsar import jars

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.case import Case, Scene

_ALL = cases()
# Compilers have tests of their own below.
_HERE = [case for case in _ALL if case.subject != "languages"]


def _check(case: Case, scene: Scene) -> None:
    found = measure(case, replace(scene, size_bytes=case.sizes[0]), rounds=1)
    assert found.figures
    for figures in found.figures.values():
        assert set(figures) <= set(FIGURES)
        assert all(len(rounds) == 1 for rounds in figures.values())
    assert {finding.name for finding in found.findings} == {goal.name for goal in case.goals}


@pytest.mark.parametrize("case", [case for case in _HERE if case.needs_broker], ids=lambda case: case.name)
def test_a_case_runs_on_a_broker(case: Case, scene: Scene) -> None:
    """
    Each contender has its figures, and each goal is judged.
    """
    _check(case, scene)


@pytest.mark.parametrize("case", [case for case in _HERE if not case.needs_broker], ids=lambda case: case.name)
def test_a_case_runs_without_a_broker(case: Case, nowhere: Scene) -> None:
    """
    Likewise.
    """
    _check(case, nowhere)


def test_java_takes_part_where_it_is_found(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Without Go, which takes minutes to build the first time; without Java, too, the case says what is missing.
    """
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "go" else which(name))
    (case,) = chosen(["languages-sync"])
    if which("javac") is None or not jars.folder().is_dir():
        with pytest.raises(NotHereError, match="Java needs javac on PATH"):
            measure(case, scene, rounds=1)
        return
    found = measure(case, scene, rounds=1)
    assert "Java send, unbatched" in found.figures
    assert {finding.name for finding in found.findings} == {"send, to Java"}


def test_go_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    With what to do.
    """
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(NotHereError, match="Go needs go on PATH"):
        languages.go(tmp_path)


def test_cases_have_names_of_their_own() -> None:
    """
    And goals, and subjects that are known.
    """
    names = [case.name for case in _ALL]
    assert len(set(names)) == len(names)
    assert {case.subject for case in _ALL} == set(SUBJECTS)
    for case in _ALL:
        goals = [goal.name for goal in case.goals]
        assert goals
        assert len(set(goals)) == len(goals)
