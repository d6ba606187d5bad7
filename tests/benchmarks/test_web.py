"""
The load on a service: every answer is read and judged, at the moments that were asked for; and what the service says counts.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from benchmarks.subjects.web import FASTAPI, FLASK, serving
from benchmarks.web.load import Load, LoadError, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.case import Scene
    from benchmarks.subjects.web import Framework

_BODY = '{"number": 7}'


class _Handler(BaseHTTPRequestHandler):
    """
    Answers in two pieces, by what the path says.
    """

    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        self.server.seen.append(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/closes":
            self.close_connection = True
            return
        self.send_response(500 if self.path == "/fails" else 202)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"fin")
        self.wfile.flush()
        self.wfile.write(b"ish")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that the standard library gave it
        """
        Say nothing.
        """


class _Server(ThreadingHTTPServer):
    """
    Remembers what was posted.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[bytes] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """
        Say nothing of a client that has gone: a load that found what is wrong ends at once.
        """


@contextmanager
def _server() -> Iterator[tuple[int, list[bytes]]]:
    with _Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port, server.seen
        finally:
            server.shutdown()
            thread.join()


def _load(port: int, path: str = "/", *, seconds: float = 0.05, rate: float = 0.0) -> Load:
    return Load(port=port, path=path, body=_BODY, clients=3, seconds=seconds, rate=rate)


def test_every_answer_has_a_latency() -> None:
    """
    Of each request, and no other; those under way at the end are waited for.
    """
    with _server() as (port, seen):
        found = run(_load(port))
    assert found.latencies_ns
    assert seen == [_BODY.encode()] * len(found.latencies_ns)
    assert all(0 < each < 60e9 for each in found.latencies_ns)
    assert found.seconds >= 0.05
    assert found.busy > 0


def test_a_paced_load_has_the_same_requests_each_time() -> None:
    """
    About as many as its rate says, at the same moments; nothing is left out where the service is slow.
    """
    with _server() as (port, seen):
        first = run(_load(port, seconds=0.1, rate=500.0))
        requests = len(seen)
        second = run(_load(port, seconds=0.1, rate=500.0))
    assert len(first.latencies_ns) == len(second.latencies_ns) == requests
    assert 25 <= requests <= 75


def test_a_paced_request_counts_from_when_it_was_due() -> None:
    """
    A service that can't keep up makes latencies as long as the queue, rather than fewer requests.
    """
    with _server() as (port, seen):
        found = run(_load(port, seconds=0.05, rate=20_000.0))
    assert len(seen) == len(found.latencies_ns)
    assert 900 <= len(seen) <= 1100
    assert max(found.latencies_ns) > (found.seconds - 0.05) * 0.9e9


@pytest.mark.parametrize(("path", "complaint"), [("/fails", r"HTTP/1\.1 500"), ("/closes", "closed a connection")])
def test_a_bad_answer_ends_the_load(path: str, complaint: str) -> None:
    """
    It is no request that counts.
    """
    with _server() as (port, _), pytest.raises(LoadError, match=complaint):
        run(_load(port, path))


@pytest.mark.parametrize("framework", [FASTAPI, FLASK], ids=lambda framework: framework.name)
def test_a_service_must_deliver_what_it_answers(framework: Framework, scene: Scene) -> None:
    """
    An endpoint without messages is found out where messages are expected, and one that does not exist anyway.
    """
    with serving(framework, scene) as service:
        assert service.turn("waiting/send").figures["rate"] > 0
        with pytest.raises(AssertionError, match=r"0 messages of \d+ requests"):
            service.turn("waiting/nothing")
        with pytest.raises(AssertionError, match=r"HTTP/1\.1 404"):
            service.turn("nowhere", messages=False)


def test_a_service_that_does_not_start_says_why(scene: Scene) -> None:
    """
    With the end of what it wrote.
    """
    broken = replace(FASTAPI, command=("uvicorn", "benchmarks.web.nowhere:app", "--fd", "{}"))
    with pytest.raises(AssertionError, match=r"does not answer.*Could not import module"), serving(broken, scene):
        raise AssertionError("it serves")


def test_the_load_is_a_program() -> None:
    """
    It prints what was found as JSON.
    """
    with _server() as (port, seen):
        asked = {"port": port, "path": "/", "body": _BODY, "clients": 1, "seconds": 0.02, "rate": 0.0, "cores": []}
        command = [sys.executable, "-m", "benchmarks.web.load", json.dumps(asked)]
        said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
        assert len(seen) == len(json.loads(said)["latencies_ns"]) > 0
