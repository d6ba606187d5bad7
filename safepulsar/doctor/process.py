"""
What this process and this machine mean for safety: the client library, forks, and the store of failed messages.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Final

from safepulsar.doctor.finding import Finding, Level
from safepulsar.errors import StoreError
from safepulsar.failed_messages import SqliteFailedMessages

if TYPE_CHECKING:
    from safepulsar.broker.client_registry import ClientRegistry
    from safepulsar.failed_messages.encryption import PayloadEncryption

_KNOWN: Final = "3.13"  # whose hazards, and whose internals, this package was made for
_MOST_READ: Final = 1000
_MOST_NAMED: Final = 5
_PRELOAD: Final = re.compile(r"^\s*preload_app\s*=\s*True\b", re.MULTILINE)


def examine_library() -> Finding:
    """
    Whether the client library is the one whose hazards are known.
    """
    try:
        version = importlib.metadata.version("pulsar-client")
    except importlib.metadata.PackageNotFoundError:
        version = "an unknown version"
    if version.startswith(f"{_KNOWN}."):
        return Finding(
            id="client-library",
            level=Level.OK,
            what=f"pulsar-client {version}; used directly it can abort at exit, hang after a fork, and lose what a "
            "callback did not look at: safepulsar works round each of these",
        )
    return Finding(
        id="client-library",
        level=Level.WARN,
        what=f"pulsar-client {version}: safepulsar was tested with {_KNOWN}",
        remedy=f"pip install 'pulsar-client~={_KNOWN}.0'",
    )


def examine_fork(registry: ClientRegistry) -> Finding:
    """
    Whether a client could be inherited by a forked process, in which it hangs.
    """
    preloading = _preloading()
    if preloading:
        return Finding(
            id="fork",
            level=Level.WARN,
            what=f"gunicorn forks after it has imported the application ({preloading}): a raw client that is open by then "
            "hangs in every worker; a RetryingSender starts afresh there",
            remedy="make no pulsar.Client at import; a RetryingSender opens nothing before its first use",
        )
    if registry.clients():
        return Finding(
            id="fork",
            level=Level.OK,
            what="a client is open in this process; a child that is forked now makes a new one at its first use, and a raw "
            "client would hang in it",
        )
    return Finding(
        id="fork",
        level=Level.OK,
        what="no client is open in this process and no preloading gunicorn is configured (a raw client that is open at a "
        "fork hangs in the child, a RetryingSender starts afresh)",
    )


def examine_store(path: str | os.PathLike[str] | None, encryption: PayloadEncryption | None = None) -> Finding:
    """
    Whether failed messages can be kept, whether some wait, and whether the oldest of them can be read.
    """
    if path is None:
        return Finding(
            id="failed-messages",
            level=Level.WARN,
            what="no store of failed messages was named; without one they are gone with the process",
            remedy='RetryingSender(…, failed_messages="failed.db")',
        )
    shown = str(path)
    if not os.path.lexists(path):
        return Finding(
            id="failed-messages", level=Level.OK, what=f"no store at {shown!r} yet; it is made when it is needed"
        )
    try:
        with SqliteFailedMessages(path, encryption=encryption) as store:
            numbers = store.stats()
            if encryption is not None:  # without the keys it can't be told, and is no fault
                for _ in store.find(limit=_MOST_READ):
                    pass
            damaged = store.corrupted_ids()
    except StoreError as error:
        return Finding(
            id="failed-messages",
            level=Level.BAD,
            what=str(error),
            remedy="as the text says; until then, what fails is not kept",
        )
    if damaged:
        ids = " ".join(f"--id {number}" for number in damaged[:_MOST_NAMED])
        return Finding(
            id="failed-messages",
            level=Level.BAD,
            what=f"{len(damaged):,} of the failed messages in {shown!r} are damaged, or were encrypted with other keys",
            remedy=f"give it the right keys; what is damaged: safepulsar failed purge --failed {shlex.quote(shown)} {ids}",
        )
    waiting = numbers["kept"] + numbers["claimed"]
    if not waiting:
        return Finding(id="failed-messages", level=Level.OK, what=f"{shown!r} is sound and empty")
    return Finding(
        id="failed-messages",
        level=Level.WARN,
        what=f"{waiting:,} failed messages wait in {shown!r}, the oldest for {numbers['oldest_age_seconds']:,.0f} s",
        remedy=f"safepulsar failed list --failed {shlex.quote(shown)}, then replay",
    )


def _preloading() -> str:
    if "--preload" in os.environ.get("GUNICORN_CMD_ARGS", "").split():
        return "--preload in GUNICORN_CMD_ARGS"
    for name in ("gunicorn.conf.py", "gunicorn_config.py"):
        try:
            text = Path(name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # there is none, which is usual
        if _PRELOAD.search(text):
            return f"preload_app in {name}"
    return ""
