"""
Results survive the way to the disk and back, and a file that is something else is told so.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from benchmarks import results
from benchmarks.results import ResultsError, added, load, save
from tests.benchmarks import samples

if TYPE_CHECKING:
    from pathlib import Path


def test_results_are_the_same_after_a_round_trip(tmp_path: Path) -> None:
    """
    Every figure of every round.
    """
    found = samples.results()
    save(found, tmp_path / "results.json")
    assert load(tmp_path / "results.json") == found
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "there is no"),
        ("{", "can't be read as JSON"),
        ("[]", "no file of results in format 1"),
        (json.dumps({"format": 2}), "no file of results in format 1"),
        (json.dumps({"format": 1}), "no file of results in format 1: 'results'"),
    ],
)
def test_another_file_is_refused(text: str | None, complaint: str, tmp_path: Path) -> None:
    """
    With its name, and what is wrong with it.
    """
    path = tmp_path / "other.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ResultsError, match=complaint) as raised:
        load(path)
    assert "other.json" in str(raised.value)


def test_what_was_not_measured_again_is_kept() -> None:
    """
    And what was is replaced, its old failure too.
    """
    old = samples.results()
    again = replace(old.results[0], seconds=99.0)
    where = results.place(*again.key)
    old = replace(old, failed={where: "Boom", "other": "Bang"})
    both = added(old, replace(old, results=[again], failed={}))
    assert len(both.results) == len(old.results)
    assert [result.seconds for result in both.results if result.key == again.key] == [99.0]
    assert both.failed == {"other": "Bang"}
