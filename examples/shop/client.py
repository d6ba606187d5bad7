"""
Somebody who orders: one connection to a shop, kept open.
"""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self


class ShopError(Exception):
    """
    The shop answered with an error, whose status is `args[0]`.
    """


class Client:
    """
    For one thread, in a `with` block.

    Args:
        address: host and port of the shop.
    """

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.close()

    def place(self, customer: str, quantity: int, amount: str) -> int:
        """
        Place an order, and return its number.
        """
        number: int = self.ask("POST", "/orders", {"customer": customer, "quantity": quantity, "amount": amount})[
            "number"
        ]
        return number

    def counts(self) -> dict[str, int]:
        """
        The shop's books.
        """
        counts: dict[str, int] = self.ask("GET", "/orders?limit=0")["counts"]
        return counts

    def kill_broker(self) -> None:
        """
        Press the button.
        """
        self.ask("POST", "/broker/kill")

    def start_broker(self) -> None:
        """
        Press it again.
        """
        self.ask("POST", "/broker/start")

    def ask(self, method: str, path: str, body: object = None) -> Any:  # noqa: ANN401 - whatever JSON the shop answers
        """
        Ask anything.

        Raises:
            ShopError: the answer is an error.
        """
        data = None if body is None else json.dumps(body)
        self._connection.request(method, path, data, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status >= http.client.BAD_REQUEST:
            raise ShopError(answer.status, text.decode())
        return json.loads(text) if text else None
