"""
Every way out of a program, two hundred times, under load: it is left with its own exit code, and nothing is forgotten.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

import pytest

from safepulsar.failed_messages import SqliteFailedMessages
from tests.brokers import LiteBroker, read_topic
from tests.hazards.leaving import KILLED, WAYS
from tests.history import History, Rules, What, assert_valid
from tests.subprocesses import Script

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.brokers import Broker
    from tests.hazards.trial import Trial
    from tests.history import Report
    from tests.history.recorder import Readable
    from tests.subprocesses import ScriptResult

_SIDE_BY_SIDE: Final = 3
_TIMEOUT_SECONDS: Final = 60.0
_PROGRAM: Final = """
from tests.hazards.leaving import main
if __name__ == "__main__":  # multiprocessing imports it once more
    main()
"""


def _identify(record: Readable) -> str | None:
    return record.properties.get("id")


def _judge(history: History, broker: Broker, topic: str, store: Path, rules: Rules) -> Report:
    with SqliteFailedMessages(store) as rows:
        for row in rows.find():
            assert row.id is not None
            history.kept((row.message.properties or {})["id"], row.id)
    acked = sum(event.what is What.ACKED for event in history.events())
    history.found(topic, read_topic(broker, topic, until=acked), _identify)
    return assert_valid(history, rules)


def _silent(history: History) -> set[str]:
    accepted = {event.identity for event in history.events() if event.what is What.ACCEPTED}
    told = (What.ACKED, What.DUPLICATE, What.FAILED)
    return accepted - {event.identity for event in history.events() if event.what in told}


def _check(results: Iterable[ScriptResult], returncode: int) -> None:
    for result in results:
        result.check(returncode)
        assert "safepulsar.exit_failed" not in result.stderr, str(result)


@pytest.mark.parametrize("way", list(WAYS))
def test_every_way_out(broker: Broker, topic: str, tmp_path: Path, way: str) -> None:
    """
    Left in this way, again and again, a program has its own exit code, and every message is delivered or kept.

    Unknown is only what a process had under way that left by `os._exit`.
    """
    store, path = tmp_path / "failed.db", tmp_path / "history.jsonl"
    # A real Apache Pulsar has most of two processors to itself.
    rounds = 10 if isinstance(broker, LiteBroker) else 2
    for first in range(0, rounds, _SIDE_BY_SIDE):
        with contextlib.ExitStack() as stack:
            scripts = [
                stack.enter_context(Script(_PROGRAM, way, number, "", broker.url, topic, store, path, 10))
                for number in range(first, min(first + _SIDE_BY_SIDE, rounds))
            ]
            _check([script.finish(timeout_seconds=_TIMEOUT_SECONDS) for script in scripts], WAYS[way][1])
    history = History(path)
    killed = "os._exit" in way
    if killed:
        history.killed()
    report = _judge(history, broker, topic, store, Rules(killed=killed))
    assert report.counts.accepted >= rounds * 100
    assert all(KILLED in identity for identity in _silent(history))
    history.close()


_ORDERLY: Final = ["return", "sys.exit(3)", "uncaught exception", "inside with", "forked child, sys.exit"]


def test_ways_out_beside_a_frozen_broker(own_trial: Trial, tmp_path: Path) -> None:
    """
    With a broker that does not answer, a program is left in the time allowed, and what it had under way is kept.
    """
    broker, go, path = own_trial.broker, tmp_path / "go", tmp_path / "history.jsonl"
    with contextlib.ExitStack() as stack:
        scripts = [
            stack.enter_context(
                Script(_PROGRAM, way, number, go, broker.url, own_trial.topic, own_trial.store, path, 0.5)
            )
            for number, way in enumerate(_ORDERLY)
        ]
        for script in scripts:
            script.wait_for("ready")
        broker.freeze()
        go.touch()
        for script, way in zip(scripts, _ORDERLY, strict=True):
            _check([script.finish(timeout_seconds=_TIMEOUT_SECONDS)], WAYS[way][1])
    broker.thaw()
    history = History(path)
    report = _judge(history, broker, own_trial.topic, own_trial.store, Rules())
    assert report.counts.delivered == len(_ORDERLY), "those that were sent before"
    assert report.counts.not_stored + report.counts.maybe_stored == report.counts.accepted - len(_ORDERLY)
    history.close()
