"""
Threads: workers that carry the context of whoever started them, pools that drain, and calls that never block.

    threads = ThreadSender(sender)
    with threads.pool(max_workers=8) as pool:
        for order in orders:
            pool.submit(work, order)  # `work` sends by `threads`; the end of the block waits for every fate
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from functools import wraps
from typing import TYPE_CHECKING, TypeVar

from typing_extensions import ParamSpec

from safepulsar.checks import check_timeout
from safepulsar.errors import InvalidSettings, QueueFull, SafePulsarError, shown
from safepulsar.processes.process import Stage, process
from safepulsar.request_context import current_context, use_context
from safepulsar.sender import RetryingSender
from safepulsar.settings import WhenFull

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from typing_extensions import Self

    from safepulsar.books.handle import SendHandle
    from safepulsar.message import SendResult
    from safepulsar.serialization import Sendable

_P = ParamSpec("_P")
_R = TypeVar("_R")
_LONGEST_LANE = 1_000_000


def carry_context(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """
    The same function, which runs in any thread with the `RequestContext` of whoever calls this now.

    Only that, and not all context variables: those of Flask hold the request, which ends before its work does.
    """
    context = current_context()

    @wraps(function)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with use_context(context):
            return function(*args, **kwargs)

    return run


class ThreadSender:
    """
    A sender for threads. Safe in any of them, and after a fork.

    Args:
        sender: shared by all threads, which is the fast way: their messages go in common groups. Or a function that makes a
            sender: then each thread has its own, and producers of its own. Choose that where a topic that fails or a lane
            that stands for one thread must not hold up the others; it costs a producer for each topic and thread.
        waiting_messages: how many calls of `submit_nowait` may wait for room.

    Raises:
        InvalidSettings: the sender or the number is none.
    """

    def __init__(self, sender: RetryingSender | Callable[[], RetryingSender], *, waiting_messages: int = 1000) -> None:
        _check(sender, waiting_messages)
        self._shared = sender if isinstance(sender, RetryingSender) else None
        self._make = sender if not isinstance(sender, RetryingSender) else None
        self._most = waiting_messages
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()  # guards what follows
        self._own: dict[threading.Thread, RetryingSender] = {}
        self._lane: ThreadPoolExecutor | None = None
        self._waiting = 0  # calls of submit_nowait in the lane

    # -- sending ---------------------------------------------------------------------------------------------

    @property
    def sender(self) -> RetryingSender:
        """
        Of the current thread.

        Raises:
            InvalidSettings: the function made none, or one with named producers, of which there can be only one each.
        """
        if self._shared is not None:
            return self._shared
        thread = threading.current_thread()
        found = self._own.get(thread)
        return found if found is not None else self._make_own(thread)

    def send(
        self,
        topic: str,
        value: Sendable,
        *,
        partition_key: str | None = None,
        ordering_key: str | None = None,
        properties: Mapping[str, str] | None = None,
        deadline_seconds: float | None = None,
    ) -> SendResult:
        """
        As `RetryingSender.send`.
        """
        return self.sender.send(
            topic,
            value,
            partition_key=partition_key,
            ordering_key=ordering_key,
            properties=properties,
            deadline_seconds=deadline_seconds,
        )

    def submit(
        self,
        topic: str,
        value: Sendable,
        *,
        partition_key: str | None = None,
        ordering_key: str | None = None,
        properties: Mapping[str, str] | None = None,
        deadline_seconds: float | None = None,
    ) -> SendHandle:
        """
        As `RetryingSender.submit`: waits while there is no room.
        """
        return self.sender.submit(
            topic,
            value,
            partition_key=partition_key,
            ordering_key=ordering_key,
            properties=properties,
            deadline_seconds=deadline_seconds,
        )

    def submit_nowait(
        self,
        topic: str,
        value: Sendable,
        *,
        partition_key: str | None = None,
        ordering_key: str | None = None,
        properties: Mapping[str, str] | None = None,
        deadline_seconds: float | None = None,
    ) -> Future[SendResult]:
        """
        Accept one message without ever blocking; arguments as for `RetryingSender.submit`.

        With no room a thread of ours waits in place of the caller, until the message's deadline. The message is checked and
        copied here, and accepted once the future runs: until then `cancel()` keeps it from being sent.

        Raises:
            InvalidInput: refused; nothing was sent.
            QueueFull: as many wait as may; nothing was sent.
            SenderClosed: nothing was sent.
        """
        sender = self.sender
        engine = sender._started()
        handle = sender._prepare(
            engine, topic, value, partition_key, ordering_key, properties, None, None, None, deadline_seconds
        )
        future: Future[SendResult] = Future()
        if not self._waiting and handle._queue.outbox is None:  # an outbox writes to the disk
            try:
                engine.accept(handle, wait=False)
            except QueueFull as error:
                if sender.settings.when_full is not WhenFull.BLOCK:
                    engine.observers.refused(handle, error)
                    raise
            else:
                future.set_running_or_notify_cancel()
                handle.add_done_callback(lambda done: _settle(future, done))
                return future
        process.watch(self, Stage.SENDERS)
        with self._lock:
            if self._waiting >= self._most:
                msg = f"{self._waiting} messages wait for room already; this one was not accepted: send slower"
                raise QueueFull(msg)
            if self._lane is None:
                # An executor, because the interpreter lets it finish before it ends the senders.
                self._lane = ThreadPoolExecutor(1, thread_name_prefix="safepulsar-lane")
            self._lane.submit(self._wait_for_room, sender, handle, future)
            self._waiting += 1
        return future

    def _wait_for_room(self, sender: RetryingSender, handle: SendHandle, future: Future[SendResult]) -> None:
        try:
            if future.set_running_or_notify_cancel():
                sender._accept(handle)
                handle.add_done_callback(lambda done: _settle(future, done))
        except SafePulsarError as error:
            future.set_exception(error)
        finally:
            with self._lock:
                self._waiting -= 1

    # -- threads and pools -----------------------------------------------------------------------------------

    def pool(self, max_workers: int | None = None) -> ThreadPoolExecutor:
        """
        An executor whose tasks carry the context of whoever submits them, and whose shutdown also waits for every fate.
        """
        return _Pool(self, max_workers)

    def thread(self, target: Callable[_P, object], *args: _P.args, **kwargs: _P.kwargs) -> threading.Thread:
        """
        A thread, not started, that runs `target` with the context of whoever calls this.
        """
        return threading.Thread(target=carry_context(target), args=args, kwargs=kwargs)

    # -- the end ---------------------------------------------------------------------------------------------

    def flush(self, timeout: float | None = None) -> int:
        """
        As `RetryingSender.flush`, over the senders of all threads.
        """
        senders = [self._shared] if self._shared is not None else list(self._own.values())
        return sum(sender.flush(timeout) for sender in senders)

    def close(self, timeout: float | None = None) -> None:
        """
        Let what waits for room be accepted or refused, wait for every fate, and close the senders that were made here.

        A sender that was given stays open.
        """
        if timeout is not None:
            check_timeout(timeout)
        with self._lock:
            lane, self._lane = self._lane, None
        if lane is not None:
            lane.shutdown(wait=True)
        self._flush_shared(timeout)
        with self._lock:
            own = list(self._own.values())
            self._own.clear()
        for sender in own:
            sender.close(timeout)
        process.forget(self, Stage.SENDERS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """
        Close, also if the block raised.
        """
        self.close()

    def at_exit(self) -> None:
        """
        The process ends: those who wait for room are heard; the senders close themselves.
        """
        with self._lock:
            lane, self._lane = self._lane, None
        if lane is not None:
            lane.shutdown(wait=True)

    def after_fork(self) -> None:
        """
        In a forked child: begin afresh. What waited in the parent is the parent's.
        """
        self._begin()

    # -- inside ----------------------------------------------------------------------------------------------

    def _flush_shared(self, timeout: float | None) -> None:
        if self._shared is not None and not self._shared.closed:
            self._shared.flush(timeout)

    def _make_own(self, thread: threading.Thread) -> RetryingSender:
        assert self._make is not None  # noqa: S101 - else there is a shared one
        sender: object = self._make()
        if not isinstance(sender, RetryingSender):
            raise InvalidSettings("sender", f"the function must return a RetryingSender, not {shown(sender)}")
        settings = sender.settings
        if any(each.producer_name is not None for each in (settings.topic_defaults, *settings.topics.values())):
            problem = "names a producer, which only one thread could have; share one sender between the threads"
            raise InvalidSettings("sender", problem)
        process.watch(self, Stage.SENDERS)
        with self._lock:
            ended = [each for each in self._own if not each.is_alive()]
            leaving = [self._own.pop(each) for each in ended]
            self._own[thread] = sender
        for each in leaving:
            each.close()
        return sender


class _Pool(ThreadPoolExecutor):
    """
    See `ThreadSender.pool`.
    """

    def __init__(self, owner: ThreadSender, max_workers: int | None) -> None:
        super().__init__(max_workers, thread_name_prefix="safepulsar-pool")
        self._owner = owner

    def submit(self, fn: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_R]:
        """
        Run `fn` in a worker, with the context of whoever calls this.
        """
        return super().submit(carry_context(fn), *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - the executor's
        """
        End the workers, and, if it waits at all, wait for the fate of all that they sent.
        """
        super().shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            self._owner.flush()


def _check(sender: object, waiting_messages: object) -> None:
    if not isinstance(sender, RetryingSender) and not callable(sender):
        problem = f"must be a RetryingSender, or a function that makes one, not {shown(sender)}"
        raise InvalidSettings("sender", problem)
    if type(waiting_messages) is not int or not 1 <= waiting_messages <= _LONGEST_LANE:
        problem = f"must be a whole number from 1 to {_LONGEST_LANE}, not {shown(waiting_messages)}"
        raise InvalidSettings("waiting_messages", problem)


def _settle(future: Future[SendResult], handle: SendHandle) -> None:
    error = handle.exception()
    if error is None:
        future.set_result(handle.result())
    else:
        future.set_exception(error)
