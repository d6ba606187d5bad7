"""
The control: a Flask application as one would write it with the official client, a client and a producer for each request.
"""

from __future__ import annotations

import json
import os

import pulsar
from flask import Flask, request

app = Flask(__name__)
kept: list[object] = []  # or they would be destroyed in the middle of their sends


@app.get("/health/live")
def live() -> str:
    """
    Answer.
    """
    return "yes"


@app.post("/submit")
def submit() -> dict[str, str | int]:
    """
    Answer at once, and leave the rest to the client library, which gathers a batch for a second.
    """
    client = pulsar.Client(os.environ["SAFEPULSAR_URL"], logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
    producer = client.create_producer(
        os.environ["TEST_TOPIC"], batching_enabled=True, batching_max_publish_delay_ms=1000
    )
    message: dict[str, str | int] = {"id": request.args["id"], "pid": os.getpid()}
    producer.send_async(json.dumps(message).encode(), None)
    kept.extend([client, producer])
    return message
