"""
`AsyncSender`: a sender for coroutines, which never holds up their loop.

    async with AsyncSender("pulsar://localhost:6650", failed_messages="failed/orders.db") as sender:
        result = await sender.send("orders", {"id": 7}, partition_key="customer-7")

Waiting for room, opening the store, keeping and closing all happen elsewhere or without blocking. It is one face of a
`RetryingSender`, and may share it with threads.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from safepulsar.books.awaiting import Alarm, AwaitCancelled, raise_cancelled
from safepulsar.books.handle import now
from safepulsar.errors import NoRunningLoop, QueueFull, SafePulsarError
from safepulsar.processes.process import process
from safepulsar.sender import RetryingSender
from safepulsar.settings import WhenFull

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from typing_extensions import Self

    from safepulsar.books.handle import SendHandle
    from safepulsar.broker.client_registry import ClientRegistry
    from safepulsar.failed_messages import FailedMessageStore
    from safepulsar.message import SendResult
    from safepulsar.observing import Observer
    from safepulsar.sending.engine import CloseReport, Engine, SenderStats
    from safepulsar.serialization import Sendable
    from safepulsar.settings import ClientSettings, SenderSettings
    from safepulsar.steps import Step

__all__ = ["AsyncSender", "AwaitCancelled"]


class AsyncSender:
    """
    Sends from coroutines. Safe in several loops and threads at once, and after a fork.

    What becomes of a message when the task that sends it is cancelled: before it is handed over to the client library it is
    taken back, and surely not sent; afterwards it goes on, and is delivered or kept. `AwaitCancelled`, which is raised in
    place of a plain `CancelledError`, says which.

    Args:
        sender: what `RetryingSender` takes, or one that is there already; it is closed with this one only if it was made
            here.
        failed_messages: see `RetryingSender`, and so for the rest.
        settings: see there.
        registry: see there.
        steps: see there.
        observers: see there.
    """

    def __init__(
        self,
        sender: RetryingSender | str | ClientSettings,
        *,
        failed_messages: str | os.PathLike[str] | FailedMessageStore | None = None,
        settings: SenderSettings | None = None,
        registry: ClientRegistry | None = None,
        steps: Sequence[Step] = (),
        observers: Sequence[Observer] = (),
    ) -> None:
        self._owned = not isinstance(sender, RetryingSender)
        if not isinstance(sender, RetryingSender):
            sender = RetryingSender(
                sender,
                failed_messages=failed_messages,
                settings=settings,
                registry=registry,
                steps=steps,
                observers=observers,
            )
        self.sync = sender
        self._rooms: dict[asyncio.AbstractEventLoop, _Room] = {}

    # -- life ------------------------------------------------------------------------------------------------

    async def open(self) -> Self:
        """
        Open the store and stand by for exit, fork and SIGTERM; the first use does it too.

        Raises:
            StoreError: the store cannot be opened.
            SenderClosed: it was closed before.
        """
        _running_loop()
        await asyncio.to_thread(self.sync.open)
        if self.sync.settings.drain_on_sigterm:
            process.drain_on_sigterm()  # which only the main thread may
        return self

    async def close(self, timeout: float | None = None) -> CloseReport:
        """
        As `RetryingSender.close`, of the sender itself; what waits for room is refused. Cancelling leaves it closing.
        """
        return await asyncio.to_thread(self.sync.close, timeout)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """
        Close what was made here, also if the block raised.
        """
        if self._owned:
            await self.close()

    async def flush(self, timeout: float | None = None) -> int:
        """
        As `RetryingSender.flush`.
        """
        return await asyncio.to_thread(self.sync.flush, timeout)

    def stats(self) -> SenderStats:
        """
        As `RetryingSender.stats`.
        """
        return self.sync.stats()

    def __repr__(self) -> str:
        return f"<AsyncSender of {self.sync!r}>"

    # -- sending ---------------------------------------------------------------------------------------------

    async def send(
        self,
        topic: str,
        value: Sendable,
        *,
        partition_key: str | None = None,
        ordering_key: str | None = None,
        properties: Mapping[str, str] | None = None,
        sequence_id: int | None = None,
        event_timestamp_ms: int | None = None,
        deliver_at_ms: int | None = None,
        deadline_seconds: float | None = None,
    ) -> SendResult:
        """
        Send one message and wait for its fate; arguments and errors as for `RetryingSender.send`.

        Raises:
            AwaitCancelled: the task was cancelled; see the class.
        """
        handle = await self.submit(
            topic,
            value,
            partition_key=partition_key,
            ordering_key=ordering_key,
            properties=properties,
            sequence_id=sequence_id,
            event_timestamp_ms=event_timestamp_ms,
            deliver_at_ms=deliver_at_ms,
            deadline_seconds=deadline_seconds,
        )
        try:
            return await handle
        except asyncio.CancelledError:
            if not handle.cancel():
                raise
            raise_cancelled(handle.topic, handle, surely_not_sent=True)

    async def submit(
        self,
        topic: str,
        value: Sendable,
        *,
        partition_key: str | None = None,
        ordering_key: str | None = None,
        properties: Mapping[str, str] | None = None,
        sequence_id: int | None = None,
        event_timestamp_ms: int | None = None,
        deliver_at_ms: int | None = None,
        deadline_seconds: float | None = None,
    ) -> SendHandle:
        """
        Accept one message and return a handle on its fate; arguments and errors as for `RetryingSender.submit`.

        Everything is checked and copied before the first wait. Waits only while there is no room, see `WhenFull`, and never
        gives way to other tasks otherwise.

        Raises:
            AwaitCancelled: the task was cancelled while it waited for room; see the class.
        """
        loop = _running_loop()
        if self.sync._engine is None:
            await self.open()
        engine = self.sync._started()
        handle = self.sync._prepare(
            engine, topic, value, partition_key, ordering_key, properties, sequence_id,
            event_timestamp_ms, deliver_at_ms, deadline_seconds,
        )  # fmt: skip
        await self._accept(loop, engine, handle)
        return handle

    async def _accept(self, loop: asyncio.AbstractEventLoop, engine: Engine, handle: SendHandle) -> None:
        room = self._rooms.get(loop)
        if room is None or room.engine is not engine:
            for other in [each for each in self._rooms if each.is_closed()]:
                self._rooms.pop(other, None)
            room = self._rooms[loop] = _Room(loop, engine)
        try:
            queued = await room.accept(handle)
        except Exception as error:
            engine.observers.refused(handle, error)
            raise
        if not queued:
            # It goes to the store. Whoever sends waits for that, and so can't run ahead of the disk.
            with suppress(SafePulsarError):
                await handle


class _Room:
    """
    The coroutines of one loop that wait for room, in their order. For the loop's own thread, but for `release`.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, engine: Engine) -> None:
        self.engine = engine
        self._loop = loop
        self._alarm = Alarm(loop)
        self._waiting: deque[tuple[SendHandle, asyncio.Future[None]]] = deque()
        self._verdicts: dict[int, bool | BaseException | None] = {}  # by the handle's id, until its coroutine goes on
        self._blocks = engine.settings.when_full is WhenFull.BLOCK

    async def accept(self, handle: SendHandle) -> bool:
        """
        As `Engine.accept`, without blocking.
        """
        waits = self._blocks and bool(self._waiting)
        while True:
            if not waits:
                try:
                    return await self._accept(handle)
                except QueueFull:
                    if not self._blocks or handle._deadline <= now():
                        raise
            verdict = await self._wait(handle)
            if isinstance(verdict, BaseException):
                raise verdict
            if verdict is not None:
                return verdict
            waits = False

    async def _wait(self, handle: SendHandle) -> bool | BaseException | None:
        """
        Wait for room, and return what `Engine.accept` did there.

        None if that is to be asked now: there is room, and a disk is not for the loop's thread; or the deadline is over.
        """
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append((handle, future))
        if len(self._waiting) == 1:
            self._listen(handle)
        due = self._alarm.set(handle._deadline, future)
        try:
            await future
        except asyncio.CancelledError:
            # It may have been accepted in the same round of the loop.
            accepted = isinstance(self._verdicts.get(id(handle)), bool)
            gone = not accepted or handle.cancel()
            raise_cancelled(handle.topic, handle if accepted else None, surely_not_sent=gone)
        finally:
            due.discard(future)
            verdict = self._verdicts.pop(id(handle), None)
        return verdict

    async def _accept(self, handle: SendHandle) -> bool:
        if handle._queue.outbox is None:
            return self.engine.accept(handle, wait=False)
        writing = asyncio.ensure_future(asyncio.to_thread(self.engine.accept, handle, wait=False))
        try:
            return await asyncio.shield(writing)
        except asyncio.CancelledError:
            # A disk is not called back. Its answer, which comes soon, tells what became of the message.
            await asyncio.wait([writing])
            accepted = writing.exception() is None
            raise_cancelled(handle.topic, handle if accepted else None, surely_not_sent=not accepted)

    def release(self) -> None:
        """
        Something changed in the books; called by any thread, with the ledger's lock.
        """
        try:
            self._loop.call_soon_threadsafe(self._look)
        except RuntimeError:  # the loop is closed: nobody waits here any more, and nothing of theirs was accepted
            return

    def _listen(self, handle: SendHandle) -> None:
        with self.engine.ledger.lock:
            self.engine.ledger.tell_of_room_locked(self, handle.size_bytes)

    def _look(self) -> None:
        while self._waiting:
            handle, future = self._waiting[0]
            if not future.done():
                try:
                    self._verdicts[id(handle)] = self._try(handle)
                except QueueFull:
                    self._listen(handle)
                    return
                except Exception as error:  # noqa: BLE001 - it is raised where it belongs
                    self._verdicts[id(handle)] = error
                future.set_result(None)
            self._waiting.popleft()

    def _try(self, handle: SendHandle) -> bool | None:
        if handle._queue.outbox is None:
            return self.engine.accept(handle, wait=False)
        ledger = self.engine.ledger
        with ledger.lock:
            if ledger.open:
                ledger.wait_for_room_locked(handle.size_bytes, 0.0)  # which does not wait, and raises if there is none
        return None


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        msg = "no event loop runs in this thread; use a RetryingSender here, which blocks, or asyncio.run()"
        raise NoRunningLoop(msg) from None
