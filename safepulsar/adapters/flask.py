"""
Flask: one sender per application, the request's context on every message, and probes.

    safepulsar = SafePulsar()


    def create_app():
        app = Flask(__name__)
        app.config["SAFEPULSAR_URL"] = "pulsar://localhost:6650"
        safepulsar.init_app(app)
        return app


    @app.post("/orders")
    def order():
        current_sender.submit("orders", request.get_json())
        return "", 202

Nothing is opened before the first use, so that a server may fork as it likes.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from safepulsar import health
from safepulsar.adapters.after_response import AfterResponse
from safepulsar.adapters.configuration import PREFIX, Configuration
from safepulsar.errors import InvalidSettings, NoCurrentSender
from safepulsar.request_context import RequestContext, reset_context, set_context

try:
    import click
    from flask import Blueprint, Flask, current_app, has_app_context, has_request_context, jsonify, request
    from flask.cli import AppGroup
    from werkzeug.local import LocalProxy
except ImportError as error:
    msg = 'safepulsar.adapters.flask needs Flask: pip install "safepulsar[flask]"'
    raise ImportError(msg) from error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flask import Response

    from safepulsar.broker.client_registry import ClientRegistry
    from safepulsar.health import Health
    from safepulsar.observing import Observer
    from safepulsar.sender import RetryingSender
    from safepulsar.sending.engine import CloseReport
    from safepulsar.steps import Step

_KEY: Final = "safepulsar"  # in app.extensions
_CONTEXT: Final = "safepulsar.context"  # in the environment of a request
_AFTER: Final = "safepulsar.after_response"


class _Extension:
    """
    What one application has of us.
    """

    def __init__(self, owner: SafePulsar, configuration: Configuration, sender: RetryingSender) -> None:
        self.owner = owner
        self.configuration = configuration
        self.sender = sender


class SafePulsar:
    """
    The extension: configured by `app.config`, see `Configuration.read`.

    One object may serve several applications. Those with equal configurations share one sender, and with it producers.

    Args:
        app: calls `init_app` with it.
        steps: what every message passes after the context of its request was added.
        observers: see `RetryingSender`.
        registry: see `RetryingSender`.

    Raises:
        InvalidSettings: see `init_app`.
    """

    def __init__(
        self,
        app: Flask | None = None,
        *,
        steps: Sequence[Step] = (),
        observers: Sequence[Observer] = (),
        registry: ClientRegistry | None = None,
    ) -> None:
        self._steps = tuple(steps)
        self._observers = tuple(observers)
        self._registry = registry
        self._extensions: list[_Extension] = []
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """
        Give `app` its sender. A second call with the same configuration does nothing.

        Raises:
            InvalidSettings: the configuration has no URL or a wrong value, or is not the one that `app` was given before.
        """
        configuration = Configuration.read(app.config)
        there = app.extensions.get(_KEY)
        if there is not None:
            if there.owner is not self or there.configuration != configuration:
                problem = "this application has a sender of other settings already; call init_app once, when all is set"
                raise InvalidSettings(f"{PREFIX}URL", problem)
            return
        sender = next((each.sender for each in self._extensions if each.configuration == configuration), None)
        if sender is None or sender.closed:
            sender = configuration.make_sender(registry=self._registry, steps=self._steps, observers=self._observers)
        extension = _Extension(self, configuration, sender)
        self._extensions.append(extension)
        app.extensions[_KEY] = extension
        app.before_request(_begin)
        app.after_request(_accept)
        app.teardown_request(_end)
        app.cli.add_command(_commands)

    def close(self, timeout: float | None = None) -> list[CloseReport]:
        """
        Close the senders of all applications, as the end of the process does by itself; for tests and scripts.
        """
        senders = {id(each.sender): each.sender for each in self._extensions}
        return [sender.close(timeout) for sender in senders.values()]


def _extension() -> _Extension:
    if not has_app_context():
        msg = (
            "no application here: use current_sender in a view or with app.app_context(), or pass the sender itself on"
        )
        raise NoCurrentSender(msg)
    found: _Extension | None = current_app.extensions.get(_KEY)
    if found is None:
        msg = f"application {current_app.name!r} has no sender: call SafePulsar(app), or init_app(app) of the one you have"
        raise NoCurrentSender(msg)
    return found


def get_sender() -> RetryingSender:
    """
    The sender of the current application itself, to be passed on to a thread.

    Raises:
        NoCurrentSender: no application, or one without a sender.
    """
    return _extension().sender


# The sender of the current application, wherever it is used.
current_sender: RetryingSender = LocalProxy(get_sender)  # type: ignore[assignment]


def after_response() -> AfterResponse:
    """
    The messages that are sent if the current request succeeds.

    Raises:
        NoCurrentSender: there is no request.
    """
    if not has_request_context():
        msg = "no request here: outside of a view send by current_sender"
        raise NoCurrentSender(msg)
    found: AfterResponse | None = request.environ.get(_AFTER)
    if found is None:
        found = request.environ[_AFTER] = AfterResponse(get_sender())
    return found


def _begin() -> None:
    context = RequestContext.from_headers(request.headers, _extension().configuration.request)
    request.environ[_CONTEXT] = set_context(context)


def _accept(response: Response) -> Response:
    after: AfterResponse | None = request.environ.get(_AFTER)
    if after is not None:
        for handle in after.take(response.status_code):
            get_sender()._accept(handle)
    return response


def _end(_error: BaseException | None) -> None:
    token = request.environ.pop(_CONTEXT, None)
    if token is not None:
        reset_context(token)


# -- probes ------------------------------------------------------------------------------------------------------


def health_blueprint(url_prefix: str = "/health", *, broker_required: bool = False) -> Blueprint:
    """
    `/health/live`, `/health/ready` and `/health/started`: 200 or 503, with JSON that says why.

    Args:
        url_prefix: where.
        broker_required: see `safepulsar.health.ready`.
    """
    blueprint = Blueprint("safepulsar_health", __name__, url_prefix=url_prefix)

    def probe(name: str, ask: Callable[[RetryingSender], Health]) -> None:
        def answer() -> tuple[Response, int]:
            found = ask(get_sender())
            return jsonify(found.as_json()), 200 if found.ok else 503

        blueprint.add_url_rule(f"/{name}", name, answer)

    probe("live", health.live)
    probe("ready", lambda sender: health.ready(sender, broker_required=broker_required))
    probe("started", health.started)
    return blueprint


# -- commands ----------------------------------------------------------------------------------------------------

_commands = AppGroup("safepulsar", help="The messages of this application that were accepted and not confirmed.")


@_commands.command(
    "failed",
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
    short_help="As `safepulsar failed`, on this application's store.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def _failed(arguments: tuple[str, ...]) -> None:
    try:
        from safepulsar.cli.app import run  # noqa: PLC0415 - needs the extra `cli`
    except ImportError as error:
        msg = 'the commands need typer and rich: pip install "safepulsar[cli]"'
        raise click.ClickException(msg) from error
    configuration = _extension().configuration
    given = list(arguments)
    asks_help = not given or bool({"-h", "--help"} & set(given))
    if not asks_help and "--failed" not in given:
        if configuration.failed_messages is None:
            msg = f"{PREFIX}FAILED_MESSAGES is not set, so this application keeps failed messages in memory only"
            raise click.ClickException(msg)
        given += ["--failed", configuration.failed_messages]
    if given[:1] == ["replay"] and not asks_help and "--url" not in given:
        client = configuration.client
        given += ["--url", client.url]
        # The command takes secrets from the environment alone, where other users of the machine don't see them.
        for name, value in (("TOKEN", client.token), ("TLS_TRUST_CERTS_FILE", client.tls_trust_certs_file)):
            if value is not None:
                os.environ[PREFIX + name] = value() if callable(value) else value
    raise SystemExit(run(["failed", *given]))
