"""
FastAPI: one sender per application, opened and closed with it, given to endpoints by `Depends`.

    app = FastAPI()
    SafePulsar(app)  # by SAFEPULSAR_URL and what else the environment says


    @app.post("/orders", status_code=202)
    async def order(order: Order, sender: Sender) -> None:
        await sender.submit("orders", order.model_dump(mode="json"))

The application's own lifespan stays as it is, and runs while the sender is open.
"""

from __future__ import annotations

import json
from pathlib import Path  # noqa: TC003 - pydantic reads the annotations
from typing import TYPE_CHECKING, Annotated, Any, Final

from safepulsar import health
from safepulsar.adapters.after_response import AfterResponse
from safepulsar.adapters.asgi import SafePulsarMiddleware, request_scope
from safepulsar.adapters.configuration import PREFIX, Configuration
from safepulsar.async_sender import AsyncSender
from safepulsar.errors import InvalidSettings
from safepulsar.sender import RetryingSender

try:
    from fastapi import APIRouter, Depends, FastAPI, Response
    from pydantic import BaseModel, SecretStr, field_validator
    from pydantic_settings import BaseSettings, SettingsConfigDict
    from starlette.requests import HTTPConnection  # noqa: TC002 - FastAPI reads the annotations
except ImportError as error:
    msg = 'safepulsar.adapters.fastapi needs FastAPI and pydantic-settings: pip install "safepulsar[fastapi]"'
    raise ImportError(msg) from error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from safepulsar.broker.client_registry import ClientRegistry
    from safepulsar.health import Health as Answer
    from safepulsar.observing import Observer
    from safepulsar.steps import Step

_KEY: Final = "safepulsar"  # in app.state


class SafePulsarSettings(BaseSettings):
    """
    The configuration, by arguments or by variables of the environment: `SAFEPULSAR_URL`, `SAFEPULSAR_SENDER__DEADLINE_SECONDS`.

    Args:
        url: the broker; required.
        token: for authentication.
        tls_trust_certs_file: the authorities that are trusted.
        failed_messages: the path of the store of failed messages; None keeps them in memory.
        client: more of `ClientSettings`.
        sender: of `SenderSettings`.
        request: of `RequestContextSettings`.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid")

    url: str | None = None
    token: SecretStr | None = None
    tls_trust_certs_file: str | None = None
    failed_messages: Path | None = None
    client: dict[str, Any] = {}
    sender: dict[str, Any] = {}
    request: dict[str, Any] = {}

    @field_validator("client", "sender", "request", mode="after")
    @classmethod
    def _typed(cls, values: dict[str, Any]) -> dict[str, Any]:
        # A variable of the environment is text; settings take numbers as numbers.
        return {name: _from_text(value) for name, value in values.items()}

    def configuration(self) -> Configuration:
        """
        The same, checked.

        Raises:
            InvalidSettings: there is no URL, or a value is wrong.
        """
        values: dict[str, object] = {
            "URL": self.url,
            "TOKEN": None if self.token is None else self.token.get_secret_value(),
            "TLS_TRUST_CERTS_FILE": self.tls_trust_certs_file,
            "FAILED_MESSAGES": self.failed_messages,
            "CLIENT": self.client,
            "SENDER": self.sender,
            "REQUEST": self.request,
        }
        return Configuration.read({PREFIX + name: value for name, value in values.items()})


class SafePulsar:
    """
    Gives an application its sender: a middleware around it, which also opens and closes the sender.

    Args:
        app: calls `init_app` with it.
        settings: None reads the environment.
        steps: what every message passes after the context of its request was added.
        observers: see `RetryingSender`.
        registry: see `RetryingSender`.

    Attributes:
        sender: for code outside of requests, such as the application's own lifespan; for threads there is `sender.sync`.

    Raises:
        InvalidSettings: there is no URL, or a value is wrong.
    """

    def __init__(
        self,
        app: FastAPI | None = None,
        settings: SafePulsarSettings | None = None,
        *,
        steps: Sequence[Step] = (),
        observers: Sequence[Observer] = (),
        registry: ClientRegistry | None = None,
    ) -> None:
        self._configuration = (settings or SafePulsarSettings()).configuration()
        self.sender = AsyncSender(self._configuration.make_sender(registry=registry, steps=steps, observers=observers))
        if app is not None:
            self.init_app(app)

    def init_app(self, app: FastAPI) -> None:
        """
        Serve `app`. A second call does nothing.

        Raises:
            InvalidSettings: it has a sender of another `SafePulsar` already.
        """
        there = getattr(app.state, _KEY, None)
        if there is self:
            return
        if there is not None:
            problem = "this application has the sender of another SafePulsar already; make one, when all is set"
            raise InvalidSettings(f"{PREFIX}URL", problem)
        app.add_middleware(SafePulsarMiddleware, sender=self.sender, request=self._configuration.request)
        setattr(app.state, _KEY, self)


# -- what endpoints depend on ------------------------------------------------------------------------------------
# Coroutines, because FastAPI runs other dependencies in a thread of its pool.


async def get_sender(connection: HTTPConnection) -> AsyncSender:
    """
    The sender for an `async def` endpoint: what a client that goes away no longer waits for is cancelled, if it can be.

    Raises:
        NoCurrentSender: the application has none.
    """
    return request_scope(connection.scope).sender


async def get_blocking_sender(connection: HTTPConnection) -> RetryingSender:
    """
    The sender for a `def` endpoint, which runs in a thread.

    Raises:
        NoCurrentSender: the application has none.
    """
    return request_scope(connection.scope).sender.sync


async def get_after_response(connection: HTTPConnection) -> AfterResponse:
    """
    The messages that are sent if the request succeeds, in place of BackgroundTasks.

    Raises:
        NoCurrentSender: the application has none.
    """
    return await request_scope(connection.scope).after_response()


Sender = Annotated[AsyncSender, Depends(get_sender)]
BlockingSender = Annotated[RetryingSender, Depends(get_blocking_sender)]
After = Annotated[AfterResponse, Depends(get_after_response)]


# -- probes ------------------------------------------------------------------------------------------------------


class Health(BaseModel):
    """
    The answer to a probe.
    """

    status: str
    reasons: list[str]
    notes: list[str]


def health_router(prefix: str = "/health", *, broker_required: bool = False) -> APIRouter:
    """
    `/health/live`, `/health/ready` and `/health/started`: 200 or 503, with JSON that says why.

    Args:
        prefix: where.
        broker_required: see `safepulsar.health.ready`.
    """
    router = APIRouter(prefix=prefix, tags=["health"])

    def probe(name: str, summary: str, ask: Callable[[RetryingSender], Answer]) -> None:
        async def answer(sender: Sender, response: Response) -> Health:
            found = ask(sender.sync)
            response.status_code = 200 if found.ok else 503
            return Health.model_validate(found.as_json())

        router.add_api_route(
            f"/{name}",
            answer,
            name=name,
            summary=summary,
            responses={503: {"model": Health, "description": "No, and why"}},
        )

    probe("live", "Whether this process can go on", health.live)
    probe(
        "ready",
        "Whether messages are accepted",
        lambda sender: health.ready(sender, broker_required=broker_required),
    )
    probe("started", "Whether the sender was opened", health.started)
    return router


def _from_text(value: object) -> object:
    if isinstance(value, dict):
        return {name: _from_text(each) for name, each in value.items()}
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value
