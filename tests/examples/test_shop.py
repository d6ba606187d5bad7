"""
The shop in both frameworks, over HTTP: every order has its fate, the topic holds each once and in order, whatever the broker did.

The examples are 10_shop_fastapi and 11_shop_flask.
"""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from examples.shop import ORDER, Order, Orders
from examples.shop.client import Client, ShopError
from examples.shop.process import FASTAPI, FLASK, ShopNotStarted, ShopProcess
from safepulsar import InMemoryFailedMessages, MessageId, RetryingSender, SqliteFailedMessages
from safepulsar.broker_process import LOOPBACK, free_port
from safepulsar.testing import FakeBroker, all_senders_on
from tests.brokers import LiteBroker, read_topic
from tests.subprocesses import Script
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.brokers import Record

_EXAMPLES: Final = Path(__file__).parents[2] / "examples"
_TOPIC: Final = "persistent://public/default/orders"
_SECONDS: Final = 60.0
_CLIENTS: Final = 4
_CUSTOMERS: Final = 3  # of each client
_RUN: Final = """
    import os, runpy, sys
    os.chdir(sys.argv[1])
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")
"""
_STARTER: Final = """
    import sys, time
    from examples.shop.process import ShopProcess
    with ShopProcess(*sys.argv[1:]) as shop:
        print(shop.address, flush=True)
        time.sleep(60)
"""

pytestmark = [pytest.mark.timeout(100)]
both = pytest.mark.parametrize("module", [pytest.param(FASTAPI, id="FastAPI"), pytest.param(FLASK, id="Flask")])


def read(url: str, folder: Path, until: int) -> list[Record]:
    """
    What the topic of orders holds.
    """
    # Only a name for the broker that runs there: it is never started.
    running = LiteBroker(folder / "nothing", int(url.rpartition(":")[2]))
    return read_topic(running, _TOPIC, until=until)


def place_all(address: str, orders: int, placed: list[tuple[str, int]]) -> None:
    """
    Place so many orders of each customer, by several clients at once, and add their customers and numbers to `placed`.
    """

    def work(client_number: int) -> None:
        with Client(address) as client:
            for number in range(orders * _CUSTOMERS):
                customer = f"c{client_number}-{number % _CUSTOMERS}"
                placed.append((customer, client.place(customer, 1 + number % 9, f"{number}.77")))

    with ThreadPoolExecutor(_CLIENTS) as pool:
        list(pool.map(work, range(_CLIENTS)))


def check_topic(records: Sequence[Record], placed: Sequence[tuple[str, int]]) -> None:
    """
    Every order is there once, those of each customer in the order in which they were placed.
    """
    expected: dict[str, list[int]] = defaultdict(list)
    found: dict[str, list[int]] = defaultdict(list)
    for customer, number in placed:
        expected[customer].append(number)
    for record in records:
        found[record.ordering_key].append(json.loads(record.payload)["number"])
    assert found == expected
    assert len(records) == len(placed)


