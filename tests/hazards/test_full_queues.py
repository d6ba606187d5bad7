"""
Too much at once: a full queue, memory without a bound, and a batch that is too big.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.hazards.trial import told

if TYPE_CHECKING:
    from tests.hazards.trial import Trial


def test_control_a_full_queue_raises_nothing(trial: Trial) -> None:
    """
    With a full queue the official client calls back at once, in the caller's thread; without a callback, never.
    """
    facts = told(
        trial.raw(
            """
            producer = client.create_producer(
                topic, max_pending_messages=2, batching_enabled=True, batching_max_publish_delay_ms=60_000
            )
            refused = []
            def callback(result, message_id):
                if result.name != "Ok":
                    refused.append([result.name, threading.current_thread() is threading.main_thread()])
            for number in range(3):
                producer.send_async(b"%d" % number, callback)
            told_at_once = list(refused)
            for number in range(3, 10):
                producer.send_async(b"%d" % number, None)
            producer.flush()
            client.close()
            tell(told_at_once=told_at_once)
            """
        )
    )
    assert facts == {"told_at_once": [["ProducerQueueIsFull", True]]}
    found = trial.payloads(until=2)
    assert found[:2] == [b"0", b"1"]
    assert b"2" not in found  # some of those without a callback may find room again, once the batch is on its way


def test_control_chunks_take_room_for_ever(real_trial: Trial) -> None:
    """
    A message in chunks that meets the official client's full queue leaves its room taken, until nothing goes any more.
    """
    facts = told(
        real_trial.raw(
            """
            producer = client.create_producer(topic, chunking_enabled=True, max_pending_messages=4)
            def codes(count, payload):
                found = []
                for _ in range(count):
                    producer.send_async(payload, lambda result, message_id: found.append(result.name))
                producer.flush()
                while len(found) < count:
                    time.sleep(0.001)
                return sorted(found)
            before = codes(4, b"x")
            too_much = codes(1, b"x" * 30_000_000)
            tell(before=before, too_much=too_much, after=codes(4, b"x"))
            client.close()
            """
        )
    )
    assert facts["before"] == ["Ok"] * 4
    assert facts["too_much"] == ["ProducerQueueIsFull"]
    assert facts["after"].count("ProducerQueueIsFull") > 0


def test_chunks_leave_their_room(real_trial: Trial) -> None:
    """
    A sender waits for room before it hands anything over: chunks and what comes after them are delivered.
    """
    facts = told(
        real_trial.safe(
            """
            topics = TopicSettings(chunking=True)
            with make_sender(topic_defaults=topics, max_in_flight_messages=4, deadline_seconds=40) as sender:
                for size in (30_000_000, 1) * 3:
                    handles = [sender.submit(topic, b"x" * size) for _ in range(4)]
                    fates = {handle.result().fate.value for handle in handles}
                counts = sender.close().counts
            tell(delivered=counts.delivered, accepted=counts.accepted)
            """
        )
    )
    assert facts == {"delivered": 24, "accepted": 24}


def test_control_a_flush_succeeds_over_failures(trial: Trial) -> None:
    """
    The official client's `flush` tells of the last message only: it succeeds behind one that failed.
    """
    facts = told(
        trial.raw(
            """
            producer = client.create_producer(topic)
            producer.send_async(b"x" * 6_000_000, None)
            producer.send_async(b"small", None)
            tell(flush=producer.flush())
            client.close()
            """
        )
    )
    assert facts == {"flush": None}
    assert trial.payloads(until=1) == [b"small"]


def test_each_failure_is_told_behind_a_flush(trial: Trial) -> None:
    """
    A sender's `flush` says that nothing is open; of each message its own handle, the books and the store tell the fate.
    """
    facts = told(
        trial.safe(
            """
            with make_sender(max_message_bytes=7_000_000) as sender:
                handles = [sender.submit(topic, payload) for payload in (b"x" * 6_000_000, b"small")]
                still_open = sender.flush()
                counts = sender.stats().counts
            tell(still_open=still_open, failed=counts.failed, code=handles[0].exception().__cause__.code,
                 fate=handles[1].result().fate.value)
            """
        )
    )
    assert facts == {"still_open": 0, "failed": 1, "code": "MessageTooBig", "fate": "DELIVERED"}
    assert [len(row.message.payload or b"") for row in trial.kept()] == [6_000_000]
    assert trial.payloads(until=1) == [b"small"]


_FROZEN_WITH_TWO = """
sender = make_sender(when_full=WhenFull.{when_full}, max_in_flight_messages=2)
sender.send(topic, b"first")
freeze()
handles = [sender.submit(topic, b"%d" % number) for number in range(2)]
"""


def test_a_full_queue_raises(own_trial: Trial) -> None:
    """
    `WhenFull.RAISE`: a message over the bound is refused with a typed error, at once, and is not sent.
    """
    facts = told(
        own_trial.safe(
            """
            try:
                sender.submit(topic, b"over the bound")
            except safepulsar.QueueFull as error:
                raised = type(error).__name__
            thaw()
            tell(raised=raised, delivered=sender.close().counts.delivered)
            """,
            before=_FROZEN_WITH_TWO.format(when_full="RAISE"),
        )
    )
    assert facts == {"raised": "QueueFull", "delivered": 3}
    assert own_trial.payloads(until=3) == [b"first", b"0", b"1"]


def test_a_full_queue_blocks(own_trial: Trial) -> None:
    """
    `WhenFull.BLOCK`: a call waits for room, is delivered when there is, and refused at its deadline when there is none.
    """
    facts = told(
        own_trial.safe(
            """
            try:
                sender.submit(topic, b"over the bound", deadline_seconds=0.3)
            except safepulsar.QueueFull as error:
                raised = type(error).__name__
            threading.Timer(0.3, thaw).start()
            fate = sender.send(topic, b"waited").fate.value
            tell(raised=raised, fate=fate, delivered=sender.close().counts.delivered)
            """,
            before=_FROZEN_WITH_TWO.format(when_full="BLOCK"),
        )
    )
    assert facts == {"raised": "QueueFull", "fate": "DELIVERED", "delivered": 4}
    assert own_trial.payloads(until=4) == [b"first", b"0", b"1", b"waited"]


def test_a_full_queue_keeps(own_trial: Trial) -> None:
    """
    `WhenFull.KEEP`: a message over the bound goes into the store, as surely not sent, and its call returns at once.
    """
    facts = told(
        own_trial.safe(
            """
            error = sender.submit(topic, b"over the bound").exception()
            thaw()
            counts = sender.close().counts
            tell(certainty=error.certainty.value, delivered=counts.delivered, failed=counts.failed)
            """,
            before=_FROZEN_WITH_TWO.format(when_full="KEEP"),
        )
    )
    assert facts == {"certainty": "NOT_STORED", "delivered": 3, "failed": 1}
    assert [row.message.payload for row in own_trial.kept()] == [b"over the bound"]
    assert own_trial.payloads(until=3) == [b"first", b"0", b"1"]


_MEBIBYTE = 1024 * 1024


def test_control_memory_has_no_bound(own_trial: Trial) -> None:
    """
    The official client bounds the number of messages that wait and not their bytes: it takes 200 MiB without a word.
    """
    facts = told(
        own_trial.raw(
            """
            import resource
            producer = client.create_producer(topic)
            producer.send(b"first")
            refused = []
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            freeze()
            for number in range(200):
                producer.send_async(bytes(2**20), lambda result, message_id: refused.append(result.name))
            tell(refused=refused, grown=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
            os._exit(0)
            """
        )
    )
    assert facts["refused"] == []


def test_memory_has_a_bound(own_trial: Trial) -> None:
    """
    What waits is bounded in bytes, 64 MiB by default: the message beyond is refused.
    """
    facts = told(
        own_trial.safe(
            """
            sender = make_sender(when_full=WhenFull.RAISE)
            sender.send(topic, b"first")
            freeze()
            taken = 0
            try:
                while True:
                    sender.submit(topic, bytes(2**20))
                    taken += 1
            except safepulsar.QueueFull:
                thaw()
            tell(taken=taken, delivered=sender.close(timeout=30).counts.delivered)
            """
        )
    )
    assert facts == {"taken": 64, "delivered": 65}


def test_control_one_too_big_fails_its_batch(trial: Trial) -> None:
    """
    One message over the broker's limit, and the official client fails all that waited with it.
    """
    facts = told(
        trial.raw(
            """
            producer = client.create_producer(
                topic, batching_enabled=True, batching_max_publish_delay_ms=60_000,
                batching_max_allowed_size_in_bytes=100_000_000,
            )
            results = []
            for size in (10, 10, 6_000_000, 10):
                producer.send_async(bytes(size), lambda result, message_id: results.append(result.name))
            try:
                producer.flush()
            except pulsar.MessageTooBig:
                tell(results=results)
            client.close()
            """
        )
    )
    assert facts == {"results": ["MessageTooBig"] * 4}
    assert trial.payloads() == []


@pytest.mark.parametrize(
    ("sizes", "fates"),
    [
        ((10, 10, 6_000_000, 10), ["DELIVERED", "DELIVERED", "NOT_STORED", "DELIVERED"]),
        ((2_621_440, 2_621_440, 10), ["DELIVERED", "DELIVERED", "DELIVERED"]),
    ],
    ids=["one", "together"],
)
def test_one_too_big_fails_alone(trial: Trial, sizes: tuple[int, ...], fates: list[str]) -> None:
    """
    Only the message over the broker's limit fails; those that are too big only together are delivered one by one.
    """
    facts = told(
        trial.safe(
            f"""
            # Let through what would be refused before it is sent.
            sender = make_sender(max_message_bytes=100_000_000, topic_defaults=TopicSettings(batch_max_bytes=5 * 2**20))
            sender.send(topic, b"")  # so that the producer is there, and all come into one batch
            handles = [sender.submit(topic, bytes(size)) for size in {sizes}]
            errors = [handle.exception() for handle in handles]
            tell(fates=["DELIVERED" if error is None else error.certainty.value for error in errors])
            sender.close()
            """
        )
    )
    assert facts == {"fates": fates}
    expected = [0, *(size for size, fate in zip(sizes, fates, strict=True) if fate == "DELIVERED")]
    # Sorted: messages without a key are in no order that a failure would have to keep.
    assert sorted(len(payload) for payload in trial.payloads(until=len(expected))) == sorted(expected)


def test_one_too_big_is_refused_before_it_is_sent(trial: Trial) -> None:
    """
    By default a message over the broker's limit is refused at the call, with the limit and what to do.
    """
    facts = told(
        trial.safe(
            """
            with make_sender() as sender:
                try:
                    sender.submit(topic, bytes(6_000_000))
                except safepulsar.InvalidMessage as error:
                    tell(text=str(error))
            """
        )
    )
    assert "6000000 bytes" in facts["text"]
    assert "max_message_bytes" in facts["text"]
