"""
The same shop as 10_shop_fastapi, in Flask.

    python -m examples.11_shop_flask      # and open http://127.0.0.1:5000
    curl localhost:5000/orders -H 'Content-Type: application/json' -d '{"customer": "c7", "quantity": 2, "amount": "23.54"}'

It has a broker of its own, by pulsar-lite; or the one at `SAFEPULSAR_URL`, whose button is missing then.
"""

from __future__ import annotations

import logging
from contextlib import closing
from typing import TYPE_CHECKING

from flask import Flask, request
from pydantic import ValidationError
from werkzeug.serving import make_server

from examples.shop import ORDER, PAGE, TOPIC, NotOurs, Order, Shop, run
from safepulsar.adapters.flask import SafePulsar, after_response, current_sender, health_blueprint

if TYPE_CHECKING:
    import socket


def make_app(shop: Shop, safepulsar: SafePulsar) -> Flask:
    """
    The application.
    """
    app = Flask(__name__)
    app.config["SAFEPULSAR_URL"] = shop.url
    app.config["SAFEPULSAR_FAILED_MESSAGES"] = shop.failed_messages
    app.config["SAFEPULSAR_CLIENT"] = shop.client
    app.config["SAFEPULSAR_SENDER"] = shop.sender
    safepulsar.init_app(app)
    app.register_blueprint(health_blueprint())

    @app.get("/")
    def page() -> str:
        return PAGE

    @app.post("/orders")
    def place() -> tuple[dict[str, int], int]:
        order = Order.model_validate_json(request.get_data())
        number = shop.orders.place(order)
        message = {"number": number, **order.model_dump()}
        after_response().send(TOPIC, message, ordering_key=order.customer, properties={ORDER: str(number)})
        return {"number": number}, 202

    @app.get("/orders")
    def orders() -> dict[str, object]:
        limit = request.args.get("limit", 100, type=int)
        return shop.look(current_sender.failed_messages, max(0, limit))

    @app.post("/broker/kill")
    def kill() -> tuple[str, int]:
        shop.kill_broker()
        return "", 204

    @app.post("/broker/start")
    def start() -> tuple[str, int]:
        shop.start_broker()
        return "", 204

    @app.errorhandler(ValidationError)
    def not_an_order(error: ValidationError) -> tuple[dict[str, object], int]:
        return {"detail": error.errors(include_url=False, include_context=False, include_input=False)}, 422

    @app.errorhandler(NotOurs)
    def not_ours(error: NotOurs) -> tuple[dict[str, object], int]:
        return {"detail": str(error)}, 409

    return app


def serve(shop: Shop, listener: socket.socket) -> None:
    """
    Serve it by Werkzeug's threads, until it is told to end.
    """
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    with closing(SafePulsar(observers=[shop.orders])) as safepulsar:
        app = make_app(shop, safepulsar)
        with app.app_context():
            current_sender.open()
        make_server("127.0.0.1", 0, app, threaded=True, fd=listener.fileno()).serve_forever()


if __name__ == "__main__":
    run(serve, port=5000)
