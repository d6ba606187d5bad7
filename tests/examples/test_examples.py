"""
Every example does what it says: run as a program or under its server, and its topic read back.
"""

from __future__ import annotations

import csv
import http.client
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from safepulsar.broker_process import LOOPBACK, free_port
from tests.brokers import LiteBroker, read_topic
from tests.subprocesses import Script
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.subprocesses import ScriptResult

EXAMPLES: Final = Path(__file__).parents[2] / "examples"
NAMES: Final = sorted(path.name for path in EXAMPLES.glob("[0-9]*.py"))
SECONDS: Final = 60.0
_RUN: Final = """
    import os, runpy, sys
    os.chdir(sys.argv[1])
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")
"""
_MODULE: Final = """
    import os, runpy, sys
    os.chdir(sys.argv[1])
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""

pytestmark = [pytest.mark.timeout(100), pytest.mark.broker]


class Reader:
    """
    Somebody who runs the examples in an empty folder, with a broker at hand.
    """

    def __init__(self, broker: LiteBroker, folder: Path) -> None:
        self.broker = broker
        self.folder = folder
        self.environment = {"SAFEPULSAR_URL": broker.url, "PYTHONPATH": str(EXAMPLES.parent)}

    def run(self, name: str, *arguments: str) -> str:
        """
        Run one to its end, and return what it printed.
        """
        with Script(_RUN, self.folder, EXAMPLES / name, *arguments, environment=self.environment) as script:
            return checked(script.finish(timeout_seconds=SECONDS))

    def serve(self, *command: str) -> Script:
        """
        Run a module with a command of its own: a server or a worker.
        """
        return Script(_MODULE, self.folder, *command, environment=self.environment)

    def topic(self, name: str, until: int = 1) -> list[tuple[str, object]]:
        """
        The keys and the data of a topic, in order.
        """
        records = read_topic(self.broker, f"persistent://public/default/{name}", until=until)
        return [(record.partition_key, json.loads(record.payload)) for record in records]


def checked(result: ScriptResult) -> str:
    """
    What a program printed, if it ended well and complained of nothing.
    """
    printed = result.check()
    assert not result.stderr, result
    return printed


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """
    With a broker of their own, because the examples share names of topics.
    """
    folder = tmp_path / "work"
    folder.mkdir()
    with LiteBroker(tmp_path / "broker") as broker:
        yield Reader(broker, folder)


def post(port: int, path: str, body: object = None) -> tuple[int, dict[str, str]]:
    """
    Ask a server, once it answers.
    """
    wait_until(lambda: _status(port, "GET", "/health/live", None)[0] == 200, "the server to answer", timeout_seconds=30)
    status, text = _status(port, "POST", path, body)
    return status, json.loads(text) if text and text != b"null" else {}


def _status(port: int, method: str, path: str, body: object) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=20)
    try:
        connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def test_three_lines(reader: Reader) -> None:
    """
    It is three lines, and the message is there.
    """
    source = (EXAMPLES / "01_three_lines.py").read_text(encoding="utf-8")
    code = [line for line in source.split('"""')[2].splitlines() if line]
    assert len(code) == 3
    # Its URL is a plain one, so that it stays at three lines.
    local = reader.folder / "three_lines.py"
    local.write_text(source.replace("pulsar://localhost:6650", reader.broker.url), encoding="utf-8")
    assert reader.run(str(local)) == ""
    assert reader.topic("orders") == [("customer-7", {"id": 7, "amount": "11.77"})]


def test_script(reader: Reader) -> None:
    """
    All of it is delivered, in order.
    """
    assert reader.run("02_script.py", "250") == "250 delivered, 0 kept\n"
    found = [data for _, data in reader.topic("readings", 250)]
    assert found == [{"sensor": number % 10, "value": number} for number in range(250)]


def test_script_without_a_broker(reader: Reader) -> None:
    """
    What can't be sent is kept, and the exit code says so.
    """
    reader.run("02_script.py", "1")
    reader.broker.kill()
    with Script(_RUN, reader.folder, EXAMPLES / "02_script.py", "3", environment=reader.environment) as script:
        result = script.finish(timeout_seconds=SECONDS)
    assert result.check(1) == "0 delivered, 3 kept\n"
    assert "safepulsar failed replay --failed failed/readings.db" in result.stderr


