"""
Senders on the fake broker, stores that misbehave, and the history of what a sender did.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from safepulsar.broker.client_registry import ClientRegistry
from safepulsar.errors import SendFailed, StoreFull
from safepulsar.failed_messages import EVERYTHING, InMemoryFailedMessages
from safepulsar.message import Fate, Message
from safepulsar.sender import RetryingSender
from safepulsar.settings import RetrySettings, SenderSettings
from tests.history import History, Rules, assert_valid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from safepulsar.books.handle import SendHandle
    from safepulsar.failed_messages import FailedMessageStore
    from safepulsar.message import FailedMessage, MessageId
    from safepulsar.testing import FakeBroker
    from tests.history import Report
    from tests.history.recorder import Readable

TOPIC: Final = "persistent://public/default/orders"
LONG_SECONDS: Final = 30.0  # for what happens at once unless something is wrong
OVER_SECONDS: Final = 0.25  # by so much a call may exceed its deadline
BUSY_SECONDS: Final = 0.5  # and by so much more, where a machine does too much at once
# No waiting between attempts: what is tested is what happens, not when.
AT_ONCE: Final = RetrySettings(first_delay_seconds=0, jitter_seconds=0)


def sender_of(
    broker: FakeBroker,
    store: FailedMessageStore | None = None,
    *,
    retry: RetrySettings = AT_ONCE,
    **settings: Any,  # noqa: ANN401  # as SenderSettings
) -> RetryingSender:
    """
    A sender that knows no other broker, with a client of its own, and leaves the process's signals alone.
    """
    return RetryingSender(
        broker.url,
        failed_messages=store,
        settings=SenderSettings(retry=retry, **{"drain_on_sigterm": False, **settings}),
        registry=ClientRegistry(broker.connect),
    )


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """
    Fail the test if the block takes longer than a call with this deadline may.
    """
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took < seconds + OVER_SECONDS + BUSY_SECONDS, f"took {took:.3f} s with a deadline of {seconds} s"


class Call:
    """
    A call on a thread of its own, and what came of it.
    """

    def __init__(self, call: Callable[..., object], *arguments: object, **named: object) -> None:
        self._call = call
        self._arguments = arguments, named
        self._outcome: Any = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """
        Whether it has not returned.
        """
        return self._thread.is_alive()

    def outcome(self, timeout_seconds: float = LONG_SECONDS) -> Any:  # noqa: ANN401  # what it returned, or raised
        """
        Wait for what it returned or raised.
        """
        self._thread.join(timeout_seconds)
        assert not self._thread.is_alive(), "the call has not returned"
        return self._outcome

    def _run(self) -> None:
        arguments, named = self._arguments
        try:
            self._outcome = self._call(*arguments, **named)
        except Exception as error:  # noqa: BLE001  # it is the outcome
            self._outcome = error


class HangingStore(InMemoryFailedMessages):
    """
    A store whose disk does not answer until `answer` is set. `asked` is set once somebody waits for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()
        self.answer = threading.Event()

    def keep(self, messages: Sequence[FailedMessage]) -> list[int]:
        """
        Wait, then keep.
        """
        self.asked.set()
        assert self.answer.wait(LONG_SECONDS)
        return super().keep(messages)


class FullStore(InMemoryFailedMessages):
    """
    A store without room, as long as `full` is True.
    """

    full = True

    def keep(self, messages: Sequence[FailedMessage]) -> list[int]:
        """
        Refuse.
        """
        if self.full:
            raise StoreFull("the disk is full; free some space")
        return super().keep(messages)

    def confirm(self, failed_message_id: int, message_id: MessageId) -> bool:
        """
        Refuse.
        """
        if self.full:
            raise StoreFull("the disk is full; free some space")
        return super().confirm(failed_message_id, message_id)


class Recording:
    """
    Sends through a sender, and writes down what was attempted and what became of it.

    Args:
        sender: open.
        read: reads the topic, when all is over.
        topic: the one topic that is used.
    """

    def __init__(self, sender: RetryingSender, read: Callable[[], Iterable[Readable]], topic: str = TOPIC) -> None:
        self.sender = sender
        self.history = History()
        self.handles: dict[str, SendHandle] = {}
        self._read = read
        self._topic = topic
        self._lock = threading.Lock()  # so that the order of acceptance is that of the history

    def submit(
        self,
        identity: str,
        key: str | None = None,
        *,
        ordering_key: str | None = None,
        **fields: Any,  # noqa: ANN401  # as RetryingSender.submit
    ) -> SendHandle:
        """
        Submit a message that is named by its property `id`. A refusal is recorded and raised.
        """
        payload, properties = f"order {identity}".encode(), {"id": identity}
        message = Message(
            topic=self._topic,
            payload=payload,
            properties=properties,
            partition_key=key,
            ordering_key=ordering_key,
        )
        with self._lock:
            self.history.attempted(identity, self._topic, message)
            try:
                handle = self.sender.submit(
                    self._topic,
                    payload,
                    partition_key=key,
                    ordering_key=ordering_key,
                    properties=properties,
                    **fields,
                )
            except BaseException:
                self.history.rejected(identity)
                raise
            self.history.accepted(identity)
        self.handles[identity] = handle
        return handle

    def replayed(self, identity: str) -> None:
        """
        It was sent again from the store, and confirmed.
        """
        self.history.replayed(identity)

    def judge(self, rules: Rules | None = None) -> Report:
        """
        Read the topic, the store and the books of the closed sender, and fail the test if anything is wrong.
        """
        for identity, handle in self.handles.items():
            assert handle.done(), f"{identity} has no fate: {handle!r}"
            error = handle.exception()
            attempts = error.attempts[:-1] if isinstance(error, SendFailed) else handle._attempts
            for attempt in attempts:
                if attempt.maybe_stored:
                    self.history.resent(identity)
            if isinstance(error, SendFailed):
                self.history.failed(identity, error.certainty, error.failed_message_id)
            elif handle.result().fate is Fate.DUPLICATE:
                self.history.duplicate(identity)
            else:
                self.history.acked(identity, handle.result().message_id)
        store = self.sender.failed_messages.open()
        for identity, handle in self.handles.items():
            error = handle.exception()
            if isinstance(error, SendFailed) and error.failed_message_id is not None:
                # It is there, or a late acknowledgement took it out.
                self.history.kept(identity, store.status(error.failed_message_id).id)
        assert store.count(EVERYTHING) <= len(self.handles)
        self.history.found(self._topic, self._read(), identify)
        counts = self.sender.close().counts
        assert counts.balanced
        self.history.ledger(
            accepted=counts.accepted,
            delivered=counts.delivered,
            duplicate=counts.duplicate,
            failed=counts.failed,
            in_flight=counts.in_flight,
        )
        return assert_valid(self.history, rules)


def identify(message: Readable) -> str | None:
    """
    The property `id` names a message.
    """
    return message.properties.get("id")
