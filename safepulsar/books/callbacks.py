"""
Telling the application: waiting threads and event loops at once, done callbacks on a thread of their own.
"""

from __future__ import annotations

import logging
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING

from safepulsar.books.worker import start_thread

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future
    from collections.abc import Callable, Iterable

    from safepulsar.books.awaiting import Alarm
    from safepulsar.books.handle import SendHandle

log = logging.getLogger("safepulsar")
_LOCK = type(threading.Lock())


class Callbacks:
    """
    Runs done callbacks, one after the other, on the thread `safepulsar-callbacks`, started with the first one.

    A callback that raises is logged; one that blocks delays other callbacks, and no message.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[tuple[Callable[[SendHandle], object], SendHandle] | None] = SimpleQueue()
        # Guards _thread. Re-entrant, because a signal handler may close the sender in the middle of `start`.
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self.alarms: dict[AbstractEventLoop, Alarm] = {}  # each is its own loop's alone

    def start(self) -> None:
        """
        Have the thread, as soon as there is a callback for it: at its exit Python 3.12 may start none any more.

        Raises:
            RuntimeError: no thread can be had.
        """
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    thread = threading.Thread(target=self._run, name="safepulsar-callbacks", daemon=True)
                    start_thread(thread)
                    self._thread = thread

    def put(self, callback: Callable[[SendHandle], object], handle: SendHandle) -> None:
        """
        Run `callback(handle)` soon. Never raises: whoever tells of a fate has others to tell.
        """
        self._queue.put((callback, handle))
        try:
            self.start()
        except RuntimeError:
            log.exception("safepulsar.callback_waits", extra={"topic": handle.topic})

    def tell(self, handle: SendHandle) -> None:
        """
        Tell whoever waits for this one, which just became final.
        """
        tell((handle,), self)

    def runs_here(self) -> bool:
        """
        Whether a callback asks, which therefore can't wait for callbacks.
        """
        return self._thread is threading.current_thread()

    def close(self, timeout: float) -> bool:
        """
        Run what is waiting and end; False if a callback did not return in time.

        Called by a callback, it can't wait for itself, and the thread ends after it.
        """
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is None:
            return True
        self._queue.put(None)
        if thread is threading.current_thread():
            return True
        thread.join(max(0.0, timeout))
        return not thread.is_alive()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            callback, handle = item
            try:
                callback(handle)
            except BaseException:  # also SystemExit: a callback decides nothing about this thread
                log.exception("safepulsar.callback_failed", extra={"topic": handle.topic})


def tell(handles: Iterable[SendHandle], callbacks: Callbacks) -> int:
    """
    Tell whoever waits for `handles`, which just became final, and return how many were waiting.

    Called without a lock. Coroutines of one loop are woken together: a wake-up of a loop costs a system call.
    """
    waiting = 0
    loops: dict[AbstractEventLoop, list[Future[None]]] | None = None
    for handle in handles:
        watchers = handle._watchers
        if watchers is None:
            continue
        handle._watchers = None
        for watcher in watchers:
            waiting += 1
            if isinstance(watcher, _LOCK):
                watcher.release()
            elif isinstance(watcher, tuple):
                if loops is None:
                    loops = {}
                loops.setdefault(watcher[0], []).append(watcher[1])
            else:
                waiting -= 1
                callbacks.put(watcher, handle)
    for loop, futures in (loops or {}).items():
        try:
            loop.call_soon_threadsafe(_resolve, futures)
        except RuntimeError:
            # The loop is closed: nobody waits there any more. The fate is booked, and nothing is lost.
            log.debug("safepulsar.loop_closed", extra={"waiting": len(futures)})
    return waiting


def _resolve(futures: list[Future[None]]) -> None:
    for future in futures:
        if not future.done():  # a cancelled wait
            future.set_result(None)
