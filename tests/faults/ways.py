"""
Every way to send, each call with what it told written into the history, and with how late it returned.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from safepulsar import DeadlineExceeded, Fate, QueueFull, SenderClosed, SendFailed
from tests.faults.orders import identity_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from threading import Event

    from safepulsar import Message, RetryingSender, SafePulsarError, SendHandle, SendResult
    from safepulsar.serialization import Sendable
    from tests.faults.orders import Order
    from tests.history import History


# A report of `send_many` names its first 100 failures only; of so many messages it names each.
MANY: Final = 60


class Late(NamedTuple):
    """
    A call that returned after its deadline; both by the monotonic clock.
    """

    way: str
    deadline: float
    returned: float


class Ways:
    """
    Sends orders. Every method may be called by several threads.

    Args:
        sender: sends.
        topic: full name.
        history: gets each attempt, acceptance and fate.
        deadline_seconds: of each message.
        closed: set when the sender takes no more.

    Attributes:
        late: the calls that returned after their deadline.
    """

    def __init__(
        self, sender: RetryingSender, topic: str, history: History, *, deadline_seconds: float, closed: Event
    ) -> None:
        self.late: list[Late] = []  # its append is atomic
        self._sender = sender
        self._topic = topic
        self._history = history
        self._deadline_seconds = deadline_seconds
        self._closed = closed

    def send(self, orders: Sequence[Order]) -> None:
        """
        One by one, waiting for each fate.
        """
        for identity, message in orders:
            self._history.attempted(identity, self._topic, message)
            deadline = self._deadline()
            try:
                result = self._sender.send(
                    self._topic,
                    message.payload,
                    partition_key=message.partition_key,
                    ordering_key=message.ordering_key,
                    properties=message.properties,
                    deadline_seconds=self._deadline_seconds,
                )
            except (QueueFull, SenderClosed) as error:
                self._refused("send", identity, deadline, error)
            except DeadlineExceeded:
                # It could not be kept so fast, and there is no handle to ask; see `Trial.learn_from_store`.
                self._returned("send", deadline)
            except SendFailed as error:
                self._returned("send", deadline)
                self._failed(identity, error)
            else:
                self._returned("send", deadline)
                self._stored(identity, result)

    def submit(self, orders: Sequence[Order]) -> list[tuple[SendHandle, float]]:
        """
        Without waiting; callbacks record the fates. Returns the handles, with their deadlines.
        """
        handles = []
        for identity, message in orders:
            self._history.attempted(identity, self._topic, message)
            deadline = self._deadline()
            try:
                handle = self._sender.submit(
                    self._topic,
                    message.payload,
                    partition_key=message.partition_key,
                    ordering_key=message.ordering_key,
                    properties=message.properties,
                    deadline_seconds=self._deadline_seconds,
                )
            except (QueueFull, SenderClosed) as error:
                self._refused("submit", identity, deadline, error)
                continue
            self._returned("submit", deadline)
            # In this order: of a process that ends in between, nobody knows that it was accepted.
            handle.add_done_callback(partial(self._settled, identity))
            self._history.accepted(identity)
            handles.append((handle, deadline))
        return handles

    def result(self, orders: Sequence[Order]) -> None:
        """
        Submit all, then wait for each by its handle.
        """
        for handle, deadline in self.submit(orders):
            with contextlib.suppress(SendFailed, DeadlineExceeded):  # the callback records the fate
                handle.result()
            self._returned("result", deadline)

    async def awaited(self, orders: Sequence[Order]) -> None:
        """
        Submit all, then await them together.
        """

        async def one(handle: SendHandle, deadline: float) -> None:
            with contextlib.suppress(SendFailed, DeadlineExceeded):  # the callback records the fate
                await handle
            self._returned("await", deadline)

        await asyncio.gather(*[one(handle, deadline) for handle, deadline in self.submit(orders)])

    def send_many(self, orders: Sequence[Order]) -> None:
        """
        All in one call. That takes properties for all, so these messages have none.
        """
        messages = {identity: replace(message, properties=None) for identity, message in orders}
        given: list[str] = []
        deadline = self._deadline()

        def values() -> Iterator[Sendable]:
            nonlocal deadline  # the last one's
            for identity, message in messages.items():
                self._history.attempted(identity, self._topic, message)
                given.append(identity)
                deadline = self._deadline()
                yield message.payload

        def message_of(value: Sendable) -> Message:
            assert isinstance(value, bytes)
            return messages[identity_in(value)]

        try:
            report = self._sender.send_many(
                self._topic,
                values(),
                partition_key=lambda value: message_of(value).partition_key,
                ordering_key=lambda value: message_of(value).ordering_key,
                deadline_seconds=self._deadline_seconds,
            )
        except SenderClosed:
            # Those before were accepted, and have their fates; but nobody is told which.
            self._history.rejected(given[-1])
            self._closed.set()
            return
        self._returned("send_many", deadline)
        failed: dict[str, SendFailed] = {}
        for error in report.errors:
            assert error.message.payload is not None
            failed[identity_in(error.message.payload)] = error
        assert (report.read, report.failed) == (len(given), len(failed)), report
        stored = [identity for identity in given if identity not in failed]
        for identity, error in failed.items():
            self._failed(identity, error)
        for identity in stored[: report.duplicate]:  # the report does not say which; all must be in the topic
            self._history.duplicate(identity)
        for identity in stored[report.duplicate :]:
            self._history.acked(identity)

    # -- what a call told ------------------------------------------------------------------------------------

    def _deadline(self) -> float:
        return time.monotonic() + self._deadline_seconds

    def _returned(self, way: str, deadline: float) -> None:
        moment = time.monotonic()
        if moment > deadline:
            self.late.append(Late(way, deadline, moment))

    def _refused(self, way: str, identity: str, deadline: float, error: SafePulsarError) -> None:
        self._returned(way, deadline)
        self._history.rejected(identity)
        if isinstance(error, SenderClosed):
            self._closed.set()

    def _settled(self, identity: str, handle: SendHandle) -> None:
        try:
            self._stored(identity, handle.result())
        except SendFailed as error:
            self._failed(identity, error)

    def _stored(self, identity: str, result: SendResult) -> None:
        if result.fate is Fate.DUPLICATE:
            self._history.duplicate(identity)
        else:
            self._history.acked(identity, result.message_id)

    def _failed(self, identity: str, error: SendFailed) -> None:
        self._history.failed(identity, error.certainty, error.failed_message_id)
