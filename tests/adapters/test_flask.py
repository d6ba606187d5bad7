"""
Flask's own test client: one sender per application, contexts, answers and probes.
"""

from __future__ import annotations

import gc
import json
import threading
import weakref
from typing import TYPE_CHECKING, Any

import flask
import pytest
from flask import Flask, request

from safepulsar.adapters.flask import SafePulsar, after_response, current_sender, get_sender, health_blueprint
from safepulsar.broker.outcomes import Phase
from safepulsar.errors import (
    DeadlineExceeded,
    InvalidMessage,
    InvalidSettings,
    NoCurrentSender,
    QueueFull,
    SenderClosed,
    SendFailed,
)
from safepulsar.failed_messages import EVERYTHING, SqliteFailedMessages
from safepulsar.message import Fate
from safepulsar.request_context import current_context
from safepulsar.testing import FakeBroker
from tests.subprocesses import run_script
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from safepulsar.books.handle import SendHandle
    from safepulsar.broker.client_registry import ClientRegistry

_PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def extension(registry: ClientRegistry) -> Iterator[SafePulsar]:
    """
    The extension, closed after the test.
    """
    extension = SafePulsar(registry=registry)
    yield extension
    extension.close()


def _app(extension: SafePulsar, name: str = "shop", **config: Any) -> Flask:  # noqa: ANN401 - as app.config
    app = Flask(name)
    settings = {"drain_on_sigterm": False, **config.pop("SAFEPULSAR_SENDER", {})}
    app.config.update({"SAFEPULSAR_URL": FakeBroker.url, "SAFEPULSAR_SENDER": settings, **config})
    extension.init_app(app)
    return app


# -- an application and its sender ---------------------------------------------------------------------------------


def test_a_view_sends(extension: SafePulsar, broker: FakeBroker) -> None:
    """
    `current_sender` is the application's, and one client and one producer serve all requests.
    """
    app = _app(extension)

    @app.post("/orders")
    def order() -> dict[str, str]:
        result = current_sender.send("orders", request.get_json(), partition_key=request.args["customer"])
        return {"id": str(result.message_id), "fate": result.fate.value}

    client = app.test_client()
    answers = [client.post(f"/orders?customer=c{number}", json={"id": number}) for number in range(20)]
    assert {answer.get_json()["fate"] for answer in answers} == {"DELIVERED"}
    assert [json.loads(payload or b"") for payload in broker.payloads("orders")] == [{"id": n} for n in range(20)]
    assert (broker.counts.clients_open, broker.counts.producers_open) == (1, 1)


def test_nothing_is_opened_before_the_first_use(extension: SafePulsar, broker: FakeBroker) -> None:
    """
    A server may import the application and fork; each process opens its own.
    """
    app = _app(extension)
    assert app.test_client().get("/nothing").status_code == 404
    assert broker.counts.clients_open == 0
    with app.app_context():
        assert "not opened yet" in repr(get_sender())


def test_several_applications(extension: SafePulsar, broker: FakeBroker) -> None:
    """
    Those with equal configurations share a sender, others have their own.
    """
    one, two = _app(extension, "one"), _app(extension, "two")
    other = _app(extension, "other", SAFEPULSAR_SENDER={"deadline_seconds": 3.0})
    senders = []
    for app in (one, two, other):
        with app.app_context():
            senders.append(get_sender())
            current_sender.send("orders", app.name)
    assert senders[0] is senders[1] is not senders[2]
    assert broker.payloads("orders") == [b"one", b"two", b"other"]
    assert broker.counts.clients_open == 1  # one registry
    assert len(extension.close()) == 2


def test_init_twice(extension: SafePulsar, registry: ClientRegistry) -> None:
    """
    The same again does nothing; other settings, or another extension, are a typed error.
    """
    app = _app(extension)
    before = app.extensions["safepulsar"]
    extension.init_app(app)
    assert app.extensions["safepulsar"] is before
    assert len(app.before_request_funcs[None]) == 1
    with pytest.raises(InvalidSettings, match="call init_app once"):
        SafePulsar(app, registry=registry)
    app.config["SAFEPULSAR_SENDER"] = {"deadline_seconds": 1.0}
    with pytest.raises(InvalidSettings, match="has a sender of other settings already"):
        extension.init_app(app)
    assert app.extensions["safepulsar"] is before


