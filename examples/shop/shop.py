"""
A shop without its web framework: where its messages go, what it knows of them, and its broker.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from examples.shop.orders import TOPIC, Orders
from safepulsar.local_broker import LocalBroker, start_broker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safepulsar import FailedMessageStore

PAGE: Final = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")


class NotOurs(Exception):
    """
    The broker is somebody else's, and stays as it is.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """
    What an application of either framework serves.

    Args:
        url: where messages go.
        folder: of its orders, its failed messages, and the client library's log.
        orders: see there; to be an observer of the sender.
        broker: one of its own, or None.
        deadline_seconds: so long an order is tried before it is kept.
    """

    url: str
    folder: Path
    orders: Orders
    broker: LocalBroker | None = None
    deadline_seconds: float = 10.0

    @property
    def failed_messages(self) -> Path:
        """
        The path of the store.
        """
        return self.folder / "failed.db"

    @property
    def client(self) -> dict[str, Any]:
        """
        The settings of the client.
        """
        return {"log_file": str(self.folder / "client.log")}

    @property
    def sender(self) -> dict[str, Any]:
        """
        The settings of the sender: an order is always accepted, delivered once, and never before an earlier one of its customer.
        """
        return {
            # What is in doubt when the broker dies is looked for in the topic. Behind an order that had to be kept those of
            # the same customer wait in the store.
            "topics": {TOPIC: {"producer_name": "shop", "exactly_once": True, "lane_policy": "PARK"}},
            "lane_probe_seconds": 0.5,  # what is kept goes by itself once the broker is back
            "when_full": "KEEP",
            "deadline_seconds": self.deadline_seconds,
            "close_seconds": 3.0,
        }

    def look(self, store: FailedMessageStore, limit: int) -> dict[str, object]:
        """
        What the page shows: the latest orders, the books, the broker.
        """
        self.orders.ask(store)
        state = None if self.broker is None else self.broker.state.value.lower()
        return {
            "counts": self.orders.counts(),
            "orders": self.orders.latest(limit),
            "broker": {"url": self.url, "state": state},
        }

    def kill_broker(self) -> None:
        """
        End it as a crash would (-9).

        Raises:
            NotOurs: it is somebody else's.
        """
        self._own_broker().kill()

    def start_broker(self) -> None:
        """
        Start it again, on the same data.

        Raises:
            NotOurs: it is somebody else's.
        """
        self._own_broker().start()

    def _own_broker(self) -> LocalBroker:
        if self.broker is None:
            raise NotOurs(f"the broker at {self.url} is not the shop's own")
        return self.broker


@contextmanager
def open_shop(deadline_seconds: float = 10.0) -> Iterator[Shop]:
    """
    A shop with the broker at `SAFEPULSAR_URL`, and its files in `shop-data`; or with a broker of its own, and nothing stays.
    """
    with ExitStack() as undo:
        url = os.environ.get("SAFEPULSAR_URL")
        broker = None
        if url is None:
            folder = Path(undo.enter_context(TemporaryDirectory(prefix="safepulsar-shop-")))
            broker = undo.enter_context(start_broker(folder / "broker"))
            url = broker.url
        else:
            folder = Path("shop-data")
            folder.mkdir(mode=0o700, exist_ok=True)
        orders = undo.enter_context(closing(Orders(folder / "orders.db")))
        yield Shop(url=url, folder=folder, orders=orders, broker=broker, deadline_seconds=deadline_seconds)
