"""
Every order and what became of its message, in a SQLite file; yours are in your database.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, Field

from safepulsar import Certainty, FailedMessageState, Fate, NoSuchFailedMessage
from safepulsar.observing import Fact, Finished

if TYPE_CHECKING:
    from pathlib import Path

    from safepulsar import FailedMessageStore
    from safepulsar.observing import Outcome

TOPIC: Final = "orders"
ORDER: Final = "order"  # the property with the order's number, by which a fate finds its order, also that of a replay

_TABLE: Final = """
    PRAGMA journal_mode = WAL;
    CREATE TABLE IF NOT EXISTS orders (
        number INTEGER PRIMARY KEY, customer TEXT, quantity INTEGER, amount TEXT,
        state TEXT DEFAULT 'waiting', message_id TEXT, failed_id INTEGER, in_doubt INTEGER DEFAULT 0, why TEXT,
        placed_at REAL, settled_at REAL
    );
    UPDATE orders SET state = 'unknown' WHERE state = 'waiting'; -- of a run that was killed
"""
_SETTLED: Final = """
    UPDATE orders SET state = ?, message_id = ?, failed_id = ?, in_doubt = ?, why = COALESCE(?, why), settled_at = ?
    WHERE number = ?
"""
_LATEST: Final = """
    SELECT number, customer, quantity, amount, state, message_id, why,
        ROUND(COALESCE(settled_at, ?) - placed_at, 3) AS seconds
    FROM orders ORDER BY number DESC LIMIT ?
"""
_SAYS: Final = {Certainty.NOT_STORED: "surely not stored", Certainty.MAYBE_STORED: "maybe stored"}


class Order(BaseModel):
    """
    What is ordered, and by whom, as a client sends it.
    """

    customer: str = Field(min_length=1, max_length=40)
    quantity: int = Field(ge=1, le=99)
    amount: str = Field(pattern=r"^[0-9]{1,6}\.[0-9]{2}$")


class Orders:
    """
    An observer of the sender, which so learns every fate. An order is one of: waiting, delivered, kept, failed, unknown.

    `failed` is what could not even be kept, and `unknown` what was waiting when an earlier run of the shop was killed; an
    outbox would have it.

    Args:
        path: the file; made if missing.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()  # guards the connection, which requests and the sender share
        self._database = sqlite3.connect(path, check_same_thread=False)
        self._database.row_factory = sqlite3.Row
        self._database.executescript(_TABLE)

    def close(self) -> None:
        """
        Close the file.
        """
        self._database.close()

    def place(self, order: Order) -> int:
        """
        Note an order, and return its number.
        """
        values = (order.customer, order.quantity, order.amount, time.time())
        insert = "INSERT INTO orders (customer, quantity, amount, placed_at) VALUES (?, ?, ?, ?)"
        with self._lock, self._database, closing(self._database.execute(insert, values)) as inserted:
            return int(inserted.lastrowid or 0)

    def observe(self, fact: Fact) -> None:
        """
        Note the fates of orders.
        """
        if isinstance(fact, Finished):
            settled = [_settled(outcome) for outcome in fact.outcomes() if ORDER in (outcome.properties or {})]
            with self._lock, self._database:
                self._database.executemany(_SETTLED, settled)

    def ask(self, store: FailedMessageStore) -> None:
        """
        Note which of the kept messages that were in doubt were found in the topic meanwhile: the store knows.
        """
        with self._lock:
            doubts = self._database.execute("SELECT number, failed_id FROM orders WHERE in_doubt").fetchall()
        for number, failed_id in doubts:
            try:
                status = store.status(failed_id)
            except NoSuchFailedMessage:  # purged by somebody
                continue
            if status.state is FailedMessageState.DELIVERED:
                values = ("delivered", str(status.message_id), failed_id, 0, None, status.delivered_at, number)
                with self._lock, self._database:
                    self._database.execute(_SETTLED, values)

    def counts(self) -> dict[str, int]:
        """
        How many are accepted; how many of them are in each state; how many were delivered after they had been kept.
        """
        with self._lock:
            found = self._database.execute("SELECT state, COUNT(*), COUNT(why) FROM orders GROUP BY state").fetchall()
        states = {"waiting": 0, "delivered": 0, "kept": 0, "failed": 0, "unknown": 0}
        states |= {state: number for state, number, _ in found}
        replayed = sum(explained for state, _, explained in found if state == "delivered")
        return {"accepted": sum(states.values()), **states, "replayed": replayed}

    def latest(self, limit: int) -> list[dict[str, object]]:
        """
        The last orders, newest first.
        """
        with self._lock:
            return [dict(row) for row in self._database.execute(_LATEST, (time.time(), limit))]


def _settled(outcome: Outcome) -> tuple[object, ...]:
    number = int((outcome.properties or {})[ORDER])
    if outcome.fate is not Fate.FAILED or outcome.certainty is None:
        return "delivered", str(outcome.message_id), None, 0, None, time.time(), number
    state = "failed" if outcome.failed_message_id is None else "kept"
    why = f"{outcome.error_code}, {_SAYS[outcome.certainty]}"
    in_doubt = outcome.certainty is Certainty.MAYBE_STORED and state == "kept"
    return state, None, outcome.failed_message_id, in_doubt, why, time.time(), number
