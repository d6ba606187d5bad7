"""
One topic is in trouble, another goes on: hung, refused, terminated, or moved.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

import pytest

from safepulsar import AuthorizationFailed, Certainty, SendFailed, TopicNotFound, TopicTerminated
from tests.faults.orders import orders_of
from tests.faults.proxy import Proxy
from tests.history import Rules

if TYPE_CHECKING:
    from safepulsar import SendHandle
    from tests.brokers import RealBroker
    from tests.faults.trial import Trial

_SICK: Final = "-sick"
_UNUSED: Final = 6000  # so many orders no load gets to


@pytest.mark.timeout(120)
def test_a_topic_that_hangs_holds_up_no_other(trial: Trial) -> None:
    """
    While nobody gets a producer of one topic, hundreds of messages of another are delivered; the first one's fail in time.
    """
    sick = trial.topic + _SICK
    with Proxy(trial.broker.url) as proxy:
        proxy.swallow = _SICK.encode()
        sender = trial.open(url=proxy.url)
        waiting = [sender.submit(sick, b"never", partition_key="k", deadline_seconds=60.0) for _ in range(20)]
        with trial.load(deadline_seconds=30.0) as load:
            trial.wait_for_more(300)
            assert not any(handle.done() for handle in waiting)
        impatient = sender.submit(sick, b"never", partition_key="k", deadline_seconds=0.5)
        assert isinstance(impatient.exception(), SendFailed)
        report = sender.close(0.0)
    assert not load.late
    assert report.counts.failed == len(waiting) + 1
    fates = [_failure(handle) for handle in [*waiting, impatient]]
    assert all(fate.certainty is Certainty.NOT_STORED for fate in fates)
    assert not trial.judge(Rules()).counts.in_flight


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["terminated", "nowhere"])
def test_a_topic_that_is_refused_fails_at_once_and_alone(
    second_pulsar_broker: RealBroker, pulsar_trial: Trial, kind: str
) -> None:
    """
    Messages for a topic that takes none are kept with the reason, long before the deadline; the others are delivered.
    """
    trial = pulsar_trial
    sick = trial.topic + _SICK
    if kind == "nowhere":
        sick = sick.replace("/default/", "/nowhere/")
    if kind == "terminated":
        second_pulsar_broker.admin.set_deduplication(sick, enabled=True)  # makes it
        second_pulsar_broker.admin.terminate(sick)
    sender = trial.open()
    with trial.load(deadline_seconds=30.0) as load:
        waiting = [sender.submit(sick, b"never", partition_key="k", deadline_seconds=60.0) for _ in range(20)]
        fates = [_failure(handle) for handle in waiting]
        trial.wait_for_more(300)
    report = sender.close()
    assert report.drained
    assert report.counts.failed == len(waiting)
    assert not load.late
    causes = {type(fate.__cause__) for fate in fates}
    assert causes <= {TopicTerminated, TopicNotFound, AuthorizationFailed}, causes
    assert all(fate.certainty is Certainty.NOT_STORED for fate in fates)
    assert trial.store.count() == len(waiting)
    trial.judge(Rules())


@pytest.mark.timeout(120)
def test_a_topic_that_is_terminated_in_use_fails_the_rest(
    second_pulsar_broker: RealBroker, pulsar_trial: Trial
) -> None:
    """
    What the broker took before the end is delivered, and all that comes later is kept: nothing hangs, nothing is lost.
    """
    trial = pulsar_trial
    trial.open()
    with trial.load(deadline_seconds=30.0):
        trial.wait_for_more(trial.rng.randint(100, 400))
    # Not under load: this broker leaves a topic half open for ever that is terminated while messages are on their way.
    trial.sender.flush()
    second_pulsar_broker.admin.terminate(trial.topic)
    trial.ways().result(list(islice(orders_of(trial.topic, 0, 1), _UNUSED, _UNUSED + 100)))
    trial.close()
    counts = trial.judge(Rules()).counts
    assert counts.not_stored + counts.maybe_stored == 100


@pytest.mark.timeout(120)
def test_a_topic_that_moves_under_load_loses_nothing(second_pulsar_broker: RealBroker, pulsar_trial: Trial) -> None:
    """
    A topic that is unloaded, as when brokers are upgraded, delivers everything, each message once.
    """
    trial = pulsar_trial
    trial.open()
    with trial.load(deadline_seconds=60.0) as load:
        for _ in range(3):
            trial.wait_for_more(trial.rng.randint(100, 400))
            second_pulsar_broker.admin.unload(trial.topic)
        trial.wait_for_more()
    trial.close()
    assert not load.late
    counts = trial.judge(Rules()).counts
    assert counts.not_stored == counts.maybe_stored == 0


def _failure(handle: SendHandle) -> SendFailed:
    error = handle.exception()
    assert isinstance(error, SendFailed)
    return error