def test_an_application_without_a_url() -> None:
    """
    It does not begin.
    """
    with pytest.raises(InvalidSettings, match="SAFEPULSAR_URL: is missing: set it to the broker"):
        SafePulsar(Flask("shop"))


def test_no_application_here(extension: SafePulsar) -> None:
    """
    Outside of an application, or in one without a sender, the error says what to do.
    """
    with pytest.raises(NoCurrentSender, match=r"use current_sender in a view or with app\.app_context\(\)"):
        current_sender.send("orders", b"x")
    with Flask("other").app_context(), pytest.raises(NoCurrentSender, match="'other' has no sender: call SafePulsar"):
        current_sender.send("orders", b"x")
    with _app(extension).app_context(), pytest.raises(NoCurrentSender, match="no request here"):
        after_response()
    assert "unbound" in repr(current_sender)


def test_after_closing(extension: SafePulsar) -> None:
    """
    A closed sender says so, and the application gets a new one by `init_app` of a new application.
    """
    app = _app(extension)
    with app.app_context():
        current_sender.send("orders", b"x")
        extension.close()
        with pytest.raises(SenderClosed, match="make a new one"):
            current_sender.send("orders", b"x")
    with _app(extension).app_context():
        assert current_sender.send("orders", b"y").fate is Fate.DELIVERED


def test_configuration_by_the_environment(
    monkeypatch: pytest.MonkeyPatch, extension: SafePulsar, tmp_path: Path
) -> None:
    """
    Flask's `from_prefixed_env` reads ours like all others, also the parts.
    """
    monkeypatch.setenv("FLASK_SAFEPULSAR_URL", FakeBroker.url)
    monkeypatch.setenv("FLASK_SAFEPULSAR_FAILED_MESSAGES", str(tmp_path / "store" / "failed.db"))
    monkeypatch.setenv("FLASK_SAFEPULSAR_SENDER__DEADLINE_SECONDS", "2.5")
    monkeypatch.setenv("FLASK_SAFEPULSAR_SENDER__DRAIN_ON_SIGTERM", "false")
    app = Flask("shop")
    app.config.from_prefixed_env()
    extension.init_app(app)
    with app.app_context():
        assert get_sender().settings.deadline_seconds == 2.5
        assert isinstance(get_sender().failed_messages, SqliteFailedMessages)


# -- requests ------------------------------------------------------------------------------------------------------


def test_a_request_gives_its_context(extension: SafePulsar, broker: FakeBroker) -> None:
    """
    On every message, and gone when the request is.
    """
    app = _app(extension, SAFEPULSAR_REQUEST={"baggage": ["shop"], "tenant_header": "X-Tenant"})

    @app.post("/orders")
    def order() -> str:
        current_sender.send("orders", b"x")
        return ""

    headers = {"traceparent": _PARENT, "baggage": "shop=1,secret=2", "X-Tenant": "acme"}
    with app.test_client() as client:
        client.post("/orders", headers=headers)
    client.post("/orders")
    first, second = broker.messages("orders")
    assert first.properties == {"traceparent": _PARENT, "baggage": "shop=1", "tenant": "acme"}
    assert list(second.properties) == ["traceparent"]
    assert second.properties["traceparent"] != _PARENT
    assert current_context() is None


def test_the_requests_time_bounds_its_sends(extension: SafePulsar, broker: FakeBroker) -> None:
    """
    What the caller still waits is what a send may take.
    """
    app = _app(extension, SAFEPULSAR_REQUEST={"deadline_header": "X-Timeout"})
    raised: list[BaseException] = []

    @app.post("/orders")
    def order() -> tuple[str, int]:
        try:
            current_sender.send("orders", b"x")
        except (SendFailed, DeadlineExceeded) as error:
            raised.append(error)
        return "", 504

    broker.freeze()
    client = app.test_client()
    client.post("/orders", headers={"X-Timeout": "0.2"})
    client.post("/orders", headers={"X-Timeout": "0"})
    broker.thaw()
    assert [type(error) for error in raised] == [SendFailed, DeadlineExceeded]


