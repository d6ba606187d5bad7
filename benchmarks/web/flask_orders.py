"""
The service in Flask: endpoints that wait, in the threads of the server.

    gunicorn -k gthread benchmarks.web.flask_orders:app  # with SAFEPULSAR_URL, FLASK_SAFEPULSAR_URL and BENCH_TOPIC
"""

from __future__ import annotations

import atexit
import json
import os
from contextlib import ExitStack

from flask import Flask, request

from benchmarks.web.by_hand import TOPIC, freeze, open_by_hand
from safepulsar.adapters.flask import SafePulsar, current_sender

_TOPIC = os.environ[TOPIC]

app = Flask(__name__)
app.config.from_prefixed_env()
SafePulsar(app)
_opened = ExitStack()
_by_hand, _settle = _opened.enter_context(open_by_hand())  # in the worker: gunicorn loads the application there
atexit.register(_opened.close)
freeze()


def _number() -> tuple[dict[str, int], int]:
    return {"number": request.get_json()["number"]}, 202


def _bytes() -> bytes:
    return json.dumps(request.get_json(), separators=(",", ":")).encode()


@app.post("/waiting/nothing")
def waiting_for_nothing() -> tuple[dict[str, int], int]:
    """
    The same, without a message.
    """
    return _number()


@app.post("/waiting/send")
def send() -> tuple[dict[str, int], int]:
    """
    By safepulsar.
    """
    current_sender.send(_TOPIC, request.get_json())
    return _number()


@app.post("/waiting/raw/<setting>")
def raw_send(setting: str) -> tuple[dict[str, int], int]:
    """
    By one producer of the raw client.
    """
    _by_hand.sends[setting](_bytes())
    return _number()


@app.post("/waiting/naive")
def naive() -> tuple[dict[str, int], int]:
    """
    By a client and a producer for this request alone.
    """
    _by_hand.naive(_bytes())
    return _number()


@app.post("/settle")
def settle() -> dict[str, float]:
    """
    Wait for the fate of all messages, and say how many were delivered.
    """
    current_sender.flush()
    return _settle(current_sender.stats().counts.delivered)
