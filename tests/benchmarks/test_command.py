"""
The command: what it prints, what it writes, and what it says about a wrong argument.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from benchmarks.command import main
from benchmarks.results import load, save
from benchmarks.subjects import cases
from tests.benchmarks import samples

if TYPE_CHECKING:
    from pathlib import Path


def test_the_list_names_every_case(capsys: pytest.CaptureFixture[str]) -> None:
    """
    One a line.
    """
    assert main(["run", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [case.name for case in cases()]


def test_results_are_written_and_added_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    A second run with --add keeps what the first one measured.
    """
    path = tmp_path / "results.json"
    assert main(["run", "--quick", "--only", "pool-hot", "--json", str(path)]) == 0
    assert main(["run", "--quick", "--only", "reorder", "--json", str(path), "--add"]) == 0
    assert [result.case for result in load(path).results] == ["pool-hot", "reorder"]
    said = capsys.readouterr().out
    assert "mean nothing" in said
    assert "ReorderBuffer" not in json.loads(path.read_text())["missing"]


def test_a_broker_that_is_not_there_is_told_case_by_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    And the others run.
    """
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert main(["run", "--quick", "--broker", "real", "--only", "submit-1", "pool-hot"]) == 0
    said = capsys.readouterr().out
    assert "submit-1, 100 B, Apache Pulsar did not run: Apache Pulsar needs Java" in said
    assert "by a message" in said


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["run", "--only", "submitt-1"], "there is no case 'submitt-1'; is it submit-1"),
        (["run", "--only", "pool-hot", "--add"], "--add needs --json FILE"),
        (["run", "--orders", "nowhere.csv"], "--orders: there is no file nowhere.csv"),
        (["compare", "nowhere.json", "nowhere.json"], "there is no nowhere.json"),
        (["plot", "nowhere.json"], "there is no nowhere.json"),
        (["check", "--short", "--baseline", "nowhere.json"], "there is no baseline nowhere.json"),
    ],
)
def test_a_wrong_argument_is_told(
    arguments: list[str],
    complaint: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    Exit code 2, and what to do.
    """
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert complaint in capsys.readouterr().err


def test_two_results_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    What moved out of the noise is told apart from what did not.
    """
    old = samples.results()
    save(old, tmp_path / "old.json")
    text = (tmp_path / "old.json").read_text(encoding="utf-8")
    found = json.loads(text)
    finding = found["results"][0]["findings"][0]
    for name in ("median", "low", "high"):
        finding[name] *= 2
    (tmp_path / "new.json").write_text(json.dumps(found))
    assert main(["compare", str(tmp_path / "old.json"), str(tmp_path / "new.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("+100 %" in line and "changed" in line for line in lines) == 1
    assert sum("within the noise" in line for line in lines) == sum(len(r.findings) for r in old.results) - 1
