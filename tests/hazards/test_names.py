"""
Producer names, which the broker lets one producer have at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.hazards.trial import told

if TYPE_CHECKING:
    from tests.hazards.trial import Trial

_NAMED: Final = """
def make_named():
    return make_sender(topic_defaults=TopicSettings(producer_name="shop"))
"""


def test_control_a_dropped_producer_keeps_its_name(real_trial: Trial) -> None:
    """
    A producer of the official client that is let go of is not closed: nobody gets its name as long as the client lives.
    """
    facts = told(
        real_trial.raw(
            """
            producer = client.create_producer(topic, producer_name="shop")
            producer.send(b"x")
            del producer
            gc.collect()
            try:
                client.create_producer(topic, producer_name="shop")
            except pulsar.ProducerBusy as error:
                tell(text=str(error))
            client.close()
            """
        )
    )
    assert facts == {"text": "Pulsar error: ProducerBusy"}


def test_a_closed_sender_frees_its_name(real_trial: Trial) -> None:
    """
    The next sender of a name has it at once, however often and however fast they follow each other.
    """
    facts = told(
        real_trial.safe(
            """
            attempts = []
            for _ in range(20):
                with make_named() as sender:
                    attempts.append(sender.send(topic, b"x").attempts)
            tell(attempts=attempts)
            """,
            before=_NAMED,
        )
    )
    assert facts == {"attempts": [1] * 20}


def test_a_name_in_use_is_an_error_that_says_so(real_trial: Trial) -> None:
    """
    Beside a sender that was let go of, a message is kept, surely not stored, and its error says what to do.
    """
    facts = told(
        real_trial.safe(
            """
            make_named().send(topic, b"the first has the name")
            gc.collect()
            with make_named() as sender:
                error = sender.submit(topic, b"x").exception()
            tell(text=str(error.__cause__), certainty=error.certainty.value)
            """,
            before=_NAMED,
        )
    )
    assert facts["text"].startswith("ProducerBusy on topic")
    assert facts["text"].endswith("close it or take another name")
    assert facts["certainty"] == "NOT_STORED"
    assert [row.message.payload for row in real_trial.kept()] == [b"x"]