def test_thread_pool(reader: Reader) -> None:
    """
    Every worker's message is delivered when the pool has ended.
    """
    assert reader.run("03_thread_pool.py") == "100 delivered, 0 kept\n"
    assert sorted(key for key, _ in reader.topic("images", 100)) == sorted(f"image-{number}" for number in range(100))


def test_asyncio(reader: Reader) -> None:
    """
    A thousand at the same time, and each customer's in the order of the calls.
    """
    assert reader.run("04_asyncio.py") == "1000 delivered, 0 kept\n"
    by_customer: dict[str, list[object]] = defaultdict(list)
    for key, data in reader.topic("orders", 1000):
        by_customer[key].append(data)
    assert by_customer == {
        f"customer-{customer}": [{"id": number} for number in range(customer, 1000, 10)] for customer in range(10)
    }


SERVERS: Final = [
    pytest.param(["flask", "--app", str(EXAMPLES / "05_flask.py"), "run", "--port", "{port}"], id="flask run"),
    pytest.param(["gunicorn", "--bind", f"{LOOPBACK}:{{port}}", "examples.05_flask:app"], id="gunicorn"),
    pytest.param(
        ["uvicorn", "--app-dir", str(EXAMPLES), "--port", "{port}", "06_fastapi:app"],
        id="uvicorn",
    ),
]


@pytest.mark.parametrize("command", SERVERS)
def test_services(reader: Reader, command: Sequence[str]) -> None:
    """
    As its docstring says it is started: an order is answered when it is stored, a visit at once.
    """
    port = free_port()
    with reader.serve(*(each.format(port=port) for each in command)) as server:
        status, order = post(port, "/orders", {"id": 7, "customer": "c7"})
        assert status == 201, server.finish(timeout_seconds=0)
        assert re.fullmatch(r"\d+:\d+:-?\d+:-?\d+", order["stored"])
        assert post(port, "/visits?page=home", {"page": "home"})[0] == 202
        assert reader.topic("orders") == [("c7", {"id": 7, "customer": "c7"})]
        assert reader.topic("visits") == [("", {"page": "home"})]


def test_celery(reader: Reader) -> None:
    """
    A task that is placed by one process is done by a worker, and its message is there.
    """
    arguments = ("--app", "examples.07_celery", "worker", "--concurrency", "1", "--loglevel", "WARNING")
    with reader.serve("celery", *arguments):
        reader.run("07_celery.py", "7")
        assert reader.topic("orders") == [("order-7", {"id": 7})]


def test_import_csv(reader: Reader) -> None:
    """
    Each customer's purchases are in the topic in the order of the file.
    """
    rows = list(csv.DictReader((EXAMPLES / "data" / "cdnow_orders.csv").read_text(encoding="utf-8").splitlines()))[
        :3000
    ]
    file = reader.folder / "orders.csv"
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert reader.run("08_import_csv.py", str(file)) == "3000 delivered, 0 kept\n"
    expected: dict[str, list[object]] = defaultdict(list)
    found: dict[str, list[object]] = defaultdict(list)
    for row in rows:
        expected[row["customer_id"]].append(row)
    for key, data in reader.topic("purchases", 3000):
        found[key].append(data)
    assert found == expected


def test_receive_in_order(reader: Reader) -> None:
    """
    Out of order and partly twice on the way in, in order and once on the way out, over two runs.
    """
    reader.run("09_receive_in_order.py", "send")
    lines = _received(reader)
    assert [line for line in lines if line.startswith("anna")] == ["anna 1 ordered", "anna 2 paid", "anna 3 shipped"]
    assert [line for line in lines if line.startswith("bert")] == ["bert 1 ordered"]
    assert len(lines) == 4
    assert _received(reader) == []


def _received(reader: Reader) -> list[str]:
    # It uses the client library as it is, which logs to standard output.
    return [line for line in reader.run("09_receive_in_order.py").splitlines() if re.fullmatch(r"\w+ \d \w+", line)]


def test_every_example_is_tested_and_numbered_without_a_gap() -> None:
    """
    A new example gets a test in this folder, which has its name.
    """
    assert [int(name[:2]) for name in NAMES] == list(range(1, len(NAMES) + 1))
    tested = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert [name for name in NAMES if name[:-3] not in tested] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_example_says_how_it_is_run(name: str) -> None:
    """
    Its docstring has the commands, and they name it.
    """
    docstring = (EXAMPLES / name).read_text(encoding="utf-8").split('"""')[1]
    assert name[:-3] in docstring
