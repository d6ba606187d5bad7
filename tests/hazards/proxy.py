"""
A broker that takes a message and hangs up, again and again: between a client and a real broker, by what is on the wire.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import IO, TYPE_CHECKING, Final
from urllib.parse import urlsplit

from safepulsar.broker_process import LOOPBACK, free_port

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

_LENGTH_BYTES: Final = 4
# How the command of a frame begins, behind both lengths: BaseCommand(type=SEND, …
_SEND: Final = bytes.fromhex("0806")
_COMMAND_AT: Final = 2 * _LENGTH_BYTES


class HangingUp:
    """
    Passes everything on except messages: at one, it closes the connection. In a `with` block.

    The client connects again, finds its topic and its producer accepted, sends again, and so on. What the broker says of
    its own address becomes ours, or the client would go past it.

    Attributes:
        url: what a client connects to.
        messages: how many came.
    """

    def __init__(self, broker_url: str) -> None:
        port = urlsplit(broker_url).port
        assert port is not None
        self._broker_port = port
        self._listener = socket.create_server((LOOPBACK, free_port()))
        self._port: int = self._listener.getsockname()[1]
        assert len(str(self._port)) == len(str(self._broker_port)), "or frames would change their length"
        self.url = f"pulsar://{LOOPBACK}:{self._port}"
        self.messages = 0
        self._threads: list[threading.Thread] = []
        self._connections: list[socket.socket] = []

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for each in (self._listener, *self._connections):
            _hang_up(each)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                broker = socket.create_connection((LOOPBACK, self._broker_port))
                self._connections += [client, broker]
                self._start(self._pass_on, client, broker)
                self._start(self._pass_on, broker, client)

    def _start(self, target: object, *arguments: socket.socket) -> None:
        thread = threading.Thread(target=target, args=arguments, name="hanging-up")  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _pass_on(self, source: socket.socket, destination: socket.socket) -> None:
        ours, brokers = f":{self._port}".encode(), f":{self._broker_port}".encode()
        with contextlib.suppress(OSError), source.makefile("rb") as incoming:
            while frame := _read_frame(incoming):
                if frame[_COMMAND_AT:].startswith(_SEND):
                    self.messages += 1
                    break
                destination.sendall(frame.replace(brokers, ours))
        _hang_up(source)
        _hang_up(destination)


def _read_frame(incoming: IO[bytes]) -> bytes:
    length = incoming.read(_LENGTH_BYTES)
    return length + incoming.read(int.from_bytes(length, "big"))


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the other side was first
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
