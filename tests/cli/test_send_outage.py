"""
`safepulsar send` without a broker, with one that hangs, and when it is told to stop: every row is accounted for.
"""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from safepulsar.broker_process import free_port
from safepulsar.failed_messages import FailedMessageFilter, SqliteFailedMessages
from safepulsar.message import Certainty
from tests.brokers import LiteBroker, read_topic
from tests.cli.test_send import summary
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.command import Commands


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """
    A file system of one megabyte, where we may mount one.
    """
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)  # noqa: S607 - found on PATH


def kept(store: Path, where: FailedMessageFilter | None = None) -> int:
    """
    How many messages a store holds.
    """
    with SqliteFailedMessages(store) as opened:
        return opened.count(where or FailedMessageFilter())


def test_with_the_broker_away_rows_are_kept_until_it_is_back(commands: Commands, folder: Path, topic: str) -> None:
    """
    Exit code 3 with the way to the store and what to do next; and then that is done, and nothing is left.
    """
    (folder / "rows.jsonl").write_bytes(b'{"k":1}\n{"k":2}\n{"k":1}\n')
    broker = LiteBroker(folder / "broker", free_port())
    arguments = ("send", topic, "rows.jsonl", "--url", broker.url, "--key-field", "k", "--deadline", "0.5", "--json")
    ended = commands.run(*arguments).check(3)
    assert summary(ended) == (3, 0, 0, 3)
    assert f"3 rows kept in {commands.default_store}" in ended.stderr
    replay = next(line for line in ended.stderr.splitlines() if "failed replay" in line).split("safepulsar ", 1)[1]
    assert kept(commands.default_store, FailedMessageFilter(certainty=Certainty.NOT_STORED)) == 3
    with broker:
        commands.run(*replay.split()).check(0)
        assert [record.payload for record in read_topic(broker, topic)] == [b'{"k":1}', b'{"k":2}', b'{"k":1}']
    assert kept(commands.default_store) == 0


def test_a_broken_row_outweighs_kept_ones(commands: Commands, folder: Path, topic: str) -> None:
    """
    Exit code 1 says that something was not even kept; what was is told all the same.
    """
    url = f"pulsar://127.0.0.1:{free_port()}"
    arguments = ("send", topic, "-", "--url", url, "--deadline", "0.3", "--failed", folder / "f.db", "--json")
    ended = commands.run(*arguments, stdin=b"1\n{\n2\n").check(1)
    assert summary(ended) == (2, 0, 0, 2)
    assert "2 rows kept in" in ended.stderr
    assert "line 2: " in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_reading_and_accounts_for_the_rest(
    commands: Commands, folder: Path, lite_broker: LiteBroker, topic: str, number: signal.Signals
) -> None:
    """
    Waiting for more to read, it ends at once, says which row was the last, and exits with 1; all is delivered.
    """
    arguments = ("send", topic, "-", "--url", lite_broker.url, "--failed", folder / "f.db", "--json")
    with commands.start(*arguments) as running:
        running.write(b'{"n":1}\n{"n":2}\n{"n":')
        assert len(read_topic(lite_broker, topic, until=2)) == 2
        running.signal(number)
        ended = running.finish().check(1)
    assert summary(ended) == (2, 2, 0, 0)
    assert "stopped after line 2" in ended.stderr
    assert len(read_topic(lite_broker, topic)) == 2


def test_what_a_frozen_broker_does_not_confirm_is_kept_when_a_signal_comes(
    commands: Commands, folder: Path, topic: str
) -> None:
    """
    Some seconds for what is in flight, the rest into the store, and the books balance. On a terminal, to see it.
    """
    with ExitStack() as stack:
        broker = stack.enter_context(LiteBroker(folder / "broker"))
        store = folder / "f.db"
        arguments = ("send", topic, "-", "--url", broker.url, "--failed", store, "--deadline", "60", "--json")
        running = stack.enter_context(commands.start(*arguments, terminal=True))
        running.write(b"1\n2\n")
        running.wait_for("2 read, 2 delivered", stderr=True)
        broker.freeze()
        running.write(b"3\n4\n5\n")
        running.wait_for("5 read, 2 delivered", stderr=True)
        running.signal(signal.SIGTERM)
        ended = running.finish().check(1)
    assert summary(ended) == (5, 2, 0, 3)
    assert "3 rows kept in" in ended.stderr
    assert "stopped after line 5" in ended.stderr
    assert kept(store, FailedMessageFilter(certainty=Certainty.MAYBE_STORED)) == 3


def test_a_second_signal_ends_it_at_once(commands: Commands, folder: Path, topic: str) -> None:
    """
    Who presses Ctrl-C again does not want to wait: it dies of the signal.
    """
    with ExitStack() as stack:
        broker = stack.enter_context(LiteBroker(folder / "broker"))
        arguments = ("send", topic, "-", "--url", broker.url, "--failed", folder / "f.db")
        running = stack.enter_context(commands.start(*arguments))
        running.write(b"1\n")
        assert len(read_topic(broker, topic, until=1)) == 1
        broker.freeze()
        running.write(b"2\n")
        running.signal(signal.SIGINT)
        running.wait_for("stopping", stderr=True)

        def ended_by_another() -> bool:
            running.signal(signal.SIGINT)  # one that follows at once is taken for the first
            return running.process.poll() is not None

        wait_until(ended_by_another, "the end", timeout_seconds=4)
        assert running.process.poll() == -signal.SIGINT


def test_rows_that_cannot_be_kept_are_named_and_end_it(commands: Commands, topic: str, small_disk: Path) -> None:
    """
    With the broker away and the disk full: the rows are named, the reading stops, exit code 1, nothing is silent.
    """
    url = f"pulsar://127.0.0.1:{free_port()}"
    rows = b"".join(b'{"n":%d,"x":"%s"}\n' % (n, b"x" * 20_000) for n in range(200))
    arguments = ("send", topic, "-", "--url", url, "--deadline", "0.3", "--failed", small_disk / "s" / "f.db", "--json")
    ended = commands.run(*arguments, stdin=rows).check(1)
    read, delivered, duplicate, failed = summary(ended)
    assert delivered == duplicate == 0
    assert failed == kept(small_disk / "s" / "f.db") < read <= 200
    assert f"{read - failed:,} row" in ended.stderr
    assert "neither confirmed nor kept" in ended.stderr
    assert "no space left" in ended.stderr
