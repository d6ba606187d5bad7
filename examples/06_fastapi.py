"""
A minimal FastAPI service: one endpoint that answers when the order is stored, one that answers at once.

    uvicorn --app-dir examples 06_fastapi:app
    curl -X POST localhost:8000/orders -H 'Content-Type: application/json' -d '{"id": 7, "customer": "c7"}'
"""

from __future__ import annotations

import os
from pathlib import Path

from fastapi import FastAPI, Response
from pydantic import BaseModel

from safepulsar import SendFailed
from safepulsar.adapters.fastapi import After, SafePulsar, SafePulsarSettings, Sender, health_router

app = FastAPI()
SafePulsar(
    app,
    SafePulsarSettings(
        url=os.environ.get("SAFEPULSAR_URL", "pulsar://localhost:6650"), failed_messages=Path("failed/orders.db")
    ),
)
app.include_router(health_router())


class Order(BaseModel):
    """
    What is ordered, and by whom.
    """

    id: int
    customer: str


@app.post("/orders", status_code=201)
async def order(order: Order, sender: Sender, response: Response) -> dict[str, str]:
    """
    Place an order, and answer when its fate is known.
    """
    try:
        result = await sender.send("orders", order, partition_key=order.customer)
    except SendFailed as error:
        response.status_code = 202
        return {"kept": str(error.failed_message_id), "certainty": error.certainty.value}
    return {"stored": str(result.message_id)}


@app.post("/visits", status_code=202)
async def visit(page: str, after: After) -> None:
    """
    Note a visit if the answer is a good one. The message survives the answer, the client, and a reload.
    """
    after.send("visits", {"page": page})