def test_a_failing_view_leaves_nothing(extension: SafePulsar, broker: FakeBroker) -> None:
    """
    The context of a request ends with it, however it ends; also one that another hook answers.
    """
    app = _app(extension)

    @app.get("/fails")
    def fails() -> str:
        raise ValueError

    app.before_request_funcs[None].insert(0, lambda: ("", 403) if request.args else None)
    client = app.test_client()
    assert client.get("/fails").status_code == 500
    assert client.get("/fails?a=1").status_code == 403
    assert current_context() is None
    assert not broker.topics()


def test_a_request_is_not_held(extension: SafePulsar, broker: FakeBroker) -> None:
    """
    While its messages are under way, nothing of ours refers to the request or its data.
    """
    app = _app(extension)
    gone: list[weakref.ref[Any]] = []
    handles: list[SendHandle] = []

    @app.post("/orders")
    def order() -> str:
        gone.append(weakref.ref(request._get_current_object()))  # type: ignore[attr-defined]
        handles.append(current_sender.submit("orders", {"form": request.form["a"]}, partition_key=request.form["a"]))
        after_response().send("after", request.form["a"])
        return ""

    broker.hold()
    app.test_client().post("/orders", data={"a": "1"}, headers={"traceparent": _PARENT})
    gc.collect()
    assert gone[0]() is None
    assert not handles[0].done()
    broker.release()
    assert handles[0].result().fate is Fate.DELIVERED


def test_what_is_no_data_is_refused(extension: SafePulsar) -> None:
    """
    A request, a form or a session as payload or key is a typed error that names the field to pass instead.
    """
    app = _app(extension)
    app.secret_key = "s"  # noqa: S105
    problems: list[str] = []

    @app.post("/orders")
    def order() -> str:
        things: list[Any] = [request, request.form, flask.session, flask.g]
        for thing in things:
            with pytest.raises(InvalidMessage) as caught:
                current_sender.submit("orders", thing)
            problems.append(str(caught.value))
        return ""

    app.test_client().post("/orders", data={"a": "1"})
    assert [problem.partition(";")[0] for problem in problems] == [
        "value: is a request",
        "value: is the form or the arguments of a request",
        "value: is a session",
        "value: is a context that ends with its request",
    ]


def test_a_thread_takes_the_sender_itself(extension: SafePulsar, broker: FakeBroker) -> None:
    """
    The proxy means nothing in a thread; `get_sender()` gives what can be passed on.
    """
    app = _app(extension)

    @app.post("/orders")
    def order() -> str:
        sender = get_sender()
        thread = threading.Thread(target=lambda: sender.send("orders", b"x"))
        thread.start()
        thread.join()
        return ""

    assert app.test_client().post("/orders").status_code == 200
    assert broker.payloads("orders") == [b"x"]


# -- after the response --------------------------------------------------------------------------------------------


def test_after_a_success_it_is_sent(extension: SafePulsar, broker: FakeBroker) -> None:
    """
    Whoever hears of a success may rely on it: the message is accepted then; its delivery holds nobody up.
    """
    app = _app(extension)

    @app.post("/orders")
    def order() -> str:
        after_response().send("orders", {"id": 1}, partition_key="c1")
        after_response().send("orders", {"id": 2})
        with pytest.raises(InvalidMessage):  # here, and not after the response
            after_response().send("orders", {1: 2})  # type: ignore[dict-item]
        assert len(after_response()) == 2
        assert get_sender().stats().counts.accepted == 0
        return ""

    broker.freeze()
    assert app.test_client().post("/orders", headers={"traceparent": _PARENT}).status_code == 200
    with app.app_context():
        assert get_sender().stats().counts.accepted == 2
    broker.thaw()
    extension.close()
    first, second = broker.messages("orders")
    assert first.properties == second.properties == {"traceparent": _PARENT}


