"""
A server that is stopped under load: what was answered 200 is in the topic, once, and the server ends in time.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Final

import pytest

from tests.brokers import read_topic
from tests.servers.load import Load, compare
from tests.servers.server import (
    ALL,
    GUNICORN_GTHREAD,
    GUNICORN_SYNC,
    HYPERCORN,
    UVICORN_RELOAD,
    UVICORN_WORKERS,
    WORKERS,
    Kind,
    Server,
    complaints,
)
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.brokers import LiteBroker
    from tests.servers.load import Found

END_SECONDS: Final = 25.0
ORDERS: Final = 120

pytestmark = [pytest.mark.timeout(110)]

RECYCLED: Final = [
    # uvicorn takes five seconds to notice that a worker has ended.
    pytest.param(kind, id=str(kind), marks=pytest.mark.slow if kind is UVICORN_WORKERS else ())
    for kind in ALL
    if kind is not UVICORN_RELOAD
]

each_server = pytest.mark.parametrize("kind", ALL, ids=str)


def assert_accounted_for(found: Found) -> None:
    """
    Nothing is lost or there twice, nothing had to be kept, and each process has had one producer.
    """
    assert (found.lost, found.kept, found.twice) == ({}, {}, {})
    assert {pid: len(names) for pid, names in found.producers.items()} == dict.fromkeys(found.producers, 1)


@each_server
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_stop_loses_and_duplicates_nothing(
    kind: Kind, number: signal.Signals, lite_broker: LiteBroker, topic: str, tmp_path: Path
) -> None:
    """
    In the middle of requests of eight clients.
    """
    paths = ("/send",) if number in kind.abrupt else kind.paths
    with Server(kind, lite_broker.url, topic, tmp_path) as server, Load(server.port, paths) as load:
        load.wait_for(ORDERS, workers=kind.workers)
        server.signal(number)
        result = server.finish(END_SECONDS)
    assert not result.hung, result
    assert not complaints(result, strict=number not in kind.talks), result
    assert result.returncode == 0, result
    assert_accounted_for(compare(load, read_topic(lite_broker, topic), server.store))


@pytest.mark.parametrize("kind", RECYCLED)
def test_recycled_workers_lose_and_duplicate_nothing(
    kind: Kind, lite_broker: LiteBroker, topic: str, tmp_path: Path
) -> None:
    """
    Workers end after some requests each, and others take their place, while clients go on.
    """
    requests = 40
    extra = tuple(each.format(requests=requests) for each in kind.recycling)
    with (
        Server(kind, lite_broker.url, topic, tmp_path, extra=extra) as server,
        Load(server.port, kind.paths) as load,
    ):
        load.wait_for(3 * requests, workers=WORKERS + 2)
        server.signal(signal.SIGTERM)
        result = server.finish(END_SECONDS)
    assert not result.hung, result
    # hypercorn can leave a connection behind when its worker ends, of which asyncio complains from Python 3.13 on.
    assert not complaints(result, strict=kind is not HYPERCORN), result
    assert result.returncode == 0, result
    assert_accounted_for(compare(load, read_topic(lite_broker, topic), server.store))


def test_a_reload_loses_and_duplicates_nothing(lite_broker: LiteBroker, topic: str, tmp_path: Path) -> None:
    """
    A file of the application changes, and another process takes the place of the one that has loaded it.
    """
    file = tmp_path / "loaded.py"
    file.write_text("# as it was", encoding="utf-8")
    with (
        Server(UVICORN_RELOAD, lite_broker.url, topic, tmp_path) as server,
        Load(server.port, UVICORN_RELOAD.paths) as load,
    ):
        load.wait_for(ORDERS)
        file.write_text("# changed", encoding="utf-8")
        load.wait_for(1, workers=2)
        load.wait_for(ORDERS)
        server.signal(signal.SIGTERM)
        result = server.finish(END_SECONDS)
    assert not result.hung, result
    assert not complaints(result), result
    assert_accounted_for(compare(load, read_topic(lite_broker, topic), server.store))


@pytest.mark.slow
def test_a_worker_that_is_killed_for_its_timeout_loses_nothing_that_was_waited_for(
    lite_broker: LiteBroker, topic: str, tmp_path: Path
) -> None:
    """
    A request hangs where no signal gets through, and the server kills its worker. What it waited for is stored.
    """
    with (
        Server(GUNICORN_SYNC, lite_broker.url, topic, tmp_path, extra=("--timeout", "2")) as server,
        Load(server.port, GUNICORN_SYNC.paths) as load,
    ):
        load.wait_for(ORDERS, workers=WORKERS)
        before = load.pids()
        with Load(server.port, ["/stuck"], clients=1, prefix="stuck") as stuck:
            wait_until(lambda: stuck.broken > 0, "the worker to be killed", timeout_seconds=30)
        load.wait_for(1, workers=len(before) + 1)
        server.signal(signal.SIGTERM)
        result = server.finish(END_SECONDS)
    assert not result.hung, result
    assert not complaints(result, strict=False), result
    assert_only_what_was_not_waited_for_is_lost(compare(load, read_topic(lite_broker, topic), server.store))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [GUNICORN_GTHREAD, UVICORN_WORKERS], ids=str)
def test_a_worker_that_is_killed_loses_nothing_that_was_waited_for(
    kind: Kind, lite_broker: LiteBroker, topic: str, tmp_path: Path
) -> None:
    """
    SIGKILL, as from a machine without memory: no handler, no exit. Requests that waited for their message are safe.
    """
    with Server(kind, lite_broker.url, topic, tmp_path) as server, Load(server.port, kind.paths) as load:
        load.wait_for(ORDERS, workers=kind.workers)
        os.kill(load.pids().pop(), signal.SIGKILL)
        load.wait_for(1, workers=kind.workers + 1)
        server.signal(signal.SIGTERM)
        result = server.finish(END_SECONDS)
    assert not result.hung, result
    assert_only_what_was_not_waited_for_is_lost(compare(load, read_topic(lite_broker, topic), server.store))


def assert_only_what_was_not_waited_for_is_lost(found: Found) -> None:
    """
    An endpoint that answers before it knows can lose what it answered; nothing else can be lost, and nothing is there twice.
    """
    assert {name: answer for name, answer in found.lost.items() if answer.path not in {"/submit", "/after"}} == {}
    assert found.twice == {}
