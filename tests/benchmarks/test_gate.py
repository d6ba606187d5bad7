"""
The gate: a slow-down is caught, and noise is not.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from benchmarks.case import Case, Effort, Goal, Sample, Scene
from benchmarks.gate import baseline, check
from benchmarks.gate.baseline import Baseline
from benchmarks.gate.check import LONG, SHORT, Plan, check_case, counted
from benchmarks.gate.decide import Bound, Verdict, decide, worse_counts
from benchmarks.results import ResultsError
from benchmarks.subjects import cases

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from benchmarks.case import Contender

_PLAN = Plan(cases=(), effort=Effort(rounds=5, messages=1, seconds=0.0, scale=1.0), most_rounds=25, allowed=0.1)
_NAME = "made-up, 100 B: rate"


def _case(ours: Callable[[], float], theirs: Callable[[], float]) -> Case:
    @contextmanager
    def prepare(_scene: Scene) -> Iterator[dict[str, Contender]]:
        yield {
            "raw": lambda: Sample(figures={"rate": theirs()}),
            "safepulsar": lambda: Sample(figures={"rate": ours()}),
        }

    return Case(
        name="made-up",
        title="made up",
        subject="gate",
        prepare=prepare,
        goals=(Goal(name="rate", ours="safepulsar", against=("raw",)),),
    )


def _noisy(rate: float, noise: float, chance: random.Random) -> Callable[[], float]:
    return lambda: rate * chance.uniform(1 - noise, 1 + noise)


def _worse(case: Case, scene: Scene, ratio: float) -> list[str]:
    return check_case(case, replace(scene, size_bytes=100), {_NAME: ratio}, _PLAN)


@pytest.mark.parametrize("seed", range(8))
def test_noise_is_no_slow_down(seed: int, nowhere: Scene) -> None:
    """
    Every round off by up to 15 % either way, and nothing changed.
    """
    chance = random.Random(seed)
    case = _case(_noisy(250, 0.15, chance), _noisy(100, 0.15, chance))
    assert _worse(case, nowhere, 2.5) == []


@pytest.mark.parametrize("seed", range(8))
def test_a_slow_down_is_caught_through_the_noise(seed: int, nowhere: Scene) -> None:
    """
    A quarter slower, in the same noise.
    """
    chance = random.Random(seed)
    case = _case(_noisy(187, 0.15, chance), _noisy(100, 0.15, chance))
    assert _worse(case, nowhere, 2.5)


def test_work_that_doubles_is_caught_by_the_clock(nowhere: Scene) -> None:
    """
    Real work, really timed; a contender that does it twice against a baseline of once.
    """

    def rate(times: int) -> float:
        began = time.process_time()
        for _ in range(times):
            sorted(range(20_000, 0, -1), key=lambda number: number % 7)
        return 1 / (time.process_time() - began)

    assert _worse(_case(lambda: rate(1), lambda: rate(1)), nowhere, 0.8) == []
    (line,) = _worse(_case(lambda: rate(2), lambda: rate(1)), nowhere, 1.0)
    assert "limit 0.90" in line


@pytest.mark.parametrize(
    ("rounds", "verdict", "at_last"),
    [
        ([1.0, 1.1, 0.7], Verdict.HOLDS, Verdict.HOLDS),
        ([0.5, 0.6, 0.7], Verdict.WORSE, Verdict.WORSE),
        ([0.5, 0.6, 1.0], Verdict.UNDECIDED, Verdict.WORSE),
    ],
)
def test_the_median_decides_once_the_noise_is_out_of_the_way(
    rounds: list[float], verdict: Verdict, at_last: Verdict
) -> None:
    """
    Against a baseline of 1.0.
    """
    bound = Bound(baseline=1.0, allowed=0.1)
    assert decide(rounds, bound, last=False) is verdict
    assert decide(rounds, bound, last=True) is at_last


def test_cost_is_bounded_from_above() -> None:
    """
    Throughput that falls by a half is cost that doubles.
    """
    bound = Bound(baseline=3.0, allowed=0.5, more_is_better=False)
    assert bound.limit == 6.0
    assert decide([5.9], bound, last=True) is Verdict.HOLDS
    assert decide([6.1], bound, last=True) is Verdict.WORSE


def test_the_short_form_catches_a_doubling() -> None:
    """
    Of the cost, and a halving of the rate.
    """
    assert not Bound(baseline=1.0, allowed=SHORT.allowed).within(0.5)
    assert not Bound(baseline=1.0, allowed=SHORT.allowed, more_is_better=False).within(2.0)
    assert LONG.allowed == 0.1


def test_counts_that_rise_are_named() -> None:
    """
    By more than is allowed, or not at all any more; what falls is welcome.
    """
    was = {"submit: locks": 1.0, "submit: calls": 10.0, "submit: batches": 0.5, "gone": 1.0}
    now = {"submit: locks": 2.0, "submit: calls": 10.9, "submit: batches": 0.1, "new": 9.0}
    assert worse_counts(was, now, 0.1) == {
        "submit: locks": "2, was 1",
        "gone": "is not counted any more; if that is meant, make a new baseline",
    }


@pytest.fixture(scope="module")
def counts() -> dict[str, float]:
    """
    Counted once for all tests here.
    """
    return counted()


def test_counts_are_the_same_each_time(counts: dict[str, float]) -> None:
    """
    So that a difference is a change.
    """
    again = counted()
    assert worse_counts(counts, again, 0.05) == {}
    assert worse_counts(again, counts, 0.05) == {}


def test_counts_say_what_a_message_costs(counts: dict[str, float]) -> None:
    """
    What has to be, and is known from the design.
    """
    assert counts["submit: locks taken by the application"] >= 1
    assert counts["submit: calls of ours by the application"] >= 1
    assert counts["submit: bytes of memory in flight"] > 100
    assert 0 < counts["submit: batches"] < 0.1
    assert counts["submit with a key: batches"] == 1
    assert counts["64 threads: producers opened per topic"] == 1
    assert counts["64 threads: clients"] == 1
    for what in ("keep", "outbox"):
        assert counts[f"{what}, one at a time: commits"] == 1
        assert counts[f"{what}, 100 in a call: commits"] == 0.01


_SLOWER = """
import threading
from benchmarks.gate import counting

