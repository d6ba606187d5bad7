"""
Messages and what became of them: plain data that travels, compares, and shows nothing private.
"""

from __future__ import annotations

import dataclasses
import pickle

import pytest

from safepulsar.message import Attempt, Certainty, FailedMessage, Fate, Message, MessageId, SendResult

_TOPIC = "persistent://public/default/orders"


_MESSAGE = Message(
    topic=_TOPIC,
    payload=b"canary-payload",
    properties={"name": "canary-property"},
    partition_key="canary-partition-key",
    ordering_key="canary-ordering-key",
)


def _failed() -> FailedMessage:
    return FailedMessage(
        message=_MESSAGE,
        certainty=Certainty.MAYBE_STORED,
        error="DeadlineExceeded",
        attempts=(Attempt(started_at=1.0, elapsed_seconds=2.0, code="Timeout", maybe_stored=True),),
        accepted_at=1.0,
        first_failed_at=3.0,
        last_failed_at=3.0,
    )


@pytest.mark.parametrize(
    "value", [_MESSAGE, _failed(), MessageId(1, 2), Fate.DELIVERED], ids=lambda v: type(v).__name__
)
def test_what_is_told_can_be_pickled(value: object) -> None:
    """
    Messages, ids and fates get to another process unchanged.
    """
    assert pickle.loads(pickle.dumps(value)) == value  # noqa: S301 - our own bytes


@pytest.mark.parametrize("value", [_MESSAGE, _failed()], ids=lambda v: type(v).__name__)
def test_a_message_shows_nothing_private(value: object) -> None:
    """
    The repr says which message it is, and quotes no payload, key or property value.
    """
    assert "canary" not in repr(value)
    assert f"<Message for '{_TOPIC}', 14 bytes, 1 properties>" in repr(value)
    assert "canary" not in str(value)


def test_a_tombstone_is_shown_as_one() -> None:
    """
    A message without a payload is called a tombstone, an empty one has 0 bytes.
    """
    assert (
        repr(dataclasses.replace(_MESSAGE, payload=None, properties=None))
        == f"<Message for '{_TOPIC}', tombstone, 0 properties>"
    )
    assert (
        repr(dataclasses.replace(_MESSAGE, payload=b"", properties=None))
        == f"<Message for '{_TOPIC}', 0 bytes, 0 properties>"
    )


def test_the_ordering_key_names_the_lane_before_the_partition_key() -> None:
    """
    Order is kept per ordering key, or else per partition key, or else not by key.
    """
    assert _MESSAGE.lane_key == "canary-ordering-key"
    assert dataclasses.replace(_MESSAGE, ordering_key=None).lane_key == "canary-partition-key"
    assert dataclasses.replace(_MESSAGE, ordering_key=None, partition_key=None).lane_key is None


def test_messages_are_frozen() -> None:
    """
    What was accepted can't be changed afterwards.
    """
    with pytest.raises(dataclasses.FrozenInstanceError):
        _MESSAGE.payload = b""  # type: ignore[misc]  # this is the test


def test_message_ids_are_keys_and_ordered() -> None:
    """
    Message ids are equal by value, can be keys, and sort by ledger, entry, partition and batch index.
    """
    assert len({MessageId(1, 2), MessageId(1, 2, -1, -1)}) == 1
    ids = [MessageId(2, 0), MessageId(1, 9), MessageId(1, 2, 0, 1), MessageId(1, 2, 0, 0), MessageId(-1, -1)]
    assert [str(each) for each in sorted(ids)] == ["-1:-1:-1:-1", "1:2:0:0", "1:2:0:1", "1:9:-1:-1", "2:0:-1:-1"]


def test_fates_and_certainties_are_their_names() -> None:
    """
    The values that a store or JSON holds are the names, and never change.
    """
    assert [fate.value for fate in Fate] == ["DELIVERED", "DUPLICATE", "FAILED"]
    assert [certainty.value for certainty in Certainty] == ["NOT_STORED", "MAYBE_STORED"]


def test_a_result_is_compared_by_value() -> None:
    """
    Two results that say the same are equal and hash alike.
    """
    first, second = (
        SendResult(topic=_TOPIC, fate=Fate.DELIVERED, message_id=MessageId(1, 2), attempts=1, elapsed_seconds=0.5)
        for _ in range(2)
    )
    assert first == second
    assert hash(first) == hash(second)
