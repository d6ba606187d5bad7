"""
The main job, live: real orders through a shop whose broker is killed in the middle, and every one of them accounted for.

    make demo

Eight clients place about 7,000 purchases of the CDNOW data (Fader and Hardie) in the shop of 10_shop_fastapi.py, over HTTP,
each customer's in order. A third of the way they kill its broker (-9) by the page's own button, and revive it. At the end
the topic is read back from its first message, and the table says what is really in it.
"""

from __future__ import annotations

import argparse
import csv
import json
import signal
import sys
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pulsar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from examples.shop import TOPIC
from examples.shop.client import Client
from examples.shop.process import ShopProcess

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ORDERS = Path(__file__).parent / "data" / "cdnow_orders.csv"
CLIENTS = 8
DOWN_SECONDS = 1.0
SETTLE_SECONDS = 60.0  # until every order has its fate
IDLE_MS = 2000  # the topic counts as read to its end when nothing more comes for so long
STOPPED = 130  # as a shell has it

NEXT = (
    (
        ".venv/bin/python -m examples.10_shop_fastapi",
        "the shop, for your browser at http://127.0.0.1:8000: place orders, kill its broker, see each order's fate",
    ),
    (".venv/bin/safepulsar broker --data demo-data", "such a broker for you, until Ctrl-C"),
    (
        ".venv/bin/safepulsar send orders examples/data/cdnow_orders.csv --key-field customer_id",
        "the same orders from the command line, in another terminal; kill the broker in between",
    ),
    (".venv/bin/safepulsar doctor", "what it finds about a broker and your settings"),
    ("less README.md", "three lines for your own code"),
)

Purchase = dict[str, str]  # a row of the file
Message = dict[str, Any]  # as the shop sends it: number, customer, …


def main() -> int:
    """
    Run the demonstration; 0 if nothing was lost, duplicated or reordered.
    """
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__.split("\n\n")[0])
    parser.add_argument("--orders", type=int, default=None, help="place only the first N orders")
    parser.add_argument("--no-kill", action="store_true", help="leave the broker alone")
    arguments = parser.parse_args()
    console = Console()
    with ORDERS.open(encoding="utf-8", newline="") as file:
        purchases = list(csv.DictReader(file))[: arguments.orders]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ShopProcess() as shop:
            console.print(f"a shop at [bold]http://{shop.address}[/], its broker at [bold]{shop.broker_url}[/]")
            console.print(f"{len(purchases)} orders from {CLIENTS} clients")
            placed = place_all(purchases, shop.address, console, kill=not arguments.no_kill)
            with Client(shop.address) as client:
                counts = client.counts()
            found = read_back(shop.broker_url)
    except KeyboardInterrupt:
        console.print("[red]stopped[/]; the shop and its broker are ended")
        return STOPPED
    verdict = show(placed, counts, found, console)
    console.print("\nwhat to try next:")
    for command, what in NEXT:
        console.print(f"  [bold]{command}[/]", highlight=False, soft_wrap=True)
        console.print(f"      {what}", highlight=False)
    return verdict


def place_all(purchases: Sequence[Purchase], address: str, console: Console, *, kill: bool) -> list[int]:
    """
    Place all from eight clients, each with its own customers, and return their numbers once every one has its fate.
    """
    placed: list[int] = []  # appended to by all threads: one list, whose append is atomic
    stop = threading.Event()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        ThreadPoolExecutor(CLIENTS + 1) as pool,
        Progress(*columns, console=console) as progress,
        Client(address) as client,
    ):
        bar = progress.add_task("delivered", total=len(purchases))
        try:
            shares = [[each for each in purchases if int(each["customer_id"]) % CLIENTS == n] for n in range(CLIENTS)]
            running = {pool.submit(place, share, address, placed, stop) for share in shares}
            if kill:
                third = len(purchases) // 3
                running.add(pool.submit(kill_and_revive, third, address, placed, stop, progress.console))
            while running:
                done, running = wait(running, 0.1, FIRST_EXCEPTION)
                for each in done:
                    each.result()
                progress.update(bar, completed=client.counts()["delivered"])
            for delivered in settling(client):
                progress.update(bar, completed=delivered)
        finally:
            stop.set()
    return placed


def place(purchases: Sequence[Purchase], address: str, placed: list[int], stop: threading.Event) -> None:
    """
    One client: place the orders, each when the one before was answered, and add their numbers to `placed`.
    """
    with Client(address) as client:
        for purchase in purchases:
            if stop.is_set():
                return
            number = client.place(purchase["customer_id"], int(purchase["quantity"]), purchase["amount"])
            placed.append(number)


def kill_and_revive(enough: int, address: str, placed: Sequence[int], stop: threading.Event, console: Console) -> None:
    """
    Press the button once so many are placed, and again a second later.
    """
    with Client(address) as client:
        while len(placed) < enough:
            if stop.wait(0.005):
                return
        client.kill_broker()
        console.print(f"[red]the broker is killed[/] (-9) after {len(placed)} accepted orders")
        stop.wait(DOWN_SECONDS)
        client.start_broker()
        console.print("[green]the broker is back[/] on the same data")


def settling(client: Client) -> Iterator[int]:
    """
    Yield how many are delivered, until none waits and none is kept: those are sent again once the broker is well.
    """
    until = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < until:
        counts = client.counts()
        yield counts["delivered"]
        if counts["waiting"] == counts["kept"] == 0:
            return
        time.sleep(0.1)


def read_back(url: str) -> list[Message]:
    """
    Everything that is in the topic, in its order.

    pulsar-lite hands some messages to a reader more than once; a place in the topic counts once all the same.
    """
    client = pulsar.Client(url, logger=pulsar.FileLogger(pulsar.LoggerLevel.Error, "/dev/null"))
    reader = client.create_reader(TOPIC, pulsar.MessageId.earliest)
    found: dict[str, Message] = {}
    try:
        while True:
            message = reader.read_next(IDLE_MS)
            found[str(message.message_id())] = json.loads(message.data())
    except pulsar.Timeout:
        return list(found.values())
    finally:
        client.close()


def show(placed: Sequence[int], counts: dict[str, int], found: Sequence[Message], console: Console) -> int:
    """
    Print what became of the orders, by what the topic holds.
    """
    seen = Counter(order["number"] for order in found)
    lost = sum(number not in seen for number in placed)
    twice = sum(count - 1 for count in seen.values())
    wrong = out_of_order(found)
    table = Table(title="what the topic holds", title_justify="left", show_header=False)
    table.add_column(justify="left")
    table.add_column(justify="right")
    for label, number, good in (
        ("accepted", len(placed), True),
        ("delivered", counts["delivered"], counts["delivered"] == len(placed)),
        ("kept and replayed", counts["replayed"], True),
        ("lost", lost, lost == 0),
        ("duplicated", twice, twice == 0),
        ("out of order per customer", wrong, wrong == 0),
    ):
        table.add_row(label, f"[{'bold' if good else 'bold red'}]{number}[/]")
    console.print(table)
    return 0 if lost == twice == wrong == 0 else 1


def out_of_order(found: Sequence[Message]) -> int:
    """
    Orders whose first copy stands behind a later one of the same customer.

    A customer's numbers rise: each order was placed when the one before was answered.
    """
    last: dict[str, int] = defaultdict(int)
    seen: set[int] = set()
    wrong = 0
    for order in found:
        number = order["number"]
        if number in seen:
            continue
        seen.add(number)
        wrong += number < last[order["customer"]]
        last[order["customer"]] = max(last[order["customer"]], number)
    return wrong


if __name__ == "__main__":
    sys.exit(main())
