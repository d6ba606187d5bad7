"""
One client per process and one producer per topic, however many requests and threads: counted at the broker.
"""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.brokers import RealBroker, read_topic
from tests.servers.load import Load, compare
from tests.servers.server import ALL, RAW, Kind, Server
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.brokers import Broker, LiteBroker

END_SECONDS: Final = 25.0
ORDERS: Final = 120

pytestmark = [pytest.mark.timeout(110)]

each_server = pytest.mark.parametrize("kind", ALL, ids=str)


def processes_of(kind: Kind) -> int:
    """
    How many processes of a server send: its workers, and the one that loads the application if that sends.
    """
    return kind.workers + ("TEST_SEND_AT_IMPORT" in kind.environment)


@each_server
def test_a_process_has_one_connection(kind: Kind, lite_broker: LiteBroker, topic: str, tmp_path: Path) -> None:
    """
    Counted at pulsar-lite: the connections that its process has; and one producer of each process in the topic.
    """
    before = _connections(lite_broker)
    with Server(kind, lite_broker.url, topic, tmp_path) as server, Load(server.port, kind.paths) as load:
        load.wait_for(ORDERS, workers=kind.workers)
        # The first one to answer at once may do so before its producer is open.
        wait_until(lambda: _connections(lite_broker) - before >= processes_of(kind), "a connection of each process")
        load.wait_for(ORDERS)
        now = _connections(lite_broker)
        load.stop()
        server.signal(signal.SIGTERM)
        result = server.finish(END_SECONDS)
    assert now - before == processes_of(kind)
    assert not result.hung, result
    wait_until(lambda: _connections(lite_broker) == before, "every connection to be closed")
    found = compare(load, read_topic(lite_broker, topic), server.store)
    assert [len(names) for names in found.producers.values()] == [1] * processes_of(kind)


def test_control_the_obvious_code_has_a_client_for_each_request_and_loses_messages(
    lite_broker: LiteBroker, topic: str, tmp_path: Path
) -> None:
    """
    What the tests of this package count and miss is really seen: the raw client, as one would use it first.
    """
    before = _connections(lite_broker)
    with Server(RAW, lite_broker.url, topic, tmp_path) as server, Load(server.port, RAW.paths) as load:
        load.wait_for(20, workers=RAW.workers)
        connections = _connections(lite_broker) - before
        server.signal(signal.SIGTERM)
        server.finish(END_SECONDS)
    assert connections >= 20
    assert compare(load, read_topic(lite_broker, topic), server.store).lost


@pytest.mark.slow
@each_server
def test_a_process_has_one_producer_on_a_real_broker(
    kind: Kind, pulsar_broker: RealBroker, topic: str, tmp_path: Path
) -> None:
    """
    Counted at Apache Pulsar: its statistics list the producers of a topic, each with its connection.
    """
    with Server(kind, pulsar_broker.url, topic, tmp_path) as server, Load(server.port, kind.paths) as load:
        load.wait_for(ORDERS, workers=kind.workers)
        wait_until(
            lambda: pulsar_broker.admin.producer_count(topic) >= processes_of(kind), "a producer of each process"
        )
        load.wait_for(ORDERS)
        publishers = pulsar_broker.admin.topic_stats(topic)["publishers"]
        load.stop()
        server.signal(signal.SIGTERM)
        result = server.finish(END_SECONDS)
    assert not result.hung, result
    assert len(publishers) == processes_of(kind)
    assert len({publisher["address"] for publisher in publishers}) == processes_of(kind)
    assert pulsar_broker.admin.producer_count(topic) == 0
    found = compare(load, read_topic(pulsar_broker, topic), server.store)
    assert (found.lost, found.kept, found.twice) == ({}, {}, {})


def _connections(broker: Broker) -> int:
    """
    How many connections a broker's process has, as Linux shows them in `/proc`.
    """
    sockets = set()
    for descriptor in Path(f"/proc/{broker.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            sockets.add(str(descriptor.readlink()))
    rows = [row.split() for row in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    return sum(row[3] == "01" and f"socket:[{row[9]}]" in sockets for row in rows)
