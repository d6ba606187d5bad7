"""
The pytest plugin: fixtures for applications' own tests. pytest finds it by itself where safepulsar is installed.

A test that also takes `embedded_pulsar` runs on a real broker in place of the fake one, unchanged otherwise.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol

import pytest

from safepulsar.broker.client_registry import ClientRegistry
from safepulsar.sender import RetryingSender
from safepulsar.settings import PoolSettings, RetrySettings, SenderSettings
from safepulsar.testing.assertions import assert_sent as _assert_sent
from safepulsar.testing.embedded import EmbeddedPulsar
from safepulsar.testing.fake import FakeBroker
from safepulsar.testing.substitution import all_senders_on

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from types import EllipsisType

    from safepulsar.serialization import Sendable
    from safepulsar.testing.fault_switch import BrokerForTests, FaultSwitch
    from safepulsar.testing.topic_log import StoredMessage


class AssertSent(Protocol):
    """
    What the fixture `assert_sent` is: `safepulsar.testing.assert_sent` on the test's broker.
    """

    def __call__(
        self,
        topic: str,
        value: Sendable | EllipsisType = ...,
        *,
        partition_key: str | None = None,
        ordering_key: str | None = None,
        properties: Mapping[str, str] | None = None,
        times: int = 1,
        timeout_seconds: float = 5.0,
    ) -> list[StoredMessage]:
        """
        Check that a topic holds exactly `times` messages like this one, and return them.
        """


@pytest.fixture
def embedded_pulsar(tmp_path: Path) -> Iterator[EmbeddedPulsar]:
    """
    A broker of the extra `local`, in a process of its own, on an empty folder; every sender of the test reaches it.
    """
    with EmbeddedPulsar(tmp_path / "embedded-pulsar") as broker, all_senders_on(broker):
        yield broker


@pytest.fixture
def safepulsar_broker(request: pytest.FixtureRequest) -> Iterator[FakeBroker | EmbeddedPulsar]:
    """
    The broker that every sender of the test reaches, whatever its URL: a new, empty `FakeBroker`.

    In a test that takes `embedded_pulsar`, it is that one.
    """
    if "embedded_pulsar" in request.fixturenames:
        yield request.getfixturevalue("embedded_pulsar")
        return
    broker = FakeBroker()
    with all_senders_on(broker):
        yield broker


@pytest.fixture
def safepulsar_settings() -> SenderSettings:
    """
    What `safepulsar_sender` is made with: no pauses between attempts, and SIGTERM is left to pytest.
    """
    return SenderSettings(
        retry=RetrySettings(first_delay_seconds=0, jitter_seconds=0),
        pool=PoolSettings(creation_backoff_seconds=0),
        drain_on_sigterm=False,
    )


@pytest.fixture
def safepulsar_sender(
    safepulsar_broker: BrokerForTests, safepulsar_settings: SenderSettings
) -> Iterator[RetryingSender]:
    """
    A sender on `safepulsar_broker`. At the end the broker is healed, so that closing need not wait for it.
    """
    registry = ClientRegistry(safepulsar_broker.connect)
    with RetryingSender(safepulsar_broker.url, settings=safepulsar_settings, registry=registry) as sender:
        yield sender
        _heal(safepulsar_broker)


@pytest.fixture
def safepulsar_faults(safepulsar_broker: BrokerForTests) -> Iterator[FaultSwitch]:
    """
    Breaks `safepulsar_broker`: freeze, kill, fail the next calls with a code. At the end it is healed.
    """
    yield safepulsar_broker
    _heal(safepulsar_broker)


@pytest.fixture
def assert_sent(safepulsar_broker: BrokerForTests) -> AssertSent:
    """
    Checks what `safepulsar_broker` holds: `assert_sent("orders", {"id": 7}, partition_key="customer-7")`.
    """
    return partial(_assert_sent, safepulsar_broker)


def _heal(broker: BrokerForTests) -> None:
    broker.forget_faults()
    broker.thaw()
    broker.start()
    if isinstance(broker, FakeBroker):
        broker.release()
