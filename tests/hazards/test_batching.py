"""
Producers that batch: a synchronous send, and what deduplication makes of a batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.hazards.trial import told

if TYPE_CHECKING:
    from tests.hazards.trial import Trial


def test_sync_send_does_not_wait_for_a_batch(trial: Trial) -> None:
    """
    While a raw batching producer makes 60 synchronous sends, each of which waits for its timer, a sender makes thrice those.

    Both run at the same time, so that a busy machine slows down both.
    """
    facts = told(
        trial.safe(
            """
            import pulsar
            client = pulsar.Client(url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
            producer = client.create_producer(topic + "-raw", batching_enabled=True)
            sender = make_sender()
            sender.send(topic, b"first")
            over = threading.Event()
            ours = []
            def send():
                while not over.is_set():
                    ours.append(sender.send(topic, b"x").fate.value)
            thread = threading.Thread(target=send)
            thread.start()
            for _ in range(60):
                producer.send(b"x")
            over.set()
            thread.join()
            client.close()
            sender.close()
            tell(ours=len(ours), delivered=ours.count("DELIVERED"))
            """
        )
    )
    assert facts["ours"] == facts["delivered"]
    assert facts["ours"] >= 3 * 60


# A producer of the official client with batches, and what each of its messages was answered, as [entry, index].
_BATCHES: Final = """
def make_producer():
    return client.create_producer(
        topic, producer_name="shop", batching_enabled=True, batching_max_publish_delay_ms=60_000
    )

def send_batch(producer, ids):
    answers = []
    def callback(result, message_id):
        assert result == pulsar.Result.Ok
        answers.append([message_id.entry_id(), message_id.batch_index()])
    for number in ids:
        producer.send_async(b"%d" % number, callback, sequence_id=number)
    producer.flush()
    while len(answers) < len(ids):
        time.sleep(0.001)
    return answers
"""


def test_control_part_of_a_batch_sent_again_is_stored_twice(real_trial: Trial) -> None:
    """
    Deduplication knows a batch by its first id only: what the official client sends again of the rest is stored twice.
    """
    facts = told(
        real_trial.raw(
            """
            producer = make_producer()
            send_batch(producer, range(10, 15))
            producer.close()
            producer = make_producer()
            tell(last=producer.last_sequence_id(), answers=send_batch(producer, range(13, 15)))
            client.close()
            """,
            before=_BATCHES,
        )
    )
    assert facts == {"last": 10, "answers": [[1, 0], [1, 1]]}
    assert real_trial.payloads(until=7) == [b"10", b"11", b"12", b"13", b"14", b"13", b"14"]


def test_control_new_messages_behind_an_old_id_are_lost_as_a_success(real_trial: Trial) -> None:
    """
    A batch of the official client that begins with an id of before is dropped as a whole, and all of it is a success.
    """
    facts = told(
        real_trial.raw(
            """
            producer = make_producer()
            send_batch(producer, range(10, 15))
            tell(answers=send_batch(producer, [10, 15, 16]))
            client.close()
            """,
            before=_BATCHES,
        )
    )
    assert facts == {"answers": [[-1, 0], [-1, 1], [-1, 2]]}
    assert real_trial.payloads(until=5) == [b"10", b"11", b"12", b"13", b"14"]


def test_control_the_last_id_is_an_invention(real_trial: Trial) -> None:
    """
    After a batch whose ids have gaps, the official client's last sequence id is one that was never sent.
    """
    facts = told(
        real_trial.raw(
            """
            producer = make_producer()
            send_batch(producer, range(1000, 1050, 10))
            tell(last=producer.last_sequence_id())
            client.close()
            """,
            before=_BATCHES,
        )
    )
    assert facts == {"last": 1004}


def test_what_is_sent_again_is_known_message_by_message(real_trial: Trial) -> None:
    """
    A sender sends messages with ids one by one: again after a restart, the old ones are duplicates, the new ones delivered.
    """
    facts = told(
        real_trial.safe(
            """
            def send(ids):
                with make_sender(topic_defaults=TopicSettings(producer_name="shop")) as sender:
                    handles = [sender.submit(topic, b"%d" % number, sequence_id=number) for number in ids]
                    return [handle.result().fate.value for handle in handles]
            send(range(10, 15))
            tell(fates=send([13, 14, 15, 16]))
            """
        )
    )
    assert facts == {"fates": ["DUPLICATE", "DUPLICATE", "DELIVERED", "DELIVERED"]}
    assert real_trial.payloads(until=7) == [b"10", b"11", b"12", b"13", b"14", b"15", b"16"]


def test_ids_in_batches_are_refused(trial: Trial) -> None:
    """
    Where messages share batches, an id of the application's is refused before anything is sent.
    """
    facts = told(
        trial.safe(
            """
            with make_sender(topic_defaults=TopicSettings(producer_name="shop", mix_keys=True)) as sender:
                try:
                    sender.submit(topic, b"x", sequence_id=1)
                except safepulsar.InvalidMessage as error:
                    tell(text=str(error), accepted=sender.stats().counts.accepted)
            """
        )
    )
    assert facts == {
        "text": "sequence_id: needs a producer_name and batch_max_messages=1 in the topic's settings",
        "accepted": 0,
    }
