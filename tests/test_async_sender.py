"""
Sending from coroutines: the loop never stands still, cancelling tells what it means, and a closed loop loses nothing.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import threading
import time
import weakref
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from safepulsar.async_sender import AsyncSender, AwaitCancelled
from safepulsar.broker.client_registry import ClientRegistry
from safepulsar.broker.outcomes import Phase
from safepulsar.errors import (
    DeadlineExceeded,
    InvalidMessage,
    NoRunningLoop,
    QueueFull,
    SendCancelled,
    SenderClosed,
    SendFailed,
    StoreUnavailable,
)
from safepulsar.failed_messages import EVERYTHING, InMemoryFailedMessages, SqliteFailedMessages
from safepulsar.message import Fate
from safepulsar.sender import RetryingSender
from safepulsar.settings import Durability, SenderSettings, TopicSettings, WhenFull
from safepulsar.testing import FakeBroker
from tests.senders import LONG_SECONDS, HangingStore, sender_of, within
from tests.subprocesses import Script, run_script
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from safepulsar.books.handle import SendHandle
    from safepulsar.message import SendResult

_STILL_SECONDS = 0.25  # so long the loop may stand still on a busy machine; what blocks here blocks for longer


@pytest.fixture
def broker() -> FakeBroker:
    """
    A fake broker.
    """
    return FakeBroker()


@asynccontextmanager
async def _moving_loop(most_seconds: float = _STILL_SECONDS) -> AsyncIterator[None]:
    """
    Fail the test if the loop stands still in the block.
    """
    stood = 0.0

    async def beat() -> None:
        nonlocal stood
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.005)
            stood = max(stood, time.monotonic() - began)

    task = asyncio.create_task(beat())
    await asyncio.sleep(0.02)
    try:
        yield
        await asyncio.sleep(0.02)
    finally:
        task.cancel()
    assert stood < most_seconds, f"the loop stood still for {stood:.3f} s"


async def _until(fact: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + LONG_SECONDS
    while not fact():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.005)


# -- the same as from a thread -------------------------------------------------------------------------------------


def test_it_sends_and_closes_with_its_block(broker: FakeBroker) -> None:
    """
    One `async with`, one await: delivered, and everything closed.
    """

    async def main() -> AsyncSender:
        settings = SenderSettings(drain_on_sigterm=False)
        registry = ClientRegistry(broker.connect)
        async with AsyncSender(broker.url, settings=settings, registry=registry) as sender:
            result = await sender.send("orders", {"id": 7}, partition_key="c7", properties={"a": "b"})
            assert result.fate is Fate.DELIVERED
            assert sender.stats().counts.delivered == 1
            assert await sender.flush() == 0
        return sender

    sender = asyncio.run(main())
    (stored,) = broker.messages("orders")
    assert (stored.payload, stored.partition_key, stored.properties) == (b'{"id":7}', "c7", {"a": "b"})
    assert sender.sync.closed
    assert repr(sender) == f"<AsyncSender of <RetryingSender {broker.url!r}, closed>>"
    with pytest.raises(SenderClosed):
        asyncio.run(sender.send("orders", b"x"))


def test_one_that_was_there_isleft_open(broker: FakeBroker) -> None:
    """
    A sender that others use, too, is not closed by the end of the block.
    """

    async def main(sync: RetryingSender) -> None:
        async with AsyncSender(sync) as sender:
            assert sender.sync is sync
            await sender.send("orders", b"x")

    with sender_of(broker) as sync:
        asyncio.run(main(sync))
        assert not sync.closed
        assert sync.send("orders", b"y").fate is Fate.DELIVERED


def test_what_is_refused_is_refused_at_once(broker: FakeBroker) -> None:
    """
    Bad input is an error at the call, and a failure is the same error as in a thread.
    """

    async def main(sender: AsyncSender) -> None:
        with pytest.raises(InvalidMessage):
            await sender.submit("orders", {1: 2})  # type: ignore[dict-item]
        broker.fail_next(1, "AuthorizationError", phase=Phase.CREATE)
        with pytest.raises(SendFailed, match="AuthorizationError"):
            await sender.send("orders", b"x")

    with sender_of(broker) as sync:
        asyncio.run(main(AsyncSender(sync)))


def test_without_a_loop_it_is_said_what_to_use() -> None:
    """
    A coroutine of ours that is driven without a loop raises a typed error, and asyncio itself is not to blame.
    """
    with sender_of(FakeBroker()) as sync:
        waiting = AsyncSender(sync).send("orders", b"x")
        with pytest.raises(NoRunningLoop, match="use a RetryingSender here"):
            waiting.send(None)


def test_the_handle_of_a_thread_is_awaited_without_a_loop() -> None:
    """
    Likewise an `await` on a handle that is driven by hand.
    """
    broker = FakeBroker()
    broker.hold()
    with sender_of(broker) as sync:
        handle = sync.submit("orders", b"x")
        with pytest.raises(NoRunningLoop, match=r"use handle\.result\(\)"):
            next(handle.__await__())
        broker.release()


# -- the loop never stands still -----------------------------------------------------------------------------------


def test_a_frozen_broker_does_not_hold_up_the_loop(broker: FakeBroker) -> None:
    """
    Creating the client and the producer happens elsewhere.
    """

    async def main(sender: AsyncSender) -> None:
        broker.freeze()
        async with _moving_loop():
            with pytest.raises(SendFailed) as caught:
                await sender.send("orders", b"x", deadline_seconds=0.6)
        assert not caught.value.maybe_stored

    with sender_of(broker) as sync:
        asyncio.run(main(AsyncSender(sync)))
        broker.thaw()


def test_the_rate_limit_does_not_hold_up_the_loop(broker: FakeBroker) -> None:
    """
    Waiting for leave to send happens elsewhere.
    """

    async def main(sender: AsyncSender) -> None:
        async with _moving_loop():
            began = time.monotonic()
            for _ in range(8):
                await sender.send("orders", b"x")
            assert time.monotonic() - began > 0.4

    with sender_of(broker, messages_per_second=10.0) as sync:
        asyncio.run(main(AsyncSender(sync)))


def test_waiting_for_room_does_not_hold_up_the_loop(broker: FakeBroker) -> None:
    """
    Those without room wait in their order, and go on when there is some.
    """

    async def main(sender: AsyncSender) -> None:
        await sender.send("orders", b"zero")
        broker.hold()
        async with _moving_loop():
            tasks = [asyncio.create_task(sender.send("orders", str(number))) for number in range(10)]
            await asyncio.sleep(0.5)
            assert sender.stats().counts.in_flight == 2
            broker.release()
            assert {(await task).fate for task in tasks} == {Fate.DELIVERED}

    with sender_of(broker, max_in_flight_messages=2) as sync:
        asyncio.run(main(AsyncSender(sync)))
    assert broker.payloads("orders") == [b"zero", *(str(number).encode() for number in range(10))]


def test_no_room_until_the_deadline(broker: FakeBroker) -> None:
    """
    The wait for room ends at the message's own deadline, also of one that stands behind others that may wait longer.
    """

    async def main(sender: AsyncSender) -> None:
        broker.freeze()
        async with _moving_loop():
            first = asyncio.create_task(sender.send("orders", b"0", deadline_seconds=20))
            await _until(lambda: sender.sync._engine is not None and sender.stats().counts.in_flight, "accepted")
            patient = asyncio.create_task(sender.send("orders", b"1", deadline_seconds=20))
            await asyncio.sleep(0)
            with within(0.4), pytest.raises(QueueFull, match="until the deadline"):
                await sender.send("orders", b"2", deadline_seconds=0.4)
        broker.thaw()
        assert {(await first).fate, (await patient).fate} == {Fate.DELIVERED}

    with sender_of(broker, max_in_flight_messages=1) as sync:
        asyncio.run(main(AsyncSender(sync)))
    assert broker.payloads("orders") == [b"0", b"1"]


def test_no_room_and_the_settings_say_to_raise(broker: FakeBroker) -> None:
    """
    `RAISE` raises at once here, too.
    """

    async def main(sender: AsyncSender) -> None:
        broker.hold()
        handle = await sender.submit("orders", b"0")
        with within(0.0), pytest.raises(QueueFull):
            await sender.submit("orders", b"1")
        broker.release()
        await handle

    with sender_of(broker, max_in_flight_messages=1, when_full=WhenFull.RAISE) as sync:
        asyncio.run(main(AsyncSender(sync)))


def test_the_disk_does_not_hold_up_the_loop(broker: FakeBroker) -> None:
    """
    A message that is kept for want of room waits for a store that hangs, and the loop goes on.
    """
    store = HangingStore()

    async def main(sender: AsyncSender) -> SendHandle:
        broker.hold()
        first = await sender.submit("orders", b"0")
        async with _moving_loop():
            keeping = asyncio.create_task(sender.submit("orders", b"1"))
            await _until(store.asked.is_set, "the store is asked")
            await asyncio.sleep(0.3)
            assert not keeping.done()
            store.answer.set()
            handle = await keeping
        broker.release()
        await first
        with pytest.raises(SendFailed):
            await handle
        return handle

    with sender_of(broker, store, max_in_flight_messages=1, when_full=WhenFull.KEEP) as sync:
        handle = asyncio.run(main(AsyncSender(sync)))
        assert handle.done()
        assert store.count(EVERYTHING) == 1


def test_a_store_that_never_answers_ends_the_wait(broker: FakeBroker) -> None:
    """
    An await ends soon after the deadline in any case, with an error that says why.
    """
    store = HangingStore()

    async def main(sender: AsyncSender) -> None:
        broker.freeze()
        async with _moving_loop():
            with within(0.3 + 0.25), pytest.raises(DeadlineExceeded, match="store of failed messages does not answer"):
                await sender.send("orders", b"x", deadline_seconds=0.3)

    with sender_of(broker, store) as sync:
        asyncio.run(main(AsyncSender(sync)))
        store.answer.set()
        broker.thaw()


def test_opening_does_not_hold_up_the_loop(broker: FakeBroker) -> None:
    """
    A store that opens slowly is opened elsewhere, also by the first message; one that can't be opened is told.
    """

    class Slow(InMemoryFailedMessages):
        def open(self) -> Slow:
            time.sleep(0.5)  # a slow disk
            super().open()
            return self

    class Broken(InMemoryFailedMessages):
        def open(self) -> Broken:
            msg = "no"
            raise StoreUnavailable(msg)

    async def main(sender: AsyncSender) -> None:
        async with _moving_loop():
            await sender.send("orders", b"x")

    sync = sender_of(broker, Slow())
    asyncio.run(main(AsyncSender(sync)))
    sync.close()
    with pytest.raises(StoreUnavailable):
        asyncio.run(main(AsyncSender(sender_of(broker, Broken()))))


def test_closing_does_not_hold_up_the_loop(broker: FakeBroker) -> None:
    """
    What is in flight is waited for elsewhere; who waits for room is told that there will be none.
    """

    async def main(sender: AsyncSender) -> None:
        broker.freeze()
        first = await sender.submit("orders", b"0")
        second = asyncio.create_task(sender.send("orders", b"1"))
        await asyncio.sleep(0.05)
        async with _moving_loop():
            report = await sender.close(0.5)
        assert not report.drained
        with pytest.raises(SenderClosed):
            await second
        with pytest.raises(SendFailed):
            await first

    with sender_of(broker, max_in_flight_messages=1) as sync:
        asyncio.run(main(AsyncSender(sync)))
        broker.thaw()


# -- cancelling ----------------------------------------------------------------------------------------------------


async def _cancelled(task: asyncio.Task[Any]) -> AwaitCancelled:
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    told = AwaitCancelled.within(caught.value)
    assert told is not None
    if sys.version_info >= (3, 12, 2):  # where timeouts know it, too
        assert told is caught.value
    return told


def test_cancelled_before_the_hand_over(broker: FakeBroker) -> None:
    """
    Surely not sent, and the exception says so.
    """

    async def main(sender: AsyncSender) -> None:
        broker.freeze()
        task = asyncio.create_task(sender.send("orders", b"x"))
        await _until(lambda: sender.sync._engine is not None and sender.stats().counts.in_flight, "accepted")
        error = await _cancelled(task)
        assert error.surely_not_sent
        assert error.handle is not None
        assert isinstance(error.handle.exception(), SendCancelled)
        assert "surely not sent" in str(error)
        broker.thaw()
        await sender.send("orders", b"y")

    with sender_of(broker) as sync:
        asyncio.run(main(AsyncSender(sync)))
        counts = sync.close().counts
    assert broker.payloads("orders") == [b"y"]
    assert (counts.accepted, counts.delivered, counts.cancelled) == (2, 1, 1)


def test_cancelled_after_the_hand_over(broker: FakeBroker) -> None:
    """
    It goes on, its handle tells its fate, and the exception says so.
    """

    async def main(sender: AsyncSender) -> None:
        broker.hold()
        task = asyncio.create_task(sender.send("orders", b"x"))
        await _until(lambda: broker.held == 1, "handed over")
        error = await _cancelled(task)
        assert not error.surely_not_sent
        assert "goes on" in str(error)
        broker.release()
        assert error.handle is not None
        assert (await error.handle).fate is Fate.DELIVERED

    with sender_of(broker) as sync:
        asyncio.run(main(AsyncSender(sync)))
        assert sync.close().counts.delivered == 1
    assert broker.payloads("orders") == [b"x"]


def test_cancelled_while_it_waits_for_room(broker: FakeBroker) -> None:
    """
    It was never accepted: there is no handle, and nobody behind it waits longer for it.
    """

    async def main(sender: AsyncSender) -> None:
        broker.hold()
        first = await sender.submit("orders", b"0")
        second = asyncio.create_task(sender.send("orders", b"1"))
        third = asyncio.create_task(sender.send("orders", b"2"))
        await asyncio.sleep(0.05)
        error = await _cancelled(second)
        assert error.surely_not_sent
        assert error.handle is None
        broker.release()
        await first
        assert (await third).fate is Fate.DELIVERED

    with sender_of(broker, max_in_flight_messages=1) as sync:
        asyncio.run(main(AsyncSender(sync)))
        assert sync.close().counts.accepted == 2
    assert broker.payloads("orders") == [b"0", b"2"]


def test_cancelled_just_when_there_was_room(broker: FakeBroker) -> None:
    """
    Accepted and cancelled in one round of the loop: what the exception says is what became of it.
    """

    async def main(sender: AsyncSender) -> bool:
        broker.hold()
        first = await sender.submit("orders", b"0")
        second = asyncio.create_task(sender.send("orders", b"1"))
        await asyncio.sleep(0.05)
        room = next(iter(sender._rooms.values()))
        broker.release()
        first.result()  # the loop stands still meanwhile, and does not know yet that there is room
        wait_until(lambda: not sender.stats().counts.in_flight, "there is room")
        room._look()
        error = await _cancelled(second)
        sender.sync.flush()
        return error.surely_not_sent

    with sender_of(broker, max_in_flight_messages=1) as sync:
        surely_not_sent = asyncio.run(main(AsyncSender(sync)))
        counts = sync.close().counts
    assert counts.accepted == 2
    assert broker.payloads("orders") == ([b"0"] if surely_not_sent else [b"0", b"1"])
    assert counts.cancelled == surely_not_sent


async def _waits_for(sender: AsyncSender) -> None:
    await asyncio.wait_for(sender.send("orders", b"x"), 0.2)


async def _within_a_timeout(sender: AsyncSender) -> None:
    if sys.version_info < (3, 11):
        await _waits_for(sender)  # which is all that there is
    else:
        async with asyncio.timeout(0.2):
            await sender.send("orders", b"x")


@pytest.mark.parametrize("wait", [_waits_for, _within_a_timeout])
def test_a_timeout_tells_too(broker: FakeBroker, wait: Callable[[AsyncSender], Awaitable[None]]) -> None:
    """
    What comes of it is a timeout everywhere, also where timeouts know no kinds of CancelledError.
    """

    async def main(sender: AsyncSender) -> None:
        broker.freeze()
        with pytest.raises(asyncio.TimeoutError) as caught:
            await wait(sender)
        told = AwaitCancelled.within(caught.value)
        assert told is not None
        assert told.surely_not_sent
        assert AwaitCancelled.within(ValueError()) is None

    with sender_of(broker) as sync:
        asyncio.run(main(AsyncSender(sync)))
        broker.thaw()
        sync.flush()
    assert broker.payloads("orders") == []


def test_awaiting_a_handle_only_waits(broker: FakeBroker) -> None:
    """
    A handle may have several who wait: cancelling one of them says that the message goes on, and so it does.
    """

    async def main(sender: AsyncSender) -> None:
        broker.freeze()
        handle = await sender.submit("orders", b"x")

        async def wait() -> None:
            await handle

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        error = await _cancelled(task)
        assert not error.surely_not_sent
        assert error.handle is handle
        assert not handle._watchers
        broker.thaw()
        assert (await handle).fate is Fate.DELIVERED

    with sender_of(broker) as sync:
        asyncio.run(main(AsyncSender(sync)))


# -- loops ---------------------------------------------------------------------------------------------------------


def test_a_closed_loop_loses_nothing(broker: FakeBroker) -> None:
    """
    What was accepted goes on without its loop; what waited for room was not accepted, and its room is nobody's.
    """

    async def main(sender: AsyncSender) -> None:
        await sender.send("orders", b"zero")
        broker.hold()
        left.extend(asyncio.create_task(sender.send("orders", str(number))) for number in range(4))
        await asyncio.sleep(0.05)

    left: list[asyncio.Task[Any]] = []
    with sender_of(broker, max_in_flight_messages=2) as sync:
        sender = AsyncSender(sync)
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main(sender))
        loop.close()
        for task in left:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        broker.release()
        sync.flush()
        assert broker.payloads("orders") == [b"zero", b"0", b"1"]
        assert asyncio.run(sender.send("orders", b"next loop")).fate is Fate.DELIVERED
        assert sync.close().counts.balanced
    assert len(sender._rooms) == 1  # the closed one's is gone


def test_several_loops_share_a_sender(broker: FakeBroker) -> None:
    """
    Loops of several threads send at once, and wait for room at once.
    """

    async def main(sender: AsyncSender, name: str) -> None:
        await asyncio.gather(*(sender.send("orders", f"{name}{number}") for number in range(200)))

    with sender_of(broker, max_in_flight_messages=10) as sync:
        sender = AsyncSender(sync)
        threads = [threading.Thread(target=lambda n=n: asyncio.run(main(sender, n))) for n in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG_SECONDS)
        assert sync.close().counts.delivered == 600
    assert len(set(broker.payloads("orders"))) == 600


def test_a_coroutine_leaves_nothing_behind(broker: FakeBroker) -> None:
    """
    After an await neither the sender nor the loop holds what the coroutine had.
    """

    class Request:
        pass

    async def serve(sender: AsyncSender, request: Request) -> None:
        assert request is not None
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(sender.send("orders", b"x"), 0.05)

    async def main(sender: AsyncSender) -> list[weakref.ref[Request]]:
        broker.freeze()
        gone = []
        for _ in range(3):
            request = Request()
            gone.append(weakref.ref(request))
            await serve(sender, request)
            del request
        await asyncio.sleep(0)  # the loop of Python 3.13 lets go of the last exception one round later
        gc.collect()
        assert all(each() is None for each in gone)
        broker.thaw()
        return gone

    with sender_of(broker) as sync:
        asyncio.run(main(AsyncSender(sync)))


def test_one_timer_serves_many_awaits(broker: FakeBroker) -> None:
    """
    Awaiting costs no timer of the loop each, and what is answered is not remembered until its deadline.
    """

    async def main(sender: AsyncSender) -> None:
        broker.hold()
        handles = [await sender.submit("orders", b"x") for _ in range(2000)]
        loop = asyncio.get_running_loop()
        waits = [asyncio.ensure_future(_wait(handle)) for handle in handles]
        await asyncio.sleep(0)
        assert len(loop._scheduled) < 200  # type: ignore[attr-defined]
        broker.release()
        await asyncio.gather(*waits)
        (alarm,) = sender.sync._started().callbacks.alarms.values()
        assert not any(alarm._due.values())

    with sender_of(broker) as sync:
        asyncio.run(main(AsyncSender(sync)))


async def _wait(handle: SendHandle) -> None:
    await handle


def test_sigterm_is_taken_care_of_where_it_can_be(tmp_path: Path) -> None:
    """
    Opened in the main thread's loop, the sender stands by for SIGTERM, though the store is opened by another thread.
    """
    source = """
        import asyncio, sys
        from safepulsar.async_sender import AsyncSender
        from safepulsar.broker.client_registry import ClientRegistry
        from safepulsar.testing import FakeBroker
        broker = FakeBroker()
        async def main():
            sender = AsyncSender(broker.url, failed_messages=sys.argv[1], registry=ClientRegistry(broker.connect))
            await sender.open()
            broker.freeze()
            await sender.submit("orders", b"x", deadline_seconds=0.5)
            print("ready", flush=True)
            await asyncio.sleep(60)
        asyncio.run(main())
    """
    path = tmp_path / "store" / "failed.db"
    with Script(source, path) as script:
        script.wait_for("ready")
        script.send_signal(signal.SIGTERM)
        result = script.finish(timeout_seconds=30)
    assert result.returncode == -signal.SIGTERM, str(result)
    with SqliteFailedMessages(path) as store:
        assert store.count(EVERYTHING) == 1


# -- an outbox -----------------------------------------------------------------------------------------------------


def _with_outbox(broker: FakeBroker, folder: Path, **settings: Any) -> RetryingSender:  # noqa: ANN401 - as SenderSettings
    topics = {"orders": TopicSettings(producer_name="p", durability=Durability.OUTBOX)}
    return RetryingSender(
        broker.url,
        failed_messages=folder / "store" / "failed.db",
        settings=SenderSettings(topics=topics, **{"drain_on_sigterm": False, **settings}),
        registry=ClientRegistry(broker.connect),
    )


def test_an_outbox_does_not_hold_up_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Its disk is waited for elsewhere, and nothing overtakes within a task.
    """
    broker = FakeBroker(deduplication=True)

    async def main(sender: AsyncSender) -> None:
        await sender.send("orders", b"zero")
        accept = sender.sync._started().accept

        def slow(handle: SendHandle, *, wait: bool = True) -> bool:
            time.sleep(0.3)  # a slow disk
            return accept(handle, wait=wait)

        monkeypatch.setattr(sender.sync._started(), "accept", slow)
        async with _moving_loop():
            for number in range(3):
                assert (await sender.send("orders", str(number))).fate is Fate.DELIVERED

    with _with_outbox(broker, tmp_path) as sync:
        asyncio.run(main(AsyncSender(sync)))
    assert broker.payloads("orders") == [b"zero", b"0", b"1", b"2"]


