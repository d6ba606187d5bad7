"""
Celery's signals: a worker's sender, and the context of a task. The workers themselves are tested with the servers.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from safepulsar.adapters.celery import connect
from safepulsar.errors import InvalidSettings
from tests.subprocesses import run_script

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("wrong", [None, "pulsar://localhost:6650"])
def test_what_is_no_sender_is_refused(wrong: Any) -> None:  # noqa: ANN401 - bad input
    """
    A typed error at once.
    """
    with pytest.raises(InvalidSettings, match="sender: must be a RetryingSender"):
        connect(wrong)


# In processes of their own, because signals belong to the process.
_SETUP = """
    import json, sys
    from celery import Celery, signals
    from safepulsar import ClientRegistry, RetryingSender, SenderSettings
    from safepulsar.adapters.celery import connect
    from safepulsar.request_context import ContextStep, RequestContext, current_context, use_context
    from safepulsar.testing import FakeBroker
    broker = FakeBroker()
    sender = RetryingSender(
        broker.url,
        settings=SenderSettings(drain_on_sigterm=False),
        registry=ClientRegistry(broker.connect),
        steps=[ContextStep()],
    )
    connect(sender)
    connect(sender)
"""


def test_a_worker_opens_and_drains_its_sender() -> None:
    """
    By Celery's own signals for the beginning and the end of a worker process.
    """
    source = f"""{_SETUP}
    assert "not opened yet" in repr(sender)
    signals.worker_process_init.send(sender=None)
    assert "in flight" in repr(sender)
    sender.submit("orders", b"x")
    signals.worker_process_shutdown.send(sender=None, pid=1, exitcode=0)
    assert sender.closed
    assert broker.payloads("orders") == [b"x"]
    signals.worker_shutdown.send(sender=None)
    """
    run_script(source).check()


def test_a_task_has_the_context_of_its_sender(tmp_path: Path) -> None:
    """
    Through a real queue and a worker of this process: the trace and the tenant travel, the deadline does not.
    """
    source = f"""{_SETUP}
    import threading, time
    app = Celery("shop", broker="filesystem://", backend="cache+memory://")
    folder = sys.argv[1]
    app.conf.update(
        broker_transport_options={{"data_folder_in": folder, "data_folder_out": folder, "control_folder": folder}},
        worker_redirect_stdouts=False,
    )
    contexts = []
    done = threading.Event()

    @app.task
    def place(number):
        context = current_context()
        contexts.append(None if context is None else [context.trace_id, context.tenant, context.deadline])
        sender.send("orders", str(number))
        if len(contexts) == 2:  # a folder has no order
            done.set()

    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with use_context(RequestContext(traceparent=parent, tenant="acme", deadline=time.monotonic() + 60)):
        place.delay(1)
    place.delay(2)
    worker = app.Worker(pool="solo", concurrency=1, loglevel="ERROR", without_gossip=True, without_mingle=True,
        without_heartbeat=True)
    threading.Thread(target=lambda: (done.wait(30), worker.stop()), daemon=True).start()

    def report(**_):
        stored = [dict(message.properties or {{}}) for message in broker.messages("orders")]
        print(json.dumps([contexts, stored, sender.closed]))

    signals.worker_shutdown.connect(report)  # after ours
    worker.start()
    """
    out = run_script(source, tmp_path, timeout_seconds=60).check()
    contexts, stored, closed = json.loads(out.splitlines()[-1])
    first = ["0af7651916cd43dd8448eb211c80319c", "acme", None]
    assert sorted(contexts, key=str) == sorted([first, None], key=str)
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert sorted(stored, key=len) == [{}, {"traceparent": parent, "tenant": "acme"}]
    assert closed


def test_a_context_that_anybody_could_have_sent_is_no_harm() -> None:
    """
    What comes from the queue and is none is ignored; the task runs without.
    """
    source = f"""{_SETUP}
    app = Celery("shop")

    @app.task
    def place():
        return current_context() is None

    class Request(dict):
        pass

    for wrong in (7, "x", {{"traceparent": "nonsense"}}, {{"tenant": 7}}, {{"baggage": {{"a": "v" * 10000}}}}, {{"deadline": 5}}):
        place.push_request(safepulsar_context=wrong)
        signals.task_prerun.send(sender=place, task=place, task_id="1", args=(), kwargs={{}})
        context = current_context()
        assert context is None or (context.deadline is None and context.tenant is None), wrong
        signals.task_postrun.send(sender=place, task=place, task_id="1", args=(), kwargs={{}}, retval=None, state="SUCCESS")
        place.pop_request()
        assert current_context() is None
    """
    run_script(source).check()
