"""
Celery's prefork pool under tasks that send: workers recycled and stopped, and nothing that a task has sent is lost.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from safepulsar import SqliteFailedMessages
from tests.brokers import read_topic
from tests.servers.server import complaints
from tests.subprocesses import Script
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.brokers import LiteBroker

END_SECONDS: Final = 30.0
CHILDREN: Final = 2
_APPLICATION: Final = "tests.servers.celery_application"
_WORKER: Final = f"""
    import sys
    from {_APPLICATION} import app
    app.worker_main(["worker", "--pool", "prefork", "--concurrency", "{CHILDREN}", "--loglevel", "WARNING",
                     "--without-gossip", "--without-mingle", "--without-heartbeat", *sys.argv[1:]])
"""
# In a process of its own: this one must not be a part of the application.
_CLIENT: Final = f"""
import sys
from {_APPLICATION} import order
for number in range(int(sys.argv[1])):
    order.apply_async((f"order-{{number}}", "send" if number % 2 else "submit"))
"""

pytestmark = pytest.mark.timeout(110)


class Shop:
    """
    A queue in a folder, what tasks have done, and where their messages go.
    """

    def __init__(self, broker: LiteBroker, topic: str, folder: Path) -> None:
        self.broker = broker
        self.topic = topic
        self.folder = folder
        self.store = folder / "store" / "failed.db"
        for name in ("queue", "control", "done"):
            (folder / name).mkdir()
        self.environment = {
            "SAFEPULSAR_URL": broker.url,
            "SAFEPULSAR_FAILED_MESSAGES": str(self.store),
            "TEST_TOPIC": topic,
            "TEST_FOLDER": str(folder),
        }

    def worker(self, *arguments: str, environment: dict[str, str] | None = None) -> Script:
        """
        A worker of two children.
        """
        return Script(_WORKER, *arguments, environment={**self.environment, **(environment or {})})

    def place(self, count: int) -> None:
        """
        Send so many tasks.
        """
        environment = {**self.environment, "PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[2])}
        subprocess.run([sys.executable, "-c", _CLIENT, str(count)], env=environment, check=True, timeout=60)

    def done(self) -> dict[str, int]:
        """
        What tasks have sent, and in which process.
        """
        names = [path.name.split() for path in (self.folder / "done").iterdir()]
        return {name: int(pid) for name, pid in names}

    def wait_for(self, count: int) -> None:
        """
        Wait until so many tasks are done.
        """
        wait_until(lambda: len(self.done()) >= count, f"{count} tasks to be done", timeout_seconds=60)

    def found(self) -> tuple[Counter[str], set[str], dict[int, set[str]]]:
        """
        What is in the topic, what is kept, and the producers of each process.
        """
        counts: Counter[str] = Counter()
        producers: dict[int, set[str]] = {}
        for record in read_topic(self.broker, self.topic):
            order = json.loads(record.payload)
            counts[order["id"]] += 1
            producers.setdefault(order["pid"], set()).add(record.producer_name)
        kept: set[str] = set()
        if self.store.exists():
            with SqliteFailedMessages(self.store) as failed:
                kept = {json.loads(each.message.payload or b"")["id"] for each in failed.find()}
        return counts, kept, producers


@pytest.fixture
def shop(lite_broker: LiteBroker, topic: str, tmp_path: Path) -> Iterator[Shop]:
    """
    An empty one.
    """
    yield Shop(lite_broker, topic, tmp_path)  # noqa: PT022


@pytest.mark.slow
def test_recycled_children_lose_and_duplicate_nothing(shop: Shop) -> None:
    """
    A child ends after ten tasks, what it only submitted included; the parent had sent before it forked.
    """
    shop.place(60)
    sends = {"TEST_SEND_AT_IMPORT": "yes"}
    with shop.worker("--max-tasks-per-child", "10", environment=sends) as worker:
        shop.wait_for(60)
        worker.send_signal(signal.SIGTERM)
        result = worker.finish(timeout_seconds=END_SECONDS)
    assert not result.hung, result
    assert not complaints(result), result
    assert result.returncode == 0, result
    counts, kept, producers = shop.found()
    names = {name: count for name, count in counts.items() if not name.startswith("import-")}
    assert names == dict.fromkeys((f"order-{number}" for number in range(60)), 1)
    assert not kept
    assert len(producers) >= 6 + 1
    assert all(len(each) == 1 for each in producers.values())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_warm_shutdown_loses_and_duplicates_nothing(shop: Shop, number: signal.Signals) -> None:
    """
    In the middle of its tasks the worker is told to end; it finishes those that it has begun.
    """
    shop.place(300)
    with shop.worker() as worker:
        shop.wait_for(40)
        worker.send_signal(number)
        result = worker.finish(timeout_seconds=END_SECONDS)
    assert not result.hung, result
    assert not complaints(result), result
    done = shop.done()
    assert 40 <= len(done) < 300
    counts, kept, producers = shop.found()
    assert not kept
    assert done.keys() == counts.keys()
    assert set(counts.values()) == {1}
    assert len(producers) == CHILDREN
    assert all(len(each) == 1 for each in producers.values())


@pytest.mark.slow
def test_a_task_that_is_killed_for_its_time_limit_loses_nothing_else(shop: Shop) -> None:
    """
    `time_limit` kills the child. What its tasks had sent before is in the topic, and another child goes on.
    """
    shop.place(30)
    with shop.worker("--time-limit", "2", "--concurrency", "1") as worker:
        shop.wait_for(30)
        code = f"from {_APPLICATION} import order, stuck; stuck.delay(); order.delay('last', 'send')"
        environment = {**shop.environment, "PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[2])}
        subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)
        wait_until((shop.folder / "stuck").exists, "the task to hang", timeout_seconds=30)
        shop.wait_for(31)
        worker.send_signal(signal.SIGTERM)
        result = worker.finish(timeout_seconds=END_SECONDS)
    assert not result.hung, result
    counts, kept, _ = shop.found()
    assert counts == Counter([*(f"order-{number}" for number in range(30)), "last"])
    assert not kept
