"""
`safepulsar top`: a running process, seen through its socket or its metrics, by its own user alone.
"""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import socket
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry, start_http_server

from safepulsar.cli.readings import Reading, from_text, quantile, read
from safepulsar.errors import InvalidSettings, SendFailed
from safepulsar.metrics import Metrics, serve_status
from safepulsar.metrics.prometheus import export
from safepulsar.testing import FakeBroker, Phase
from tests.cli.command import environment
from tests.observability.observed import observed
from tests.subprocesses import run_script

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from safepulsar.sender import RetryingSender
    from tests.cli.command import Commands


@pytest.fixture
def running() -> Iterator[tuple[Metrics, RetryingSender]]:
    """
    A sender that has sent and failed.
    """
    broker, metrics = FakeBroker(), Metrics()
    with observed(broker, metrics) as sender:
        sender.send_many("orders", [b"x"] * 500)
        broker.fail_next(1, "TopicTerminated", phase=Phase.CREATE, topic="gone")
        with pytest.raises(SendFailed):
            sender.send("gone", b"x", ordering_key="k")
        yield metrics, sender


def test_the_socket_is_this_user_s_alone(running: tuple[Metrics, RetryingSender], tmp_path: Path) -> None:
    """
    0600 in a folder that is 0700; gone when it is closed; one process at a path.
    """
    path = tmp_path / "run" / "orders-{pid}.sock"
    with serve_status(running[0], path) as status:
        assert status.path.name == f"orders-{os.getpid()}.sock"
        assert stat.S_IMODE(status.path.stat().st_mode) == 0o600
        assert stat.S_IMODE(status.path.parent.stat().st_mode) == 0o700
        with pytest.raises(InvalidSettings, match="another process serves"):
            serve_status(running[0], path)
        assert read(str(status.path)).pid == os.getpid()
    assert not status.path.exists()
    status.close()


def test_what_is_left_of_a_process_makes_way(running: tuple[Metrics, RetryingSender], tmp_path: Path) -> None:
    """
    The socket of one that was killed; but no file of somebody's.
    """
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind(str(folder / "s"))
    with serve_status(running[0], folder / "s"):
        assert read(str(folder / "s")).total("messages_total") > 0
    (folder / "file").write_text("mine")
    with pytest.raises(InvalidSettings, match="is no socket"):
        serve_status(running[0], folder / "file")
    assert (folder / "file").read_text() == "mine"


def test_a_folder_that_others_may_enter_is_refused(running: tuple[Metrics, RetryingSender], tmp_path: Path) -> None:
    """
    And so is a path that no socket can have.
    """
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(InvalidSettings, match="must be this user's alone"):
        serve_status(running[0], tmp_path / "open" / "s")
    with pytest.raises(InvalidSettings, match="too long"):
        serve_status(running[0], tmp_path / ("x" * 120) / "s")


def test_whoever_does_not_read_keeps_nobody_waiting(running: tuple[Metrics, RetryingSender], tmp_path: Path) -> None:
    """
    A visitor that says and reads nothing, or goes away at once.
    """
    with serve_status(running[0], tmp_path / "run" / "s") as status:
        silent = socket.socket(socket.AF_UNIX)
        silent.connect(str(status.path))
        for _ in range(3):
            with contextlib.closing(socket.socket(socket.AF_UNIX)) as gone:
                gone.connect(str(status.path))
        assert read(str(status.path)).by("messages_total", "fate")["delivered"] == 500
        silent.close()


def test_a_forked_child_serves_nothing(tmp_path: Path) -> None:
    """
    It does not answer in the place of its parent, and its end does not remove the parent's socket.
    """
    run_script(
        """
        import os, sys
        from safepulsar.cli.readings import read
        from safepulsar.metrics import Metrics, serve_status
        status = serve_status(Metrics(), sys.argv[1])
        pid = os.fork()
        if pid == 0:
            status.close()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert read(sys.argv[1]).pid == os.getpid()
        status.close()
        """,
        tmp_path / "run" / "s",
        timeout_seconds=30,
    ).check()


