"""
The broker is killed (-9) under load and started again: sooner than the deadline, and later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.faults.trial import Trial


@pytest.mark.timeout(180)
def test_every_message_is_delivered_when_the_broker_is_back_before_the_deadline(trial: Trial) -> None:
    """
    A broker that is killed again and again loses nothing, and changes no key's order; what it deduplicates is stored once.
    """
    kills = 1 if trial.broker.features.admin else 4
    trial.open()
    with trial.load(deadline_seconds=60.0) as load:
        for _ in range(kills):
            trial.wait_for_more(trial.rng.randint(200, 800))
            trial.history.broken()
            trial.broker.kill()
            trial.wait_for_accepted(trial.rng.randint(1, 300))
            trial.broker.start()
            trial.wait_for_more()
            trial.history.healed()
    trial.close()
    assert not load.late
    counts = trial.judge().counts
    assert counts.rejected == counts.maybe_stored == counts.not_stored == 0


@pytest.mark.timeout(180)
def test_what_an_outage_outlasts_is_kept_and_replayed(trial: Trial) -> None:
    """
    A broker that is back after the deadline finds the same sender sending; what failed meanwhile is kept and replayed.

    Nothing that is kept as NOT_STORED is in the topic twice after the replay, and replayed messages keep their order.
    """
    trial.open()
    with trial.load(deadline_seconds=1.5):
        trial.wait_for_more(trial.rng.randint(200, 800))
        trial.history.broken()
        trial.broker.kill()
        trial.outlast_deadline()
        trial.outlast_deadline()  # also of those that were accepted when no producer could be had any more
        trial.broker.start()
        trial.wait_for_more()
        trial.history.healed()
    trial.close()
    replayed = trial.replay()
    assert replayed.failed == replayed.skipped == 0, replayed
    counts = trial.judge(trial.broken_connections(replay_keeps_order=False)).counts
    assert counts.not_stored > 0 < counts.maybe_stored
    assert counts.replayed > 0
