"""
What ends with its request is refused, by name, with what to pass instead; what a proxy stands for is copied.
"""

from __future__ import annotations

import asyncio
import contextvars
import io
from enum import Enum
from typing import TYPE_CHECKING, Any, cast

import flask
import pytest
from flask.globals import app_ctx
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker
from starlette.datastructures import FormData, Headers, QueryParams, State, UploadFile
from starlette.requests import Request
from starlette.responses import Response
from werkzeug.datastructures import FileStorage
from werkzeug.local import LocalProxy, LocalStack

from safepulsar.detachment import detached, explain_undetached
from safepulsar.errors import InvalidMessage
from safepulsar.request_context import RequestContext
from safepulsar.testing import FakeBroker
from tests.senders import sender_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safepulsar.sender import RetryingSender


@pytest.fixture
def broker() -> FakeBroker:
    """
    A fake broker.
    """
    return FakeBroker()


@pytest.fixture
def sender(broker: FakeBroker) -> Iterator[RetryingSender]:
    """
    A sender on it, closed after the test.
    """
    with sender_of(broker) as sender:
        yield sender


# -- samples: what an application may have at hand -----------------------------------------------------------------


class _Base(DeclarativeBase):
    pass


class _Order(_Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)


def _flask() -> dict[str, object]:
    app = flask.Flask("shop")
    app.secret_key = "s"  # noqa: S105
    with app.test_request_context("/?a=1", method="POST", data={"b": "2"}):
        return {
            "flask request": detached_proxy(flask.request),
            "flask form": flask.request.form,
            "flask arguments": flask.request.args,
            "flask headers": flask.request.headers,
            "flask session": detached_proxy(flask.session),
            "flask g": detached_proxy(flask.g),
            "flask context": detached_proxy(app_ctx),
            "flask application": app,
            "flask response": flask.make_response("x"),
            "flask file": FileStorage(io.BytesIO(b"x"), "a.txt"),
            "flask files": flask.request.files,
        }


def _starlette() -> dict[str, object]:
    return {
        "starlette request": Request({"type": "http", "headers": [], "query_string": b""}),
        "starlette response": Response(),
        "starlette form": FormData([("a", "1")]),
        "starlette parameters": QueryParams("a=1"),
        "starlette headers": Headers({"cookie": "secret"}),
        "starlette file": UploadFile(io.BytesIO(b"x")),
        "starlette state": State(),
    }


def _orm() -> dict[str, object]:
    engine = create_engine("sqlite://")
    return {
        "ORM session": Session(engine),
        "scoped ORM session": scoped_session(sessionmaker(engine)),
        "ORM row": _Order(id=1),
    }


async def _of_a_loop() -> dict[str, object]:
    async def body() -> None: ...

    coroutine = body()
    coroutine.close()
    return {"coroutine": coroutine, "future": asyncio.get_running_loop().create_future()}


def _others() -> dict[str, object]:
    return {
        "open file": io.BytesIO(b"x"),
        "context": contextvars.copy_context(),
        "request context": RequestContext(tenant="acme"),
        **asyncio.run(_of_a_loop()),
    }


def detached_proxy(proxy: Any) -> object:  # noqa: ANN401 - flask's proxies have the types of what they stand for
    """
    What a proxy stands for.
    """
    return proxy._get_current_object()


_SAMPLES = {**_flask(), **_starlette(), **_orm(), **_others()}
_each = pytest.mark.parametrize("value", _SAMPLES.values(), ids=_SAMPLES)


@_each
def test_as_a_value_it_is_refused(sender: RetryingSender, value: object) -> None:
    """
    The error says what it is and what to pass instead, and nothing of it is sent.
    """
    with pytest.raises(InvalidMessage, match=r"^value: is an? .*|^value: is (all|the) .*") as caught:
        sender.submit("orders", cast("Any", value))
    assert caught.value.field == "value"
    assert "; a message takes copied data, so pass " in str(caught.value)
    assert sender.stats().counts.accepted == 0


@_each
def test_inside_a_value_it_is_refused(sender: RetryingSender, value: object) -> None:
    """
    The error names its place.
    """
    with pytest.raises(InvalidMessage, match="copied data") as caught:
        sender.submit("orders", {"order": [1, cast("Any", value)]})
    assert caught.value.field == "value.order[1]"


@_each
@pytest.mark.parametrize("field", ["partition_key", "ordering_key"])
def test_as_a_key_it_is_refused(sender: RetryingSender, value: object, field: str) -> None:
    """
    Likewise.
    """
    with pytest.raises(InvalidMessage, match="copied data") as caught:
        sender.submit("orders", b"x", **cast("Any", {field: value}))
    assert caught.value.field == field


