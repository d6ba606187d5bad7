"""
The service in FastAPI: endpoints that answer at once, as coroutines, and endpoints that wait, in the pool of threads.

    SAFEPULSAR_URL=pulsar://localhost:6650 BENCH_TOPIC=orders uvicorn benchmarks.web.fastapi_orders:app
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.web.by_hand import TOPIC, ByHand, freeze, open_by_hand
from safepulsar.adapters.fastapi import After, BlockingSender, SafePulsar, Sender

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

_TOPIC = os.environ[TOPIC]


class Order(BaseModel):
    """
    What is posted, and sent as JSON.
    """

    number: int
    customer: str
    note: str


class _Opened:
    """
    What the service has for its life. A plain variable, because nothing that is injected is as cheap.
    """

    by_hand: ByHand
    settle: Callable[[int], dict[str, float]]


@asynccontextmanager
async def _life(_app: FastAPI) -> AsyncIterator[None]:
    with open_by_hand() as (_Opened.by_hand, _Opened.settle):
        freeze()
        yield


app = FastAPI(lifespan=_life)
SafePulsar(app)

# -- answered at once --------------------------------------------------------------------------------------------
# Routes are tried one after the other, so those that are compared with safepulsar's stand before them.


@app.post("/nothing", status_code=202)
async def nothing(order: Order) -> dict[str, int]:
    """
    The same, without a message.
    """
    return {"number": order.number}


@app.post("/raw-submit", status_code=202)
async def raw_submit(order: Order) -> dict[str, int]:
    """
    By the raw client's `send_async`.
    """
    _Opened.by_hand.submit(order.model_dump_json().encode())
    return {"number": order.number}


@app.post("/submit", status_code=202)
async def submit(order: Order, sender: Sender) -> dict[str, int]:
    """
    By safepulsar.
    """
    await sender.submit(_TOPIC, order)
    return {"number": order.number}


@app.post("/after", status_code=202)
async def after_the_response(order: Order, after: After) -> dict[str, int]:
    """
    By safepulsar, if the request succeeds.
    """
    after.send(_TOPIC, order)
    return {"number": order.number}


# -- answered when the message is stored -------------------------------------------------------------------------


@app.post("/waiting/nothing", status_code=202)
def waiting_for_nothing(order: Order) -> dict[str, int]:
    """
    The same, without a message.
    """
    return {"number": order.number}


@app.post("/waiting/send", status_code=202)
def send(order: Order, sender: BlockingSender) -> dict[str, int]:
    """
    By safepulsar.
    """
    sender.send(_TOPIC, order)
    return {"number": order.number}


@app.post("/waiting/raw/{setting}", status_code=202)
def raw_send(order: Order, setting: str) -> dict[str, int]:
    """
    By one producer of the raw client.
    """
    _Opened.by_hand.sends[setting](order.model_dump_json().encode())
    return {"number": order.number}


@app.post("/waiting/naive", status_code=202)
def naive(order: Order) -> dict[str, int]:
    """
    By a client and a producer for this request alone.
    """
    _Opened.by_hand.naive(order.model_dump_json().encode())
    return {"number": order.number}


@app.post("/settle")
def settle(sender: BlockingSender) -> dict[str, float]:
    """
    Wait for the fate of all messages, and say how many were delivered.
    """
    sender.flush()
    return _Opened.settle(sender.stats().counts.delivered)
