"""
An application in which everything happens that a dashboard shows: `python -m tests.deploy.application`.

Its first line is the port where its numbers are; it runs until its standard input ends.
"""

from __future__ import annotations

import logging
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from prometheus_client import start_http_server

from safepulsar.broker.client_registry import ClientRegistry
from safepulsar.errors import SafePulsarError
from safepulsar.metrics import Metrics
from safepulsar.metrics.prometheus import export
from safepulsar.request_context import RequestContext
from safepulsar.sender import RetryingSender
from safepulsar.settings import SenderSettings, TopicSettings, WhenFull
from safepulsar.testing import FakeBroker, Phase

if TYPE_CHECKING:
    from threading import Event

_ROUND_SECONDS = 0.2


def main() -> None:
    """
    Serve, and send until told to end.
    """
    logging.getLogger("safepulsar").addHandler(logging.NullHandler())
    metrics = Metrics()
    export(metrics)
    server, _ = start_http_server(0, addr="127.0.0.1")
    print(server.server_port, flush=True)  # noqa: T201 - read by whoever scrapes
    over = threading.Event()
    threading.Thread(target=_wait_for_the_end, args=(over,), daemon=True).start()
    broker = FakeBroker(deduplication=True)
    settings = SenderSettings(
        max_in_flight_messages=100,
        when_full=WhenFull.RAISE,
        messages_per_second=300,
        topics={"named": TopicSettings(producer_name="named", batch_max_messages=1)},
    )
    with RetryingSender(
        broker.url, settings=settings, registry=ClientRegistry(broker.connect), observers=[metrics]
    ) as sender:
        sender.send("named", b"x", sequence_id=10)
        _send(broker, sender, over)
        broker.thaw()
        sender.close(2)


def _wait_for_the_end(over: Event) -> None:
    sys.stdin.read()
    over.set()


def _send(broker: FakeBroker, sender: RetryingSender, over: Event) -> None:
    number = 0
    while not over.wait(_ROUND_SECONDS):
        number += 1
        RequestContext.from_headers({"traceparent": "rubbish"})
        for _ in range(20):
            sender.send("orders", b"x" * 100)
        broker.fail_next(1, "ProducerBusy", phase=Phase.CREATE, topic=f"busy-{number}")
        sender.send(f"busy-{number}", b"x")
        broker.fail_next(1, "TopicTerminated", phase=Phase.CREATE, topic=f"gone-{number % 5}")
        with suppress(SafePulsarError):
            sender.send(f"gone-{number % 5}", b"x", ordering_key="k")  # which stops this lane
        broker.fail_next(1, "TopicTerminated", phase=Phase.CREATE, topic=f"lost-{number}")
        sender.send_many(f"lost-{number}", [b"x"] * 5)
        broker.freeze("full")
        with suppress(SafePulsarError):
            for _ in range(150):
                sender.submit("full", b"x")
        broker.thaw("full")
        sender.flush(1)


if __name__ == "__main__":
    main()
