"""
The pytest plugin, as an application's tests use it: here, and in runs of pytest of their own.
"""

from __future__ import annotations

import importlib.metadata
import os
from typing import TYPE_CHECKING, Final

import pytest

from safepulsar.broker.client_registry import ClientRegistry
from safepulsar.errors import BrokerUnavailable, SendFailed
from safepulsar.message import Certainty, Fate
from safepulsar.sender import RetryingSender
from safepulsar.settings import SenderSettings
from safepulsar.testing import EmbeddedPulsar, FakeBroker, FaultSwitch, Phase, all_senders_on

if TYPE_CHECKING:
    from safepulsar.testing.plugin import AssertSent

pytest_plugins = ["pytester", "safepulsar.testing.plugin"]

RUN_SECONDS: Final = 60.0
_QUIET: Final = SenderSettings(drain_on_sigterm=False)


def place_order(url: str = "pulsar://production.example:6650") -> None:
    """
    An application that knows nothing of its tests.
    """
    with RetryingSender(url, settings=_QUIET) as sender:
        sender.send("orders", {"id": 7}, partition_key="customer-7")


# -- on the fake broker ------------------------------------------------------------------------------------------


def test_an_application_reaches_the_fake_broker_whatever_its_url(assert_sent: AssertSent) -> None:
    """
    One fixture is enough: no URL, no registry, no patch.
    """
    place_order()
    (message,) = assert_sent("orders", {"id": 7}, partition_key="customer-7")
    assert message.payload == b'{"id":7}'


def test_the_sender_is_on_the_same_broker(
    safepulsar_sender: RetryingSender, safepulsar_broker: FakeBroker, assert_sent: AssertSent
) -> None:
    """
    What the test's sender and the application's own send is in the same topics.
    """
    safepulsar_sender.submit("orders", b"ours")
    place_order()
    assert_sent("orders", times=2)
    assert safepulsar_broker.counts.clients_created == 2


def test_every_test_begins_with_an_empty_broker(assert_sent: AssertSent) -> None:
    """
    Nothing of the tests above is there.
    """
    assert_sent("orders", times=0)


def test_failures_come_without_pauses(
    safepulsar_sender: RetryingSender, safepulsar_faults: FaultSwitch, assert_sent: AssertSent
) -> None:
    """
    A failure that is tried again costs a test no time.
    """
    safepulsar_faults.fail_next(3, "ProducerBusy", phase=Phase.CREATE)
    assert safepulsar_sender.send("orders", b"x", deadline_seconds=60).attempts == 4
    assert_sent("orders", b"x")
    safepulsar_faults.fail_next(1, "TopicTerminated", stored=True)
    with pytest.raises(SendFailed) as raised:
        safepulsar_sender.send("orders", b"y")
    assert raised.value.certainty is Certainty.MAYBE_STORED
    assert safepulsar_sender.failed_messages.count() == 1
    assert_sent("orders", b"y")


def test_outside_of_the_fixtures_nothing_is_replaced() -> None:
    """
    Afterwards senders reach what their URLs say, also where the block was left by an error.
    """
    shared = ClientRegistry.shared()
    with pytest.raises(RuntimeError, match="in the block"):
        _fail_in_a_block()
    assert ClientRegistry.shared() is shared


def _fail_in_a_block() -> None:
    with all_senders_on(FakeBroker()) as registry:
        assert ClientRegistry.shared() is registry
        raise RuntimeError("in the block")


# -- on a real broker --------------------------------------------------------------------------------------------


@pytest.mark.broker
def test_the_same_on_a_real_broker(
    embedded_pulsar: EmbeddedPulsar, safepulsar_sender: RetryingSender, assert_sent: AssertSent
) -> None:
    """
    With `embedded_pulsar` every sender of the test reaches that, the application's own too.
    """
    place_order()
    assert_sent("orders", {"id": 7}, partition_key="customer-7")
    safepulsar_sender.send("orders", b"ours")
    assert embedded_pulsar.payloads("orders") == [b'{"id":7}', b"ours"]
    place_order(embedded_pulsar.url)
    assert_sent("orders", {"id": 7}, times=2)


@pytest.mark.broker
def test_a_real_broker_is_broken_by_the_same_switch(
    embedded_pulsar: EmbeddedPulsar,
    safepulsar_faults: FaultSwitch,
    safepulsar_sender: RetryingSender,
    assert_sent: AssertSent,
) -> None:
    """
    Killed, it refuses; started again, it delivers what was waiting; and a code comes when it is ordered.
    """
    assert safepulsar_faults is embedded_pulsar
    safepulsar_faults.kill()
    waiting = safepulsar_sender.submit("orders", b"waiting", deadline_seconds=30)
    safepulsar_faults.start()
    error = waiting.exception()
    # It depends on the moment whether the retries, which have no pauses here, were used up before it was back.
    assert error is None or isinstance(error.__cause__, BrokerUnavailable)
    safepulsar_faults.fail_next(1, "ProducerFenced")
    with pytest.raises(SendFailed):
        safepulsar_sender.send("orders", b"fenced")
    assert safepulsar_sender.send("orders", b"after").fate is Fate.DELIVERED
    assert_sent("orders", b"fenced", times=0)


