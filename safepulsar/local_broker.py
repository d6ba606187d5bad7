"""
A real broker for development, demonstrations and tests: pulsar-lite's, in a process of its own on a folder of its own.

It speaks Pulsar's protocol to the official client and keeps what it acknowledged through `kill -9`. It has no
deduplication and ignores access modes; its makers promise no durability for production.
"""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

from safepulsar.broker_process import LOOPBACK, BrokerNotStarted, BrokerProcess, free_port

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

_PROBE_SECONDS: Final = 1.0
# Unless told otherwise it serves a page of metrics on port 8080 of every interface.
_CONFIGURATION: Final = "[metrics]\nenabled = false\n"

# Pulsar's greeting, by hand, because it needs neither the client library nor its threads. A frame is its length, its
# command's length and the command: here BaseCommand(type=CONNECT, connect=(client_version="probe", protocol_version=0)).
_CONNECT: Final = bytes.fromhex("00000011 0000000d 0802 1209 0a05 70726f6265 2000")
_CONNECTED: Final = bytes.fromhex("0803")  # how the answer's command begins: BaseCommand(type=CONNECTED, …
_LENGTHS_BYTES: Final = 8


def start_broker(path: str | os.PathLike[str], port: int | None = None) -> LocalBroker:
    """
    Start a broker on a folder and return it once it answers.

    Args:
        path: the folder for its data (`broker.rocksdb`), its log (`broker.log`) and its configuration (`broker.toml`);
            made with mode 0700 if missing. Started again on the same folder, the broker still has every message that
            it acknowledged.
        port: of the loopback interface, the only one it listens on. Left out: any free one, another at each call.

    Raises:
        ImportError: pulsar-lite is not installed.
        InvalidSettings: the path is not a folder, or the port is not a port.
        BrokerNotStarted: the port is taken, another broker has the folder, or it did not answer in time.
    """
    broker = LocalBroker(Path(path), port)
    broker.start()
    return broker


class LocalBroker(BrokerProcess):
    """
    A pulsar-lite broker; made stopped. See `start_broker` for its arguments and `BrokerProcess` for what it promises.

    Raises:
        ImportError: pulsar-lite is not installed.
    """

    name = "pulsar-lite"
    start_seconds = 20.0

    def __init__(self, path: Path, port: int | None = None) -> None:
        self._program = _program()
        # Chosen now, and not at its start, so that the URL is known from the beginning and stays.
        super().__init__(path, [free_port() if port is None else port])

    def _command(self) -> Sequence[str]:
        return (
            *(str(self._program), "--config", str(self._configuration_path)),
            *("--addr", f"{LOOPBACK}:{self._ports[0]}"),
            *("--db-path", str(self._folder / "broker")),  # it adds `.rocksdb`
            *("--log-level", "warn"),
        )

    def _prepare(self) -> None:
        self._configuration_path.write_text(_CONFIGURATION, encoding="utf-8")

    def _answers(self) -> bool:
        return _greets(self._ports[0])

    @property
    def _configuration_path(self) -> Path:
        return self._folder / "broker.toml"


def _greets(port: int) -> bool:
    """
    Say whether what listens on the port answers a greeting as a Pulsar broker does.

    A connection alone would tell less: the system accepts those before the broker does anything with them.
    """
    try:
        with (
            socket.create_connection((LOOPBACK, port), _PROBE_SECONDS) as connection,
            connection.makefile("rb") as incoming,
        ):
            connection.sendall(_CONNECT)
            answer = incoming.read(_LENGTHS_BYTES + len(_CONNECTED))
    except OSError:
        return False
    return answer[_LENGTHS_BYTES:] == _CONNECTED


def _program() -> Path:
    """
    Return the path of pulsar-lite's program.

    Found without importing its package, which would load the client library and start a process manager of its own.
    """
    package = importlib.util.find_spec("pulsar_lite")
    if package is None or not package.submodule_search_locations:
        raise ImportError("the local broker needs pulsar-lite: pip install 'safepulsar[local]'")
    program = Path(package.submodule_search_locations[0]) / "bin" / "pulsar-lite"
    if not program.is_file():  # its wheel for Windows has another name, and Windows no signals to freeze with
        raise BrokerNotStarted(f"pulsar-lite has no program {str(program)!r}; it needs Linux or macOS")
    return program
