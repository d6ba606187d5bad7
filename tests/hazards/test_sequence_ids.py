"""
Sequence ids: 0, which means none; ids that fall; and an application's ids beside the client's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tests.hazards.trial import told

if TYPE_CHECKING:
    from tests.hazards.trial import Trial


def test_control_zero_is_dropped(trial: Trial) -> None:
    """
    The official client takes sequence id 0, time 0 and an empty key for none given, and says nothing.
    """
    facts = told(
        trial.raw(
            """
            producer = client.create_producer(topic, initial_sequence_id=41)
            producer.send(b"x", sequence_id=0, event_timestamp=0, partition_key="")
            tell(last=producer.last_sequence_id())
            client.close()
            """
        )
    )
    assert facts == {"last": 42}
    (record,) = trial.records(until=1)
    assert (record.partition_key, record.event_timestamp) == ("", 0)


@pytest.mark.parametrize("given", ["sequence_id=0", "event_timestamp_ms=0", "partition_key=''"])
def test_zero_is_refused(trial: Trial, given: str) -> None:
    """
    What the client would drop is refused before anything is sent, and the error names it.
    """
    facts = told(
        trial.safe(
            f"""
            with make_sender(topic_defaults=TopicSettings(producer_name="shop")) as sender:
                try:
                    sender.send(topic, b"x", {given})
                except safepulsar.InvalidMessage as error:
                    field = error.field
                tell(field=field, accepted=sender.stats().counts.accepted)
            """
        )
    )
    assert facts == {"field": given.partition("=")[0], "accepted": 0}


def test_control_a_falling_id_is_lost_as_a_success(real_trial: Trial) -> None:
    """
    With deduplication, the official client returns success for a message under a lower id, which is in no topic.
    """
    facts = told(
        real_trial.raw(
            """
            producer = client.create_producer(topic, producer_name="shop")
            ids = [producer.send(b"%d" % number, sequence_id=number) for number in (5, 4, 6)]
            tell(entries=[message_id.entry_id() for message_id in ids])
            client.close()
            """
        )
    )
    assert facts == {"entries": [0, -1, 1]}
    assert real_trial.payloads(until=2) == [b"5", b"6"]


_NAMED: Final = """
def make_named():
    return make_sender(topic_defaults=TopicSettings(producer_name="shop"))
"""


def test_a_falling_id_is_refused(real_trial: Trial) -> None:
    """
    A sender refuses an id that is not above the last one; nothing is sent, and the error says what the last one is.
    """
    facts = told(
        real_trial.safe(
            """
            with make_named() as sender:
                sender.send(topic, b"5", sequence_id=5)
                try:
                    sender.send(topic, b"4", sequence_id=4)
                except safepulsar.InvalidMessage as error:
                    text = str(error)
                sender.send(topic, b"6", sequence_id=6)
            tell(text=text)
            """,
            before=_NAMED,
        )
    )
    assert facts["text"].startswith("sequence_id: 4 is not above 5")
    assert real_trial.payloads(until=2) == [b"5", b"6"]


def test_an_id_sent_before_is_called_a_duplicate(real_trial: Trial) -> None:
    """
    What another sender of the name has sent before is a DUPLICATE, not delivered, and the books say so.
    """
    facts = told(
        real_trial.safe(
            """
            with make_named() as sender:
                sender.send(topic, b"4", sequence_id=4)
                sender.send(topic, b"5", sequence_id=5)
            with make_named() as sender:
                fates = [sender.send(topic, b"%d" % number, sequence_id=number).fate.value for number in (4, 5, 6)]
                counts = sender.close().counts
            tell(fates=fates, delivered=counts.delivered, duplicate=counts.duplicate)
            """,
            before=_NAMED,
        )
    )
    assert facts == {"fates": ["DUPLICATE", "DUPLICATE", "DELIVERED"], "delivered": 1, "duplicate": 2}
    assert real_trial.payloads(until=3) == [b"4", b"5", b"6"]


def test_control_own_ids_beside_the_clients_lose_a_message(real_trial: Trial) -> None:
    """
    With deduplication, a message without an id after one with an id is lost as a success: the client counts from 0.
    """
    facts = told(
        real_trial.raw(
            """
            producer = client.create_producer(topic, producer_name="shop")
            ids = [producer.send(b"with", sequence_id=5), producer.send(b"without")]
            tell(entries=[message_id.entry_id() for message_id in ids])
            client.close()
            """
        )
    )
    assert facts == {"entries": [0, -1]}
    assert real_trial.payloads(until=1) == [b"with"]


def test_own_ids_are_for_all_or_none(real_trial: Trial) -> None:
    """
    A message without an id after one with an id is refused, and the other way round.
    """
    facts = told(
        real_trial.safe(
            """
            refused = []
            with make_named() as sender:
                for order in ((5, None), (None, 5)):
                    for number in order:
                        try:
                            sender.send(topic + f"-{order[0]}", b"x", sequence_id=number)
                        except safepulsar.InvalidMessage as error:
                            refused.append([number, error.field])
            tell(refused=refused)
            """,
            before=_NAMED,
        )
    )
    assert facts == {"refused": [[None, "sequence_id"], [5, "sequence_id"]]}
