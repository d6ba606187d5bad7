"""
`safepulsar send --durable`: killed at any moment and run again, each row of the file is in the topic once, in order.
"""

from __future__ import annotations

import json
import random
import signal
from typing import TYPE_CHECKING, Final

import pytest

from safepulsar.broker_process import free_port
from tests.brokers import LiteBroker, read_topic
from tests.cli.command import Commands
from tests.cli.test_send import summary
from tests.faults.imports import ORDERS, ROUNDS, Import
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.brokers import Broker, RealBroker

_FEW: Final = 2  # rounds in the suite
_DISTURBED_SECONDS: Final = 2.5


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    """
    Commands with a home of their own.
    """
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    return Commands(home)


def rows(numbers: range) -> bytes:
    """
    JSON lines.
    """
    return b"".join(b'{"n":%d,"k":"%d"}\n' % (number, number % 3) for number in numbers)


def stored(broker: Broker, topic: str, until: int) -> list[int]:
    """
    The numbers of the rows in the topic, in order.
    """
    return [json.loads(record.payload)["n"] for record in read_topic(broker, topic, until=until)]


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.timeout(240 if ROUNDS <= _FEW else 0)
def test_killed_and_run_again_it_sends_each_row_once(
    commands: Commands, once_broker: Broker, once_topic: str, seed: int
) -> None:
    """
    Whoever is killed or frozen when: the run that ends with 0 leaves each row once. The next one sends nothing.

    Rounds with all rows of the CDNOW data where SAFEPULSAR_CDNOW names their file.
    """
    rng = random.Random(seed)  # noqa: S311  # guards nothing
    killed = 0
    for number in range(ROUNDS):
        topic, flags = f"{once_topic}-{number}", ["--mix-keys"] * (number % 2)
        trial = Import(commands, once_broker, topic, ORDERS, *flags, name=f"import-{number}")
        trial.disturb_until_done(rng, _DISTURBED_SECONDS)
        trial.check_topic()
        assert summary(trial.run().check(0)) == (len(trial.expected), 0, len(trial.expected), 0)
        trial.check_topic()
        killed += trial.killed
        print(f"round {number}: {trial.runs} runs, {dict(trial.disturbances)}", flush=True)  # noqa: T201  # progress
    assert killed > 0


@pytest.mark.timeout(180)
def test_what_it_prints_adds_up(commands: Commands, broker: Broker, topic: str) -> None:
    """
    By standard input, and once more with rows added at the end: those that are there are left out.
    """
    arguments = ("send", topic, "-", "--url", broker.url, "--durable", "--producer-name", "n", "--json")
    assert summary(commands.run(*arguments, stdin=rows(range(50))).check(0)) == (50, 50, 0, 0)
    assert summary(commands.run(*arguments, stdin=rows(range(50))).check(0)) == (50, 0, 50, 0)
    assert summary(commands.run(*arguments, stdin=rows(range(70))).check(0)) == (70, 20, 50, 0)
    assert stored(broker, topic, 70) == list(range(70))


@pytest.mark.timeout(180)
def test_a_second_process_is_told_who_has_the_name(commands: Commands, broker: Broker, topic: str) -> None:
    """
    By the journal, if it has the same; its process is named. The first one is not disturbed.
    """
    arguments = ("send", topic, "-", "--url", broker.url, "--durable", "--producer-name", "n", "--json")
    with commands.start(*arguments) as first:
        first.write(rows(range(10)))
        wait_until(lambda: len(stored(broker, topic, 0)) == 10, "the first rows", timeout_seconds=30)
        second = commands.run(*arguments, "--deadline", "0.5", stdin=rows(range(20))).check(1)
        assert str(first.process.pid) in second.stderr, second
        assert "nothing was sent" in second.stderr, second
        first.write(rows(range(10, 20)))
        assert first.process.stdin is not None
        first.process.stdin.close()
        assert summary(first.finish().check(0)) == (20, 20, 0, 0)
    assert stored(broker, topic, 20) == list(range(20))


@pytest.mark.timeout(180)
def test_with_another_journal_the_broker_says_that_the_name_is_in_use(
    commands: Commands, pulsar_broker: RealBroker, topic: str
) -> None:
    """
    Nothing is sent by the second one, and the message says what to do.
    """
    arguments = ("send", topic, "-", "--url", pulsar_broker.url, "--durable", "--producer-name", "n", "--json")
    with commands.start(*arguments) as first:
        first.write(rows(range(10)))
        wait_until(lambda: len(stored(pulsar_broker, topic, 0)) == 10, "the first rows", timeout_seconds=30)
        second = commands.run(*arguments, "--failed", "other.db", "--deadline", "1", stdin=rows(range(20))).check(1)
        assert "ProducerBusy" in second.stderr, second
        assert "nothing was sent" in second.stderr, second
        first.write(rows(range(10, 20)))
        assert first.process.stdin is not None
        first.process.stdin.close()
        assert summary(first.finish().check(0)) == (20, 20, 0, 0)
    assert stored(pulsar_broker, topic, 20) == list(range(20))


