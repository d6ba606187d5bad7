"""
Waiting for a message in a coroutine: one timer of the loop for many waits, and an error that tells what a cancelled one means.

Imported with the first `await`: asyncio takes long to import, and threads need none of it.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from typing import TYPE_CHECKING, Final

from safepulsar.errors import NoRunningLoop

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import NoReturn

    from safepulsar.books.handle import SendHandle

_STEP_SECONDS = 0.05  # so much later an alarm may come; what it guards is late already
# Whether timeouts take a kind of CancelledError for one; before, `asyncio.timeout` lets it pass (python/cpython#113848).
_KINDS_ARE_KNOWN: Final = sys.version_info >= (3, 12, 2) or (3, 11, 8) <= sys.version_info < (3, 12)


class AwaitCancelled(asyncio.CancelledError):
    """
    The task that awaited a message was cancelled; and this became of the message.

    Before Python 3.11.8, and in 3.12.0 and 3.12.1, it is the cause of a plain CancelledError, because timeouts know no
    other there; `within` finds it everywhere.

    Attributes:
        surely_not_sent: True if it was taken back before it was handed over, or never accepted: it is in no topic and in
            no store. False if it goes on: it is delivered or kept, and accounted for.
        handle: of the message, to ask for its fate later; None if it was never accepted.
    """

    def __init__(self, topic: str, handle: SendHandle | None, *, surely_not_sent: bool) -> None:
        what = "it was not handed over, and surely not sent" if surely_not_sent else "it goes on, and is accounted for"
        super().__init__(f"the wait for a message for topic {topic!r} was cancelled; {what}")
        self.surely_not_sent = surely_not_sent
        self.handle = handle

    @staticmethod
    def within(error: BaseException) -> AwaitCancelled | None:
        """
        The one that `error` is or came of: a TimeoutError, or the plain CancelledError of a task.
        """
        chain: BaseException | None = error
        passed: set[int] = set()
        while chain is not None and id(chain) not in passed:
            if isinstance(chain, AwaitCancelled):
                return chain
            passed.add(id(chain))
            chain = chain.__cause__ or chain.__context__
        return None


def raise_cancelled(topic: str, handle: SendHandle | None, *, surely_not_sent: bool) -> NoReturn:
    """
    Tell the task that was cancelled.

    Raises:
        AwaitCancelled: see the class.
        CancelledError: of which that is the cause.
    """
    told = AwaitCancelled(topic, handle, surely_not_sent=surely_not_sent)
    if _KINDS_ARE_KNOWN:
        raise told from None
    raise asyncio.CancelledError(str(told)) from told


class Alarm:
    """
    Resolves futures of one loop when their time has come, many by one timer. For the loop's own thread.

    A timer for each costs three times as much as the wait itself, and nearly all of them are cancelled.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due: dict[int, set[asyncio.Future[None]]] = {}

    def set(self, moment: float, future: asyncio.Future[None]) -> set[asyncio.Future[None]]:
        """
        Resolve `future` soon after `moment`, unless it is discarded from the set that is returned.
        """
        step = math.ceil(moment / _STEP_SECONDS)
        futures = self._due.get(step)
        if futures is None:
            futures = self._due[step] = set()
            self._loop.call_later(max(0.0, step * _STEP_SECONDS - time.monotonic()), self._ring, step)
        futures.add(future)
        return futures

    def _ring(self, step: int) -> None:
        for future in self._due.pop(step):
            if not future.done():
                future.set_result(None)


def wait_in_loop(handle: SendHandle, until: float) -> Generator[object, None, None]:
    """
    Wait until the fate is known, or until so late, on the clock of `time.monotonic`.

    Raises:
        AwaitCancelled: the task was cancelled; the message goes on.
        NoRunningLoop: there is no loop in this thread.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise NoRunningLoop("no event loop runs in this thread; use handle.result() here") from None
    future: asyncio.Future[None] = loop.create_future()
    watcher = loop, future
    if not handle._watch(watcher):
        return
    alarms = handle._queue.callbacks.alarms
    alarm = alarms.get(loop)
    if alarm is None:
        for other in [each for each in alarms if each.is_closed()]:
            alarms.pop(other, None)
        alarm = alarms[loop] = Alarm(loop)
    due = alarm.set(until, future)
    try:
        yield from future
    except asyncio.CancelledError:
        raise_cancelled(handle.topic, handle, surely_not_sent=False)
    finally:
        due.discard(future)
        handle._unwatch(watcher)
