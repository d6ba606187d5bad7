"""
A shop that takes orders whatever becomes of its broker, and a page that shows each order's fate and can kill the broker.

    python -m examples.10_shop_fastapi      # and open http://127.0.0.1:8000
    curl localhost:8000/orders -H 'Content-Type: application/json' -d '{"customer": "c7", "quantity": 2, "amount": "23.54"}'

It has a broker of its own, by pulsar-lite; or the one at `SAFEPULSAR_URL`, whose button is missing then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import uvicorn
from fastapi import FastAPI, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse

from examples.shop import ORDER, PAGE, TOPIC, NotOurs, Order, Shop, run
from safepulsar.adapters.fastapi import After, BlockingSender, SafePulsar, SafePulsarSettings, health_router

if TYPE_CHECKING:
    import socket


def make_app(shop: Shop) -> FastAPI:
    """
    The application. Its endpoints are functions, which run in threads, because the orders are on a disk.
    """
    app = FastAPI(title="A shop")
    settings = SafePulsarSettings(
        url=shop.url, failed_messages=shop.failed_messages, client=shop.client, sender=shop.sender
    )
    SafePulsar(app, settings, observers=[shop.orders])
    app.include_router(health_router())

    @app.get("/", response_class=HTMLResponse)
    def page() -> str:
        return PAGE

    @app.post("/orders", status_code=202)
    def place(order: Order, after: After) -> dict[str, int]:
        number = shop.orders.place(order)
        message = {"number": number, **order.model_dump()}
        after.send(TOPIC, message, ordering_key=order.customer, properties={ORDER: str(number)})
        return {"number": number}

    @app.get("/orders")
    def orders(sender: BlockingSender, limit: Annotated[int, Query(ge=0)] = 100) -> dict[str, object]:
        return shop.look(sender.failed_messages, limit)

    @app.post("/broker/kill", status_code=204)
    def kill() -> None:
        shop.kill_broker()

    @app.post("/broker/start", status_code=204)
    def start() -> None:
        shop.start_broker()

    @app.exception_handler(NotOurs)
    def not_ours(_request: Request, error: NotOurs) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 409)

    return app


def serve(shop: Shop, listener: socket.socket) -> None:
    """
    Serve it by uvicorn, until it is told to end.
    """
    uvicorn.Server(uvicorn.Config(make_app(shop), log_level="warning")).run(sockets=[listener])


if __name__ == "__main__":
    run(serve, port=8000)
