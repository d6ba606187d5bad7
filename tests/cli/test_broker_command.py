"""
`safepulsar broker`: one line to start with, and a clean end.
"""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from safepulsar.broker_process import free_port
from tests.brokers import LiteBroker, read_topic
from tests.cli.test_send import summary
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.cli.command import Commands


def is_open(port: int) -> bool:
    """
    Whether somebody listens there.
    """
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_its_first_line_is_the_url_and_a_signal_stops_it(commands: Commands, number: signal.Signals) -> None:
    """
    Standard output has the URL alone, by then it answers; a signal ends it with 0, and its temporary folder is gone.
    """
    port = free_port()
    with commands.start("broker", "--port", port) as running:
        running.wait_for("\n")
        assert running.stdout == f"pulsar://127.0.0.1:{port}\n"
        ended = commands.run("send", "orders", "-", "--url", running.stdout.strip(), "--json", stdin=b"1\n").check(0)
        assert summary(ended) == (1, 1, 0, 0)
        running.wait_for("runs on", stderr=True)
        data = Path(running.stderr.split("runs on ")[1].split(" (")[0])
        assert data.is_dir()
        running.signal(number)
        ended = running.finish().check(0)
    assert ended.stdout == f"pulsar://127.0.0.1:{port}\n"
    assert not is_open(port)
    assert not data.exists()


def test_a_folder_of_its_own_keeps_what_was_sent(commands: Commands, topic: str) -> None:
    """
    With --data the messages are there at the next start.
    """
    data = commands.home / "data"
    for _ in range(2):
        with commands.start("broker", "--data", data, "--port", free_port()) as running:
            running.wait_for("\n")
            commands.run("send", topic, "-", "--url", running.stdout.strip(), stdin=b"1\n").check(0)
            running.signal(signal.SIGTERM)
            running.finish().check(0)
    with LiteBroker(data) as broker:
        assert len(read_topic(broker, topic, until=2)) == 2


def test_the_usual_port_is_taken_if_it_is_free_and_another_one_if_not(commands: Commands) -> None:
    """
    So that `send` finds it without a URL, and several can run.
    """
    with commands.start("broker") as first:
        first.wait_for("\n")
        assert is_open(6650)
        with commands.start("broker") as second:
            second.wait_for("\n")
            assert first.stdout != second.stdout


def test_a_port_that_is_taken_is_told(commands: Commands) -> None:
    """
    One line, exit code 1; a port that is none is usage.
    """
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = commands.run("broker", "--port", taken.getsockname()[1]).check(1)
    assert "is taken; stop what listens there or name another" in ended.stderr
    assert ended.stdout == ""
    commands.run("broker", "--port", 70_000).check(2)
    (commands.home / "file").touch()
    assert "is not a folder" in commands.run("broker", "--data", "file").check(2).stderr


def test_a_broker_that_ends_by_itself_ends_the_command(commands: Commands) -> None:
    """
    Nobody waits in front of a dead broker: exit code 1.
    """
    with commands.start("broker", "--port", free_port()) as running:
        running.wait_for("\n")
        children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children")
        if not children.exists():
            pytest.skip("needs a list of child processes")
        (child,) = children.read_text(encoding="ascii").split()
        wrapped = Path(f"/proc/{child}/task/{child}/children").read_text(encoding="ascii").split()
        for pid in [*wrapped, child]:
            wait_until(lambda pid=pid: kill(int(pid)), "its end")  # type: ignore[misc]
        ended = running.finish().check(1)
    assert "the broker ended by itself" in ended.stderr


def kill(pid: int) -> bool:
    """
    End a process of ours.
    """
    import os  # noqa: PLC0415

    os.kill(pid, signal.SIGKILL)
    return True