@pytest.mark.parametrize("status", [400, 404, 409, 500, 503])
def test_after_an_error_nothing_is_sent(extension: SafePulsar, broker: FakeBroker, status: int) -> None:
    """
    An error that the view answers, raises or runs into sends nothing.
    """
    app = _app(extension)

    @app.post("/answers")
    def answers() -> tuple[str, int]:
        after_response().send("orders", b"x")
        return "", status

    @app.post("/aborts")
    def aborts() -> str:
        after_response().send("orders", b"x")
        flask.abort(status)

    @app.post("/fails")
    def fails() -> str:
        after_response().send("orders", b"x")
        raise ValueError

    client = app.test_client()
    assert [client.post(path).status_code for path in ("/answers", "/aborts", "/fails")] == [status, status, 500]
    extension.close()
    assert broker.payloads("orders") == []


def test_after_a_response_without_room(extension: SafePulsar, broker: FakeBroker) -> None:
    """
    What cannot be accepted is not promised: the answer is an error then.
    """
    app = _app(extension, SAFEPULSAR_SENDER={"max_in_flight_messages": 1, "when_full": "RAISE"})

    @app.post("/orders")
    def order() -> str:
        after_response().send("orders", b"x")
        return ""

    broker.hold()
    client = app.test_client()
    assert [client.post("/orders").status_code for _ in range(2)] == [200, 500]
    broker.release()
    extension.close()
    assert broker.payloads("orders") == [b"x"]


def test_after_the_response_the_requests_deadline_does_not_count(extension: SafePulsar, broker: FakeBroker) -> None:
    """
    The caller has its answer and waits no more; the message has its own time, from its acceptance.
    """
    app = _app(extension, SAFEPULSAR_REQUEST={"deadline_seconds": 0.05})

    @app.post("/orders")
    def order() -> str:
        threading.Event().wait(0.1)  # the request's time is over
        after_response().send("orders", b"x")
        return ""

    assert app.test_client().post("/orders").status_code == 200
    extension.close()
    assert broker.payloads("orders") == [b"x"]


# -- probes --------------------------------------------------------------------------------------------------------


def test_the_probes_say_why(extension: SafePulsar, broker: FakeBroker) -> None:
    """
    Started once opened; ready while there is room; live until it is closed. 503 comes with the reason.
    """
    app = _app(extension, SAFEPULSAR_SENDER={"max_in_flight_messages": 1})
    app.register_blueprint(health_blueprint())
    app.register_blueprint(health_blueprint("/strict", broker_required=True), name="strict")
    client = app.test_client()

    def ask(path: str) -> tuple[int, list[str], list[str]]:
        answer = client.get(path)
        data = answer.get_json()
        assert data["status"] == ("ok" if answer.status_code == 200 else "failing")
        return answer.status_code, data["reasons"], data["notes"]

    assert ask("/health/live") == (200, [], [])
    for path in ("/health/started", "/health/ready"):
        code, reasons, _ = ask(path)
        assert code == 503
        assert "not opened yet" in reasons[0]
    with app.app_context():
        sender = get_sender()
    sender.send("orders", b"x")
    assert [ask(f"/health/{name}") for name in ("live", "started", "ready")] == [(200, [], [])] * 3
    broker.hold()
    handle = sender.submit("orders", b"x")
    assert ask("/health/ready") == (503, ["full: 1 of 1 messages are in flight"], [])
    broker.release()
    handle.result()
    broker.fail_next(1000, "ConnectError", phase=Phase.CREATE)
    sender.submit("elsewhere", b"x")
    wait_until(lambda: bool(ask("/health/ready")[2]), "a producer that can't be had is noted")
    code, reasons, notes = ask("/health/ready")
    assert notes == ["no producer for topic 'persistent://public/default/elsewhere': ConnectError"]
    assert reasons == ["full: 1 of 1 messages are in flight"]
    assert ask("/strict/ready")[1] == [*reasons, *notes]
    broker.forget_faults()
    extension.close()
    assert ask("/health/live")[0] == ask("/health/ready")[0] == 503
    assert "closed" in ask("/health/live")[1][0]