@_each
def test_as_properties_it_is_refused(sender: RetryingSender, value: object) -> None:
    """
    All headers of a request as properties would send its cookies, too.
    """
    with pytest.raises(InvalidMessage, match="copied data") as caught:
        sender.submit("orders", b"x", properties=cast("Any", value))
    assert caught.value.field == "properties"


@_each
def test_as_a_property_it_is_refused(sender: RetryingSender, value: object) -> None:
    """
    The error names the property.
    """
    with pytest.raises(InvalidMessage, match="copied data") as caught:
        sender.submit("orders", b"x", properties={"user": cast("Any", value)})
    assert caught.value.field == "properties['user']"


def test_nothing_of_it_is_quoted() -> None:
    """
    The error has words of ours alone.
    """
    assert "secret" not in (explain_undetached(Headers({"cookie": "secret"})) or "")


# -- proxies -------------------------------------------------------------------------------------------------------


def test_a_proxy_of_text_is_copied(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    What it stands for at the call is sent, though it is something else, or nothing, when it is.
    """
    current = {"user": "ann"}
    user = cast("Any", LocalProxy(lambda: current["user"]))
    broker.freeze()
    handles = [
        sender.submit("values", user),
        sender.submit("values", {"by": user, "all": [user]}),
        sender.submit("keys", b"x", partition_key=user, ordering_key=user, properties={"by": user, user: "1"}),
    ]
    current["user"] = "bob"
    del user
    for handle in handles:
        assert type(handle.partition_key) in (str, type(None))
    broker.thaw()
    sender.flush()
    assert broker.payloads("values") == [b"ann", b'{"by":"ann","all":["ann"]}']
    (stored,) = broker.messages("keys")
    assert (stored.partition_key, stored.ordering_key) == ("ann", "ann")
    assert stored.properties == {"by": "ann", "ann": "1"}


def test_a_proxy_of_data_is_copied(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    Dicts, lists, bytes and numbers behind a proxy are what they are.
    """
    for data in ({"id": 7, "ok": True}, [1, 2.5, None], b"raw"):
        stack: LocalStack[object] = LocalStack()
        stack.push(data)
        sender.submit("orders", cast("Any", stack()))
    sender.submit("orders", {"ok": cast("Any", LocalProxy(lambda: True))})
    sender.submit("orders", b"x", properties=cast("Any", LocalProxy(lambda: {"a": "b"})))
    sender.flush()
    assert broker.payloads("orders") == [b'{"id":7,"ok":true}', b"[1,2.5,null]", b"raw", b'{"ok":true}', b"x"]


def test_a_proxy_of_nothing_is_a_typed_error(sender: RetryingSender) -> None:
    """
    Outside of a request a proxy stands for nothing, wherever it is passed.
    """
    proxy = cast("Any", flask.request)
    for call, field in [
        (lambda: sender.submit("orders", proxy), "value"),
        (lambda: sender.submit("orders", {"a": proxy}), "value.a"),
        (lambda: sender.submit("orders", b"x", partition_key=proxy), "partition_key"),
        (lambda: sender.submit("orders", b"x", properties=proxy), "properties"),
        (lambda: sender.submit("orders", b"x", properties={"a": proxy}), "properties['a']"),
    ]:
        with pytest.raises(InvalidMessage, match="a proxy that stands for nothing here") as caught:
            call()  # type: ignore[no-untyped-call]
        assert caught.value.field == field


# -- what is fine --------------------------------------------------------------------------------------------------


def test_text_of_a_class_of_its_own_is_copied(sender: RetryingSender) -> None:
    """
    A subclass of text, which may hold a request as well, is not kept: the text alone is.
    """

    class Name(str):
        __slots__ = ("request",)

    class Colour(str, Enum):
        RED = "red"

    name = Name("ann")
    handle = sender.submit("orders", b"x", partition_key=name, ordering_key=Colour.RED, properties={name: name})
    message = handle.message()
    assert type(message.partition_key) is type(message.ordering_key) is str
    assert message.ordering_key == "red"
    assert message.properties is not None
    assert {type(each) for each in (*message.properties, *message.properties.values())} == {str}


@pytest.mark.parametrize("value", ["text", b"x", {"a": 1}, [1], None, 7, object(), Enum("E", "A").A])  # type: ignore[attr-defined]
def test_what_belongs_to_nobody_is_not_explained(value: object) -> None:
    """
    Other checks say what they have to say of it.
    """
    assert explain_undetached(value) is None
    assert detached(value) is value
