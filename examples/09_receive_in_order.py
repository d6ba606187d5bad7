"""
A receiver that puts a topic of several senders in order: each customer's events by their numbers, each once.

    python examples/09_receive_in_order.py send      # a few events, out of order and some of them twice
    python examples/09_receive_in_order.py           # what a receiver makes of them; run it again: nothing comes twice

`OrderedReceiver` is a `ReorderBuffer` together with acknowledgements and progress that fit it, so a crash loses nothing.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from typing import TYPE_CHECKING

import pulsar

from safepulsar import RetryingSender
from safepulsar.receiving import OrderedReceiver, lane_properties

if TYPE_CHECKING:
    from safepulsar.receiving import Progress

URL = os.environ.get("SAFEPULSAR_URL", "pulsar://localhost:6650")
EVENTS = [
    ("anna", 2, "paid"),
    ("bert", 1, "ordered"),
    ("anna", 1, "ordered"),
    ("anna", 2, "paid"),
    ("anna", 3, "shipped"),
]


def send() -> None:
    """
    Play several senders at once. The number of an event comes from where its order is known.
    """
    with RetryingSender(URL) as sender:
        for customer, number, what in EVENTS:
            sender.send("events", what, partition_key=customer, properties=lane_properties(number))


def receive() -> None:
    """
    Work through the topic until nothing comes for two seconds.
    """
    database = sqlite3.connect("shop.db")
    database.execute("CREATE TABLE IF NOT EXISTS progress (id INTEGER PRIMARY KEY, state BLOB)")
    row = database.execute("SELECT state FROM progress").fetchone()

    def save(progress: Progress) -> None:
        # Together with your own work, in one transaction; the messages are acknowledged after it.
        database.execute("INSERT OR REPLACE INTO progress VALUES (1, ?)", [progress.state()])
        database.commit()

    client = pulsar.Client(URL)
    consumer = client.subscribe("events", "shop", initial_position=pulsar.InitialPosition.Earliest)
    try:
        with OrderedReceiver(consumer, save=save, state=row[0] if row else None) as receiver:
            while (event := receiver.receive(timeout_seconds=2)) is not None:
                with event:
                    print(event.lane, event.sequence, event.message.data().decode())
    finally:
        client.close()
        database.close()


if __name__ == "__main__":
    if sys.argv[1:] == ["send"]:
        send()
    else:
        receive()
