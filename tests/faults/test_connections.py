"""
What a broker sees of a process: one connection, and one producer for each topic or partition.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from safepulsar import RetryingSender
from tests.history import Rules

if TYPE_CHECKING:
    from tests.brokers import RealBroker
    from tests.faults.trial import Trial

_PARTITIONS: Final = 4
_TOPICS: Final = 5


@pytest.mark.timeout(120)
def test_a_partitioned_topic_keeps_every_key_in_one_partition(
    second_pulsar_broker: RealBroker, pulsar_trial: Trial
) -> None:
    """
    Under load each key stays in its partition, in order, through one producer for each partition.
    """
    trial, admin = pulsar_trial, second_pulsar_broker.admin
    trial.topic = trial.topic.replace("partition", "part")  # the broker wants that word for itself
    admin.create_partitioned_topic(trial.topic, _PARTITIONS)
    trial.open()
    with trial.load(keyed=True, deadline_seconds=30.0):
        trial.wait_for_more(600)
        for number in range(_PARTITIONS):
            assert admin.producer_count(f"{trial.topic}-partition-{number}") == 1
    trial.close()
    counts = trial.judge(Rules(), partitions=_PARTITIONS).counts
    assert counts.delivered == counts.accepted == counts.found


@pytest.mark.timeout(120)
def test_a_process_has_one_connection_and_a_producer_for_each_topic(
    second_pulsar_broker: RealBroker, pulsar_trial: Trial
) -> None:
    """
    However many threads and senders there are: one connection to the broker, and of each sender one producer for each topic.
    """
    trial, admin = pulsar_trial, second_pulsar_broker.admin
    others = [f"{trial.topic}-{number}" for number in range(_TOPICS)]
    first = trial.open()
    with trial.load(keyed=True, workers=8, deadline_seconds=30.0), RetryingSender(trial.broker.url) as second:
        for topic in others:
            for sender in (first, second):
                for number in range(10):
                    sender.submit(topic, b"order", partition_key=f"customer-{number}")
        first.flush()
        second.flush()
        trial.wait_for_more(300)
        publishers = {topic: admin.topic_stats(topic)["publishers"] for topic in [trial.topic, *others]}
    trial.close()
    assert {topic: len(each) for topic, each in publishers.items()} == {trial.topic: 1} | dict.fromkeys(others, 2)
    assert len({publisher["address"] for each in publishers.values() for publisher in each}) == 1
