"""
Reading a topic back through a native reader whose answers come as the test says, also in the orders that are rare.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final

import _pulsar
import pytest

from safepulsar.broker.pulsar_client.client import connect
from safepulsar.broker.pulsar_client.reader import read_back
from safepulsar.settings import ClientSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from safepulsar.broker.pulsar_client.client import PulsarClient

_TOPIC: Final = "persistent://public/default/orders"
_LATER_SECONDS: Final = 0.005  # a question is open so long


class _Message:
    """
    One message, its number the entry of its id.
    """

    def __init__(self, number: int) -> None:
        self.number = number

    def message_id(self) -> _pulsar.MessageId:
        return _pulsar.MessageId(-1, 1, self.number, -1)

    def producer_name(self) -> str:
        return "shop"

    def properties(self) -> dict[str, str]:
        return {"n": str(self.number)}

    def encryption_context(self) -> None:
        return None


class _Reader:
    """
    A native reader with a queue, and one question that may be open.

    Each turn is what comes while a question is open, the last of it as the answer, and what was before in the queue.
    """

    def __init__(self, *turns: list[int]) -> None:
        self._turns = list(turns)
        self._queue: list[int] = []

    def read_next_async(self, callback: Callable[..., object]) -> None:
        if self._queue:
            callback(_pulsar.Result.Ok, _Message(self._queue.pop(0)))
        elif self._turns:
            threading.Timer(_LATER_SECONDS, self._come, (self._turns.pop(0), callback)).start()

    def has_message_available_async(self, callback: Callable[..., object]) -> None:
        callback(_pulsar.Result.Ok, bool(self._queue or self._turns))

    def close_async(self, callback: Callable[..., object]) -> None:
        callback(_pulsar.Result.Ok)

    def _come(self, turn: list[int], callback: Callable[..., object]) -> None:
        answer, *others = turn
        self._queue += others
        callback(_pulsar.Result.Ok, _Message(answer))


class _Native:
    """
    A native client: the first reader looks for the end, the others read.
    """

    def __init__(self, *readers: _Reader) -> None:
        self._readers = list(readers)

    def create_reader_async(
        self, _topic: str, _start: object, _settings: object, callback: Callable[..., object]
    ) -> None:
        callback(_pulsar.Result.Ok, self._readers.pop(0))


@pytest.fixture
def client() -> Iterator[PulsarClient]:
    """
    Never connected.
    """
    client = connect(ClientSettings(url="pulsar://127.0.0.1:1"))
    yield client
    client.close()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "turns",
    [
        [[1, 2, 3, 4, 5]],
        [[1], [2], [3], [4], [5]],
        [[2, 1], [3], [4], [5]],
        [[2, 1, 3], [5, 4]],
        [[1], [3, 2], [5, 4]],
        [[2, 1, 3, 4, 5]],
    ],
    ids=str,
)
def test_messages_that_swap_places_on_their_way_are_read_in_order(client: PulsarClient, turns: list[list[int]]) -> None:
    """
    A question that is asked while a message comes may be answered with the one behind it; none is passed over.
    """
    native: Any = _Native(_Reader([5]), _Reader(*turns))
    stored = read_back(client, native, _TOPIC, -1, None, time.monotonic() + 20)
    assert [each.properties["n"] for each in stored] == ["1", "2", "3", "4", "5"]