# -- in runs of their own ----------------------------------------------------------------------------------------


def _run(pytester: pytest.Pytester, source: str, *arguments: str) -> pytest.RunResult:
    pytester.makepyfile(source)
    return pytester.runpytest_subprocess("-p", "safepulsar.testing.plugin", *arguments, timeout=RUN_SECONDS)


def test_a_broken_broker_does_not_hold_up_the_end_of_a_test(pytester: pytest.Pytester) -> None:
    """
    However a test leaves its broker, it is healed before the sender closes, which would wait for it for 10 s else.
    """
    pytester.makeconftest(
        """
        import time
        import pytest

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_teardown():
            began = time.monotonic()
            yield
            assert time.monotonic() - began < 9
        """
    )
    result = _run(
        pytester,
        """
        import pytest

        @pytest.mark.parametrize("fault", ["freeze", "kill", "hold"])
        def test_it(safepulsar_sender, safepulsar_broker, fault):
            safepulsar_sender.send("orders", b"first")
            getattr(safepulsar_broker, fault)()
            safepulsar_broker.fail_next(100, "UnknownError")
            safepulsar_sender.submit("orders", b"second")

        def test_embedded(safepulsar_sender, embedded_pulsar):
            safepulsar_sender.send("orders", b"first")
            embedded_pulsar.kill()
            safepulsar_sender.submit("orders", b"second")
        """,
    )
    result.assert_outcomes(passed=4)


def test_a_failure_shows_the_topic_and_the_line_of_the_test(pytester: pytest.Pytester) -> None:
    """
    What a developer sees is their own line and what the topic holds, not our code.
    """
    result = _run(
        pytester,
        """
        def test_it(safepulsar_sender, assert_sent):
            safepulsar_sender.send("orders", b"this")
            assert_sent("orders", b"that", timeout_seconds=0)
        """,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            '>       assert_sent("orders", b"that", timeout_seconds=0)',
            "E       AssertionError: topic 'orders' holds 0 of 1 messages like this, not 1: payload b'that'",
            "E         <StoredMessage 0:0:*b'this'*",
        ]
    )
    result.stdout.no_fnmatch_line("*def assert_sent*")


def test_fixtures_can_be_replaced(pytester: pytest.Pytester) -> None:
    """
    An application overrides a fixture in its conftest.py as any other.
    """
    pytester.makeconftest(
        """
        import pytest
        from safepulsar import SenderSettings, TopicSettings
        from safepulsar.testing import FakeBroker, all_senders_on

        @pytest.fixture
        def safepulsar_broker():
            broker = FakeBroker(deduplication=True)
            with all_senders_on(broker):
                yield broker

        @pytest.fixture
        def safepulsar_settings():
            named = TopicSettings(producer_name="shop", batch_max_messages=1)
            return SenderSettings(topics={"orders": named}, drain_on_sigterm=False)
        """
    )
    result = _run(
        pytester,
        """
        from safepulsar import RetryingSender

        def test_it(safepulsar_settings, assert_sent):
            for _ in range(2):
                with RetryingSender("pulsar://elsewhere:6650", settings=safepulsar_settings) as sender:
                    sender.send("orders", b"x", sequence_id=1)
            (message,) = assert_sent("orders", b"x")
            assert message.producer_name == "shop"

        def test_ours(safepulsar_sender, assert_sent):
            safepulsar_sender.send("orders", b"x", sequence_id=1)
            assert assert_sent("orders")[0].producer_name == "shop"
        """,
    )
    result.assert_outcomes(passed=2)


def test_pytest_finds_the_plugin_by_itself(pytester: pytest.Pytester) -> None:
    """
    Installed, it needs no line in a conftest.py, and one that is there does no harm.
    """
    points = importlib.metadata.entry_points(group="pytest11", name="safepulsar.testing.plugin")
    assert [point.value for point in points] == ["safepulsar.testing.plugin"]
    pytester.makeconftest('pytest_plugins = ["safepulsar.testing.plugin"]')
    pytester.makepyfile(
        """
        def test_it(safepulsar_sender, assert_sent):
            safepulsar_sender.submit("orders", b"x")
            assert_sent("orders", b"x")
        """
    )
    pytester.runpytest_subprocess(timeout=RUN_SECONDS).assert_outcomes(passed=1)


def test_without_the_extra_the_embedded_broker_says_what_to_install(pytester: pytest.Pytester) -> None:
    """
    A missing dependency is named with its extra, and only where it is needed.
    """
    pytester.makepyfile(
        sitecustomize="""
        import importlib.util
        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *more: None if name == "pulsar_lite" else find(name, *more)
        """,
        test_it="""
        def test_fake(safepulsar_sender):
            safepulsar_sender.send("orders", b"x")

        def test_embedded(embedded_pulsar):
            pass
        """,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(pytester.path), os.environ.get("PYTHONPATH", "")]))
        result = pytester.runpytest_subprocess("-p", "safepulsar.testing.plugin", timeout=RUN_SECONDS)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["*ImportError: the local broker needs pulsar-lite: pip install 'safepulsar[[]local]'*"]
    )
