"""
A proxy between a client and a broker of either kind, which breaks what passes through it.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Final

from safepulsar.broker_process import LOOPBACK, free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Self

# A frame is its length in four bytes, the length of its command in four, and the command, whose first field is its kind.
_LENGTH_BYTES: Final = 4
_KIND_AT: Final = 9
_PRODUCER: Final = 5
_SEND: Final = 6
_RECEIPT: Final = 7
_READ_BYTES: Final = 65_536
_TICK_SECONDS: Final = 0.02


class Proxy:
    """
    In a `with` block. Clients that use its `url` stay with it, because it puts its own address into the broker's answers.

    The switches below may be set at any time, by any thread.

    Args:
        broker_url: of the broker behind it.
        on_cut: called before connections are cut.
        on_connect: called when a client has connected, before anything passes.

    Attributes:
        url: what clients connect to.
        drop_receipts: acknowledgements do not reach the client.
        lose_sends_after: so many messages pass to the broker, and those behind them are lost; None loses none.
        swallow: nobody gets a producer of a topic whose name has this in it: the broker is not asked.
        cut_every_bytes: of what clients send; None never cuts.
        delay_seconds: of everything that passes, in both directions.
        cuts: how often connections were cut; as the next two it may be set to 0.
        dropped: how many receipts were dropped.
        lost: how many messages, or batches, were lost.
    """

    def __init__(
        self,
        broker_url: str,
        *,
        on_cut: Callable[[], None] = lambda: None,
        on_connect: Callable[[], None] = lambda: None,
    ) -> None:
        self.drop_receipts = False
        self.swallow: bytes | None = None
        self.cut_every_bytes: int | None = None
        self.delay_seconds = 0.0
        self.lose_sends_after: int | None = None
        self.cuts = 0
        self.lost = 0
        self.dropped = 0
        self._broker_port = int(broker_url.rpartition(":")[2])
        port = free_port()
        self.url = f"pulsar://{LOOPBACK}:{port}"
        self._theirs, self._ours = (f"{LOOPBACK}:{each}".encode() for each in (self._broker_port, port))
        assert len(self._theirs) == len(self._ours)  # or the lengths inside a frame would not hold any more
        self._on_cut, self._on_connect = on_cut, on_connect
        self._lock = threading.Lock()  # guards the three below
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._since_cut = 0
        self._closing = threading.Event()
        self._listener = socket.create_server((LOOPBACK, port))

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing.set()
        self._listener.shutdown(socket.SHUT_RDWR)  # or the thread that accepts would not wake up
        self._listener.close()
        self._shut_all()
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join()

    def cut(self) -> None:
        """
        Break every connection, as a network would: with what is under way in it.
        """
        self._on_cut()
        self.cuts += 1
        self._shut_all()

    def _shut_all(self) -> None:
        with self._lock:
            sockets, self._sockets = self._sockets, set()
            self._since_cut = 0
        for each in sockets:
            with contextlib.suppress(OSError):  # the other side was faster
                each.shutdown(socket.SHUT_RDWR)

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, name="proxy")
        with self._lock:
            self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                broker = socket.create_connection((LOOPBACK, self._broker_port))
            except OSError:  # it does not run
                client.close()
                continue
            self._on_connect()
            with self._lock:
                self._sockets |= {client, broker}
            ends = threading.Barrier(2)
            self._start(self._pass, client, broker, self._from_client, ends)
            self._start(self._pass, broker, client, self._from_broker, ends)

    def _pass(
        self,
        source: socket.socket,
        target: socket.socket,
        change: Callable[[bytes], bytes],
        ends: threading.Barrier,
    ) -> None:
        """
        Pass frames on until either side ends, then end the other; whoever is last lets go of both.
        """
        pending = b""
        with contextlib.suppress(OSError):
            while data := source.recv(_READ_BYTES):
                pending += data
                frames, pending = _split(pending)
                self._closing.wait(self.delay_seconds)
                target.sendall(b"".join(map(change, frames)))
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        if ends.wait() == 0:
            with self._lock:
                self._sockets -= {source, target}
            source.close()
            target.close()

    def _from_client(self, frame: bytes) -> bytes:
        if self.swallow is not None and frame[_KIND_AT] == _PRODUCER and self.swallow in frame:
            return b""
        if self.lose_sends_after is not None and frame[_KIND_AT] == _SEND:
            self.lose_sends_after -= 1
            if self.lose_sends_after < 0:
                self.lost += 1
                return b""
        with self._lock:
            self._since_cut += len(frame)
            cut = self.cut_every_bytes is not None and self._since_cut >= self.cut_every_bytes
        if cut:
            self.cut()
        return frame

    def _from_broker(self, frame: bytes) -> bytes:
        if self.drop_receipts and frame[_KIND_AT] == _RECEIPT:
            self.dropped += 1
            return b""
        return frame.replace(self._theirs, self._ours)


def _split(data: bytes) -> tuple[list[bytes], bytes]:
    """
    Split off the frames that are complete; return them and the rest.
    """
    frames, at = [], 0
    while len(data) - at >= _LENGTH_BYTES:
        end = at + _LENGTH_BYTES + int.from_bytes(data[at : at + _LENGTH_BYTES], "big")
        if end > len(data):
            break
        frames.append(data[at:end])
        at = end
    return frames, data[at:]
