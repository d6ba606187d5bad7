"""
An application with an outbox that is killed (-9) at a named point of a message's life, or at any moment; many in a row.

One process imports everything and then forks once for each of them, so that a round takes a fraction of a second.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from safepulsar import Durability, LanePolicy, RetryingSender, RetrySettings, SenderSettings, TopicSettings
from safepulsar.delivery.group import Delivery
from safepulsar.exactly_once.producer_journal import JournalClaim
from safepulsar.exactly_once.search import Search
from safepulsar.failed_messages import SqliteFailedMessages
from safepulsar.outbox import Outbox, OutboxClaim, rows
from safepulsar.outbox.relay import OutboxRelay

if TYPE_CHECKING:
    from collections.abc import Callable

NEVER: Final = "never"  # it ends by itself
ANY_MOMENT: Final = "any moment"
POINTS: Final = (
    "before the write",
    "after the write, before the commit",
    "after the commit, before the acceptance",
    "after the acceptance, before the return",
    "after the return",
    "before the hand-over",
    "after the hand-over",
    "after the answer",
    "after the answer is noted",
    "before the removal",
    "in the removal, before the commit",
    "after the removal",
    "before a position is recorded",
    "after a position is recorded",
    "before taking",
    "after taking",
    "before looking for what is stored",
    "after looking for what is stored",
    "before the claim is released",
)
_THREADS: Final = 3
_PATIENCE_SECONDS: Final = 60.0
_LONGEST_SECONDS: Final = 0.6  # of a life that ends at any moment


def settings(*, mix_keys: bool) -> SenderSettings:
    """
    Of the application, and of whoever sends for it.
    """
    topic = TopicSettings(
        producer_name="shop", durability=Durability.OUTBOX, mix_keys=mix_keys, lane_policy=LanePolicy.SKIP
    )
    return SenderSettings(
        topic_defaults=topic,
        retry=RetrySettings(max_retries=1000, max_delay_seconds=0.2),
        deadline_seconds=_PATIENCE_SECONDS,
        drain_on_sigterm=False,
    )


class _Point:
    """
    Kills this process when it comes to a point for the n-th time.
    """

    def __init__(self, name: str, count: int) -> None:
        self._name = name
        self._left = count

    def at(self, name: str) -> None:
        """
        It is there.
        """
        if name == self._name:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: object, name: str, before: str = "", after: str = "") -> None:
        """
        A function begins and ends at these points.
        """
        function: Callable[..., Any] = getattr(owner, name)

        def passing(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401  # whatever it is
            self.at(before)
            answer = function(*arguments, **named)
            self.at(after)
            return answer

        setattr(owner, name, passing)

    def put(self) -> None:
        """
        What `Outbox.put` calls in between has points, too.
        """
        put = Outbox.put

        def passing(outbox: Outbox, messages: Any, on_committed: Any = None) -> list[int]:  # noqa: ANN401  # as it is
            def accept(*arguments: Any) -> None:  # noqa: ANN401  # as it is
                self.at("after the commit, before the acceptance")
                on_committed(*arguments)
                self.at("after the acceptance, before the return")

            return put(outbox, messages, accept)

        Outbox.put = passing  # type: ignore[assignment, method-assign]


def _install(point: _Point) -> None:
    for insert in ("insert", "insert_if_last"):
        point.around(rows, insert, "before the write", "after the write, before the commit")
    point.put()
    point.around(Delivery, "hand_over", "before the hand-over", "after the hand-over")
    point.around(Delivery, "settle", "after the answer", "after the answer is noted")
    point.around(rows, "delete", "", "in the removal, before the commit")
    point.around(Outbox, "remove", "before the removal", "after the removal")
    point.around(JournalClaim, "record", "before a position is recorded", "after a position is recorded")
    point.around(OutboxClaim, "take", "before taking", "after taking")
    point.around(Search, "run", "before looking for what is stored", "after looking for what is stored")
    point.around(OutboxRelay, "close", "before the claim is released", "")


def append(path: Path, text: str) -> None:
    """
    One line, which outlives this process.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, f"{text}\n".encode())
    os.close(descriptor)


def _live(url: str, topic: str, folder: Path, number: int, point: _Point, messages: int) -> None:
    """
    One life of the application: several threads submit, and it ends in order if nothing kills it.
    """
    _install(point)
    sender = RetryingSender(url, failed_messages=folder / "shop.db", settings=settings(mix_keys=number % 2 == 1)).open()

    def submit(thread: int) -> None:
        for each in range(messages):
            text = f"{number} {thread} {each}"
            sender.submit(topic, text, partition_key=str(thread))
            point.at("after the return")
            append(folder / "accepted", text)

    threads = [threading.Thread(target=submit, args=(thread,)) for thread in range(_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sender.flush(_PATIENCE_SECONDS) == 0
    assert sender.close().clean


def main() -> None:
    """
    Live once for each `[point, count, messages]` of the plan. Prints how many were killed.
    """
    url, topic, folder, plan, seed = sys.argv[1:]
    dice = random.Random(int(seed))  # noqa: S311  # guards nothing
    killed = 0
    for number, (name, count, messages) in enumerate(json.loads(plan)):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                _live(url, topic, Path(folder), number, _Point(name, count), messages)
                code = 0
            except BaseException:  # noqa: BLE001  # it must not go on as its parent
                traceback.print_exc()
            finally:
                os._exit(code)
        if name == ANY_MOMENT:
            threading.Event().wait(dice.uniform(0, _LONGEST_SECONDS))
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        assert status in (0, signal.SIGKILL), f"round {number} ({name}, {count}) ended with {status}"
        killed += status != 0
        print(f"round {number}: {name}, {status}", flush=True)  # noqa: T201  # progress
    print(f"killed {killed}", flush=True)  # noqa: T201  # to the test


def waiting(store: Path) -> int:
    """
    How many messages the outbox holds.
    """
    with SqliteFailedMessages(store) as opened:
        return Outbox(opened, producer_name=lambda _: "shop").stats()["waiting"]
