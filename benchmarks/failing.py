"""
A fault switch between the sender and the client library: every so manieth hand-over is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from safepulsar.broker.outcomes import Phase, classify
from safepulsar.broker.pulsar_client import connect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safepulsar.broker.transport import Connect, OnResult, TransportClient, TransportProducer
    from safepulsar.message import Outgoing
    from safepulsar.settings import ClientSettings, ProducerSettings

_CODE = "ProducerQueueIsFull"  # as the client library refuses: at once, and surely not stored


def failing(every: int) -> Connect:
    """
    Return what connects to a broker and refuses every so manieth hand-over; none if 0.
    """

    def connected(settings: ClientSettings) -> TransportClient:
        return cast("TransportClient", _Client(connect(settings), every))

    return connected


class _Producer:
    """
    A producer that refuses, and else is the one that it stands before.
    """

    def __init__(self, producer: TransportProducer, every: int) -> None:
        self._producer = producer
        self._every = every
        self._calls = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._producer, name)

    def send_batch(self, messages: Sequence[Outgoing], on_result: OnResult) -> None:
        self._calls += 1
        if self._every and not self._calls % self._every:
            raise classify(_CODE, Phase.INLINE, self._producer.settings.topic)
        self._producer.send_batch(messages, on_result)


class _Client:
    """
    A client of such producers.
    """

    def __init__(self, client: TransportClient, every: int) -> None:
        self._client = client
        self._every = every

    def __getattr__(self, name: str) -> object:
        return getattr(self._client, name)

    def create_producer(self, settings: ProducerSettings) -> TransportProducer:
        return cast("TransportProducer", _Producer(self._client.create_producer(settings), self._every))
