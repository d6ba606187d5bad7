"""
A load as of a busy shop: several threads send real orders in every way there is, and write down what they saw.
"""

from __future__ import annotations

import asyncio
import random
import threading
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, Final

from tests.faults.orders import orders_of
from tests.faults.ways import MANY, Ways

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType
    from typing import TypeAlias

    from typing_extensions import Self

    from safepulsar import RetryingSender
    from tests.faults.orders import Order
    from tests.faults.ways import Late
    from tests.history import History

    # The orders of one worker, and what it does at random.
    _Share: TypeAlias = tuple[Iterator[Order], random.Random]

_ONLY_SUBMIT: Final = 2
_PATIENCE_SECONDS: Final = 30.0  # for a call to return that nothing holds up any more


class Load:
    """
    Workers that send until told to stop. In a `with` block; at its end they have stopped.

    The first two only submit, so that a broker that is away does not keep everybody waiting; the others send in all
    ways in turn. One customer's orders come from one worker, in their order.

    Args:
        sender: when it is closed, the workers end.
        topic: full name.
        history: where each attempt, acceptance and fate is recorded.
        seed: of what is done when.
        workers: how many threads.
        keyed: every message has a partition key.
        daemon: whether the threads are daemons.
        pause_seconds: the longest pause of a worker between two calls.
        most: the most messages of a call, and of a row of submits.
        deadline_seconds: of each message.
    """

    def __init__(
        self,
        sender: RetryingSender,
        topic: str,
        history: History,
        *,
        seed: int,
        workers: int = 6,
        keyed: bool = False,
        daemon: bool = False,
        pause_seconds: float = 0.03,
        most: int = 30,
        deadline_seconds: float = 10.0,
    ) -> None:
        self._stopped = threading.Event()
        self._ways = Ways(sender, topic, history, deadline_seconds=deadline_seconds, closed=self._stopped)
        self._pause_seconds = pause_seconds
        self._most = min(most, MANY)
        self._patience_seconds = deadline_seconds + _PATIENCE_SECONDS
        self._failures: list[BaseException] = []
        # One more than there are threads: that of `work_here`.
        self._shares: list[_Share] = [
            (orders_of(topic, number, workers + 1, keyed=keyed), random.Random(seed + number))  # noqa: S311  # guards nothing
            for number in range(workers + 1)
        ]
        self._threads = [
            threading.Thread(
                target=self._guarded(self._shares[number], only_submit=number < _ONLY_SUBMIT),
                name=f"load-{number}",
                daemon=daemon,
            )
            for number in range(workers)
        ]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is None:
            self.stop()
        else:  # who is held up by what went wrong need not be waited for: the sender's end will let them go
            self._stopped.set()

    @property
    def late(self) -> Sequence[Late]:
        """
        The calls that returned after their deadline.
        """
        return self._ways.late

    def start(self) -> None:
        """
        Start the workers.
        """
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """
        Let every worker finish the call that it is in, and wait for it.

        Raises:
            AssertionError: one did not return, or got an error that no call may raise.
        """
        self._stopped.set()
        for thread in self._threads:
            thread.join(self._patience_seconds)
        hung = [thread.name for thread in self._threads if thread.is_alive()]
        assert not hung, f"{hung} did not return from a call"
        if self._failures:
            raise AssertionError(f"a worker got {self._failures[0]!r}") from self._failures[0]

    def work_here(self) -> None:
        """
        Be one more worker, with customers of its own, until stopped or until the sender is closed.
        """
        self._work(self._shares[-1], only_submit=False)

    def _guarded(self, share: _Share, *, only_submit: bool) -> Callable[[], None]:
        def run() -> None:
            try:
                self._work(share, only_submit=only_submit)
            except BaseException as error:  # noqa: BLE001  # `stop` raises it where it is seen
                self._failures.append(error)

        return run

    def _work(self, share: _Share, *, only_submit: bool) -> None:
        orders, rng = share
        ways = self._ways
        with closing(asyncio.new_event_loop()) as loop:
            choices: list[Callable[[Sequence[Order]], object]] = [ways.submit]
            if not only_submit:
                choices += [ways.send, ways.result, ways.send_many]
                choices.append(lambda some: loop.run_until_complete(ways.awaited(some)))
            while not self._stopped.wait(rng.uniform(0, self._pause_seconds)):
                rng.choice(choices)(list(islice(orders, rng.randint(1, self._most))))