@pytest.mark.timeout(150)
def test_another_input_under_the_same_name_is_refused(commands: Commands, lite_broker: LiteBroker, topic: str) -> None:
    """
    As is another topic: rows would be taken for those of the first, and left out.
    """
    arguments = ("--url", lite_broker.url, "--durable", "--producer-name", "n", "--json")
    commands.run("send", topic, "-", *arguments, stdin=rows(range(10))).check(0)
    other_rows = commands.run("send", topic, "-", *arguments, stdin=rows(range(5, 15))).check(1)
    other_topic = commands.run("send", f"{topic}-2", "-", *arguments, stdin=rows(range(10))).check(1)
    for ended in (other_rows, other_topic):
        assert "nothing was sent" in ended.stderr, ended
        assert "producer name" in ended.stderr, ended
    assert stored(lite_broker, topic, 10) == list(range(10))


@pytest.mark.timeout(150)
def test_with_the_broker_away_it_says_so_and_completes_later(commands: Commands, tmp_path: Path, topic: str) -> None:
    """
    From the beginning, or from the middle on: exit code 1, and what to do.
    """
    (commands.home / "rows.jsonl").write_bytes(rows(range(2000)))
    broker = LiteBroker(tmp_path / "broker", free_port())
    arguments = ("send", topic, "-", "--url", broker.url, "--durable", "--producer-name", "n", "--json")
    ended = commands.run(*arguments, "--deadline", "0.5", stdin=rows(range(2000))).check(1)
    assert summary(ended) == (0, 0, 0, 0)
    assert "nothing was sent" in ended.stderr, ended
    assert broker.url in ended.stderr, ended
    with broker:
        with commands.start(*arguments, "--deadline", "1") as running:
            running.write(rows(range(1000)))
            wait_until(lambda: len(stored(broker, topic, 0)) == 1000, "the first rows", timeout_seconds=30)
            broker.kill()
            running.write(rows(range(1000, 2000)))
            assert running.process.stdin is not None
            running.process.stdin.close()
            ended = running.finish().check(1)
        read, delivered, duplicate, failed = summary(ended)
        assert (read, delivered, duplicate, failed) == (1000, 1000, 0, 0)
        assert "the same command again" in ended.stderr, ended
        broker.start()
        assert summary(commands.run(*arguments, stdin=rows(range(2000))).check(0)) == (2000, 1000, 1000, 0)
        assert stored(broker, topic, 2000) == list(range(2000))


@pytest.mark.timeout(150)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_told_to_stop_it_stops_and_goes_on_later(
    commands: Commands, lite_broker: LiteBroker, topic: str, number: signal.Signals
) -> None:
    """
    What was read is there; the next run begins behind it.
    """
    arguments = ("send", topic, "-", "--url", lite_broker.url, "--durable", "--producer-name", "n", "--json")
    with commands.start(*arguments) as running:
        running.write(rows(range(100)))
        wait_until(lambda: len(stored(lite_broker, topic, 0)) == 100, "the first rows", timeout_seconds=30)
        running.signal(number)
        ended = running.finish().check(1)
    assert summary(ended) == (100, 100, 0, 0)
    assert "a signal asked for it" in ended.stderr, ended
    assert summary(commands.run(*arguments, stdin=rows(range(300))).check(0)) == (300, 200, 100, 0)
    assert stored(lite_broker, topic, 300) == list(range(300))


@pytest.mark.timeout(150)
def test_an_empty_input_is_sent_at_once(commands: Commands, lite_broker: LiteBroker, topic: str) -> None:
    """
    And may have rows later.
    """
    arguments = ("send", topic, "-", "--url", lite_broker.url, "--durable", "--producer-name", "n", "--json")
    assert summary(commands.run(*arguments).check(0)) == (0, 0, 0, 0)
    assert summary(commands.run(*arguments, stdin=rows(range(3))).check(0)) == (3, 3, 0, 0)
    assert stored(lite_broker, topic, 3) == [0, 1, 2]


@pytest.mark.timeout(150)
def test_a_row_that_cannot_be_read_is_named_each_time(commands: Commands, lite_broker: LiteBroker, topic: str) -> None:
    """
    The others keep their numbers: they are sent once, also after it was mended.
    """
    arguments = ("send", topic, "-", "--url", lite_broker.url, "--durable", "--producer-name", "n", "--json")
    good = rows(range(5)).splitlines(keepends=True)
    broken = b"".join([*good[:2], b"{no row\n", *good[3:]])
    for delivered, duplicate in ((4, 0), (0, 4)):
        ended = commands.run(*arguments, stdin=broken).check(1)
        assert summary(ended) == (4, delivered, duplicate, 0)
        assert "line 3" in ended.stderr, ended
    assert summary(commands.run(*arguments, stdin=b"".join(good)).check(0)) == (5, 1, 4, 0)
    assert stored(lite_broker, topic, 5) == [0, 1, 3, 4, 2]


@pytest.mark.parametrize("one", [("--durable",), ("--producer-name", "n")])
def test_the_two_options_are_given_together(commands: Commands, one: tuple[str, ...]) -> None:
    """
    Or not at all: exit code 2, and nothing is tried.
    """
    ended = commands.run("send", "orders", "-", *one, stdin=b"1\n").check(2)
    assert "--producer-name" in ended.stderr
    assert not commands.default_store.exists()