real = counting._sender

def slower(broker):
    sender = real(broker)
    submit, lock = sender.submit, threading.Lock()

    def submit_slowly(*arguments, **named):
        with lock:
            keep.append(bytearray(100))
        return submit(*arguments, **named)

    sender.submit = submit_slowly
    return sender

keep = []
counting._sender = slower
counting.main()
"""


def test_a_planted_lock_and_a_planted_object_are_caught(counts: dict[str, float]) -> None:
    """
    One of each for every message, and nothing else.
    """
    ran = subprocess.run([sys.executable, "-c", _SLOWER], check=True, capture_output=True, text=True, timeout=100)
    worse = worse_counts(counts, json.loads(ran.stdout), 0.1)
    assert set(worse) == {
        f"{kind}: {what}"
        for kind in ("submit", "submit with a key")
        for what in ("locks taken by the application", "blocks of memory in flight", "bytes of memory in flight")
    }


_TINY = Plan(
    cases=("submit-1",),
    effort=Effort(rounds=1, messages=200, seconds=0.02, scale=0.0005),
    most_rounds=2,
    allowed=0.9,
)


@pytest.mark.parametrize(("rate", "lock", "code"), [(0.01, 1.0, 0), (1000.0, 1.0, 1), (0.01, 0.1, 1)])
def test_the_gate_as_a_whole(
    rate: float,
    lock: float,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    counts: dict[str, float],
) -> None:
    """
    It holds, or names the ratio or the count that does not.
    """
    name = "submit: locks taken by the application"
    stored = Baseline(
        python=baseline.python(),
        machine={},
        ratios={"submit-1, 100 B, pulsar-lite: rate": rate},
        counts={name: lock * counts[name]},
    )
    baseline.save(stored, tmp_path / "baseline.json")
    monkeypatch.setattr(check, "SHORT", _TINY)
    monkeypatch.setattr(check, "counted", lambda: counts)
    assert check.main(short=True, baseline=tmp_path / "baseline.json") == code
    said = capsys.readouterr().out
    assert ("nothing got worse" in said) is (code == 0)
    assert ("worse: submit-1" in said) is (rate > 1)
    assert ("worse: submit: locks" in said) is (lock < 1)


def test_an_update_writes_what_a_check_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counts: dict[str, float]
) -> None:
    """
    And a check right behind it holds.
    """
    monkeypatch.setattr(check, "LONG", _TINY)
    monkeypatch.setattr(check, "counted", lambda: counts)
    path = tmp_path / "baseline.json"
    assert check.main(update=True, baseline=path) == 0
    assert set(baseline.load(path).ratios) == {
        f"submit-1, 100 B, pulsar-lite: {goal}" for goal in ("rate", "CPU per message")
    }
    assert check.main(baseline=path) == 0


def test_the_stored_baseline_covers_what_is_checked(counts: dict[str, float]) -> None:
    """
    Every count, and a rate of every case; otherwise the gate would look away.
    """
    stored = baseline.load()
    assert set(stored.counts) == set(counts)
    known = {case.name: case for case in cases()}
    for name in {*SHORT.cases, *LONG.cases}:
        assert f"{name}, {known[name].sizes[0]} B, pulsar-lite: rate" in stored.ratios


def test_a_missing_or_broken_baseline_is_told(tmp_path: Path) -> None:
    """
    With what to do.
    """
    with pytest.raises(ResultsError, match="check --update"):
        baseline.load(tmp_path / "none.json")
    (tmp_path / "odd.json").write_text('{"odd": 1}')
    with pytest.raises(ResultsError, match="is no baseline"):
        baseline.load(tmp_path / "odd.json")
