"""
The brokers on which hazards are tried, and the marks of these tests.
"""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.brokers import LiteBroker
from tests.hazards.trial import Trial

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.brokers import RealBroker

PARTITIONS: Final = 4  # of a partitioned topic
_HERE: Final = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses by these marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Mark every test of this folder as a hazard, and those on a broker of their own as the others on brokers.
    """
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker("hazard")
            if "own_trial" in getattr(item, "fixturenames", ()):
                item.add_marker("broker")


@pytest.fixture
def trial(lite_broker: LiteBroker, topic: str, tmp_path: Path) -> Trial:
    """
    On the shared pulsar-lite, which is left alone.
    """
    return Trial(lite_broker, topic, tmp_path / "failed.db")


@pytest.fixture
def real_trial(pulsar_broker: RealBroker, topic: str, tmp_path: Path) -> Trial:
    """
    On the shared Apache Pulsar, deduplication on.
    """
    return Trial(pulsar_broker, topic, tmp_path / "failed.db")


@pytest.fixture
def partitioned_trial(real_trial: Trial, pulsar_broker: RealBroker) -> Trial:
    """
    As `real_trial`, on a topic of several partitions.
    """
    topic = f"persistent://public/default/hazards-{uuid.uuid4().hex[:8]}"
    pulsar_broker.admin.create_partitioned_topic(topic, PARTITIONS)
    return replace(real_trial, topic=topic)


@pytest.fixture
def own_trial(topic: str, tmp_path: Path) -> Iterator[Trial]:
    """
    On a pulsar-lite of its own, which a script may freeze, and may leave so.
    """
    with LiteBroker(tmp_path / "pulsar-lite") as broker:
        yield Trial(broker, topic, tmp_path / "failed.db")
        broker.kill()  # asked to end, a frozen one would take its time
