"""
A FastAPI application with every way to send. Configured by the environment; `app` is what servers look for.
"""

from __future__ import annotations

import os

from fastapi import FastAPI

from safepulsar.adapters.fastapi import After, BlockingSender, SafePulsar, Sender, health_router

TOPIC = os.environ["TEST_TOPIC"]

app = FastAPI()
SafePulsar(app)
app.include_router(health_router())


def message(id: str) -> dict[str, str | int]:  # noqa: A002  # the name in the query
    """
    What is sent: the request's number, and who serves it.
    """
    return {"id": id, "pid": os.getpid()}


@app.post("/send")
async def send(id: str, sender: Sender) -> dict[str, str | int]:  # noqa: A002
    """
    Answer when the message is stored.
    """
    await sender.send(TOPIC, message(id))
    return message(id)


@app.post("/thread")
def thread(id: str, sender: BlockingSender) -> dict[str, str | int]:  # noqa: A002
    """
    The same in a thread of the framework's pool.
    """
    sender.send(TOPIC, message(id))
    return message(id)


@app.post("/submit")
async def submit(id: str, sender: Sender) -> dict[str, str | int]:  # noqa: A002
    """
    Answer at once.
    """
    await sender.submit(TOPIC, message(id))
    return message(id)


@app.post("/after")
async def after(id: str, messages: After) -> dict[str, str | int]:  # noqa: A002
    """
    Answer, and send if that succeeds.
    """
    messages.send(TOPIC, message(id))
    return message(id)