def test_an_outbox_without_room(tmp_path: Path) -> None:
    """
    Room is waited for as without one, until the deadline.
    """
    broker = FakeBroker(deduplication=True)

    async def main(sender: AsyncSender) -> None:
        await sender.send("orders", b"zero")
        broker.hold()
        async with _moving_loop():
            first = await sender.submit("orders", b"0")
            tasks = [asyncio.create_task(sender.send("orders", str(number))) for number in range(1, 4)]
            await asyncio.sleep(0.3)
            with within(0.3), pytest.raises(QueueFull, match="until the deadline"):
                await sender.send("orders", b"late", deadline_seconds=0.3)
            assert sender.stats().counts.in_flight == 1
            broker.release()
            assert {(await task).fate for task in tasks} == {(await first).fate} == {Fate.DELIVERED}

    with _with_outbox(broker, tmp_path, max_in_flight_messages=1) as sync:
        asyncio.run(main(AsyncSender(sync)))
    assert sorted(broker.payloads("orders"), key=str) == [b"0", b"1", b"2", b"3", b"zero"]


def test_what_an_outbox_has_is_not_taken_back(tmp_path: Path) -> None:
    """
    A cancelled task is told that its message goes on: it is on disk, and will be sent.
    """
    broker = FakeBroker(deduplication=True)

    async def main(sender: AsyncSender) -> None:
        await sender.send("orders", b"zero")
        broker.freeze()
        task = asyncio.create_task(sender.send("orders", b"x"))
        await _until(lambda: sender.stats().counts.in_flight, "accepted")
        await asyncio.sleep(0.05)
        error = await _cancelled(task)
        assert not error.surely_not_sent
        broker.thaw()
        assert error.handle is not None
        assert (await error.handle).fate is Fate.DELIVERED

    with _with_outbox(broker, tmp_path) as sync:
        asyncio.run(main(AsyncSender(sync)))
    assert broker.payloads("orders") == [b"zero", b"x"]


