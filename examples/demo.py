"""
The main job, live: real orders through a broker that is killed in the middle, and every one of them accounted for.

    make demo

Eight threads send about 7,000 purchases of the CDNOW data (Fader and Hardie), each customer's in order. A third of
the way the broker is killed (-9), and started again on the same data. At the end the topic is read back from its
first message, and the table says what is really in it.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import pulsar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from safepulsar import (
    ClientSettings,
    RetryingSender,
    SenderSettings,
    SendFailed,
    SendHandle,
    SqliteFailedMessages,
    TopicSettings,
    replay,
)
from safepulsar.local_broker import LocalBroker, start_broker

if TYPE_CHECKING:
    from collections.abc import Sequence

ORDERS = Path(__file__).parent / "data" / "cdnow_orders.csv"
TOPIC = "orders"
THREADS = 8
DOWN_SECONDS = 1.0
# Each customer's orders in order, each in the topic once: what is in doubt when the broker dies is read back from it.
SETTINGS = SenderSettings(topics={TOPIC: TopicSettings(producer_name="shop", exactly_once=True)})
IDLE_MS = 2000  # the topic counts as read to its end when nothing more comes for so long

NEXT = (
    (".venv/bin/safepulsar broker --data demo-data", "such a broker for you, until Ctrl-C"),
    (
        ".venv/bin/safepulsar send orders examples/data/cdnow_orders.csv --key-field customer_id",
        "the same orders from the command line, in another terminal; kill the broker in between",
    ),
    (".venv/bin/safepulsar doctor", "what it finds about a broker and your settings"),
    ("less README.md", "three lines for your own code"),
)

Order = dict[str, str]


def main() -> int:
    """
    Run the demonstration; 0 if nothing was lost, duplicated or reordered.
    """
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__.split("\n\n")[0])
    parser.add_argument("--orders", type=int, default=None, help="send only the first N orders")
    parser.add_argument("--no-kill", action="store_true", help="leave the broker alone")
    arguments = parser.parse_args()
    console = Console()
    logging.getLogger("safepulsar").addHandler(logging.NullHandler())  # the table says it all
    with ORDERS.open(encoding="utf-8", newline="") as file:
        orders = list(csv.DictReader(file))[: arguments.orders]
    with (
        tempfile.TemporaryDirectory(prefix="safepulsar-demo-") as folder,
        start_broker(Path(folder) / "broker") as broker,
    ):
        console.print(f"a broker of its own at [bold]{broker.url}[/], {len(orders)} orders, {THREADS} threads")
        # The client library's complaints about the dead broker would run through the progress bar.
        client = ClientSettings(url=broker.url, log_file=str(Path(folder) / "client.log"))
        with SqliteFailedMessages(Path(folder) / "store" / "failed.db") as store:
            handles = send_all(orders, client, store, console, None if arguments.no_kill else broker)
            replayed = send_what_was_kept(client, store)
            found = read_back(broker.url)
    verdict = show(orders, handles, replayed, found, console)
    console.print("\nwhat to try next:")
    for command, what in NEXT:
        console.print(f"  [bold]{command}[/]", highlight=False, soft_wrap=True)
        console.print(f"      {what}", highlight=False)
    return verdict


def send_all(
    orders: Sequence[Order],
    client: ClientSettings,
    store: SqliteFailedMessages,
    console: Console,
    victim: LocalBroker | None,
) -> list[SendHandle]:
    """
    Send from eight threads, each with its own customers, and kill the broker when a third is accepted.
    """
    handles: list[SendHandle] = []  # appended to by all threads: one list, whose append is atomic
    third = threading.Event()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        RetryingSender(client, failed_messages=store, settings=SETTINGS) as sender,
        Progress(*columns, console=console) as progress,
    ):
        bar = progress.add_task("sending", total=len(orders))

        def work(number: int) -> None:
            for order in orders:
                if int(order["customer_id"]) % THREADS != number:
                    continue
                handles.append(sender.submit(TOPIC, dict(order), ordering_key=order["customer_id"]))
                progress.update(bar, completed=sum_done(sender))
                if len(handles) > len(orders) / 3:
                    third.set()
                time.sleep(0.002)  # a shop, not a benchmark

        threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        if victim is not None:
            third.wait()
            victim.kill()
            progress.console.print(f"[red]the broker is killed[/] (-9) after {len(handles)} accepted orders")
            time.sleep(DOWN_SECONDS)
            victim.start()
            progress.console.print("[green]the broker is back[/] on the same data")
        for thread in threads:
            thread.join()
        sender.flush()
        progress.update(bar, completed=sum_done(sender))
    return handles


def sum_done(sender: RetryingSender) -> int:
    """
    How many accepted messages have their fate.
    """
    counts = sender.stats().counts
    return counts.accepted - counts.in_flight


def send_what_was_kept(client: ClientSettings, store: SqliteFailedMessages) -> int:
    """
    Replay the store; usually nothing is in it, because the broker came back before the deadlines.
    """
    with RetryingSender(client, failed_messages=store, settings=SETTINGS) as sender:
        return replay(store, sender).delivered


def read_back(url: str) -> list[Order]:
    """
    Everything that is in the topic, in its order.

    pulsar-lite hands some messages to a reader more than once; a place in the topic counts once all the same.
    """
    client = pulsar.Client(url, logger=pulsar.FileLogger(pulsar.LoggerLevel.Error, "/dev/null"))
    reader = client.create_reader(TOPIC, pulsar.MessageId.earliest)
    found: dict[str, Order] = {}
    try:
        while True:
            message = reader.read_next(IDLE_MS)
            found[str(message.message_id())] = json.loads(message.data())
    except pulsar.Timeout:
        return list(found.values())
    finally:
        client.close()


def show(
    orders: Sequence[Order], handles: Sequence[SendHandle], replayed: int, found: Sequence[Order], console: Console
) -> int:
    """
    Print what became of the orders, by what the topic holds.
    """
    kept = sum(isinstance(handle.exception(), SendFailed) for handle in handles)
    seen = Counter(order["order_id"] for order in found)
    lost = sum(order["order_id"] not in seen for order in orders)
    twice = sum(count - 1 for count in seen.values())
    wrong = out_of_order(found)
    table = Table(title="what the topic holds", title_justify="left", show_header=False)
    table.add_column(justify="left")
    table.add_column(justify="right")
    for label, number, good in (
        ("accepted", len(handles), True),
        ("delivered", len(handles) - kept, True),
        ("kept and replayed", replayed, replayed == kept),
        ("lost", lost, lost == 0),
        ("duplicated", twice, twice == 0),
        ("out of order per customer", wrong, wrong == 0),
    ):
        table.add_row(label, f"[{'bold' if good else 'bold red'}]{number}[/]")
    console.print(table)
    return 0 if lost == twice == wrong == 0 else 1


def out_of_order(found: Sequence[Order]) -> int:
    """
    Orders whose first copy stands behind a later one of the same customer; the file's order is the true one.
    """
    last: dict[str, int] = defaultdict(int)
    seen: set[int] = set()
    wrong = 0
    for order in found:
        number = int(order["order_id"])
        if number in seen:
            continue
        seen.add(number)
        wrong += number < last[order["customer_id"]]
        last[order["customer_id"]] = max(last[order["customer_id"]], number)
    return wrong


if __name__ == "__main__":
    sys.exit(main())
