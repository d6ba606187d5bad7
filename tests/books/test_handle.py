"""
Handles of a real sender: coroutines, callbacks, and what a forked child may do with them.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import threading
from typing import TYPE_CHECKING

import pytest

from safepulsar.books.handle import SendHandle
from safepulsar.broker.outcomes import Phase
from safepulsar.errors import DeadlineExceeded, InvalidInput, SendFailed
from safepulsar.message import Fate
from safepulsar.testing import FakeBroker
from tests.senders import LONG_SECONDS, Call, HangingStore, sender_of, within
from tests.subprocesses import run_script
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safepulsar.message import SendResult
    from safepulsar.sender import RetryingSender


@pytest.fixture
def broker() -> FakeBroker:
    """
    A fake broker whose answers come at once, from a thread.
    """
    return FakeBroker()


@pytest.fixture
def sender(broker: FakeBroker) -> Iterator[RetryingSender]:
    """
    A sender on it, closed after the test.
    """
    with sender_of(broker) as sender:
        yield sender


# -- coroutines ----------------------------------------------------------------------------------------------------


def test_a_coroutine_gets_the_result(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    Thousands of messages can be awaited at once, and each gets its own result.
    """

    async def main() -> list[SendResult]:
        handles = [sender.submit("orders", str(number)) for number in range(3000)]
        return await asyncio.gather(*(_result(handle) for handle in handles))

    results = asyncio.run(main())
    assert [result.message_id for result in results] == [each.message_id for each in broker.messages("orders")]