@pytest.mark.parametrize("way", ["socket", "metrics"])
def test_both_ways_show_the_same(
    running: tuple[Metrics, RetryingSender], commands: Commands, tmp_path: Path, way: str
) -> None:
    """
    As JSON, once: fates, errors, what is in flight, lanes, pool and store.
    """
    metrics, _ = running
    registry = CollectorRegistry()
    export(metrics, registry)
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    try:
        with serve_status(metrics, tmp_path / "run" / "s") as status:
            where = str(status.path) if way == "socket" else f"http://127.0.0.1:{server.server_port}/metrics"
            view = commands.run("top", where, "--interval", "0.1", "--json").check(0).json()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert view["pid"] == (os.getpid() if way == "socket" else None)
    assert view["totals"] == {"accepted": 501, "delivered": 500, "duplicate": 0, "failed": 1, "cancelled": 0}
    assert view["errors"] == {"TopicTerminated": 1}
    assert (view["in_flight_messages"], view["paused_lanes"]) == (0, 1)
    assert view["store"]["kept"] == 1
    assert view["store"]["answers"] is True
    assert view["pool"]["producers"] == 1
    assert view["rates"] == {"delivered": 0.0, "duplicate": 0.0, "failed": 0.0}
    assert view["p99_seconds"] is None


def test_rates_and_latencies_are_those_between_two_looks() -> None:
    """
    By a calculation by hand.
    """

    def reading(*counts: int) -> Reading:
        bounds = ("0.1", "1.0", "+Inf")
        name = "safepulsar_send_duration_seconds_bucket"
        return Reading(
            {(name, frozenset({("outcome", "delivered"), ("le", b)})): c for b, c in zip(bounds, counts, strict=True)}
        )

    before, now = reading(10, 10, 10), reading(60, 100, 110)
    assert quantile(0.5, before, now) == pytest.approx(0.1)
    assert quantile(0.25, before, now) == pytest.approx(0.05)
    assert quantile(0.7, before, now) == pytest.approx(0.1 + 0.9 * 20 / 40)
    assert quantile(0.99, before, now) == pytest.approx(1.0)
    assert quantile(0.5, now, now) is None
    assert quantile(0.5, Reading(), Reading()) is None


def test_text_of_others_is_passed_over() -> None:
    """
    Comments, other metrics, labels with quotes.
    """
    found = from_text(
        '# HELP safepulsar_x y\npython_info{a="b"} 1\nsafepulsar_errors_total{code="a\\"b"} 2.0\nsafepulsar_y 1e3 1234\n'
    )
    assert found.by("errors_total", "code") == {'a\\"b': 2.0}
    assert found.total("y") == 1000


def test_on_a_terminal_it_is_alive(running: tuple[Metrics, RetryingSender], commands: Commands, tmp_path: Path) -> None:
    """
    Drawn again and again until its time is over; in colour, with the numbers.
    """
    ours, theirs = pty.openpty()
    with serve_status(running[0], tmp_path / "run" / "s") as status:
        process = subprocess.Popen(
            [sys.executable, "-m", "safepulsar", "top", str(status.path), "--interval", "0.1", "--times", "3"],
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            env=environment(commands.home, {"COLUMNS": "120", "LINES": "40"}),
        )
        os.close(theirs)
        written = b""
        with contextlib.suppress(OSError):  # what a terminal says at its end
            while part := os.read(ours, 65_536):
                written += part
        assert process.wait(30) == 0, written
    os.close(ours)
    text = written.decode()
    assert text.count("messages/s") >= 3
    assert "\x1b[" in text
    for fact in ("accepted 501", "failed 1", "1 paused", "TopicTerminated 1", "1 kept", "p99 none"):
        assert fact in text, text


def test_ctrl_c_ends_it(running: tuple[Metrics, RetryingSender], commands: Commands, tmp_path: Path) -> None:
    """
    In order, as that is how one ends it.
    """
    with serve_status(running[0], tmp_path / "run" / "s") as status:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "safepulsar",
                "top",
                str(status.path),
                "--interval",
                "0.1",
                "--times",
                "9999",
                "--json",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(commands.home),
        )
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"{")
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=30)
    assert (process.returncode, complaints) == (0, b"")


@pytest.mark.parametrize(
    ("where", "code", "told"),
    [
        ("/nowhere/at/all", 1, "nothing is to be read"),
        ("http://127.0.0.1:1/metrics", 1, "does not answer"),
        ("ftp://x/metrics", 2, "must be the path of a socket"),
    ],
)
def test_what_is_not_there_is_said(commands: Commands, where: str, code: int, told: str) -> None:
    """
    In one line, with what to do.
    """
    ended = commands.run("top", where).check(code)
    assert told in ended.stderr
    assert ended.stdout == ""


def test_metrics_of_something_else_are_no_answer(commands: Commands) -> None:
    """
    An endpoint without safepulsar in it says what is missing.
    """
    server, thread = start_http_server(0, addr="127.0.0.1", registry=CollectorRegistry())
    try:
        ended = commands.run("top", f"http://127.0.0.1:{server.server_port}/metrics").check(1)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert "safepulsar.metrics.prometheus.export()" in ended.stderr
