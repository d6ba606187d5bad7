"""
A Flask application with every way to send. Configured by the environment; `app` is what servers look for.
"""

from __future__ import annotations

import os
import signal
import time

from flask import Flask, request

from safepulsar.adapters.flask import SafePulsar, after_response, current_sender, health_blueprint

TOPIC = os.environ["TEST_TOPIC"]


def message() -> dict[str, str | int]:
    """
    What is sent: the request's number, and who serves it.
    """
    return {"id": request.args["id"], "pid": os.getpid()}


def create_app() -> Flask:
    """
    Make it.
    """
    app = Flask(__name__)
    app.config.from_mapping({name: os.environ[name] for name in os.environ if name.startswith("SAFEPULSAR_")})
    for name in [name for name in app.config if name.startswith("SAFEPULSAR_REQUIRE_")]:
        del app.config[name]  # what the tests are told
    SafePulsar(app)
    app.register_blueprint(health_blueprint())

    @app.post("/send")
    def send() -> dict[str, str | int]:
        """
        Answer when the message is stored.
        """
        current_sender.send(TOPIC, message())
        return message()

    @app.post("/submit")
    def submit() -> dict[str, str | int]:
        """
        Answer at once.
        """
        current_sender.submit(TOPIC, message())
        return message()

    @app.post("/after")
    def after() -> dict[str, str | int]:
        """
        Answer, and send if that succeeds.
        """
        after_response().send(TOPIC, message())
        return message()

    @app.post("/stuck")
    def stuck() -> dict[str, str | int]:
        """
        Send, and never answer: no signal that Python could handle gets through, as in native code that hangs.
        """
        current_sender.send(TOPIC, message())
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        time.sleep(60)
        return message()

    if "TEST_SEND_AT_IMPORT" in os.environ:  # as an application may do that is loaded before its server forks
        with app.app_context():
            current_sender.send(TOPIC, {"id": f"import-{os.getpid()}", "pid": os.getpid()})
            current_sender.submit(TOPIC, {"id": f"import-too-{os.getpid()}", "pid": os.getpid()})
    return app


app = create_app()
