"""
`safepulsar failed replay`: what was kept goes to the topic, once and in order, however often it is interrupted.
"""

from __future__ import annotations

import json
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from safepulsar.broker_process import free_port
from safepulsar.failed_messages import SqliteFailedMessages
from tests.brokers import LiteBroker, read_topic
from tests.cli.test_failed import failed_message

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.command import Commands


def filled(path: Path, topic: str, count: int) -> Path:
    """
    A store with so many messages of three keys in turn.
    """
    with SqliteFailedMessages(path) as store:
        store.keep([failed_message(b"%d" % n, topic=topic, key=f"c{n % 3}") for n in range(count)])
    return path


def left(path: Path) -> int:
    """
    How many a store still holds.
    """
    with SqliteFailedMessages(path) as store:
        return store.count()


def numbers(report: dict[str, Any]) -> dict[str, Any]:
    """
    The object of `--json` without its time, whose type is looked at.
    """
    assert isinstance(report.pop("seconds"), float)
    return report


def test_all_that_was_kept_arrives_in_its_order(
    commands: Commands, folder: Path, lite_broker: LiteBroker, topic: str
) -> None:
    """
    First what would be sent, then it is sent, then there is nothing left to send; exit code 0 each time.
    """
    store = filled(folder / "f.db", topic, 30)
    arguments = ("failed", "replay", "--failed", store, "--url", lite_broker.url)
    ended = commands.run(*arguments, "--dry-run").check(0)
    assert ended.stdout.endswith("30 messages would be sent\n")
    assert ended.stdout.count("NOT_STORED") == 30
    nothing_yet = {"delivered": 0, "duplicate": 0, "failed": 0, "skipped": 0}
    ended = commands.run(*arguments, "--dry-run", "--json").check(0)
    assert numbers(ended.json()) == {"selected": 30, **nothing_yet, "dry_run": True}
    assert read_topic(lite_broker, topic) == []
    ended = commands.run(*arguments, "--key", "c1", "--json").check(0)
    assert numbers(ended.json()) == {"selected": 10, **nothing_yet, "delivered": 10, "dry_run": False}
    ended = commands.run(*arguments).check(0)
    assert ended.stdout.startswith("20 messages selected: 20 delivered in ")
    assert numbers(commands.run(*arguments, "--json").check(0).json())["selected"] == 0
    payloads = [int(record.payload) for record in read_topic(lite_broker, topic)]
    assert payloads == [n for n in range(30) if n % 3 == 1] + [n for n in range(30) if n % 3 != 1]
    assert left(store) == 0


def test_with_the_broker_away_all_stays(commands: Commands, folder: Path, topic: str) -> None:
    """
    Exit code 3, and the store has every message as before.
    """
    store = filled(folder / "f.db", topic, 3)
    url = f"pulsar://127.0.0.1:{free_port()}"
    ended = commands.run("failed", "replay", "--failed", store, "--url", url, "--deadline", "0.5", "--json").check(3)
    report = numbers(ended.json())
    assert report["selected"] == report["failed"] + report["skipped"] == 3
    assert left(store) == 3
    line = commands.run("failed", "list", "--failed", store, "--json").check(0).stdout.splitlines()[0]
    assert json.loads(line)["attempts"] > 0


def test_a_signal_stops_it_and_another_run_goes_on(
    commands: Commands, folder: Path, lite_broker: LiteBroker, topic: str
) -> None:
    """
    Exit code 1 when it is stopped; what was sent is not sent again, and what was not is. On a terminal, with a bar.
    """
    store = filled(folder / "f.db", topic, 400)
    arguments = ("failed", "replay", "--failed", store, "--url", lite_broker.url, "--json")
    with commands.start(*arguments, "--rate", "100", terminal=True) as running:
        running.wait_for("50 of 400", stderr=True)
        running.signal(signal.SIGINT)
        ended = running.finish().check(1)
    first = numbers(ended.json())
    assert "stopped; run it again to go on" in ended.stderr
    assert 0 < first["delivered"] == 400 - left(store)
    second = numbers(commands.run(*arguments).check(0).json())
    assert first["delivered"] + second["delivered"] == 400
    assert [int(record.payload) for record in read_topic(lite_broker, topic)] == list(range(400))


def test_a_frozen_broker_does_not_hold_it_up_when_a_signal_comes(commands: Commands, folder: Path, topic: str) -> None:
    """
    Some seconds for what is in flight, and then it ends; all is still in the store.
    """
    store = filled(folder / "f.db", topic, 10)
    with ExitStack() as stack:
        broker = stack.enter_context(LiteBroker(folder / "broker"))
        broker.freeze()
        running = stack.enter_context(
            commands.start("failed", "replay", "--failed", store, "--url", broker.url, terminal=True)
        )
        running.wait_for("0 of 10", stderr=True)
        running.signal(signal.SIGTERM)
        running.finish().check(1)
    assert left(store) == 10