def gone(address: str) -> bool:
    """
    Whether nobody listens there any more.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def address_of(url: str) -> str:
    """
    Host and port of a broker.
    """
    return url.removeprefix("pulsar://")


# -- what becomes of orders ------------------------------------------------------------------------------------------


@pytest.mark.broker
@both
def test_a_broker_that_is_killed_and_revived_costs_no_order(module: str, tmp_path: Path) -> None:
    """
    All are accepted meanwhile, delivered in the end, and where the page says.
    """
    placed: list[tuple[str, int]] = []
    with ShopProcess(module) as shop, Client(shop.address) as client:
        clients = threading.Thread(target=place_all, args=(shop.address, 20, placed))
        clients.start()
        wait_until(lambda: len(placed) > 120, "a third of the orders", timeout_seconds=_SECONDS)
        client.kill_broker()
        clients.join()
        assert client.ask("GET", "/orders?limit=0")["broker"] == {"url": shop.broker_url, "state": "stopped"}
        place_all(shop.address, 10, placed)  # however fast the machine is, some are placed without a broker
        client.start_broker()
        assert len(placed) == 360
        wait_until(lambda: client.counts()["delivered"] == 360, "every order's fate", timeout_seconds=_SECONDS)
        seen = client.ask("GET", "/orders?limit=1000")
        records = read(shop.broker_url, tmp_path, 360)
    check_topic(records, placed)
    assert seen["counts"].pop("replayed") >= 0  # what a slow machine takes longer for than the deadline
    assert seen["counts"] == {
        "accepted": 360, "waiting": 0, "delivered": 360, "kept": 0, "failed": 0, "unknown": 0,
    }  # fmt: skip
    assert [order["number"] for order in seen["orders"]] == list(range(360, 0, -1))
    where = {record.properties[ORDER]: record.position for record in records}
    for order in seen["orders"]:
        ledger, entry, partition, index = (int(part) for part in order["message_id"].split(":"))
        assert where[str(order["number"])] == (ledger, entry, index, partition)
        assert order["state"] == "delivered"


@pytest.mark.broker
@both
def test_an_outage_beyond_the_deadline_keeps_orders_and_delivers_them_afterwards(module: str, tmp_path: Path) -> None:
    """
    Those without an answer are kept, with the reason, and so are later ones of their customers; all go when it is back.
    """
    placed: list[tuple[str, int]] = []
    with ShopProcess(module, "--deadline", "1") as shop, Client(shop.address) as client:
        clients = threading.Thread(target=place_all, args=(shop.address, 20, placed))
        clients.start()
        wait_until(lambda: client.counts()["delivered"] > 20, "some delivered orders", timeout_seconds=_SECONDS)
        client.kill_broker()
        clients.join()
        place_all(shop.address, 2, placed)  # however fast the machine is, some are placed without a broker
        wait_until(lambda: client.counts()["waiting"] == 0, "the deadlines", timeout_seconds=_SECONDS)
        books = client.counts()
        assert books["kept"] > 0
        assert books["accepted"] == books["delivered"] + books["kept"] == len(placed)
        kept = [order for order in client.ask("GET", "/orders?limit=1000")["orders"] if order["state"] == "kept"]
        assert {order["message_id"] for order in kept} == {None}
        assert {order["why"].split(", ")[1] for order in kept} <= {"surely not stored", "maybe stored"}
        placed.append((kept[0]["customer"], client.place(kept[0]["customer"], 1, "11.77")))
        wait_until(
            lambda: client.ask("GET", "/orders?limit=1")["orders"][0]["why"] == "LanePaused, surely not stored",
            "the order behind a kept one to be kept, too",
        )
        client.start_broker()
        wait_until(lambda: client.counts()["delivered"] == len(placed), "every order's fate", timeout_seconds=_SECONDS)
        assert client.counts()["replayed"] == books["kept"] + 1
        records = read(shop.broker_url, tmp_path, len(placed))
    check_topic(records, placed)


@pytest.fixture
def orders(tmp_path: Path) -> Iterator[Orders]:
    """
    The orders of a shop without a web server.
    """
    found = Orders(tmp_path / "orders.db")
    yield found
    found.close()


def test_a_kept_order_that_is_found_in_the_topic_is_delivered(orders: Orders) -> None:
    """
    Nothing tells so but the store, which is asked.
    """
    broker, store = FakeBroker(), InMemoryFailedMessages()
    number = orders.place(Order(customer="c7", quantity=1, amount="11.77"))
    broker.fail_next(1, "TopicTerminated", stored=True)
    with all_senders_on(broker), RetryingSender(broker.url, failed_messages=store, observers=[orders]) as sender:
        sender.submit("orders", b"", ordering_key="c7", properties={ORDER: str(number)})
        wait_until(lambda: orders.counts()["kept"] == 1, "its fate")
        sender.send("orders", b"of somebody else")
        orders.ask(store)
        (order,) = orders.latest(10)
        assert (order["state"], order["why"]) == ("kept", "TopicTerminated, maybe stored")
        (kept,) = store.find()
        assert kept.id is not None
        store.confirm(kept.id, MessageId(3, 4))
        orders.ask(store)
        (order,) = orders.latest(10)
        assert (order["state"], order["message_id"]) == ("delivered", "3:4:-1:-1")
        assert orders.counts()["replayed"] == 1


def test_an_order_that_could_not_even_be_kept_has_failed(orders: Orders, tmp_path: Path) -> None:
    """
    A full disk is no reason to say anything else.
    """
    broker = FakeBroker()
    (tmp_path / "store").mkdir(mode=0o700)
    number = orders.place(Order(customer="c7", quantity=1, amount="11.77"))
    broker.fail_next(1, "TopicTerminated")
    with (
        all_senders_on(broker),
        SqliteFailedMessages(tmp_path / "store" / "failed.db", max_bytes=65_536) as store,
        RetryingSender(broker.url, failed_messages=store, observers=[orders]) as sender,
    ):
        sender.submit("orders", bytes(100_000), properties={ORDER: str(number)})
        wait_until(lambda: orders.counts()["failed"] == 1, "its fate")
    (order,) = orders.latest(10)
    assert order["message_id"] is None
    assert str(order["why"]).startswith("TopicTerminated, ")


# -- the service -----------------------------------------------------------------------------------------------------


@pytest.mark.broker
@both
def test_what_is_no_order_is_refused(module: str) -> None:
    """
    It costs nothing, and leaves nothing.
    """
    good = {"customer": "c7", "quantity": 1, "amount": "11.77"}
    wrong: list[object] = [
        None, "an order", [good], {}, {**good, "customer": ""}, {**good, "customer": "c" * 41}, {**good, "quantity": 0},
        {**good, "quantity": 100}, {**good, "amount": "eleven"}, {**good, "amount": "1.5"},
    ]  # fmt: skip
    with ShopProcess(module) as shop, Client(shop.address) as client:
        for each in wrong:
            with pytest.raises(ShopError) as raised:
                client.ask("POST", "/orders", each)
            assert raised.value.args[0] == 422, each
        assert client.counts()["accepted"] == 0
        assert client.place("c7", 1, "11.77") == 1


@pytest.mark.broker
@both
def test_its_health_does_not_depend_on_the_broker(module: str) -> None:
    """
    It is ready while it can accept orders, which is always.
    """
    with ShopProcess(module) as shop, Client(shop.address) as client:
        for path in ("live", "started", "ready"):
            assert client.ask("GET", f"/health/{path}")["status"] == "ok"
        client.kill_broker()
        client.place("c7", 1, "11.77")
        assert client.ask("GET", "/health/ready")["status"] == "ok"


@pytest.mark.broker
@both
def test_the_broker_of_somebody_else_is_left_alone(module: str, tmp_path: Path) -> None:
    """
    Orders go there, its buttons do nothing, and a shop that was killed says of what waited then that it does not know.
    """
    (tmp_path / "work").mkdir()
    name = f"{module.removeprefix('examples.')}.py"
    port = free_port()
    address = f"{LOOPBACK}:{port}"
    with LiteBroker(tmp_path / "broker") as broker:

        def shop() -> Script:
            environment = {"SAFEPULSAR_URL": broker.url}
            return Script(_RUN, tmp_path / "work", _EXAMPLES / name, "--port", port, environment=environment)

        with shop() as first:
            first.wait_for(f"the shop: http://{address}, its broker: {broker.url}\n")
            with Client(address) as client:
                assert client.ask("GET", "/orders")["broker"] == {"url": broker.url, "state": None}
                for press in (client.kill_broker, client.start_broker):
                    with pytest.raises(ShopError) as raised:
                        press()
                    assert raised.value.args[0] == 409
                client.place("c7", 1, "11.77")
                wait_until(lambda: client.counts()["delivered"] == 1, "its fate", timeout_seconds=_SECONDS)
                broker.freeze()
                client.place("c7", 1, "12.99")
            first.send_signal(signal.SIGKILL)
        broker.thaw()
        with shop() as second, Client(address) as client:
            second.wait_for("the shop: ")
            books = client.counts()
            assert (books["accepted"], books["delivered"], books["unknown"]) == (2, 1, 1)
            assert client.place("c7", 1, "13.49") == 3
            wait_until(lambda: client.counts()["delivered"] == 2, "its fate", timeout_seconds=_SECONDS)


# -- its end ---------------------------------------------------------------------------------------------------------


@pytest.mark.broker
@both
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_in_order(module: str, number: signal.Signals, tmp_path: Path) -> None:
    """
    Its sender first, then its broker, and nothing of it stays.
    """
    name = f"{module.removeprefix('examples.')}.py"
    port = free_port()
    address = f"{LOOPBACK}:{port}"
    with Script(_RUN, tmp_path, _EXAMPLES / name, "--port", port, environment={"TMPDIR": str(tmp_path)}) as script:
        script.wait_for("the shop: ")
        with Client(address) as client:
            broker = address_of(client.ask("GET", "/orders")["broker"]["url"])
            client.place("c7", 1, "11.77")
        script.send_signal(number)
        result = script.finish(timeout_seconds=20)
    assert result.check().count("\n") == 1
    assert not result.stderr, result
    assert gone(address)
    assert gone(broker)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.broker
@both
def test_it_ends_with_whoever_started_it(module: str, tmp_path: Path) -> None:
    """
    Also if that was killed.
    """
    port = free_port()
    address = f"{LOOPBACK}:{port}"
    with Script(_STARTER, module, "--port", port, environment={"TMPDIR": str(tmp_path)}) as script:
        script.wait_for(address)
        with Client(address) as client:
            broker = address_of(client.ask("GET", "/orders")["broker"]["url"])
        script.send_signal(signal.SIGKILL)
    wait_until(lambda: gone(address), "the shop to end", timeout_seconds=20)
    wait_until(lambda: gone(broker), "its broker to end", timeout_seconds=20)


def test_one_that_does_not_start_says_why() -> None:
    """
    In place of an address there is what it complained of.
    """
    with pytest.raises(ShopNotStarted, match=r"unrecognized arguments: --nonsense"), ShopProcess(FLASK, "--nonsense"):
        pass  # pragma: no cover - never reached


def test_a_port_that_is_taken_is_named() -> None:
    """
    With the way to another one.
    """
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ShopNotStarted, match=rf"can't listen on port {port}: .*--port {port + 1}"):
            ShopProcess(FLASK, "--port", str(port)).__enter__()
