"""
Counts what a message costs, in numbers that are the same on every machine: `python -m benchmarks.gate.counting`.

A process of its own, because it replaces locks and watches every call of a function. On the fake broker, which is frozen
while messages are accepted: so the queue is full before the first is handed over, and the groups are always the same.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import tempfile
import threading
import tracemalloc
from collections import Counter
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from safepulsar import RetryingSender
    from safepulsar.testing import FakeBroker

_MESSAGES = 4_000
_FIRST = 100  # before those that are counted: queues, threads and caches are made
_CALLS, _IN_A_CALL = 50, 100
_SENT = 500
_THREADS, _TOPICS = 64, 50
_SENDER = "safepulsar-send"  # how the names of the threads begin that hand over
_PACKAGE = str(Path(__file__).parents[2] / "safepulsar")
_FAKE = str(Path(_PACKAGE) / "testing")
# Locks that the fake broker makes, and those inside of Python's own threads and conditions, are not ours.
_NOT_OURS = ("safepulsar.testing", "threading", "concurrent", "queue", "logging", "importlib")

_acquired: Counter[str] = Counter()
_called: Counter[str] = Counter()
_statements: Counter[str] = Counter()
_watching = False
_lock, _rlock = threading.Lock, threading.RLock
_main = threading.main_thread()


def _who() -> str:
    thread = threading.current_thread()
    # What the watch does depends on the time, and not on the messages.
    return "application" if thread is _main else "sender" if thread.name.startswith(_SENDER) else "other"


class _CountingLock:
    """
    A lock, or a re-entrant one, that counts how often it is taken.
    """

    def __init__(self, lock: Any) -> None:  # noqa: ANN401 - two kinds, whose types have no public names in common
        self._lock = lock
        self.release = lock.release

    def __getattr__(self, name: str) -> object:
        return getattr(self._lock, name)

    def acquire(self, *arguments: object, **named: object) -> bool:
        if _watching:
            _acquired[_who()] += 1
        return bool(self._lock.acquire(*arguments, **named))

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _made(make: Callable[[], object]) -> Callable[[], object]:
    def made() -> object:
        whose = sys._getframe(1).f_globals.get("__name__", "")  # noqa: SLF001 - documented
        return make() if whose.startswith(_NOT_OURS) else _CountingLock(make())

    return made


def _on_call(frame: FrameType, event: str, _argument: object) -> None:
    if event == "call" and _watching:
        name = frame.f_code.co_filename
        if name.startswith(_PACKAGE) and not name.startswith(_FAKE):
            _called[_who()] += 1


def _connect(connect: Callable[..., sqlite3.Connection], *arguments: object, **named: object) -> sqlite3.Connection:
    connection = connect(*arguments, **named)
    connection.set_trace_callback(partial(_on_statement, connection))
    return connection


def _on_statement(connection: sqlite3.Connection, statement: str) -> None:
    writes = _writes(statement)
    _statements["write"] += writes
    # Outside of a transaction, a statement that writes is one by itself.
    _statements["commit"] += statement.startswith("COMMIT") or (writes and not connection.in_transaction)


def _writes(statement: str) -> bool:
    return statement.lstrip().upper().startswith(("INSERT", "UPDATE", "DELETE", "REPLACE"))


def counts() -> dict[str, float]:
    """
    Return all counts by name.
    """
    found: dict[str, float] = {}
    for kind, named in (("submit", {}), ("submit with a key", {"partition_key": "customer-7"})):
        found |= {f"{kind}: {what}": value for what, value in _sending(named).items()}
        found |= {f"{kind}: {what}": value for what, value in _holding(named).items()}
    found |= _waiting()
    found |= _racing()
    found |= _keeping()
    return found


def _sender(broker: FakeBroker) -> RetryingSender:
    # Late, because locks are replaced before the package is imported.
    package = import_module("safepulsar")
    registry = package.ClientRegistry(broker.connect)
    settings = package.SenderSettings(deadline_seconds=600.0, drain_on_sigterm=False)
    sender: RetryingSender = package.RetryingSender(broker.url, registry=registry, settings=settings)
    return sender.open()


def _broker() -> FakeBroker:
    broker: FakeBroker = import_module("safepulsar.testing").FakeBroker()
    return broker


def _submit(sender: RetryingSender, named: dict[str, str], count: int) -> None:
    for _ in range(count):
        sender.submit("bench", b"x" * 100, **named)  # type: ignore[arg-type]


def _sending(named: dict[str, str]) -> dict[str, float]:
    """
    Calls and locks, per message: of the application's thread, and of the sender's own.
    """
    global _watching  # noqa: PLW0603 - the counters are of the process
    threading.setprofile(_on_call)  # for the threads that the sender starts from here on
    broker = _broker()
    sender = _sender(broker)
    broker.freeze()
    _submit(sender, named, _FIRST)
    _acquired.clear()
    _called.clear()
    sys.setprofile(_on_call)
    _watching = True
    _submit(sender, named, _MESSAGES)
    _watching = False
    application = {
        "calls of ours by the application": _called["application"] / _MESSAGES,
        "locks taken by the application": _acquired["application"] / _MESSAGES,
    }
    sys.setprofile(None)
    _acquired.clear()
    _called.clear()
    before = broker.counts
    _watching = True
    broker.thaw()
    left = sender.flush(60.0)
    _watching = False
    threading.setprofile(None)
    after = broker.counts
    sent = after.messages - before.messages
    if left or sent != _FIRST + _MESSAGES:
        raise AssertionError(f"{sent} of {_FIRST + _MESSAGES} messages were sent")
    sender.close()
    return {
        **application,
        "calls of ours by the sender": _called["sender"] / sent,
        "locks taken by the sender": _acquired["sender"] / sent,
        "batches": (after.batches - before.batches) / sent,
        "flushes": (after.flushes - before.flushes) / sent,
        "callbacks": (after.answers - before.answers) / sent,
    }


def _holding(named: dict[str, str]) -> dict[str, float]:
    """
    Memory that Python holds for a message in flight.
    """
    broker = _broker()
    sender = _sender(broker)
    broker.freeze()
    _submit(sender, named, _FIRST)
    blocks = sys.getallocatedblocks()
    _submit(sender, named, _MESSAGES)
    blocks = sys.getallocatedblocks() - blocks
    tracemalloc.start()
    _submit(sender, named, _MESSAGES)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    broker.thaw()
    sender.close()
    return {"blocks of memory in flight": blocks / _MESSAGES, "bytes of memory in flight": size / _MESSAGES}


def _waiting() -> dict[str, float]:
    """
    Calls, locks, batches and flushes of a message that is waited for before the next one is sent.
    """
    global _watching  # noqa: PLW0603 - the counters are of the process
    threading.setprofile(_on_call)
    broker = _broker()
    sender = _sender(broker)
    sender.send("bench", b"x" * 100)
    before = broker.counts
    _acquired.clear()
    _called.clear()
    sys.setprofile(_on_call)
    _watching = True
    for _ in range(_SENT):
        sender.send("bench", b"x" * 100)
    _watching = False
    sys.setprofile(None)
    threading.setprofile(None)
    after = broker.counts
    sender.close()
    return {
        "send: calls of ours by the application": _called["application"] / _SENT,
        "send: locks taken by the application": _acquired["application"] / _SENT,
        "send: batches": (after.batches - before.batches) / _SENT,
        "send: flushes": (after.flushes - before.flushes) / _SENT,
    }


def _racing() -> dict[str, float]:
    """
    Producers opened by many threads that all want the same topics at once.
    """
    broker = _broker()
    sender = _sender(broker)
    start = threading.Barrier(_THREADS)

    def work() -> None:
        start.wait()
        for number in range(_TOPICS):
            sender.submit(f"bench-{number}", b"x")

    threads = [threading.Thread(target=work) for _ in range(_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sender.flush()
    created = broker.counts.producers_created
    clients = broker.counts.clients_created
    sender.close()
    return {"64 threads: producers opened per topic": created / _TOPICS, "64 threads: clients": clients}


def _keeping() -> dict[str, float]:
    """
    Transactions, each of them one sync of the disk, and statements that write, per message kept or put.
    """
    package, outboxes = import_module("safepulsar"), import_module("safepulsar.outbox")
    failed = import_module("benchmarks.subjects.store").failed("bench", b"x" * 100)
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o700)
        with package.SqliteFailedMessages(Path(folder) / "kept.db") as store:
            outbox = outboxes.Outbox(store, producer_name=lambda _message: "bench")
            for what, write, message in (("keep", store.keep, failed), ("outbox", outbox.put, failed.message)):
                write([message])
                for name, in_a_call in (("one at a time", 1), ("100 in a call", _IN_A_CALL)):
                    _statements.clear()
                    for _ in range(_CALLS):
                        write([message] * in_a_call)
                    written = _CALLS * in_a_call
                    found[f"{what}, {name}: commits"] = _statements["commit"] / written
                    found[f"{what}, {name}: statements that write"] = _statements["write"] / written
    return found


def main() -> None:
    """
    Print the counts as JSON.
    """
    threading.Lock = _made(_lock)  # type: ignore[assignment]
    threading.RLock = _made(_rlock)  # type: ignore[assignment]
    sqlite3.connect = partial(_connect, sqlite3.connect)  # type: ignore[assignment]
    print(json.dumps(counts(), indent=1))


if __name__ == "__main__":
    main()
