"""
The brokers on which hazards are tried, and the marks of these tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.brokers import LiteBroker
from tests.hazards.trial import Trial

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.brokers import RealBroker

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
def own_trial(topic: str, tmp_path: Path) -> Iterator[Trial]:
    """
    On a pulsar-lite of its own, which a script may freeze, and may leave so.
    """
    with LiteBroker(tmp_path / "pulsar-lite") as broker:
        yield Trial(broker, topic, tmp_path / "failed.db")
        broker.kill()  # asked to end, a frozen one would take its time
