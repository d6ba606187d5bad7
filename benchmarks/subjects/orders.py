"""
The command `safepulsar send` on a file of real orders, beside a program on the raw client that sends the same bytes.

Each turn is a whole process, from its start to its exit.
"""

from __future__ import annotations

import csv
import itertools
import json
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pulsar

from benchmarks import raw
from benchmarks.case import Case, Goal, NotHereError, Sample
from benchmarks.measuring import timed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.case import Contender, Scene

_OURS, _RAW = "safepulsar send --ordered --mix-keys", "raw send_async, batched"
_DURABLE = "safepulsar send --ordered --durable --mix-keys"
_KEY = "customer_id"
_LIMIT_SECONDS = 900


@contextmanager
def whole_file(scene: Scene) -> Iterator[dict[str, Contender]]:
    """
    The command and the raw program, on as many rows as the effort says.
    """
    options = _options()
    if "--mix-keys" not in options:
        raise NotHereError("`safepulsar send` has no --mix-keys")
    rows = scene.folder / "orders.csv"
    count = _copy(scene.orders, rows, None if scene.effort.scale == 1 else scene.effort.messages)

    def command(*more: str) -> Sample:
        arguments = ["send", scene.topic("orders"), str(rows), "--url", scene.url, "--key-field", _KEY]
        store = scene.folder / f"{scene.topic('failed')}.db"
        arguments += ["--ordered", "--mix-keys", "--failed", str(store), "--json", *more]
        return timed(count, partial(_run, [sys.executable, "-m", "safepulsar", *arguments], count))

    def theirs() -> Sample:
        program = [sys.executable, "-m", "benchmarks.subjects.orders", scene.url, scene.topic("orders"), str(rows)]
        return timed(count, partial(_run, program, count))

    contenders: dict[str, Contender] = {_RAW: theirs, _OURS: command}
    if "--durable" in options:
        contenders[_DURABLE] = lambda: command("--durable", "--producer-name", scene.topic("name"))
    # The CPU time of a child is not in this process's.
    yield {name: partial(_rate_only, contender) for name, contender in contenders.items()}


def _rate_only(contender: Contender) -> Sample:
    return Sample(figures={"rate": contender().figures["rate"]})


def _options() -> str:
    return subprocess.run(
        [sys.executable, "-m", "safepulsar", "send", "--help"], check=True, capture_output=True, text=True
    ).stdout


def _copy(source: Path, target: Path, rows: int | None) -> int:
    try:
        with source.open(encoding="utf-8") as lines:
            header, *chosen = itertools.islice(lines, None if rows is None else rows + 1)
    except OSError as error:
        raise NotHereError(f"there is no file of orders: {error}; name one with --orders") from error
    target.write_text(header + "".join(chosen), encoding="utf-8")
    return len(chosen)


def _run(command: list[str], count: int) -> None:
    ran = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_SECONDS, check=False)
    if ran.returncode:
        raise AssertionError(f"{' '.join(command)} ended with {ran.returncode}: {ran.stderr[-2000:]}")
    delivered = json.loads(ran.stdout.splitlines()[-1])["delivered"]
    if delivered != count:
        raise AssertionError(f"{delivered} of {count} rows were delivered")


def send_raw(url: str, topic: str, path: str) -> int:
    """
    Send each row as the command does, as JSON and with its key; return how many were acknowledged.
    """
    found, callback = raw.answers()
    logger = pulsar.ConsoleLogger(pulsar.LoggerLevel.Error)
    client = pulsar.Client(url, logger=logger)
    producer = client.create_producer(
        topic, batching_enabled=True, block_if_queue_full=True, max_pending_messages=10_000
    )
    with open(path, encoding="utf-8", newline="") as file:  # noqa: PTH123 - a script, as one would write it
        for row in csv.DictReader(file):
            payload = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode()
            producer.send_async(payload, callback, partition_key=row[_KEY])
    producer.flush()
    producer.close()
    client.close()
    return len(found)


CASES = [
    Case(
        name="orders",
        title="a file of orders by the command, ordered by customer",
        subject="orders",
        prepare=whole_file,
        goals=(
            Goal(name="rate", ours=_OURS, against=("raw",), at_least=1.0),
            Goal(name="rate, durable", ours=_DURABLE, against=("raw",), at_least=1.0),
        ),
        sizes=(0,),
    ),
]

if __name__ == "__main__":
    print(json.dumps({"delivered": send_raw(*sys.argv[1:])}))
