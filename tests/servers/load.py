"""
Clients that send orders to a server at the same time, and remember what they were answered.
"""

from __future__ import annotations

import http.client
import itertools
import json
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from safepulsar import SqliteFailedMessages
from safepulsar.broker_process import LOOPBACK
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self

    from tests.brokers import Record

CLIENTS: Final = 8
_REQUEST_SECONDS: Final = 30.0
_REQUESTS_PER_CONNECTION: Final = 10  # then another, which another worker may take
_PAUSE_SECONDS: Final = 0.02  # after a failure: the server may be about to end, or about to begin


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """
    An answer with the status 200.

    Attributes:
        path: of the endpoint.
        pid: of the process that gave it.
    """

    path: str
    pid: int


class Load:
    """
    Eight clients that post orders, each with a number of its own, until they are told to stop. In a `with` block.

    Nothing is asked twice: what was not answered may be in the topic or not, and is in it once at most.

    Args:
        port: of the server.
        paths: of the endpoints, in turn.
        clients: so many.
        prefix: of the requests' numbers.

    Attributes:
        answered: by the number of the request.
        refused: other answers, by their status.
        broken: requests without an answer.
    """

    def __init__(self, port: int, paths: Sequence[str], *, clients: int = CLIENTS, prefix: str = "order") -> None:
        self.answered: dict[str, Answer] = {}
        self.refused: Counter[int] = Counter()
        self.broken = 0
        self._port = port
        self._paths = paths
        self._prefix = prefix
        self._numbers = itertools.count(1)  # its next is atomic
        self._lock = threading.Lock()  # guards the three above
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name=f"client-{number}") for number in range(clients)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """
        Ask nothing more, and wait for the answers.
        """
        self._over.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, count: int, *, workers: int = 1, timeout_seconds: float = 40.0) -> None:
        """
        Wait until so many more requests are answered, and so many processes have answered any.
        """
        last = len(self.answered) + count

        def enough() -> bool:
            return len(self.answered) >= last and len(self.pids()) >= workers

        try:
            wait_until(enough, f"{count} answers of {workers} workers", timeout_seconds=timeout_seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self!r}, by {self.pids()}") from None

    def pids(self) -> set[int]:
        """
        Of the processes that have answered.
        """
        with self._lock:
            return {answer.pid for answer in self.answered.values()}

    def __repr__(self) -> str:
        return f"<Load: {len(self.answered)} answered, refused {dict(self.refused)}, {self.broken} broken>"

    def _run(self, number: int) -> None:
        connection = http.client.HTTPConnection(LOOPBACK, self._port, timeout=_REQUEST_SECONDS)
        paths = itertools.cycle([*self._paths[number % len(self._paths) :], *self._paths[: number % len(self._paths)]])
        for request in itertools.count(1):
            if self._over.is_set():
                break
            if request % _REQUESTS_PER_CONNECTION == 0:
                connection.close()
            name, path = f"{self._prefix}-{next(self._numbers)}", next(paths)
            try:
                connection.request("POST", f"{path}?id={name}")
                response = connection.getresponse()
                body = json.loads(response.read()) if response.status == http.HTTPStatus.OK else {}
            except (OSError, http.client.HTTPException, ValueError):  # the last if it was cut off in its middle
                connection.close()
                with self._lock:
                    self.broken += 1
                self._over.wait(_PAUSE_SECONDS)
                continue
            with self._lock:
                if response.status == http.HTTPStatus.OK:
                    self.answered[name] = Answer(path=path, pid=body["pid"])
                else:
                    self.refused[response.status] += 1
        connection.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """
    What a topic holds, compared with what was answered.

    Attributes:
        lost: answered, and neither in the topic nor in the store of failed messages.
        kept: in the store.
        twice: in the topic more than once.
        producers: the names of the producers of each process.
    """

    lost: dict[str, Answer]
    kept: dict[str, str]
    twice: dict[str, int]
    producers: dict[int, set[str]]


def compare(load: Load, records: Iterable[Record], store: Path) -> Found:
    """
    Compare, with the store of failed messages too; a server may have kept nothing, and then made none.
    """
    counts: Counter[str] = Counter()
    producers: defaultdict[int, set[str]] = defaultdict(set)
    for record in records:
        order = json.loads(record.payload)
        counts[order["id"]] += 1
        producers[order["pid"]].add(record.producer_name)
    kept: dict[str, str] = {}
    if store.exists():
        with SqliteFailedMessages(store) as failed:
            for each in failed.find():
                kept[json.loads(each.message.payload or b"")["id"]] = f"{each.certainty.name} {each.error}"
    return Found(
        lost={name: answer for name, answer in load.answered.items() if name not in counts and name not in kept},
        kept=kept,
        twice={name: count for name, count in counts.items() if count > 1},
        producers=dict(producers),
    )
