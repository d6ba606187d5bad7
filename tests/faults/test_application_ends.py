"""
The application ends under load, in every way that leaves it a last word; a second process replays what it kept.
"""

from __future__ import annotations

import signal
from collections import Counter
from typing import TYPE_CHECKING, Final

import pytest

from tests.faults.application import WORKERS, Ending, application, wait_until_under_load
from tests.faults.orders import identify, identity_in
from tests.history import History, Rules, What
from tests.subprocesses import run_script
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.trial import Trial
    from tests.history import Counts

_FINISH_SECONDS: Final = 40.0
_REPLAY: Final = """
import sys
from safepulsar import RetryingSender, SqliteFailedMessages, replay

with SqliteFailedMessages(sys.argv[2]) as store, RetryingSender(sys.argv[1], failed_messages=store) as sender:
    print(replay(store, sender).delivered)
"""


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("ending", "sent", "returncode"),
    [
        (Ending.WAIT, signal.SIGTERM, -signal.SIGTERM),
        (Ending.SEND, signal.SIGINT, -signal.SIGINT),
        (Ending.EXIT, None, 3),
        (Ending.EXIT_BLOCK, None, 3),
    ],
)
def test_an_application_that_ends_under_load_delivers_first(
    trial: Trial, tmp_path: Path, seed: int, ending: Ending, sent: signal.Signals | None, returncode: int
) -> None:
    """
    Ended by SIGTERM, by Ctrl-C or by `sys.exit`, it ends as it would have, and all that it accepted is delivered.
    """
    trial.history = History(tmp_path / "history")
    with application(trial, tmp_path / "history", ending, close_seconds=20.0, seed=seed) as script:
        wait_until_under_load(script)
        if sent is not None:
            script.send_signal(sent)
        script.finish(timeout_seconds=_FINISH_SECONDS).check(returncode)
    counts = _account(trial)
    assert counts.not_stored == counts.maybe_stored == 0


@pytest.mark.timeout(180)
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_an_application_that_ends_while_the_broker_is_frozen_keeps_everything(
    trial: Trial, tmp_path: Path, seed: int, sent: signal.Signals
) -> None:
    """
    With a broker that does not answer it ends in time all the same, and a second process replays what it kept.
    """
    trial.history = History(tmp_path / "history")
    ending = Ending.WAIT if sent is signal.SIGTERM else Ending.SEND
    with application(trial, tmp_path / "history", ending, close_seconds=0.5, seed=seed) as script:
        wait_until_under_load(script)
        trial.broker.freeze()
        wait_until(lambda: _in_flight(trial.history) > 100, "messages without an answer")
        script.send_signal(sent)
        script.finish(timeout_seconds=_FINISH_SECONDS).check(-sent)
    trial.learn_from_store()
    trial.broker.thaw()
    replayed = run_script(_REPLAY, trial.broker.url, trial.store_path).check()
    assert int(replayed.split()[-1]) > 0
    assert trial.store.count() == 0
    _account(trial)


def _in_flight(history: History) -> int:
    events = Counter(event.what for event in history.events())
    return events[What.ACCEPTED] - events[What.ACKED]


def _account(trial: Trial) -> Counts:
    """
    Judge, and check that whatever the application knew to be accepted is in the topic or in the store.
    """
    trial.history.killed()
    report = trial.judge(Rules(killed=True, replay_keeps_order=False))
    # Of a thread that the end caught between a call and its note of it, one message at most has no fate.
    assert report.counts.in_flight <= WORKERS + 1, report
    accepted = {identity for what, identity, _ in trial.history.events() if what is What.ACCEPTED}
    stored = {identify(record) for record in trial.read()}
    kept = {identity_in(row.message.payload or b"") for row in trial.store.find()}
    assert not accepted - stored - kept
    return report.counts
