"""
What belongs to a request, a session or a loop and must not be sent: recognised, and told what to pass instead.

A message is copied data. Objects that end with their request are found by the names of their classes, so that no framework
is imported here, and only where a value is not plain: plain values pay nothing.
"""

from __future__ import annotations

import io
from functools import lru_cache
from types import CoroutineType
from typing import Final

# By the package and the name of a class or of one of its bases: what it is, and what to pass instead.
_WERKZEUG_FORM: Final = ("the form or the arguments of a request", "its fields, e.g. request.form['id'] or .to_dict()")
_STARLETTE_FORM: Final = ("the form or the parameters of a request", "its fields, e.g. form['id'] or dict(form)")
_HEADERS: Final = ("all headers of a request, cookies and credentials with them", "the ones you mean, by name")
_REQUEST: Final = ("a request", "its data, e.g. request.get_json(), request.form['id'] or request.args['id']")
_RESPONSE: Final = ("a response", "the data that it was made of")
_SESSION: Final = ("a session", "its values, e.g. session['user_id']")
_CONTEXT: Final = ("a context that ends with its request", "its values, e.g. g.user_id")
_APP: Final = ("an application", "a value of its configuration")
_ORM_SESSION: Final = ("a database session", "the columns of what it loaded, e.g. order.id")
_UPLOAD: Final = ("an uploaded file", "its bytes: file.read()")
_KINDS: Final = {
    ("werkzeug", "Request"): _REQUEST,
    ("werkzeug", "Response"): _RESPONSE,
    ("werkzeug", "MultiDict"): _WERKZEUG_FORM,
    ("werkzeug", "Headers"): _HEADERS,
    ("werkzeug", "FileStorage"): _UPLOAD,
    ("flask", "SessionMixin"): _SESSION,
    ("flask", "AppContext"): _CONTEXT,
    ("flask", "RequestContext"): _CONTEXT,
    ("flask", "_AppCtxGlobals"): _CONTEXT,
    ("flask", "Flask"): _APP,
    ("starlette", "HTTPConnection"): ("a request", "its data, e.g. await request.json() or request.query_params['id']"),
    ("starlette", "Response"): _RESPONSE,
    ("starlette", "MultiDict"): _STARLETTE_FORM,
    ("starlette", "ImmutableMultiDict"): _STARLETTE_FORM,
    ("starlette", "Headers"): _HEADERS,
    ("starlette", "UploadFile"): ("an uploaded file", "its bytes: await file.read()"),
    ("starlette", "State"): _CONTEXT,
    ("starlette", "Starlette"): _APP,
    ("django", "HttpRequest"): ("a request", "its data, e.g. request.body or request.POST['id']"),
    ("django", "HttpResponseBase"): _RESPONSE,
    ("django", "MultiValueDict"): ("the form or the parameters of a request", "its fields, e.g. request.POST['id']"),
    ("django", "SessionBase"): ("a session", "its values, e.g. request.session['user_id']"),
    ("django", "File"): _UPLOAD,
    ("django", "Model"): ("a row of the database, bound to its connection", "its fields, e.g. order.id"),
    ("django", "QuerySet"): ("a query", "the values that it finds: list(query.values())"),
    ("sqlalchemy", "Session"): _ORM_SESSION,
    ("sqlalchemy", "AsyncSession"): _ORM_SESSION,
    ("sqlalchemy", "scoped_session"): _ORM_SESSION,
    ("sqlalchemy", "async_scoped_session"): _ORM_SESSION,
    ("sqlalchemy", "Row"): ("a row of a result", "its values: row._asdict()"),
    ("celery", "Task"): ("a task", "its arguments, or task.request.id"),
    ("celery", "Context"): ("the request of a task", "its values, e.g. task.request.id"),
    ("_contextvars", "Context"): _CONTEXT,
    ("contextvars", "Context"): _CONTEXT,
    ("_asyncio", "Future"): ("a future", "what it gives: await it first"),
    ("asyncio", "Future"): ("a future", "what it gives: await it first"),
    ("safepulsar", "RequestContext"): ("a RequestContext, which travels by itself", "one of its values"),
    ("safepulsar", "SendHandle"): ("the handle of another message", "its data"),
}


class Undetached(Exception):
    """
    A value that must not be sent; the text says what it is and what to pass instead.
    """


def detached(value: object) -> object:
    """
    The value itself, or what it stands for here and now if it is a proxy of werkzeug.

    `current_user`, `session` and their like are another object in each request, and nothing outside of one. So what they
    stand for is looked up at the call: text and dicts are taken, requests and sessions refused.

    Raises:
        Undetached: it belongs to a request, a session or a loop, or is a proxy that stands for nothing here.
    """
    while is_proxy(value):
        try:
            value = value._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001 - werkzeug's documented way
        except RuntimeError:
            raise Undetached(_told("a proxy that stands for nothing here", "its value, taken in the view")) from None
    problem = explain_undetached(value)
    if problem is not None:
        raise Undetached(problem)
    return value


def explain_undetached(value: object) -> str | None:
    """
    What `value` is and what to pass instead, if it belongs to a request, a session or a loop; None if it does not.

    It looks at the class alone and never touches the value.
    """
    return _explained(type(value))  # type: ignore[arg-type]  # every class can be hashed


@lru_cache(maxsize=256)
def _explained(kind: type) -> str | None:
    if issubclass(kind, CoroutineType):
        return _told("a coroutine that was not awaited", "what it gives: await it first")
    for base in kind.__mro__:
        found = _KINDS.get((base.__module__.partition(".")[0], base.__name__))
        if found is not None:
            return _told(*found)
    if issubclass(kind, io.IOBase):
        return _told("an open file", "what it holds: file.read()")
    if "_sa_instance_state" in getattr(kind, "__dict__", ()) or hasattr(kind, "__mapper__"):
        return _told("a row of the database, bound to its session", "its columns, e.g. order.id")
    return None


def is_proxy(value: object) -> bool:
    """
    Whether `value` is a proxy of werkzeug, which is another object in each request: `isinstance` sees only that one.
    """
    kind = type(value)
    return kind.__name__ == "LocalProxy" and kind.__module__.startswith("werkzeug.")


def _told(what: str, instead: str) -> str:
    return f"is {what}; a message takes copied data, so pass {instead}"
