"""
A synchronous send through a producer that batches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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