def test_a_forked_child_has_loops_of_its_own() -> None:
    """
    A sender that coroutines of the parent used is used by those of the child, with a client of its own.
    """
    source = """
        import asyncio, os
        from safepulsar import ClientRegistry, RetryingSender, SenderSettings
        from safepulsar.async_sender import AsyncSender
        from safepulsar.testing import FakeBroker
        broker = FakeBroker(threaded=False)
        sync = RetryingSender(broker.url, registry=ClientRegistry(broker.connect),
            settings=SenderSettings(max_in_flight_messages=2, drain_on_sigterm=False))
        sender = AsyncSender(sync)
        async def main():
            return {(await each).fate.value for each in [asyncio.ensure_future(sender.send("orders", b"x")) for _ in range(9)]}
        assert asyncio.run(main()) == {"DELIVERED"}
        child = os.fork()
        if not child:
            os._exit(0 if asyncio.run(main()) == {"DELIVERED"} and len(broker.payloads("orders")) == 18 else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert asyncio.run(main()) == {"DELIVERED"}
    """
    run_script(source).check()


def test_hundreds_of_thousands_of_outstanding_awaits(broker: FakeBroker) -> None:
    """
    They cost no more each than a tenth of them do, and the loop has a timer for each twentieth of a second, not for each of them.
    """

    async def outstanding(sender: AsyncSender, count: int) -> float:
        broker.freeze()
        began = time.process_time()
        waits = [asyncio.ensure_future(_result(await sender.submit("orders", b"x"))) for _ in range(count)]
        await asyncio.sleep(0)  # each begins to wait
        timers = len(asyncio.get_running_loop()._scheduled)  # type: ignore[attr-defined]
        assert timers < count / 100, timers
        broker.thaw()
        assert all(result.fate is Fate.DELIVERED for result in await asyncio.gather(*waits))
        return (time.process_time() - began) / count

    async def main(sender: AsyncSender) -> None:
        await outstanding(sender, 20_000)  # and warm
        few = await outstanding(sender, 20_000)
        many = await outstanding(sender, 200_000)
        assert many < 3 * few, (many, few)

    with sender_of(broker, max_in_flight_messages=300_000, deadline_seconds=LONG_SECONDS * 4) as sync:
        asyncio.run(main(AsyncSender(sync)))
        assert sync.stats().counts.delivered == 240_000


async def _result(handle: SendHandle) -> SendResult:
    return await handle
