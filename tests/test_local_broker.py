"""
`safepulsar.local_broker`: a broker on a folder that keeps what it acknowledged, whatever is done to it.
"""

from __future__ import annotations

import os
import socket
import stat
import sys
import threading
from typing import TYPE_CHECKING

import pulsar
import pytest

from safepulsar.broker_process import BrokerNotStarted, BrokerState
from safepulsar.errors import InvalidSettings
from safepulsar.local_broker import LocalBroker, start_broker
from tests.brokers import listening_on
from tests.subprocesses import run_script
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.broker, pytest.mark.timeout(60)]


def _port(broker: LocalBroker) -> int:
    return int(broker.url.rpartition(":")[2])


def test_it_answers_once_it_is_started(tmp_path: Path) -> None:
    """
    A started broker takes messages from the official client at its URL at once.
    """
    with start_broker(tmp_path / "data") as broker:
        client = pulsar.Client(broker.url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
        try:
            assert client.create_producer("orders").send(b"first") is not None
        finally:
            client.close()


def test_it_writes_nothing_to_our_output(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """
    What the broker says goes to its log, and neither to standard output nor to standard error.
    """
    with start_broker(tmp_path) as broker:
        broker.restart()
    assert capfd.readouterr() == ("", "")


def test_its_state_is_told(tmp_path: Path) -> None:
    """
    State, process id and repr follow what is done to the broker; the URL stays.
    """
    broker = LocalBroker(tmp_path)
    url = broker.url
    assert (broker.state, broker.pid) == (BrokerState.STOPPED, None)
    assert repr(broker) == f"<LocalBroker {url} on {str(tmp_path)!r}, STOPPED>"
    with broker:
        first = broker.pid
        assert repr(broker) == f"<LocalBroker {url} on {str(tmp_path)!r}, RUNNING, pid {first}>"
        broker.start()
        assert broker.pid == first
        broker.freeze()
        assert (broker.state, broker.pid) == (BrokerState.FROZEN, first)
        broker.thaw()
        assert broker.state is BrokerState.RUNNING
        broker.restart()
        assert broker.state is BrokerState.RUNNING
        assert broker.pid != first
    assert (broker.state, broker.url) == (BrokerState.STOPPED, url)


def test_stopping_and_freezing_what_is_stopped_does_nothing(tmp_path: Path) -> None:
    """
    Every call that ends or freezes a broker may be repeated, and may come before its start.
    """
    broker = LocalBroker(tmp_path)
    for _ in range(2):
        broker.stop()
        broker.kill()
        broker.freeze()
        broker.thaw()
        assert broker.state is BrokerState.STOPPED
        broker.start()
        broker.freeze()
        broker.freeze()
        broker.stop()


def test_a_crash_is_seen(tmp_path: Path) -> None:
    """
    A broker that ended by itself is STOPPED, and can be started again.
    """
    with start_broker(tmp_path) as broker:
        assert broker.pid is not None
        os.kill(broker.pid, 9)
        wait_until(lambda: broker.state is BrokerState.STOPPED, "the crash to be seen")
        broker.start()
        assert broker.state is BrokerState.RUNNING


def test_two_run_side_by_side(tmp_path: Path) -> None:
    """
    Two brokers have ports and folders of their own.
    """
    with start_broker(tmp_path / "one") as one, start_broker(tmp_path / "two") as two:
        assert one.url != two.url
        one.kill()
        assert two.state is BrokerState.RUNNING


def test_calls_from_several_threads_take_turns(tmp_path: Path) -> None:
    """
    Threads that start, restart and kill one broker at the same time leave it in one piece.
    """
    with start_broker(tmp_path) as broker:
        threads = [threading.Thread(target=call) for call in (broker.restart, broker.kill, broker.start) * 3]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        broker.start()
        assert broker.state is BrokerState.RUNNING


def test_its_folder_is_ours_alone(tmp_path: Path) -> None:
    """
    Folder and log of a broker, which may hold payloads, are for their owner only.
    """
    with start_broker(tmp_path / "data") as broker:
        assert stat.S_IMODE(broker.folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(broker.log_path.stat().st_mode) == 0o600


def test_ctrl_c_does_not_reach_it(tmp_path: Path) -> None:
    """
    A broker is out of reach of the terminal's signals, so that an application can drain into it.
    """
    with start_broker(tmp_path) as broker:
        assert broker.pid is not None
        assert os.getsid(broker.pid) != os.getsid(0)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_listens_on_one_port_of_the_loopback_interface(tmp_path: Path) -> None:
    """
    A broker opens its own port on 127.0.0.1 and nothing else: no page of metrics, no other interface.
    """
    with start_broker(tmp_path) as broker:
        assert listening_on(broker) == [f"0100007F:{_port(broker):04X}"]


def test_a_port_may_be_chosen(tmp_path: Path) -> None:
    """
    A port that is given is the port of the URL.
    """
    port = _port(LocalBroker(tmp_path))
    with start_broker(tmp_path, port) as broker:
        assert broker.url == f"pulsar://127.0.0.1:{port}"


def test_a_taken_port_is_refused_by_name(tmp_path: Path) -> None:
    """
    Where something listens on the port already, the error names the port and says what to do.
    """
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(BrokerNotStarted, match=rf"port {taken.getsockname()[1]} on 127\.0\.0\.1 is taken; stop what"),
    ):
        start_broker(tmp_path, taken.getsockname()[1])


def test_a_folder_in_use_is_refused_with_the_log(tmp_path: Path) -> None:
    """
    Two brokers can't have one folder: the second one's error has what its log says.
    """
    with start_broker(tmp_path) as first:
        with pytest.raises(
            BrokerNotStarted, match=r"(?s)pulsar-lite ended with exit code 1; its log .*broker\.log says:.*LOCK"
        ):
            start_broker(tmp_path)
        assert first.state is BrokerState.RUNNING


@pytest.mark.parametrize("port", [0, -1, 65_536])
def test_what_is_no_port_is_refused(tmp_path: Path, port: int) -> None:
    """
    A number that can't be a port is refused before anything is started.
    """
    with pytest.raises(InvalidSettings, match=rf"^port: {port} is not between 1 and 65535"):
        start_broker(tmp_path, port)


def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    """
    A path that is a file is refused by name.
    """
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(InvalidSettings, match=r"^path: .*/file' is not a folder; name one"):
        start_broker(file)


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Without pulsar-lite the error says which extra to install.
    """
    monkeypatch.setitem(sys.modules, "pulsar_lite", None)
    with pytest.raises(ImportError, match=r"pip install 'safepulsar\[local\]'"):
        start_broker(tmp_path)


def test_a_broker_that_does_not_answer_is_not_left_behind(tmp_path: Path) -> None:
    """
    A broker that is not ready in time is killed, and the error says how long it was given.
    """

    class Mute(LocalBroker):
        start_seconds = 0.1

        def _answers(self) -> bool:
            return False

    broker = Mute(tmp_path)
    with pytest.raises(BrokerNotStarted, match=r"did not answer within 0\.1 s"):
        broker.start()
    assert broker.state is BrokerState.STOPPED


def test_it_ends_with_a_process_that_is_killed(tmp_path: Path) -> None:
    """
    A broker never outlives the process that started it, even one that is killed and had restarted it in a thread.
    """
    source = """
    import os, signal, sys, threading
    from safepulsar.local_broker import start_broker

    broker = start_broker(sys.argv[1])
    thread = threading.Thread(target=broker.restart)
    thread.start()
    thread.join()
    print(broker.url)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    url = run_script(source, tmp_path).check(-9).strip()
    again = LocalBroker(tmp_path, int(url.rpartition(":")[2]))

    def started() -> bool:
        try:
            again.start()
        except BrokerNotStarted:
            return False
        return True

    wait_until(started, "port and folder of the broker to be free")
    again.stop()
