"""
Real orders as messages, without end: the purchases of the CDNOW data, round after round.
"""

from __future__ import annotations

import csv
import json
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from safepulsar import Message

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safepulsar.testing import StoredMessage
    from tests.brokers import Record

_FILE: Final = Path(__file__).parents[2] / "examples" / "data" / "cdnow_orders.csv"
_KINDS: Final = 4


class Order(NamedTuple):
    """
    One message to send, with a name of its own, which stands in its payload.
    """

    identity: str
    message: Message


def orders_of(topic: str, worker: int, workers: int, *, keyed: bool = False) -> Iterator[Order]:
    """
    Return the orders of one worker's customers, for ever: of one customer, no two workers have an order.

    Half of the customers have a partition key, a quarter have an ordering key and a quarter have none.

    Args:
        topic: full name.
        worker: which one, from 0.
        workers: how many there are.
        keyed: every customer has a partition key.
    """
    with _FILE.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["customer_id"]) % workers == worker]
    for round_number in count(1):
        for row in rows:
            identity = f"{row['order_id']}.{round_number}"
            customer = row["customer_id"]
            kind = 0 if keyed else int(customer) // workers % _KINDS
            yield Order(
                identity,
                Message(
                    topic=topic,
                    payload=json.dumps({"message": identity, **row}).encode(),
                    properties={"date": row["date"], "order": identity},
                    partition_key=f"customer-{customer}" if kind in (0, 1) else None,
                    ordering_key=f"customer-{customer}" if kind == 2 else None,
                ),
            )


def identify(message: Record | StoredMessage) -> str | None:
    """
    Return the name that stands in a message's payload.
    """
    return None if message.payload is None else identity_in(message.payload)


def identity_in(payload: bytes) -> str:
    """
    Return the name that stands in a payload.
    """
    identity: str = json.loads(payload)["message"]
    return identity
