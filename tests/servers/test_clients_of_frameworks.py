"""
The frameworks' own test clients: the applications of this package, without any server, as their developers test them.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

import pytest
from fastapi.testclient import TestClient

from safepulsar.testing import FakeBroker, all_senders_on
from tests.servers.server import FASTAPI, FLASK

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

    from safepulsar.testing import EmbeddedPulsar
    from safepulsar.testing.plugin import AssertSent

pytest_plugins = ["safepulsar.testing.plugin"]
pytestmark = pytest.mark.timeout(60)


@pytest.fixture(params=["fake", pytest.param("pulsar-lite", marks=pytest.mark.broker)])
def safepulsar_broker(request: pytest.FixtureRequest) -> Iterator[FakeBroker | EmbeddedPulsar]:
    """
    Both brokers that an application's tests can have.
    """
    if request.param == "pulsar-lite":
        yield request.getfixturevalue("embedded_pulsar")
    else:
        broker = FakeBroker()
        with all_senders_on(broker):
            yield broker


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """
    What the applications read from the environment; the URL is none that anybody could reach.
    """
    monkeypatch.setenv("SAFEPULSAR_URL", "pulsar://production.example:6650")
    monkeypatch.setenv("SAFEPULSAR_FAILED_MESSAGES", str(tmp_path / "store" / "failed.db"))
    monkeypatch.setenv("TEST_TOPIC", "orders")


def _load(name: str) -> ModuleType:
    sys.modules.pop(name, None)
    return importlib.import_module(name)


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("path", ["/send", "/submit", "/after"])
def test_flask_s_own_client(path: str, assert_sent: AssertSent) -> None:
    """
    What a view sends is in the topic when its answer is looked at, or soon after.
    """
    app = _load(FLASK).app
    with app.test_client() as client:
        answer = client.post(f"{path}?id=7")
    assert answer.status_code == 200
    assert_sent("orders", answer.get_json())
    app.extensions["safepulsar"].owner.close()


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("path", ["/send", "/thread", "/submit", "/after"])
def test_fastapi_s_own_client(path: str, assert_sent: AssertSent) -> None:
    """
    With its lifespan, as `with TestClient(app)` runs it: closed at the end of the block, nothing is left behind.
    """
    with TestClient(_load(FASTAPI).app) as client:
        assert client.get("/health/started").status_code == 200
        answer = client.post(f"{path}?id=7")
    assert answer.status_code == 200
    assert_sent("orders", answer.json())


@pytest.mark.usefixtures("settings")
def test_fastapi_s_own_client_without_a_lifespan(assert_sent: AssertSent) -> None:
    """
    `TestClient(app)` without a block runs no lifespan: the sender opens with the first message.
    """
    application = _load(FASTAPI)
    answer = TestClient(application.app).post("/send?id=7")
    assert answer.status_code == 200
    assert_sent("orders", answer.json())
    application.app.state.safepulsar.sender.sync.close()
