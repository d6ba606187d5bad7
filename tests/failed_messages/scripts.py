"""
Scripts that use a store on disk in processes of their own, and a look at what they left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safepulsar.failed_messages import SqliteFailedMessages
from tests.subprocesses import run_script

if TYPE_CHECKING:
    from pathlib import Path

PREAMBLE = """
import os, sys, threading
from pathlib import Path

from safepulsar.errors import StoreUnavailable
from safepulsar.failed_messages import InMemoryFailedMessages, SqliteFailedMessages
from safepulsar.message import MessageId
from tests.failed_messages.samples import failed

path = sys.argv[1] if len(sys.argv) > 1 else None


def child(work):
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    finally:
        sys.stdout.flush()
        os._exit(status)


def wait(*pids):
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0
"""


def run(body: str, *arguments: object, timeout_seconds: float = 60.0) -> str:
    """
    Run a script that knows the store at `path`, its first argument, and return what it printed.
    """
    return run_script(PREAMBLE + body, *arguments, timeout_seconds=timeout_seconds).check()


def payloads(path: Path) -> list[str]:
    """
    Everything in a store, as text.
    """
    with SqliteFailedMessages(path) as store:
        found = [(message.message.payload or b"").decode() for message in store.find()]
        assert store.corrupted_ids() == ()
    return found
