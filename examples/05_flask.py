"""
A minimal Flask service: one endpoint that answers when the order is stored, one that answers at once.

    flask --app examples/05_flask.py run
    gunicorn 'examples.05_flask:app'
    curl -X POST localhost:5000/orders -H 'Content-Type: application/json' -d '{"id": 7, "customer": "c7"}'
"""

from __future__ import annotations

import os

from flask import Flask, request

from safepulsar import SendFailed
from safepulsar.adapters.flask import SafePulsar, current_sender, health_blueprint

app = Flask(__name__)
app.config["SAFEPULSAR_URL"] = os.environ.get("SAFEPULSAR_URL", "pulsar://localhost:6650")
app.config["SAFEPULSAR_FAILED_MESSAGES"] = "failed/orders.db"
SafePulsar(app)
app.register_blueprint(health_blueprint())


@app.post("/orders")
def order() -> tuple[dict[str, str], int]:
    """
    Place an order, and answer when its fate is known.
    """
    placed = request.get_json()
    try:
        result = current_sender.send("orders", placed, partition_key=placed["customer"])
    except SendFailed as error:
        return {"kept": str(error.failed_message_id), "certainty": error.certainty.value}, 202
    return {"stored": str(result.message_id)}, 201


@app.post("/visits")
def visit() -> tuple[str, int]:
    """
    Note a visit, and answer at once.
    """
    current_sender.submit("visits", request.get_json())
    return "", 202
