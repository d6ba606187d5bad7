"""
Many messages in one call, and what became of all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypedDict, runtime_checkable

from safepulsar.books.handle import SendHandle, State, now
from safepulsar.errors import InvalidInput, SendFailed
from safepulsar.message import Fate
from safepulsar.sending.intake import prepare, prepare_payloads
from safepulsar.topics import TopicNames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from typing_extensions import Unpack

    from safepulsar.message import MessageId
    from safepulsar.sending.engine import Engine
    from safepulsar.serialization import Sendable

_FINAL: Final = int(State.FINAL)  # an enum's attribute costs more than all the rest
_ERRORS_SHOWN = 100
_AT_ONCE = 100  # of one write to disk
_SETTLE_EVERY = 5_000  # so that a generator without end does not fill the memory with handles


@dataclass(frozen=True, slots=True, kw_only=True)
class SendReport:
    """
    What became of the messages of one `send_many`.

    Args:
        read: values taken from the iterable and accepted.
        delivered: stored now.
        duplicate: stored before, says the broker.
        failed: not confirmed; kept in the store.
        errors: the first 100 of the failures.
        seconds: from the call to the last fate.
    """

    read: int
    delivered: int
    duplicate: int
    failed: int
    errors: tuple[SendFailed, ...]
    seconds: float


class ForAll(TypedDict):
    """
    What `RetryingSender.send_many` says of all values.
    """

    partition_key: Callable[[Any], str | None] | str | None
    ordering_key: Callable[[Any], str | None] | str | None
    properties: Mapping[str, str] | None
    deadline_seconds: float | None


class _Tally:
    """
    Counts the fates of handles, and lets go of them.
    """

    def __init__(self) -> None:
        self.delivered = self.duplicate = self.failed = 0
        self.errors: list[SendFailed] = []

    def settle(self, handles: Iterable[SendHandle]) -> None:
        """
        Wait for the fate of each.
        """
        last: MessageId | None = None
        duplicate = False
        for handle in handles:
            if handle._state != _FINAL:
                handle.exception_once_kept()
            error = handle._error
            if error is not None:
                self.failed += 1
                if len(self.errors) < _ERRORS_SHOWN and isinstance(error, SendFailed):
                    self.errors.append(error)
                continue
            if handle._message_id is not last:  # one for all of a batch
                last = handle._message_id
                duplicate = handle._fate() is Fate.DUPLICATE
            self.duplicate += duplicate
            self.delivered += not duplicate


@runtime_checkable
class ManyStep(Protocol):
    """
    A step that wants to know which messages belong to one `send_many`.
    """

    def begin_many(self, topic: str) -> Callable[[SendReport | None], None]:
        """
        They come now, in this thread, for the topic of this full name; what is returned is called at the end, with the report if there is one.
        """


class Intake:
    """
    How a sender takes the messages of one `send_many`.

    Args:
        engine: accepts many at once.
        prepare: makes the handle of one; see `intake.prepare`.
        accept: accepts one, where many at once is not possible.
    """

    def __init__(
        self, engine: Engine, prepare: Callable[..., SendHandle], accept: Callable[[SendHandle], None]
    ) -> None:
        self.engine = engine
        self.prepare = prepare
        self._accept = accept

    def accept(self, ready: list[SendHandle], accepted: list[SendHandle]) -> None:
        """
        Move what is ready to what is accepted, in order, as far as that goes; what is refused, and the rest, is dropped.
        """
        if not ready:
            return
        handles = ready.copy()
        ready.clear()
        taken = 0
        try:
            if self._accept_together(handles):
                taken = len(handles)
            for handle in handles[taken:]:
                waited = now() - handle._accepted_at  # for room, for those before it
                handle._accepted_at += waited
                handle._deadline += waited
                self._accept(handle)
                taken += 1
        finally:
            accepted += handles[:taken]
            # What was interrupted: with a number it is on disk, and in another state it is being kept.
            accepted += [each for each in handles[taken:] if each.sequence_id is not None or each._state]

    def _accept_together(self, handles: list[SendHandle]) -> bool:
        try:
            return self.engine.accept_together(handles)
        except Exception as error:
            self.engine.observers.refused(handles[0], error)
            raise


def send_many(
    steps: Iterable[ManyStep],
    intake: Intake,
    topic: str,
    values: Iterable[Sendable],
    **arguments: Unpack[ForAll],
) -> SendReport:
    """
    Submit all of `values` and wait for every fate; see `RetryingSender.send_many`.
    """
    ends = [step.begin_many(TopicNames().full(topic)) for step in steps]
    report: SendReport | None = None
    try:
        report = _send_many(intake, topic, values, **arguments)
    finally:
        for end in reversed(ends):
            end(report)
    return report


def _send_many(  # one loop, with and without a disk
    intake: Intake,
    topic: str,
    values: Iterable[Sendable],
    *,
    partition_key: Callable[[Any], str | None] | str | None,
    ordering_key: Callable[[Any], str | None] | str | None,
    properties: Mapping[str, str] | None,
    deadline_seconds: float | None,
) -> SendReport:
    if isinstance(values, (str, bytes, bytearray, memoryview, Mapping)):
        problem = f"must be an iterable of values, not {type(values).__name__}; one value is for send()"
        raise InvalidInput("values", problem)
    began = now()
    tally = _Tally()
    ready: list[SendHandle] = []
    accepted: list[SendHandle] = []
    read = 0
    engine = intake.engine
    # Without steps, keys and properties a payload is a message, and many are made in one go.
    bare = intake.prepare is prepare and partition_key is None and ordering_key is None and properties is None
    # One by one what may take its time to come: it must not wait for what comes behind it. A disk costs more than that.
    at_once = _AT_ONCE if isinstance(values, (list, tuple)) or engine.queue(topic, keyed=False).outbox else 1
    try:
        for chunk in _chunks(values):
            made = prepare_payloads(engine, topic, chunk, deadline_seconds) if bare else []
            ready += made
            read += len(made)
            for value in chunk[len(made) :]:
                try:
                    handle = intake.prepare(
                        engine,
                        topic,
                        value,
                        partition_key(value) if callable(partition_key) else partition_key,
                        ordering_key(value) if callable(ordering_key) else ordering_key,
                        properties,
                        None,
                        None,
                        None,
                        deadline_seconds,
                    )
                except InvalidInput as error:
                    where, _, problem = str(error).partition(": ")
                    raise type(error)(f"values[{read}].{where}", problem) from error
                ready.append(handle)
                read += 1
            if len(ready) >= at_once:
                intake.accept(ready, accepted)
            if len(accepted) >= 2 * _SETTLE_EVERY:
                tally.settle(accepted[:_SETTLE_EVERY])
                del accepted[:_SETTLE_EVERY]
    finally:
        try:
            intake.accept(ready, accepted)
        finally:
            tally.settle(accepted)
    return SendReport(
        read=read,
        delivered=tally.delivered,
        duplicate=tally.duplicate,
        failed=tally.failed,
        errors=tuple(tally.errors),
        seconds=now() - began,
    )


def _chunks(values: Iterable[Sendable]) -> Iterator[Sequence[Sendable]]:
    if isinstance(values, (list, tuple)):
        for first in range(0, len(values), _AT_ONCE):
            yield values[first : first + _AT_ONCE]
    else:
        for value in values:
            yield (value,)
