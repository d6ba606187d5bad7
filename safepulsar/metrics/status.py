"""
The numbers of this process on a socket of this machine, for `safepulsar top`. Off unless you ask for it.

    status = serve_status(metrics, "/run/orders/status.sock")

Only this user can connect: the socket is 0600, in a folder that is 0700. Whoever connects gets one JSON object.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import stat
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from safepulsar.at_fork import renew_in_child
from safepulsar.errors import InvalidSettings
from safepulsar.metrics.family import BUCKETS, Distribution

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from safepulsar.metrics.recorder import Metrics

log = logging.getLogger("safepulsar")
_SEND_SECONDS: Final = 2.0  # for whoever connects and does not read
_CLOSE_SECONDS: Final = 2.0
_LONGEST_PATH: Final = 100  # bytes; the system's own limit is a few more


class StatusServer:
    """
    Serves until `close`, on the thread `safepulsar-status`. A forked child serves nothing: ask for it there again.
    """

    def __init__(self, metrics: Metrics, path: Path, listening: socket.socket) -> None:
        self.path = path
        self._metrics = metrics
        self._listening = listening
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, name="safepulsar-status", daemon=True)
        self._thread.start()
        renew_in_child(self._after_fork)

    def close(self) -> None:
        """
        End, and remove the socket. Idempotent.
        """
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._listening.close()
        if self._process == os.getpid():
            self._thread.join(_CLOSE_SECONDS)
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _after_fork(self) -> None:
        self._listening.close()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return  # closed
            try:
                with connection:
                    connection.settimeout(_SEND_SECONDS)
                    connection.sendall(snapshot(self._metrics))
            except OSError:
                continue  # it went away, or does not read
            except Exception:  # the next one may have more luck
                log.exception("safepulsar.status_failed")


def serve_status(metrics: Metrics, path: str | os.PathLike[str]) -> StatusServer:
    """
    Serve the numbers of this process at `path`.

    Args:
        metrics: which are among the observers of the senders.
        path: of the socket; `{pid}` in it becomes the process's number. Its folder is made if it is missing.

    Raises:
        InvalidSettings: the folder is open to others, the path is taken or too long, or this system has no such sockets.
        OSError: it can't be made.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise InvalidSettings("path", "this system has no sockets in its file system")
    where = Path(str(os.fspath(path)).replace("{pid}", str(os.getpid()))).absolute()
    if len(os.fsencode(where)) > _LONGEST_PATH:
        raise InvalidSettings("path", f"has over {_LONGEST_PATH} bytes, which is too long for a socket")
    folder = where.parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise InvalidSettings(
            "path", f"the folder {str(folder)!r} must be this user's alone: chmod 700, or name another"
        )
    _make_way(where)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(os.fspath(where))
        where.chmod(0o600)
        listening.listen(8)
        return StatusServer(metrics, where, listening)
    except BaseException:
        listening.close()
        raise


def _make_way(where: Path) -> None:
    """
    Remove the socket of a process that has ended.
    """
    try:
        if not stat.S_ISSOCK(where.lstat().st_mode):
            raise InvalidSettings("path", f"{str(where)!r} is there already, and is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_SEND_SECONDS)
        try:
            probe.connect(os.fspath(where))
        except OSError:
            where.unlink(missing_ok=True)
            return
    raise InvalidSettings("path", f"another process serves at {str(where)!r}; put {{pid}} into the path")


def snapshot(metrics: Metrics) -> bytes:
    """
    All numbers as one JSON object.
    """
    families = [
        {
            "name": family.name,
            "kind": family.kind.value,
            "labels": family.labels,
            "samples": [
                [labels, {"counts": value.counts, "total": value.total} if isinstance(value, Distribution) else value]
                for labels, value in family.samples.items()
            ],
        }
        for family in metrics.collect()
    ]
    return json.dumps({"pid": os.getpid(), "time": time.time(), "buckets": BUCKETS, "families": families}).encode()
