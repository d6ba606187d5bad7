"""
A broker that runs as a process of ours: it can be killed, frozen and started again, and never outlives us.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from enum import Enum
from typing import TYPE_CHECKING, ClassVar, Final

from safepulsar.errors import InvalidSettings, SafePulsarError
from safepulsar.processes import end_with_parent

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self

LOOPBACK: Final = "127.0.0.1"
_POLL_SECONDS: Final = 0.02
_LOG_LINES_SHOWN: Final = 8
_MAX_PORT: Final = 65_535
# Below the ports that systems hand to outgoing connections (32768 and up on Linux, 49152 on macOS): while the broker is
# down nobody's connection can take its port, nor can a client that reconnects end up connected to itself.
_FREE_PORTS: Final = range(20_000, 32_768)
_PORT_TRIES: Final = 100


class BrokerNotStarted(SafePulsarError):
    """
    A broker process could not be started, ended, or did not answer in time; the text has what its log says.
    """


class BrokerState(str, Enum):
    """
    What a broker process does now.

    Legal: STOPPED → RUNNING (`start`), RUNNING → FROZEN (`freeze`), FROZEN → RUNNING (`thaw`), and either → STOPPED
    (`kill`, `stop`, or a crash). Not STOPPED → FROZEN: there is nothing to freeze, and the call does nothing.
    """

    STOPPED = "STOPPED"
    RUNNING = "RUNNING"
    FROZEN = "FROZEN"


class BrokerProcess(ABC):
    """
    The process of a broker, from its start to its end, as often as wanted, on the same folder and the same ports.

    Safe to use from several threads: calls take turns, and one that starts the broker keeps the others waiting. Signals
    from the terminal (Ctrl-C) do not reach the broker, so that an application can still drain. The broker ends when the
    process that started it ends, in whatever way. Nothing is written to standard output or standard error. In a `with`
    block it is started, and stopped at its end.

    A kind of broker adds its command, its configuration, and how to ask whether it is ready.

    Args:
        folder: for its data, its configuration and its log (`broker.log`); made with mode 0700 if missing.
        ports: those that it listens on, all on the loopback interface.
    """

    name: ClassVar[str]
    start_seconds: ClassVar[float]
    stop_seconds: ClassVar[float] = 5.0

    def __init__(self, folder: Path, ports: Sequence[int]) -> None:
        if folder.exists() and not folder.is_dir():
            raise InvalidSettings("path", f"{str(folder)!r} is not a folder; name one for the broker's data")
        for port in ports:
            if not 0 < port <= _MAX_PORT:
                raise InvalidSettings("port", f"{port} is not between 1 and {_MAX_PORT}; leave it out for a free one")
        self._folder = folder.absolute()
        self._ports = tuple(ports)
        self._lock = threading.RLock()  # guards the three below, and that one call at a time changes the process
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen = False
        self._log_start = 0

    def __repr__(self) -> str:
        pid = self.pid
        suffix = "" if pid is None else f", pid {pid}"
        return f"<{type(self).__name__} {self.url} on {str(self._folder)!r}, {self.state.value}{suffix}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """
        What a client connects to; the same after every restart.
        """
        return f"pulsar://{LOOPBACK}:{self._ports[0]}"

    @property
    def folder(self) -> Path:
        """
        Where its data are.
        """
        return self._folder

    @property
    def log_path(self) -> Path:
        """
        The file that its output is appended to, made with mode 0600.
        """
        return self._folder / "broker.log"

    @property
    def pid(self) -> int | None:
        """
        Its process id, another one after every start; None while it does not run.
        """
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    @property
    def state(self) -> BrokerState:
        """
        What its process does now; a crash is seen, too.
        """
        if self.pid is None:
            return BrokerState.STOPPED
        return BrokerState.FROZEN if self._frozen else BrokerState.RUNNING

    def start(self) -> None:
        """
        Start it, or start it again, and return once it answers; does nothing while it runs.

        Raises:
            BrokerNotStarted: a port is taken, another broker has the folder, or it did not answer in time, in which
                case it does not run afterwards.
        """
        with self._lock:
            if self.pid is not None:
                return
            self._check_ports()
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._prepare()
            self._process = process = self._spawn()
            deadline = time.monotonic() + self.start_seconds
            while not self._answers():
                if process.poll() is not None:
                    raise BrokerNotStarted(self._failure(f"ended with exit code {process.returncode}"))
                if time.monotonic() > deadline:
                    self.kill()
                    raise BrokerNotStarted(self._failure(f"did not answer within {self.start_seconds:g} s"))
                time.sleep(_POLL_SECONDS)

    def kill(self) -> None:
        """
        End it at once (SIGKILL), as a crash would, and wait until it is gone; does nothing when it is.
        """
        with self._lock:
            if self._process is not None:
                self._process.kill()
                self._process.wait()
            self._frozen = False

    def freeze(self) -> None:
        """
        Make it hang (SIGSTOP): its connections stay open and nothing answers.

        Returns when every thread of it stands still; does nothing when it is frozen or gone.
        """
        with self._lock:
            if self._process is None or self.state is not BrokerState.RUNNING:
                return
            self._process.send_signal(signal.SIGSTOP)
            if hasattr(os, "waitid"):  # not on macOS before Python 3.13; there it stands still a moment later
                # WNOWAIT leaves the news for Popen, which waits for the same process.
                os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            self._frozen = True

    def thaw(self) -> None:
        """
        Let it go on after `freeze` (SIGCONT); does nothing when it is not frozen.
        """
        with self._lock:
            if self._process is not None and self._frozen:
                self._process.send_signal(signal.SIGCONT)
            self._frozen = False

    def restart(self) -> None:
        """
        Kill it and start it again.

        Raises:
            BrokerNotStarted: as `start`.
        """
        with self._lock:
            self.kill()
            self.start()

    def stop(self) -> None:
        """
        Ask it to end (SIGTERM), kill it when it has not after `stop_seconds`, and wait until it is gone.

        Its folder stays, so that it can be started again. Idempotent.
        """
        with self._lock:
            self.thaw()  # or it could not even notice that it is asked
            if self._process is None:
                return
            self._process.terminate()
            try:
                self._process.wait(self.stop_seconds)
            except subprocess.TimeoutExpired:
                self.kill()

    @abstractmethod
    def _command(self) -> Sequence[str]:
        """
        Return the program, by its path, with its arguments.
        """

    @abstractmethod
    def _prepare(self) -> None:
        """
        Make its folder ready for a start: write its configuration, clear away what a crash left.

        Raises:
            BrokerNotStarted: that could not be done.
        """

    @abstractmethod
    def _answers(self) -> bool:
        """
        Ask it once, within some seconds, whether it is ready.
        """

    def _check_ports(self) -> None:
        # The broker would say so itself, but until then a server that already listens there could pass for it.
        for port in self._ports:
            if _port_is_taken(port):
                raise BrokerNotStarted(f"port {port} on {LOOPBACK} is taken; stop what listens there or name another")

    def _spawn(self) -> subprocess.Popen[bytes]:
        log = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._log_start = os.fstat(log).st_size
            return subprocess.Popen(  # noqa: S603  # the command is its kind's own
                end_with_parent.wrapped(self._command()),
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        finally:
            os.close(log)

    def _failure(self, what: str) -> str:
        with self.log_path.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode(errors="replace").splitlines()
        # Some brokers say first what went wrong, others last.
        if len(lines) > _LOG_LINES_SHOWN:
            half = _LOG_LINES_SHOWN // 2
            lines = [*lines[:half], "…", *lines[-half:]]
        return "\n    ".join([f"{self.name} {what}; its log {self.log_path} says:", *lines])


def free_port() -> int:
    """
    Return a port of the loopback interface that nobody listens on, chosen at random so that parallel runs differ.

    Raises:
        BrokerNotStarted: none was found.
    """
    for port in random.sample(_FREE_PORTS, _PORT_TRIES):
        if not _port_is_taken(port):
            return port
    raise BrokerNotStarted(f"none of {_PORT_TRIES} ports tried on {LOOPBACK} is free; name a free one")


def _port_is_taken(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        # As servers do: connections that a killed broker left behind don't hold its port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
            listener.listen()
        except OSError:
            return True
    return False
