"""
Many messages in one call, and what became of all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, runtime_checkable

from safepulsar.books.handle import SendHandle, now
from safepulsar.errors import InvalidInput, SendFailed
from safepulsar.message import Fate
from safepulsar.topics import TopicNames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from typing_extensions import Unpack

    from safepulsar.serialization import Sendable

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


class Submit(Protocol):
    """
    `RetryingSender.submit`.
    """

    def __call__(
        self,
        topic: str,
        value: Sendable,
        *,
        partition_key: str | None,
        ordering_key: str | None,
        properties: Mapping[str, str] | None,
        deadline_seconds: float | None,
    ) -> SendHandle:
        """
        Accept one message.
        """


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
        for handle in handles:
            error = handle.exception_once_kept()
            if isinstance(error, SendFailed):
                self.failed += 1
                if len(self.errors) < _ERRORS_SHOWN:
                    self.errors.append(error)
            elif handle._fate() is Fate.DUPLICATE:
                self.duplicate += 1
            else:
                self.delivered += 1


@runtime_checkable
class ManyStep(Protocol):
    """
    A step that wants to know which messages belong to one `send_many`.
    """

    def begin_many(self, topic: str) -> Callable[[SendReport | None], None]:
        """
        They come now, in this thread, for the topic of this full name; what is returned is called at the end, with the report if there is one.
        """


class Together:
    """
    Accepts messages of a topic with an outbox a hundred at a time, because each write to disk costs as much as many.

    Args:
        submit: prepares one, and accepts nothing yet.
        accept: accepts many; what stands before one that is refused is accepted.
    """

    def __init__(self, submit: Submit, accept: Callable[[Sequence[SendHandle]], None]) -> None:
        self.submit = submit
        self._accept = accept

    def accepted(self, handles: list[SendHandle], first: int) -> int:
        """
        Accept those of `handles` from place `first` on, and return the place behind them; take out what is refused.
        """
        if first < len(handles):
            try:
                self._accept(handles[first:])
            except BaseException:
                # With a number it is on disk, and in another state it is being kept.
                handles[first:] = [each for each in handles[first:] if each.sequence_id is not None or each._state]
                raise
        return len(handles)


def send_many(
    steps: Iterable[ManyStep],
    submit: Submit | Together,
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
        report = _send_many(submit, topic, values, **arguments)
    finally:
        for end in reversed(ends):
            end(report)
    return report


def _send_many(  # one loop, with and without a disk
    submit: Submit | Together,
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
    handles: list[SendHandle] = []
    read = waiting_from = 0
    together = submit if isinstance(submit, Together) else None
    submit_one = submit.submit if isinstance(submit, Together) else submit
    try:
        for value in values:
            try:
                handle = submit_one(
                    topic,
                    value,
                    partition_key=partition_key(value) if callable(partition_key) else partition_key,
                    ordering_key=ordering_key(value) if callable(ordering_key) else ordering_key,
                    properties=properties,
                    deadline_seconds=deadline_seconds,
                )
            except InvalidInput as error:
                where, _, problem = str(error).partition(": ")
                raise type(error)(f"values[{read}].{where}", problem) from error
            handles.append(handle)
            read += 1
            if together is not None and len(handles) - waiting_from >= _AT_ONCE:
                waiting_from = together.accepted(handles, waiting_from)
            if len(handles) >= 2 * _SETTLE_EVERY:
                tally.settle(handles[:_SETTLE_EVERY])
                del handles[:_SETTLE_EVERY]
                waiting_from -= _SETTLE_EVERY
    finally:
        try:
            if together is not None:
                together.accepted(handles, waiting_from)
        finally:
            tally.settle(handles)
    return SendReport(
        read=read,
        delivered=tally.delivered,
        duplicate=tally.duplicate,
        failed=tally.failed,
        errors=tuple(tally.errors),
        seconds=now() - began,
    )
