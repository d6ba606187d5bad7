"""
The seed of a run, and a whole sender on trial: with its store, its history and its topic.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Final

import pytest

from safepulsar.broker_process import BrokerState
from tests.brokers import LiteBroker, RealBroker
from tests.faults.trial import Trial

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.brokers import Broker

KINDS: Final = (
    "pulsar-lite",
    pytest.param("deduplication", marks=pytest.mark.real_broker),
    pytest.param("deduplication-off", marks=pytest.mark.real_broker),
)


@pytest.fixture
def seed() -> int:
    """
    Of everything random in a test: another one in each run, and printed, so that a failure shows it.

    `SAFEPULSAR_SEED` in the environment repeats a run, as far as threads and brokers let it.
    """
    seed = int(os.environ.get("SAFEPULSAR_SEED", random.randrange(1_000_000)))  # noqa: S311  # guards nothing
    print(f"SAFEPULSAR_SEED={seed}")  # noqa: T201  # pytest shows it beside a failure
    return seed


@pytest.fixture
def trial(own_broker: Broker, topic: str, tmp_path: Path, seed: int) -> Iterator[Trial]:
    """
    On a broker of each kind in turn that may be killed and frozen.
    """
    with Trial(own_broker, topic, tmp_path / "failed.db", seed) as trial:
        yield trial


@pytest.fixture
def pulsar_trial(second_pulsar_broker: RealBroker, topic: str, tmp_path: Path, seed: int) -> Iterator[Trial]:
    """
    On an Apache Pulsar whose topics may be moved and ended.
    """
    second_pulsar_broker.start()  # a test before may have left it dead
    with Trial(second_pulsar_broker, topic, tmp_path / "failed.db", seed) as trial:
        yield trial


@pytest.fixture(params=KINDS)
def once_broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """
    A broker of each kind that may be killed and frozen: one that never deduplicates, one that does, and one that could.
    """
    if request.param == "pulsar-lite":
        with LiteBroker(request.getfixturevalue("tmp_path") / "pulsar-lite") as lite:
            yield lite
        return
    real: RealBroker = request.getfixturevalue("second_pulsar_broker")
    real.thaw()
    real.start()
    yield real
    if real.state is BrokerState.FROZEN:
        real.thaw()


@pytest.fixture
def once_topic(request: pytest.FixtureRequest, once_broker: Broker, topic: str) -> str:
    """
    A topic on it that deduplicates, or does not.
    """
    if isinstance(once_broker, RealBroker) and "off" in request.node.callspec.params["once_broker"]:
        once_broker.admin.create_namespace("public/undeduplicated", deduplication=False)
        return topic.replace("public/default", "public/undeduplicated")
    return topic


@pytest.fixture
def once_trial(once_broker: Broker, once_topic: str, tmp_path: Path, seed: int) -> Iterator[Trial]:
    """
    For exactly-once: on a broker of each kind.
    """
    with Trial(once_broker, once_topic, tmp_path / "failed.db", seed) as trial:
        yield trial