# -- commands ------------------------------------------------------------------------------------------------------


def test_the_commands_know_the_applications_store(tmp_path: Path) -> None:
    """
    `flask safepulsar failed …` is `safepulsar failed …` on the store and the broker of the application.
    """
    path = tmp_path / "store" / "failed.db"
    source = f"""
        import sys
        from flask import Flask
        from safepulsar import RetryingSender, SenderSettings
        from safepulsar.adapters.flask import SafePulsar, current_sender
        app = Flask("shop")
        app.config["SAFEPULSAR_URL"] = "pulsar://127.0.0.1:1"
        app.config["SAFEPULSAR_FAILED_MESSAGES"] = {str(path)!r} if sys.argv[1] == "kept" else None
        app.config["SAFEPULSAR_CLIENT"] = {{"log_level": "ERROR"}}
        SafePulsar(app)
        if sys.argv[2] == "fail":
            with app.app_context():
                current_sender.submit("orders", b"x", deadline_seconds=0.3).exception()
        else:
            sys.exit(app.cli.main(sys.argv[2:], "flask", standalone_mode=False, obj=flask_info(app)))
    """.replace("flask_info(app)", '__import__("flask.cli").cli.ScriptInfo(create_app=lambda: app)')
    run_script(source, "kept", "fail").check()
    listed = run_script(source, "kept", "safepulsar", "failed", "list", "--json").check()
    (line,) = [json.loads(line) for line in listed.splitlines()]
    assert line["topic"] == "persistent://public/default/orders"
    dry = run_script(source, "kept", "safepulsar", "failed", "replay", "--dry-run", "--json").check()
    assert json.loads(dry.splitlines()[-1])
    assert "Usage" in run_script(source, "kept", "safepulsar", "failed", "--help").check()
    wrong = run_script(source, "kept", "safepulsar", "failed", "show", "99")
    assert wrong.returncode == 1
    assert "99" in wrong.stderr
    memory = run_script(source, "memory", "safepulsar", "failed", "list")
    assert memory.returncode != 0
    assert "SAFEPULSAR_FAILED_MESSAGES is not set" in memory.stderr
    with SqliteFailedMessages(path) as store:
        assert store.count(EVERYTHING) == 1


def test_a_forked_child_has_a_sender_of_its_own() -> None:
    """
    The application was used before the fork, as with `gunicorn --preload`: parent and child both go on.
    """
    source = """
        import os
        from flask import Flask
        from safepulsar import ClientRegistry
        from safepulsar.adapters.flask import SafePulsar, current_sender
        from safepulsar.testing import FakeBroker
        broker = FakeBroker(threaded=False)
        app = Flask("shop")
        app.config["SAFEPULSAR_URL"] = broker.url
        SafePulsar(app, registry=ClientRegistry(broker.connect))
        @app.post("/orders")
        def order():
            return current_sender.send("orders", b"x").fate.value
        def post():
            return app.test_client().post("/orders").get_data(as_text=True)
        assert post() == "DELIVERED"
        child = os.fork()
        if not child:
            os._exit(0 if post() == "DELIVERED" and len(broker.payloads("orders")) == 2 else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert post() == "DELIVERED"
    """
    run_script(source).check()


def test_the_errors_are_those_of_the_sender(extension: SafePulsar, broker: FakeBroker) -> None:
    """
    Through the proxy, too.
    """
    app = _app(extension, SAFEPULSAR_SENDER={"max_in_flight_messages": 1, "when_full": "RAISE"})
    with app.app_context():
        broker.hold()
        handle = current_sender.submit("orders", b"x")
        with pytest.raises(QueueFull):
            current_sender.submit("orders", b"x")
        broker.release()
        handle.result()
