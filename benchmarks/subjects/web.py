"""
A service that takes orders: what an endpoint costs that sends, and what the naive code in it costs.

The server is a process on a core of its own where there are two; what puts load on it is another one, on the others.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote

from benchmarks.case import Case, Goal, Kind, Sample
from benchmarks.measuring import with_latencies
from benchmarks.web.by_hand import TOPIC, URL
from safepulsar.processes import end_with_parent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from benchmarks.case import Contender, Scene

_LOOPBACK = "127.0.0.1"
_CLIENTS = 32
_START_SECONDS, _SETTLE_SECONDS, _END_SECONDS, _LIMIT_SECONDS = 40.0, 60.0, 20.0, 300.0
_TIMES = 2  # as long as others: a request takes more than a message
_SHARE = 0.5  # of what the endpoint without a message can take
_BUSY = 0.9  # a load that was busy for more of its time was itself what was measured

_NOTHING, _SUBMIT, _AFTER, _RAW_SUBMIT = (
    "no message",
    "safepulsar submit",
    "safepulsar after_response",
    "raw send_async",
)
_AT_ONCE = {_NOTHING: "nothing", _RAW_SUBMIT: "raw-submit", _SUBMIT: "submit", _AFTER: "after"}
_SEND, _NAIVE = "safepulsar send", "naive, a client per request"
_RAW_SENDS = {f"raw, {name}": f"waiting/raw/{quote(name)}" for name in ("unbatched", "batched 1 ms")}
_WAITING = {_NOTHING: "waiting/nothing", **_RAW_SENDS, _SEND: "waiting/send", _NAIVE: "waiting/naive"}
# Every guard is on, as in what else is compared.
_SENDER = json.dumps({"messages_per_second": 1e9, "bytes_per_second": 1e12})


@dataclass(frozen=True, slots=True, kw_only=True)
class Framework:
    """
    What serves the orders: one process.

    Args:
        name: for titles.
        command: of the server, where {} stands for the number of the listening socket.
    """

    name: str
    command: tuple[str, ...]


FASTAPI = Framework(
    name="FastAPI",
    command=("uvicorn", "benchmarks.web.fastapi_orders:app", "--fd", "{}", "--log-level", "warning", "--no-access-log"),
)
FLASK = Framework(
    name="Flask",
    command=(
        *("gunicorn", "benchmarks.web.flask_orders:app", "--bind", "fd://{}", "--log-level", "warning"),
        *("--worker-class", "gthread", "--threads", str(_CLIENTS), "--no-control-socket"),
    ),
)


class Service:
    """
    A served application, and the cores for it and for its load.
    """

    def __init__(self, framework: Framework, scene: Scene) -> None:
        self._seconds = scene.effort.seconds * _TIMES
        self._body = _order(scene)
        mine, *others = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
        self._cores = others
        self._said = scene.folder / f"{scene.topic('served')}.log"
        environment = {
            URL: scene.url,
            "SAFEPULSAR_FAILED_MESSAGES": str(scene.folder / f"{scene.topic('failed')}.db"),
            "SAFEPULSAR_SENDER": _SENDER,
        }
        environment |= {f"FLASK_{name}": value for name, value in environment.items()}
        with socket.create_server((_LOOPBACK, 0), backlog=2 * _CLIENTS) as listener, self._said.open("wb") as log:
            # Connections inherit it. Else each answer of two pieces waits 40 ms for the first one's acknowledgement.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._port = listener.getsockname()[1]
            self._process = subprocess.Popen(
                end_with_parent.wrapped(
                    [sys.executable, "-m", *(part.format(listener.fileno()) for part in framework.command)]
                ),
                env={**os.environ, **environment, TOPIC: scene.topic("orders")},
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            if others:
                os.sched_setaffinity(self._process.pid, {mine})  # before it has threads or children, which inherit it
            self._before = self._settle(_START_SECONDS)
        except BaseException:
            self.close()
            raise

    def turn(self, path: str, rate: float = 0.0, *, messages: bool = True) -> Sample:
        """
        Put load on an endpoint, and see that each request's message was delivered.

        Args:
            path: of the endpoint.
            rate: see `Load`.
            messages: whether safepulsar or `send_async` sends there, so that fates are counted.

        Raises:
            AssertionError: not all requests had a good answer, or not all messages were delivered.
        """
        asked = {
            "port": self._port,
            "path": f"/{path}",
            "body": self._body,
            "clients": _CLIENTS,
            "seconds": self._seconds,
            "rate": rate,
            "cores": self._cores,
        }
        command = [sys.executable, "-m", "benchmarks.web.load", json.dumps(asked)]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_SECONDS, check=False)
        if ran.returncode:
            raise AssertionError(f"the load on {path} ended with {ran.returncode}: {ran.stderr[-1000:]}{self._log()}")
        found = json.loads(ran.stdout)
        if found["busy"] > _BUSY:
            raise AssertionError(f"the load on {path} was busy for {found['busy']:.0%} of its time")
        before, after = self._before, self._settle(_SETTLE_SECONDS)
        self._before = after
        delivered = after["delivered"] - before["delivered"]
        if messages and delivered != len(found["latencies_ns"]):
            raise AssertionError(
                f"{delivered} messages of {len(found['latencies_ns'])} requests to {path} were delivered"
            )
        spent = after["cpu_seconds"] - before["cpu_seconds"]
        return with_latencies(found["latencies_ns"], seconds=found["seconds"], cpu_seconds=spent)

    def close(self) -> None:
        """
        End it.
        """
        self._process.terminate()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _settle(self, seconds: float) -> dict[str, float]:
        with closing(http.client.HTTPConnection(_LOOPBACK, self._port, timeout=seconds)) as connection:
            try:
                connection.request("POST", "/settle")
                answer = connection.getresponse()
                text = answer.read()
            except (OSError, http.client.HTTPException) as error:
                raise AssertionError(f"the service does not answer: {error!r}{self._log()}") from error
        if answer.status != http.HTTPStatus.OK:
            raise AssertionError(f"the service answers {answer.status}{self._log()}")
        found: dict[str, float] = json.loads(text)
        return found

    def _log(self) -> str:
        return f"; it said: {self._said.read_text(errors='replace')[-2000:]}"


def _order(scene: Scene) -> str:
    """
    Return an order that takes as many bytes as the scene says.
    """
    order = {"number": 7, "customer": "c7", "note": ""}
    order["note"] = scene.payload.hex()[: scene.size_bytes - len(json.dumps(order, separators=(",", ":")))]
    return json.dumps(order, separators=(",", ":"))


@contextmanager
def serving(framework: Framework, scene: Scene) -> Iterator[Service]:
    """
    Start a service; ends it.
    """
    service = Service(framework, scene)
    try:
        yield service
    finally:
        service.close()


@contextmanager
def answering(scene: Scene) -> Iterator[Mapping[str, Contender]]:
    """
    Endpoints that answer at once, as fast as they can.
    """
    with serving(FASTAPI, scene) as service:
        yield {name: partial(service.turn, path, messages=name != _NOTHING) for name, path in _AT_ONCE.items()}


@contextmanager
def paced(scene: Scene) -> Iterator[Mapping[str, Contender]]:
    """
    The same with as many requests for each: half of what the one without a message can take.
    """
    with serving(FASTAPI, scene) as service:
        fastest = max(service.turn(_AT_ONCE[_NOTHING], messages=False).figures["rate"] for _ in range(2))
        yield {
            name: partial(service.turn, path, fastest * _SHARE, messages=name != _NOTHING)
            for name, path in _AT_ONCE.items()
        }


@contextmanager
def waiting(scene: Scene, framework: Framework) -> Iterator[Mapping[str, Contender]]:
    """
    Endpoints that answer when the message is stored, in threads.
    """
    with serving(framework, scene) as service:
        yield {name: partial(service.turn, path, messages=name == _SEND) for name, path in _WAITING.items()}


CASES = [
    Case(
        name="web-submit",
        title=f"FastAPI, answered at once, {_CLIENTS} clients",
        subject="web",
        prepare=answering,
        goals=(
            Goal(name="rate", ours=_SUBMIT, against=(_NOTHING,), at_least=0.9),
            Goal(name="rate, to raw", ours=_SUBMIT, against=(_RAW_SUBMIT,)),
            Goal(name="rate, after_response", ours=_AFTER, against=(_NOTHING,)),
            Goal(name="p99", ours=_SUBMIT, against=(_NOTHING,), kind=Kind.DIFFERENCE, figure="p99_us"),
            Goal(name="p99, raw", ours=_RAW_SUBMIT, against=(_NOTHING,), kind=Kind.DIFFERENCE, figure="p99_us"),
            Goal(name="CPU per request", ours=_SUBMIT, against=(_NOTHING,), kind=Kind.DIFFERENCE, figure="cpu_us"),
            Goal(
                name="CPU per request, raw",
                ours=_RAW_SUBMIT,
                against=(_NOTHING,),
                kind=Kind.DIFFERENCE,
                figure="cpu_us",
            ),
        ),
        sizes=(100,),
    ),
    Case(
        name="web-submit-paced",
        title="FastAPI, answered at once, at half its rate",
        subject="web",
        prepare=paced,
        goals=(
            Goal(name="p99", ours=_SUBMIT, against=(_NOTHING,), kind=Kind.DIFFERENCE, figure="p99_us", at_most=300.0),
            Goal(name="median", ours=_SUBMIT, against=(_NOTHING,), kind=Kind.DIFFERENCE, figure="p50_us"),
            Goal(name="p99, after_response", ours=_AFTER, against=(_NOTHING,), kind=Kind.DIFFERENCE, figure="p99_us"),
            Goal(name="p99, raw", ours=_RAW_SUBMIT, against=(_NOTHING,), kind=Kind.DIFFERENCE, figure="p99_us"),
        ),
        sizes=(100,),
    ),
    *(
        Case(
            name=name,
            title=f"{framework.name}, waiting for the message, {_CLIENTS} clients",
            subject="web",
            prepare=partial(waiting, framework=framework),
            goals=(
                Goal(name="rate", ours=_SEND, against=(_NAIVE,), at_least=3.0),
                Goal(name="rate, to raw at its best", ours=_SEND, against=tuple(_RAW_SENDS), at_least=1.0),
                Goal(name="median latency, to the naive code", ours=_SEND, against=(_NAIVE,), figure="p50_us"),
                Goal(name="p99, to the naive code", ours=_SEND, against=(_NAIVE,), figure="p99_us"),
            ),
            sizes=(100,),
        )
        for name, framework in (("web-send", FASTAPI), ("web-send-flask", FLASK))
    ),
]
