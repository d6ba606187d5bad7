"""
The broker is frozen (SIGSTOP) under load and thawed: its connections stay open, and it says nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tests.faults.starvation import Starvation
from tests.history import Rules

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.faults.trial import Trial
    from tests.faults.ways import Late

_OVERRUN_SECONDS: Final = 0.25  # what a call may take beyond its deadline


@pytest.mark.timeout(180)
def test_a_freeze_shorter_than_the_deadline_only_delays(trial: Trial) -> None:
    """
    A broker that hangs for a while delivers everything afterwards, each message once and in order.
    """
    trial.open()
    with trial.load(deadline_seconds=60.0) as load:
        for _ in range(3):
            trial.wait_for_more(trial.rng.randint(200, 600))
            trial.broker.freeze()
            trial.wait_for_accepted(trial.rng.randint(50, 400))
            trial.broker.thaw()
        trial.wait_for_more()
    trial.close()
    assert not load.late
    counts = trial.judge(Rules()).counts  # no connection broke, so nothing has an excuse
    assert counts.rejected == counts.not_stored == counts.maybe_stored == counts.duplicate == 0


@pytest.mark.timeout(180)
def test_a_freeze_longer_than_the_deadline_holds_up_no_call(trial: Trial) -> None:
    """
    On a frozen broker every call returns by its deadline; what failed is kept, and what is sent after the thaw succeeds.
    """
    trial.open()
    # A light load: what is measured is how long calls wait, and not how long this process has to compute. What it waited
    # for a processor is subtracted, so that a busy machine does not count either.
    load = trial.load(workers=4, most=5, pause_seconds=0.1, deadline_seconds=2.0)
    with Starvation() as starvation, load:
        trial.wait_for_more(50)
        trial.broker.freeze()
        trial.outlast_deadline()
        trial.outlast_deadline()  # also of those that never had a producer that answers
        trial.broker.thaw()
        trial.wait_for_more(50)
    trial.close()
    assert _overrun(load.late, starvation) <= _OVERRUN_SECONDS, sorted(load.late)[:5]
    replayed = trial.replay()
    assert replayed.failed == replayed.skipped == 0, replayed
    counts = trial.judge(Rules(replay_keeps_order=False)).counts
    assert counts.not_stored > 0 < counts.maybe_stored
    assert counts.replayed > 0


@pytest.mark.timeout(180)
def test_closing_on_a_frozen_broker_keeps_the_rest(trial: Trial) -> None:
    """
    A sender that is closed under load while the broker is frozen keeps in time what has no answer.
    """
    trial.open(close_seconds=1.0)
    with trial.load(deadline_seconds=60.0):
        trial.wait_for_more(trial.rng.randint(100, 500))
        trial.broker.freeze()
        trial.wait_for_accepted(trial.rng.randint(50, 300))
        report = trial.sender.close()
        trial.note(report.counts)
        assert not report.drained
        assert report.clean
    trial.broker.thaw()
    replayed = trial.replay()
    assert replayed.failed == replayed.skipped == 0, replayed
    counts = trial.judge(Rules(replay_keeps_order=False)).counts
    assert counts.maybe_stored > 0


@pytest.mark.timeout(120)
def test_a_bulk_that_fails_as_a_whole_is_reported(trial: Trial) -> None:
    """
    However many messages fail at the same moment, `send_many` waits until they are kept, and returns its report.
    """
    number = 40_000
    sender = trial.open(max_in_flight_messages=number, close_seconds=1.0)
    sender.send(trial.topic, b"first")
    trial.broker.freeze()
    report = sender.send_many(trial.topic, (b"%150d" % each for each in range(number)), deadline_seconds=1.0)
    assert (report.read, report.failed, trial.store.count()) == (number, number, number)


def _overrun(late: Sequence[Late], starvation: Starvation) -> float:
    """
    Return by how much a call passed its deadline at most, without what the machine added.
    """
    return max(
        (each.returned - each.deadline - starvation.between(each.deadline, each.returned) for each in late), default=0.0
    )
