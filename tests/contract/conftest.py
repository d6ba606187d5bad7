"""
Every system under the contract, in turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from safepulsar.testing import FakeBroker
from tests.brokers import LiteBroker
from tests.contract.systems import FakeSystem, RealSystem, System

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from safepulsar.broker.transport import TransportClient
    from tests.brokers import RealBroker

_LITE: Final = pytest.param("pulsar-lite", marks=pytest.mark.broker)
_REAL: Final = pytest.param("apache-pulsar", marks=[pytest.mark.broker, pytest.mark.real_broker])


@pytest.fixture(params=["fake", "fake with deduplication", _LITE, _REAL])
def system(request: pytest.FixtureRequest) -> System:
    """
    A transport whose broker runs and is shared.
    """
    if request.param == "pulsar-lite":
        return RealSystem(request.getfixturevalue("lite_broker"))
    if request.param == "apache-pulsar":
        return RealSystem(request.getfixturevalue("pulsar_broker"))
    deduplication = request.param != "fake"
    return FakeSystem(FakeBroker(deduplication=deduplication), deduplication=deduplication)


@pytest.fixture(params=["fake", "fake with deduplication", _LITE, _REAL])
def breakable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[System]:
    """
    A transport whose broker the test may kill, freeze and start again; running at its start.
    """
    if request.param == "pulsar-lite":
        with LiteBroker(tmp_path / "pulsar-lite") as lite:
            yield RealSystem(lite)
    elif request.param == "apache-pulsar":
        real: RealBroker = request.getfixturevalue("second_pulsar_broker")
        real.thaw()
        real.start()
        yield RealSystem(real)
        real.thaw()
    else:
        deduplication = request.param != "fake"
        yield FakeSystem(FakeBroker(deduplication=deduplication), deduplication=deduplication)


@pytest.fixture
def client(system: System) -> Iterator[TransportClient]:
    """
    A client, closed after the test.
    """
    client = system.connect()
    yield client
    client.close()