def test_awaiting_does_not_block_the_loop(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    While a message has no answer, other tasks of the loop run.
    """
    broker.hold()

    async def main() -> Fate:
        waiting = asyncio.create_task(_result(sender.submit("orders", b"x")))
        for _ in range(50):
            await asyncio.sleep(0)
        assert not waiting.done()
        broker.release()
        return (await waiting).fate

    assert asyncio.run(main()) is Fate.DELIVERED


def test_a_cancelled_wait_leaves_the_message_alone(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    Cancelling the task, or a timeout around it, changes nothing for the message, and leaves nothing behind.
    """
    broker.hold()

    async def main() -> Fate:
        handle = sender.submit("orders", b"x")
        for _ in range(3):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(_result(handle), 0.001)
        assert not handle._watchers
        broker.release()
        return (await handle).fate

    assert asyncio.run(main()) is Fate.DELIVERED
    assert broker.payloads("orders") == [b"x"]


def test_a_loop_that_is_closed_meanwhile_is_no_harm(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    A fate that comes after the loop's end is booked, and later messages go on.
    """
    broker.hold()
    handles = []

    async def main() -> None:
        handles.append(sender.submit("orders", b"x"))
        asyncio.create_task(_result(handles[0]))  # noqa: RUF006 - it ends with the loop
        await asyncio.sleep(0)

    asyncio.run(main())
    broker.release()
    assert handles[0].result().fate is Fate.DELIVERED
    assert sender.send("orders", b"y").fate is Fate.DELIVERED


def test_a_failure_raises_where_it_is_awaited(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    Awaiting a message that failed raises its SendFailed, again and again.
    """

    async def main() -> None:
        broker.fail_next(1, "AuthorizationError", phase=Phase.CREATE)
        handle = sender.submit("orders", b"x")
        for _ in range(2):
            with pytest.raises(SendFailed, match="AuthorizationError"):
                await handle

    asyncio.run(main())


# -- timeouts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [math.inf, 1e12, 10.0])
def test_any_timeout_may_be_given(sender: RetryingSender, timeout: float) -> None:
    """
    Also one that is too long for the system's timers.
    """
    assert sender.submit("orders", b"x").result(timeout=timeout).fate is Fate.DELIVERED


def test_a_fate_that_does_not_come_is_not_waited_for_for_ever(broker: FakeBroker) -> None:
    """
    Threads and coroutines stop waiting soon after the deadline, even if the store of failed messages hangs.
    """
    store = HangingStore()
    with sender_of(broker, store, deadline_seconds=0.2) as sender:
        broker.freeze()
        handle = sender.submit("orders", b"x")

        async def main() -> None:
            await handle

        with within(0.2):
            waiting = Call(handle.result)
            with pytest.raises(DeadlineExceeded, match="the store of failed messages does not answer"):
                asyncio.run(main())
            assert isinstance(waiting.outcome(), DeadlineExceeded)
        store.answer.set()
        assert isinstance(handle.exception(LONG_SECONDS), SendFailed)
        broker.thaw()


# -- callbacks -----------------------------------------------------------------------------------------------------


def test_a_callback_may_send_and_wait(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    Synchronous and asynchronous sends work inside a done callback, which runs on no thread of the client library.
    """
    seen: list[tuple[str, Fate]] = []
    done = threading.Event()

    def callback(_handle: SendHandle) -> None:
        seen.append((threading.current_thread().name, sender.send("orders", b"2").fate))
        sender.submit("orders", b"3").result()
        assert sender.flush() == 0
        done.set()

    sender.submit("orders", b"1").add_done_callback(callback)
    assert done.wait(LONG_SECONDS)
    assert seen == [("safepulsar-callbacks", Fate.DELIVERED)]
    assert broker.payloads("orders") == [b"1", b"2", b"3"]


def test_a_callback_that_raises_changes_nothing(sender: RetryingSender, caplog: pytest.LogCaptureFixture) -> None:
    """
    It is logged; the message, the next callback and the next message are as without it.
    """

    def fail(_handle: SendHandle) -> None:
        raise SystemExit(1)

    with caplog.at_level(logging.ERROR, logger="safepulsar"):
        done = threading.Event()
        handle = sender.submit("orders", b"x")
        handle.add_done_callback(fail)
        handle.add_done_callback(lambda _: done.set())
        assert done.wait(LONG_SECONDS)
    assert [record.message for record in caplog.records] == ["safepulsar.callback_failed"]
    assert handle.result().fate is Fate.DELIVERED
    assert sender.send("orders", b"y").fate is Fate.DELIVERED


def test_a_callback_that_blocks_delays_no_message(sender: RetryingSender) -> None:
    """
    Messages go on, and whoever waits for them, while a callback does not return.
    """
    entered, go_on = threading.Event(), threading.Event()

    def block(_handle: SendHandle) -> None:
        entered.set()
        go_on.wait(LONG_SECONDS)

    sender.submit("orders", b"x").add_done_callback(block)
    assert entered.wait(LONG_SECONDS)
    assert sender.send_many("orders", [b"x"] * 1000).delivered == 1000
    go_on.set()


def test_a_callback_is_told_of_a_failure(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    It runs for failed messages, too, with the handle whose fate is known.
    """
    told: list[SendHandle] = []
    broker.fail_next(1, "AuthorizationError", phase=Phase.CREATE)
    handle = sender.submit("orders", b"x")
    handle.add_done_callback(told.append)
    assert isinstance(handle.exception(), SendFailed)
    wait_until(lambda: told == [handle], "it was told")


@pytest.mark.parametrize("callback", [None, 7, "print"])
def test_what_cannot_be_called_is_no_callback(sender: RetryingSender, callback: object) -> None:
    """
    It is refused at once, and not when the fate is known.
    """
    handle = sender.submit("orders", b"x")
    with pytest.raises(InvalidInput, match="callback: must be callable"):
        handle.add_done_callback(callback)  # type: ignore[arg-type]


def test_no_message_keeps_others_in_memory(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    Handles that nobody holds any more are gone, though queue, producer and threads stay.
    """

    def handles() -> int:
        gc.collect()
        return sum(isinstance(each, SendHandle) for each in gc.get_objects())

    before = handles()
    for number in range(50):
        sender.submit("orders", b"x", partition_key="k" if number % 2 else None)
    assert sender.flush() == 0
    assert broker.counts.messages == 50
    wait_until(lambda: handles() == before, "the last one is gone, too")


# -- forks ---------------------------------------------------------------------------------------------------------


def test_a_forked_child_has_a_sender_of_its_own() -> None:
    """
    The parent's handles raise ForkedProcess in the child, which sends by itself; the parent goes on and loses nothing.
    """
    run_script(
        """
        import os, threading, time, traceback, warnings
        from safepulsar.errors import ForkedProcess
        from safepulsar.message import Fate
        from safepulsar.testing import FakeBroker
        from tests.senders import sender_of, LONG_SECONDS

        warnings.simplefilter("ignore", DeprecationWarning)  # of forks with threads, which is the point
        broker = FakeBroker()
        sender = sender_of(broker, deadline_seconds=LONG_SECONDS).open()
        done = sender.submit("orders", b"0")
        done.result()
        broker.hold()
        handle = sender.submit("orders", b"1")
        broker.wait_until(lambda: broker.held == 1)
        stop = threading.Event()

        def traffic():
            while not stop.is_set():
                sender.submit("other", b"x", partition_key="k")
                time.sleep(0.0005)

        threads = [threading.Thread(target=traffic) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(10):
            child = os.fork()
            if child == 0:
                try:
                    for ask in (handle.result, handle.exception, lambda: handle.add_done_callback(print)):
                        try:
                            ask()
                        except ForkedProcess:
                            pass
                        else:
                            os._exit(3)
                    assert done.result().fate is Fate.DELIVERED
                    assert not handle.done()
                    # The child's own broker: a real one is on the other side of a connection, this one was copied.
                    mine = FakeBroker()
                    sender._registry._connect = mine.connect
                    assert sender.stats().counts.accepted == 0
                    assert sender.send("orders", b"2").fate is Fate.DELIVERED
                    assert sender.failed_messages.count() == 0
                    report = sender.close()
                    assert report.counts.delivered == 1 and report.clean, report
                    assert mine.payloads("orders") == [b"2"]
                except BaseException:
                    import traceback
                    traceback.print_exc()
                    os._exit(4)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 0, status
        stop.set()
        for thread in threads:
            thread.join()
        broker.release()
        assert handle.result().fate is Fate.DELIVERED
        report = sender.close()
        assert report.counts.accepted == report.counts.delivered and report.clean, report
        """,
        timeout_seconds=60,
    ).check()


def test_a_closed_sender_stays_closed_in_a_child(broker: FakeBroker) -> None:
    """
    A child that inherits a closed sender gets SenderClosed, as its parent does.
    """
    del broker
    run_script(
        """
        import os, warnings
        from safepulsar.errors import SenderClosed
        from safepulsar.testing import FakeBroker
        from tests.senders import sender_of

        warnings.simplefilter("ignore", DeprecationWarning)
        sender = sender_of(FakeBroker())
        sender.send("orders", b"x")
        sender.close()
        child = os.fork()
        if child == 0:
            try:
                sender.send("orders", b"x")
            except SenderClosed:
                os._exit(0)
            os._exit(1)
        _, status = os.waitpid(child, 0)
        assert status == 0
        """,
        timeout_seconds=30,
    ).check()


async def _result(handle: SendHandle) -> SendResult:
    return await handle
