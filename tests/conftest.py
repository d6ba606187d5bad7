"""
The fixtures that every test may use: brokers of both kinds and topics of its own; and which marks follow from them.
"""

from __future__ import annotations

import os
import re
import sys
import uuid
from typing import TYPE_CHECKING, Final

import pytest

from safepulsar.broker_process import BrokerState
from tests.brokers import Broker, LiteBroker, RealBroker
from tools.pulsar import jars

if TYPE_CHECKING:
    from collections.abc import Iterator

_BROKER_FIXTURES: Final = {"broker", "own_broker", "lite_broker", "pulsar_broker", "second_pulsar_broker"}
_REAL_BROKER_FIXTURES: Final = {"pulsar_broker", "second_pulsar_broker"}
_BOTH_KINDS: Final = ("pulsar-lite", pytest.param("apache-pulsar", marks=pytest.mark.real_broker))


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses by these marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Mark what needs a broker, so that no test has to say it twice.
    """
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if fixtures & _BROKER_FIXTURES:
            item.add_marker("broker")
        if fixtures & _REAL_BROKER_FIXTURES:
            item.add_marker("real_broker")


def pytest_collection_finish(session: pytest.Session) -> None:
    """
    Fetch the jars of a real broker, if a test needs one, before any test's time limit runs, and visibly.
    """
    if session.config.option.collectonly or not any(item.get_closest_marker("real_broker") for item in session.items):
        return
    capture = session.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        try:
            jars.java()
            jars.ensure()
        except jars.PulsarUnavailableError:
            return  # the fixture, which comes to the same end, skips or fails


@pytest.fixture(autouse=True)
def no_span_is_left() -> Iterator[None]:
    """
    See that no test leaves a span behind as the current one: each later one would be its child.
    """
    yield
    trace = sys.modules.get("opentelemetry.trace")
    assert trace is None or not trace.get_current_span().get_span_context().is_valid


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """
    A topic that no other test uses, named for the test, in a namespace with the broker's defaults.
    """
    name = re.sub(r"[^A-Za-z0-9]+", "-", request.node.name).strip("-")
    return f"persistent://public/default/{name}-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="session")
def lite_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiteBroker]:
    """
    The shared pulsar-lite: running, for tests that leave it so.
    """
    with LiteBroker(tmp_path_factory.mktemp("pulsar-lite")) as broker:
        yield broker


@pytest.fixture(scope="session")
def pulsar_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealBroker]:
    """
    The shared Apache Pulsar: running, for tests that leave it so.
    """
    yield from _real_broker(tmp_path_factory)


@pytest.fixture(scope="session")
def second_pulsar_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealBroker]:
    """
    The Apache Pulsar of `own_broker`: one for all of its tests, because each start takes seconds.
    """
    yield from _real_broker(tmp_path_factory)


@pytest.fixture(params=_BOTH_KINDS)
def broker(request: pytest.FixtureRequest) -> Broker:
    """
    The shared broker of each kind in turn: running, and not to be killed or frozen.
    """
    shared: Broker = request.getfixturevalue("lite_broker" if request.param == "pulsar-lite" else "pulsar_broker")
    return shared


@pytest.fixture(params=_BOTH_KINDS)
def own_broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """
    A broker of each kind in turn that the test may kill, freeze and start again; running at its start.
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
        real.thaw()  # or clients that are closed after the test would wait for it


def _real_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealBroker]:
    try:
        real = RealBroker(tmp_path_factory.mktemp("apache-pulsar"))
    except jars.PulsarUnavailableError as exc:
        if os.environ.get("SAFEPULSAR_REQUIRE_REAL_BROKER") == "1":
            pytest.fail(f"SAFEPULSAR_REQUIRE_REAL_BROKER=1, but: {exc}")
        pytest.skip(str(exc))
    try:
        real.start()
        yield real
    finally:
        real.kill()  # its data go with it, so it need not take the 5 s that it takes to end in order
