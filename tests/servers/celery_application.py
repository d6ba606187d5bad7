"""
A Celery application over folders, without any message broker of its own. Configured by the environment.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from celery import Celery

from safepulsar import RetryingSender
from safepulsar.adapters.celery import connect

TOPIC = os.environ["TEST_TOPIC"]
FOLDER = Path(os.environ["TEST_FOLDER"])  # with `queue`, `control` and `done`, made by whoever sets it

app = Celery("safepulsar-test", broker="filesystem://", set_as_current=False)
app.conf.update(
    broker_transport_options={
        "data_folder_in": str(FOLDER / "queue"),
        "data_folder_out": str(FOLDER / "queue"),
        "control_folder": str(FOLDER / "control"),
        "polling_interval": 0.05,
    },
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
)

sender = RetryingSender(os.environ["SAFEPULSAR_URL"], failed_messages=os.environ["SAFEPULSAR_FAILED_MESSAGES"])
connect(sender)
if "TEST_SEND_AT_IMPORT" in os.environ:  # in the parent of the workers
    sender.send(TOPIC, {"id": f"import-{os.getpid()}", "pid": os.getpid()})


@app.task(name="order")  # type: ignore[untyped-decorator]
def order(name: str, how: str) -> None:
    """
    Send one message, and then leave a file that says so.
    """
    message: dict[str, str | int] = {"id": name, "pid": os.getpid()}
    if how == "send":
        sender.send(TOPIC, message)
    else:
        sender.submit(TOPIC, message)
    (FOLDER / "done" / f"{name} {os.getpid()}").touch()


@app.task(name="stuck")  # type: ignore[untyped-decorator]
def stuck() -> None:
    """
    Never end.
    """
    (FOLDER / "stuck").touch()
    time.sleep(600)
