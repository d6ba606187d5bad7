"""
Puts load on a service, from a process of its own: so many clients, each waiting for its answer, with connections kept.

    python -m benchmarks.web.load '{"port": 8000, "path": "/orders", "body": "{}", "clients": 32, "seconds": 3, "rate": 0}'

Requests are written once and answers hardly read, so that it takes little beside the service. It prints JSON.
"""

from __future__ import annotations

import json
import os
import random
import select
import socket
import sys
import time
from collections import deque
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass

_LOOPBACK = "127.0.0.1"
_PATIENCE_SECONDS = 60.0
_PIECE_BYTES = 65_536
_SEED = 7


class LoadError(Exception):
    """
    An answer was bad, or did not come.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """
    What is asked for.

    Args:
        port: of the service on this machine.
        path: of the endpoint.
        body: what is posted, JSON.
        clients: how many connections.
        seconds: for so long; what was asked by then is waited for.
        rate: requests per second, at moments as clients that know nothing of each other choose them, the same each time. The
            latency counts from there, also where all connections are busy then. 0 is as fast as the answers come.
    """

    port: int
    path: str
    body: str
    clients: int
    seconds: float
    rate: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """
    What became of it.

    Args:
        latencies_ns: of all requests.
        seconds: until the last answer.
        busy: the share of them that this process took of a core.
    """

    latencies_ns: list[int]
    seconds: float
    busy: float


class _Connection:
    """
    One client.
    """

    __slots__ = ("_answer", "_socket", "began", "close", "fileno")

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((_LOOPBACK, port), _PATIENCE_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.fileno, self.close = self._socket.fileno, self._socket.close  # which `select` and `closing` ask for
        self.began = 0
        self._answer = b""

    def ask(self, request: bytes, began: int) -> None:
        """
        Send a request, which counts from that moment.
        """
        self.began = began
        self._socket.sendall(request)

    def answered(self) -> bool:
        """
        Read what has come; whether that is all of it.
        """
        piece = self._socket.recv(_PIECE_BYTES)
        if not piece:
            raise LoadError("the service closed a connection")
        answer = self._answer = self._answer + piece
        head, end, body = answer.partition(b"\r\n\r\n")
        if not end:
            return False
        _, _, length = head.lower().partition(b"\r\ncontent-length:")
        if len(body) < int(length.partition(b"\r\n")[0]):
            return False
        if not answer.startswith(b"HTTP/1.1 202"):
            raise LoadError(answer[:500].decode(errors="replace"))
        self._answer = b""
        return True


def run(load: Load) -> Found:
    """
    Put the load on the service.

    Raises:
        LoadError: not all answers were good.
    """
    with ExitStack() as opened:
        return _run(load, [opened.enter_context(closing(_Connection(load.port))) for _ in range(load.clients)])


def _run(load: Load, connections: list[_Connection]) -> Found:
    body = load.body.encode()
    request = (
        f"POST {load.path} HTTP/1.1\r\nHost: {_LOOPBACK}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    idle = deque(connections)
    busy: set[_Connection] = set()
    latencies: list[int] = []
    chance = random.Random(_SEED)  # noqa: S311 - no secret, the same moments each time
    clock = time.perf_counter_ns
    cpu = time.process_time()
    began = due = moment = clock()
    end = began + round(load.seconds * 1e9)
    while busy or due < end:
        while idle and due <= moment and due < end:
            connection = idle.popleft()
            connection.ask(request, due)
            busy.add(connection)
            if load.rate:
                due += round(1e9 * chance.expovariate(load.rate))
        wait = max(0.0, (due - clock()) / 1e9) if idle and due < end else _PATIENCE_SECONDS
        ready, _, _ = select.select(busy, (), (), wait)  # not epoll, whose waits are whole milliseconds
        if not ready and wait == _PATIENCE_SECONDS:
            raise LoadError(f"{len(busy)} requests had no answer after {_PATIENCE_SECONDS:g} s")
        for connection in ready:
            if connection.answered():
                latencies.append(clock() - connection.began)
                busy.remove(connection)
                idle.append(connection)
        moment = clock()
        if not load.rate:
            due = moment
    seconds = (clock() - began) / 1e9
    return Found(latencies_ns=latencies, seconds=seconds, busy=(time.process_time() - cpu) / seconds)


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    if cores := asked.pop("cores"):
        os.sched_setaffinity(0, cores)
    print(json.dumps(asdict(run(Load(**asked)))))
