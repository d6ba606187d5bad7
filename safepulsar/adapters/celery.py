"""
Celery: each worker process opens its sender after the fork and drains it before it ends, and tasks carry the context.

    sender = RetryingSender("pulsar://localhost:6650", failed_messages="failed/orders.db")
    connect(sender)


    @app.task
    def place(order):
        sender.send("orders", order)

For every kind of pool: prefork, threads and solo. Nothing of the parent's sender is used in a child.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from safepulsar.errors import InvalidInput, InvalidSettings, shown
from safepulsar.request_context import RequestContext, current_context, reset_context, set_context
from safepulsar.sender import RetryingSender

try:
    from celery import signals
except ImportError as error:
    msg = 'safepulsar.adapters.celery needs Celery: pip install "safepulsar[celery]"'
    raise ImportError(msg) from error

if TYPE_CHECKING:
    from celery import Task

_HEADER: Final = "safepulsar_context"
_TOKEN: Final = "safepulsar_token"  # noqa: S105 - of a context variable, on the request of a running task
_FIELDS: Final = ("traceparent", "tracestate", "baggage", "tenant", "fields")


def connect(sender: RetryingSender) -> None:
    """
    Have the workers of this process open, drain and close `sender`, and tasks carry the context of whoever sends them.

    A task has no deadline of a request: it runs after the answer. A second call with the same sender does nothing.

    Raises:
        InvalidSettings: it is no sender.
    """
    if not isinstance(sender, RetryingSender):
        raise InvalidSettings("sender", f"must be a RetryingSender, not {shown(sender)}")

    def begin(**_: object) -> None:
        sender.open()

    def end(**_: object) -> None:
        sender.close()

    name = f"safepulsar-{id(sender)}"
    signals.worker_process_init.connect(begin, weak=False, dispatch_uid=name)
    # A worker of a pool leaves by os._exit, which runs no hook of the interpreter.
    signals.worker_process_shutdown.connect(end, weak=False, dispatch_uid=name)
    signals.worker_shutdown.connect(end, weak=False, dispatch_uid=name)
    signals.before_task_publish.connect(_send_context, weak=False, dispatch_uid="safepulsar")
    signals.task_prerun.connect(_begin_task, weak=False, dispatch_uid="safepulsar")
    signals.task_postrun.connect(_end_task, weak=False, dispatch_uid="safepulsar")


def _send_context(headers: dict[str, Any] | None = None, **_: object) -> None:
    context = current_context()
    if context is not None and headers is not None:
        headers[_HEADER] = {name: value for name in _FIELDS if (value := getattr(context, name))}


def _begin_task(task: Task, **_: object) -> None:
    # What comes from the queue may be anybody's.
    found = task.request.get(_HEADER)
    if not isinstance(found, Mapping):
        return
    try:
        context = RequestContext(**{name: value for name, value in found.items() if name in _FIELDS})
    except InvalidInput:
        return
    setattr(task.request, _TOKEN, set_context(context))


def _end_task(task: Task, **_: object) -> None:
    token = task.request.get(_TOKEN)
    if token is not None:
        reset_context(token)
