"""
What happened on the fake broker, in numbers.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class BrokerCounts:
    """
    What happened so far; `..._open` and `creating` say how many there are now.

    Attributes:
        clients_created: by `connect`.
        clients_open: not closed.
        producers_created: successfully.
        producers_open: not closed by their owner.
        creations_failed: refused, or failed by order.
        creating: calls of `create_producer` that wait now.
        batches: sent by producers; a message outside of a batch counts as one. Each counts once.
        messages: in those.
        resent_batches: sent once more after a broken connection.
        duplicate_batches: dropped by deduplication.
        answers: given to callbacks, good and bad.
        flushes: calls of `flush`.
        leaked: producers and clients given up by `leak`.
    """

    clients_created: int = 0
    clients_open: int = 0
    producers_created: int = 0
    producers_open: int = 0
    creations_failed: int = 0
    creating: int = 0
    batches: int = 0
    messages: int = 0
    resent_batches: int = 0
    duplicate_batches: int = 0
    answers: int = 0
    flushes: int = 0
    leaked: int = 0
