"""
Telling the application: everyone who waits is told, callbacks run on their own thread, and none can do harm.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, cast

import pytest

from safepulsar.books.callbacks import Callbacks, tell
from safepulsar.books.handle import SendHandle, State
from safepulsar.books.ledger import Ledger
from safepulsar.errors import DeadlineExceeded, ForkedProcess, InvalidInput, SendFailed
from safepulsar.message import Certainty, Fate, MessageId, SendResult
from safepulsar.settings import ProducerSettings, SenderSettings
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safepulsar.delivery.send_queue import SendQueue

_TOPIC = "persistent://public/default/t"
_LONG_SECONDS = 30.0


class _Queue:
    """
    What a handle needs of its queue.
    """

    def __init__(self, callbacks: Callbacks) -> None:
        self.topic = _TOPIC
        self.settings = ProducerSettings(topic=_TOPIC)
        self.ledger = Ledger(SenderSettings())
        self.callbacks = callbacks
        self.forked = False
        self.crew = self

    def hurry_locked(self) -> None:
        """
        Nothing is on its way here.
        """

    def handle(self, *, deadline_seconds: float = _LONG_SECONDS, size_bytes: int = 10) -> SendHandle:
        moment = time.monotonic()
        queue = cast("SendQueue", self)
        return SendHandle(
            queue, b"payload", "key", None, {"p": "canary"}, size_bytes, moment, moment + deadline_seconds
        )

    def settle(self, handle: SendHandle, message_id: MessageId | None = None) -> int:
        """
        Make the handle final and tell whoever waits.
        """
        with self.ledger.lock:
            if message_id is None:
                message = handle.message()
                handle._error = SendFailed(
                    message, attempts=[], certainty=Certainty.NOT_STORED, failed_message_id=1, cause="it was so"
                )
            else:
                handle._message_id = message_id
                handle._index = 0
            handle._final_at = time.monotonic()
            handle._state = State.FINAL
        return tell([handle], self.callbacks)


class _Block:
    """
    A callback that does not return until it may.
    """

    def __init__(self) -> None:
        self.entered, self.release = threading.Event(), threading.Event()

    def __call__(self, _handle: SendHandle) -> None:
        self.entered.set()
        self.release.wait(_LONG_SECONDS)


@pytest.fixture
def callbacks() -> Iterator[Callbacks]:
    """
    Callbacks that are closed after the test.
    """
    made = Callbacks()
    yield made
    assert made.close(_LONG_SECONDS)


@pytest.fixture
def queue(callbacks: Callbacks) -> _Queue:
    """
    A queue whose handles use them.
    """
    return _Queue(callbacks)


_STORED = MessageId(7, 3)


def test_a_callback_runs_on_its_own_thread(queue: _Queue) -> None:
    """
    The callback gets the final handle, on a thread that is neither the one that told nor a native one.
    """
    done = threading.Event()
    seen: list[tuple[SendHandle, bool, str]] = []

    def callback(handle: SendHandle) -> None:
        seen.append((handle, handle.done(), threading.current_thread().name))
        done.set()

    handle = queue.handle()
    handle.add_done_callback(callback)
    assert not seen
    assert queue.settle(handle, _STORED) == 0, "nobody waits"
    assert done.wait(_LONG_SECONDS)
    assert seen == [(handle, True, "safepulsar-callbacks")]


def test_a_callback_that_comes_late_runs_all_the_same(queue: _Queue) -> None:
    """
    On a handle whose fate is known a callback runs at once, on the same thread as all others.
    """
    handle = queue.handle()
    queue.settle(handle, _STORED)
    names: SimpleQueue[str] = SimpleQueue()
    handle.add_done_callback(lambda _: names.put(threading.current_thread().name))
    assert names.get(timeout=_LONG_SECONDS) == "safepulsar-callbacks"


def test_callbacks_run_one_after_the_other_in_order(queue: _Queue) -> None:
    """
    Callbacks never overlap, and come in the order in which fates became known.
    """
    order: list[int] = []
    running = threading.Lock()

    def note(number: int, _handle: SendHandle) -> None:
        assert running.acquire(blocking=False)
        order.append(number)
        running.release()

    for number in range(200):
        handle = queue.handle()
        handle.add_done_callback(partial(note, number))
        queue.settle(handle, _STORED)
    assert queue.callbacks.close(_LONG_SECONDS)
    assert order == list(range(200))


class _Odd(BaseException):
    pass


@pytest.mark.parametrize(
    "error", [ValueError("oh"), SystemExit(3), KeyboardInterrupt(), _Odd()], ids=lambda e: type(e).__name__
)
def test_a_raising_callback_changes_nothing(
    queue: _Queue, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    """
    Whatever a callback raises is logged with the topic, and neither the next callback nor the fate is touched.
    """

    def callback(_handle: SendHandle) -> None:
        raise error

    handle = queue.handle()
    handle.add_done_callback(callback)
    done = threading.Event()
    handle.add_done_callback(lambda _: done.set())
    with caplog.at_level(logging.ERROR, logger="safepulsar"):
        queue.settle(handle, _STORED)
        assert done.wait(_LONG_SECONDS)
    assert [(record.message, record.__dict__["topic"]) for record in caplog.records] == [
        ("safepulsar.callback_failed", _TOPIC)
    ]
    assert handle.result().fate is Fate.DELIVERED


def test_a_blocking_callback_holds_up_no_waiter(queue: _Queue) -> None:
    """
    While a callback blocks, threads and coroutines get their results.
    """
    block = _Block()
    first, second = queue.handle(), queue.handle()
    first.add_done_callback(block)
    queue.settle(first, _STORED)
    assert block.entered.wait(_LONG_SECONDS)
    try:
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(second.result)
            wait_until(lambda: second._watchers is not None, "the thread waits")
            assert queue.settle(second, _STORED) == 1
            assert future.result(_LONG_SECONDS).message_id == _STORED
    finally:
        block.release.set()


def test_closing_runs_what_is_waiting(queue: _Queue) -> None:
    """
    Callbacks that were put before closing run before it returns.
    """
    ran: list[int] = []
    for number in range(50):
        queue.callbacks.put(lambda handle: ran.append(handle.size_bytes), queue.handle(size_bytes=number))
    assert queue.callbacks.close(_LONG_SECONDS)
    assert ran == list(range(50))
    assert queue.callbacks.close(0.0), "closing twice does no harm"


def test_closing_does_not_wait_for_ever(queue: _Queue) -> None:
    """
    A callback that does not return is left behind when the time is over, and closing says so.
    """
    block = _Block()
    queue.callbacks.put(block, queue.handle())
    assert block.entered.wait(_LONG_SECONDS)
    thread = queue.callbacks._thread
    assert thread is not None
    assert not queue.callbacks.close(0.01)
    block.release.set()
    thread.join(_LONG_SECONDS)
    assert not thread.is_alive()


def test_a_callback_may_close(queue: _Queue) -> None:
    """
    Closing from within a callback returns at once, and the thread ends after it.
    """
    closed: SimpleQueue[bool] = SimpleQueue()
    queue.callbacks.put(lambda _: closed.put(queue.callbacks.close(_LONG_SECONDS)), queue.handle())
    thread = queue.callbacks._thread
    assert thread is not None
    assert closed.get(timeout=_LONG_SECONDS)
    thread.join(_LONG_SECONDS)
    assert not thread.is_alive()


def test_callbacks_work_again_after_closing(queue: _Queue) -> None:
    """
    A callback that is put after the end still runs: a fate that became known late must not be kept quiet.
    """
    queue.callbacks.put(lambda _: None, queue.handle())
    assert queue.callbacks.close(_LONG_SECONDS)
    done = threading.Event()
    queue.callbacks.put(lambda _: done.set(), queue.handle())
    assert done.wait(_LONG_SECONDS)


# -- threads and coroutines that wait ------------------------------------------------------------------------------


def test_every_waiting_thread_is_told(queue: _Queue) -> None:
    """
    All threads that wait for one handle get the same result.
    """
    handle = queue.handle()
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(handle.result) for _ in range(4)]
        wait_until(lambda: handle._watchers is not None and len(handle._watchers) == 4, "four threads wait")
        assert queue.settle(handle, _STORED) == 4
        assert {future.result(_LONG_SECONDS).message_id for future in futures} == {_STORED}


def test_a_failed_message_raises_for_everyone(queue: _Queue) -> None:
    """
    `result` raises the same SendFailed each time, and `exception` returns it.
    """
    handle = queue.handle()
    queue.settle(handle)
    for _ in range(2):
        with pytest.raises(SendFailed, match="it was so"):
            handle.result()
    assert isinstance(handle.exception(), SendFailed)


def test_a_duplicate_is_told_from_a_delivery(queue: _Queue) -> None:
    """
    The id (-1, -1) means that the broker had the message already.
    """
    handle = queue.handle()
    queue.settle(handle, MessageId(-1, -1))
    assert handle.result().fate is Fate.DUPLICATE
    assert handle.exception() is None


def test_waiting_in_vain_changes_nothing(queue: _Queue) -> None:
    """
    A timeout is DeadlineExceeded, the message goes on, and its fate can be waited for again.
    """
    handle = queue.handle()
    with pytest.raises(DeadlineExceeded, match=r"not known after 0\.01 s; it goes on"):
        handle.result(timeout=0.01)
    with pytest.raises(DeadlineExceeded, match="not known after 0 s; it goes on"):
        handle.exception(timeout=-5)
    queue.settle(handle, _STORED)
    assert handle.result(timeout=0).message_id == _STORED


def test_who_asks_again_and_again_leaves_nothing_behind(queue: _Queue) -> None:
    """
    A thread that polls, and a coroutine that times out, hold no memory of the handle afterwards.
    """
    handle = queue.handle()
    for _ in range(3):
        with pytest.raises(DeadlineExceeded):
            handle.result(timeout=0)

    async def wait() -> SendResult:
        return await handle

    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(wait(), 0.01)

    asyncio.run(main())
    assert not handle._watchers


@pytest.mark.parametrize("timeout", [float("inf"), 1e300], ids=["infinity", "huge"])
def test_a_timeout_may_be_as_long_as_one_likes(queue: _Queue, timeout: float) -> None:
    """
    What no timer takes is as good as a year.
    """
    handle = queue.handle()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(handle.result, timeout)
        wait_until(lambda: handle._watchers is not None, "the thread waits")
        queue.settle(handle, _STORED)
        assert future.result(_LONG_SECONDS).message_id == _STORED


def test_a_callback_can_be_called(queue: _Queue) -> None:
    """
    What is no function is refused at once, and not when the fate is known and nobody is there to see it.
    """
    with pytest.raises(InvalidInput, match="callback: must be callable with the handle, not str"):
        queue.handle().add_done_callback("print")  # type: ignore[arg-type]  # this is the test


def test_without_a_timeout_waiting_ends_soon_after_the_deadline(queue: _Queue) -> None:
    """
    However long the fate stays unknown, `result` returns at most 0.25 s after the message's deadline.
    """
    handle = queue.handle(deadline_seconds=0.0)
    with pytest.raises(DeadlineExceeded, match="the store of failed messages does not answer"):
        handle.result()
    assert time.monotonic() < handle._deadline + 0.25 + 1.0, "with a second for a busy machine"


def test_coroutines_are_told(queue: _Queue) -> None:
    """
    Several coroutines of one loop can await one handle, and a final handle needs no waiting.
    """
    handle = queue.handle()

    async def wait() -> SendResult:
        return await handle

    async def main() -> list[SendResult]:
        tasks = [asyncio.create_task(wait()) for _ in range(3)]
        while handle._watchers is None or len(handle._watchers) < 3:  # noqa: ASYNC110 - the fact has no event
            await asyncio.sleep(0)
        teller = threading.Thread(target=queue.settle, args=(handle, _STORED))
        teller.start()
        results = await asyncio.gather(*tasks)
        teller.join(_LONG_SECONDS)
        return [*results, await handle]

    results = asyncio.run(main())
    assert [result.message_id for result in results] == [_STORED] * 4


def test_awaiting_ends_soon_after_the_deadline(queue: _Queue) -> None:
    """
    A coroutine waits no longer than a thread would: until the message's deadline and a moment for its being kept.
    """
    handle = queue.handle(deadline_seconds=0.0)

    async def main() -> None:
        with pytest.raises(DeadlineExceeded, match="the store of failed messages does not answer"):
            await handle

    asyncio.run(main())
    assert time.monotonic() < handle._deadline + 0.25 + 1.0, "with a second for a busy machine"


def test_a_failed_message_raises_in_a_coroutine(queue: _Queue) -> None:
    """
    Awaiting a message that failed raises its SendFailed.
    """
    handle = queue.handle()
    queue.settle(handle)

    async def main() -> None:
        with pytest.raises(SendFailed):
            await handle

    asyncio.run(main())


def test_a_cancelled_wait_does_not_cancel_the_message(queue: _Queue) -> None:
    """
    The message goes on when a task that awaits it is cancelled, and telling the loop afterwards is harmless.
    """
    handle = queue.handle()

    async def wait() -> SendResult:
        return await handle

    async def main() -> SendResult:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(wait(), 0.01)
        queue.settle(handle, _STORED)
        return await handle

    assert asyncio.run(main()).message_id == _STORED


def test_a_closed_loop_is_no_harm(queue: _Queue) -> None:
    """
    If the loop of a wait is closed, everyone else is told, and the fate is there for whoever asks.
    """
    handle = queue.handle()

    async def wait() -> SendResult:
        return await handle

    loop = asyncio.new_event_loop()
    task = loop.create_task(wait())
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # that it stays unfinished is the point
    while handle._watchers is None:
        loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(handle.result)
        wait_until(lambda: handle._watchers is not None and len(handle._watchers) == 2, "the thread waits")
        queue.settle(handle, _STORED)
        assert future.result(_LONG_SECONDS).message_id == _STORED


def test_a_handle_of_the_parent_is_no_handle_of_the_child(queue: _Queue) -> None:
    """
    In a forked child the parent's handle says so, whatever is asked of it, and takes no lock.
    """
    handle = queue.handle()
    queue.forked = True
    with queue.ledger.lock, ThreadPoolExecutor(1) as pool:  # as if a thread of the parent held it at the fork
        for ask in (handle.result, handle.exception, lambda: handle.add_done_callback(print)):
            with pytest.raises(ForkedProcess, match="the parent process, which alone learns its fate"):
                pool.submit(ask).result(_LONG_SECONDS)

    async def main() -> None:
        with pytest.raises(ForkedProcess):
            await handle

    asyncio.run(main())


def test_a_handle_shows_where_it_is_and_nothing_private(queue: _Queue) -> None:
    """
    The repr has topic and state in words, but no payload, key or property.
    """
    handle = queue.handle()
    shown = [repr(handle)]
    for state in (State.HANDED_OVER, State.FAILING):
        handle._state = state
        shown.append(repr(handle))
    queue.settle(handle, _STORED)
    shown.append(repr(handle))
    assert shown == [
        f"<SendHandle for '{_TOPIC}', {state}>" for state in ("queued", "handed over", "failing", "delivered")
    ]
    failed = queue.handle()
    queue.settle(failed)
    assert repr(failed) == f"<SendHandle for '{_TOPIC}', failed>"
    assert "canary" not in repr(failed)
