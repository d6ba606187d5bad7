"""
A Celery task that sends. Its queue is a folder, so that nothing else is needed to try it.

    celery --app examples.07_celery worker      # in one terminal
    python examples/07_celery.py 7              # in another: place order 7
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from celery import Celery

from safepulsar import RetryingSender, SendFailed
from safepulsar.adapters.celery import connect

QUEUE = Path("queue").absolute()
QUEUE.mkdir(exist_ok=True)

app = Celery("shop", broker="filesystem://")
app.conf.broker_transport_options = {
    "data_folder_in": str(QUEUE),
    "data_folder_out": str(QUEUE),
    "control_folder": str(QUEUE),
}

sender = RetryingSender(os.environ.get("SAFEPULSAR_URL", "pulsar://localhost:6650"), failed_messages="failed/orders.db")
connect(sender)  # each worker process opens it after the fork, and drains it before its end


@app.task(name="place-order")  # type: ignore[untyped-decorator]
def place_order(number: int) -> str:
    """
    Send an order. What can't be sent now is kept, so that the task need not be tried again.
    """
    try:
        result = sender.send("orders", {"id": number}, partition_key=f"order-{number}")
    except SendFailed as error:
        return f"kept as {error.failed_message_id}"
    return f"stored as {result.message_id}"


if __name__ == "__main__":
    place_order.delay(int(sys.argv[1]))
