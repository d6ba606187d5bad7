"""
Topics of several partitions: where a key's messages go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.hazards.trial import told

if TYPE_CHECKING:
    from tests.hazards.trial import Trial

# Java's "a".hashCode() is 97, and of four partitions that is number 1.
_JAVA: Final = {"a": 1, "b": 2, "c": 3, "d": 0}


def test_control_a_key_goes_elsewhere_than_javas(partitioned_trial: Trial) -> None:
    """
    The official client has a hash of its own: beside a producer in Java, a key's messages are in two partitions.
    """
    facts = told(
        partitioned_trial.raw(
            """
            producer = client.create_producer(topic)
            tell(**{key: producer.send(b"x", partition_key=key).partition() for key in "abcd"})
            client.close()
            """
        )
    )
    assert facts.keys() == _JAVA.keys()
    assert facts != _JAVA


def test_a_key_goes_where_java_puts_it(partitioned_trial: Trial) -> None:
    """
    A sender's keys are in the partitions that Java's producers choose.
    """
    facts = told(
        partitioned_trial.safe(
            """
            with make_sender() as sender:
                tell(**{key: sender.send(topic, b"x", partition_key=key).message_id.partition for key in "abcd"})
            """
        )
    )
    assert facts == _JAVA


def test_control_an_ordering_key_is_spread_over_partitions(partitioned_trial: Trial) -> None:
    """
    With the official client the messages of one ordering key are in every partition, and so in no order.
    """
    facts = told(
        partitioned_trial.raw(
            """
            producer = client.create_producer(topic)
            tell(partitions=sorted({producer.send(b"x", ordering_key="a").partition() for _ in range(8)}))
            client.close()
            """
        )
    )
    assert facts == {"partitions": [0, 1, 2, 3]}


def test_an_ordering_key_is_in_one_partition(partitioned_trial: Trial) -> None:
    """
    A sender routes by the ordering key where there is no partition key.
    """
    facts = told(
        partitioned_trial.safe(
            """
            with make_sender() as sender:
                ids = [sender.send(topic, b"x", ordering_key="a").message_id for _ in range(8)]
            tell(partitions=sorted({message_id.partition for message_id in ids}))
            """
        )
    )
    assert facts == {"partitions": [_JAVA["a"]]}
