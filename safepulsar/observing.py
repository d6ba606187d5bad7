"""
What observers are told: finished facts, as plain data. They change nothing that they tell of.

    class Counter:
        def observe(self, fact: Fact) -> None:
            if isinstance(fact, Finished):
                print(fact.topic, fact.fate, len(fact.handles))

    RetryingSender(url, observers=[Counter()])

`observers.py` brings the facts to them, on a thread of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from safepulsar.errors import BrokerError, InvalidSettings, SafePulsarError, SendFailed
from safepulsar.message import Fate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from safepulsar.books.handle import SendHandle
    from safepulsar.message import Attempt, Certainty, MessageId
    from safepulsar.sender import RetryingSender
    from safepulsar.steps import Chain

_TRACE_ID = slice(3, 35)  # of a traceparent: `00-`, 32 hexadecimal digits, and so on


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """
    One message that has its fate. No payload; keys and properties are the application's own and may be private.

    Args:
        topic: full name.
        fate: see `Fate`.
        certainty: of a failed one.
        error_code: of a failed one, e.g. `DeadlineExceeded`; empty else.
        message_id: of one that is in the topic.
        failed_message_id: of a failed one, in the store; None if it could not be kept.
        attempts: all that were made; the last one of a delivered message is not among them.
        attempt_count: how many there were.
        elapsed_seconds: from the call to the fate.
        finished_at: when it got its fate, on the clock of `time.monotonic`.
        size_bytes: of payload, keys and properties.
        partition_key: as sent.
        ordering_key: as sent.
        sequence_id: as sent.
        properties: as sent.
        trace_id: of the request that sent it, 32 hexadecimal digits, where there was one.
    """

    topic: str
    fate: Fate
    certainty: Certainty | None
    error_code: str
    message_id: MessageId | None
    failed_message_id: int | None
    attempts: tuple[Attempt, ...]
    attempt_count: int
    elapsed_seconds: float
    finished_at: float
    size_bytes: int
    partition_key: str | None
    ordering_key: str | None
    sequence_id: int | None
    properties: Mapping[str, str] | None
    trace_id: str | None

    def __repr__(self) -> str:
        """
        Without keys and properties.
        """
        return f"<Outcome {self.fate.value} {self.error_code} for {self.topic!r}>".replace("  ", " ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """
    Messages of one topic that got the same fate at the same time.

    Args:
        topic: full name.
        fate: of all of them.
        certainty: if they failed.
        error_code: if they failed, e.g. `DeadlineExceeded`; empty else.
        handles: theirs; `outcomes()` makes a record of each.
    """

    topic: str
    fate: Fate
    certainty: Certainty | None = None
    error_code: str = ""
    handles: Sequence[SendHandle]

    def outcomes(self) -> Iterator[Outcome]:
        """
        Each message by itself.
        """
        return map(outcome_of, self.handles)

    def durations(self) -> list[float]:
        """
        Seconds from the call to the fate, of each.
        """
        return [handle._final_at - handle._accepted_at for handle in self.handles]

    def failed_attempts(self) -> list[Attempt]:
        """
        Every attempt that failed, of all of them.
        """
        if self.fate is Fate.FAILED:
            return [attempt for handle in self.handles for attempt in attempts_of(handle)]
        return [attempt for handle in self.handles if handle._attempts for attempt in handle._attempts]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrying:
    """
    An attempt failed and will be made again.

    Args:
        topic: full name.
        error_code: why.
        messages: how many are sent again, or wait for a producer.
        delay_seconds: the pause before.
    """

    topic: str
    error_code: str
    messages: int
    delay_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimited:
    """
    Messages waited for the sender's own rate limit.

    Args:
        topic: full name.
        messages: how many.
        seconds: how long they are made to wait.
    """

    topic: str
    messages: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """
    A message was not accepted, and the caller got the error.

    Args:
        topic: full name.
        error_code: the error's name, e.g. `QueueFull`.
    """

    topic: str
    error_code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """
    The application took a message back before it was handed over.

    Args:
        topic: full name.
        handle: its own.
    """

    topic: str
    handle: SendHandle


Fact: TypeAlias = Finished | Retrying | RateLimited | Refused | Cancelled


class Observer(Protocol):
    """
    Is told each fact, soon after it has happened, one after the other, on one thread of the sender's own.

    Whatever it does there, sends go on: one that raises is logged, and one that is slow misses facts, which are counted
    (`SenderStats.facts_dropped`). One that is a `Watcher`, too, is given the sender when that is made.
    """

    def observe(self, fact: Fact) -> None:
        """
        Take note of it.
        """


@runtime_checkable
class Watcher(Protocol):
    """
    An observer that also looks at the sender itself, for what is only known when it is asked for.
    """

    def watch(self, sender: RetryingSender) -> None:
        """
        Look at this one from now on. Called when the sender is made, before it is opened.
        """


def outcome_of(handle: SendHandle) -> Outcome:
    """
    The record of a message that has its fate.
    """
    error = handle._error
    failed = isinstance(error, SendFailed)
    result = None if failed else handle._final()
    attempts = attempts_of(handle)
    return Outcome(
        topic=handle.topic,
        fate=Fate.FAILED if result is None else result.fate,
        certainty=error.certainty if isinstance(error, SendFailed) else None,
        error_code=code_of(error) if error is not None else "",
        message_id=None if result is None else result.message_id,
        failed_message_id=error.failed_message_id if isinstance(error, SendFailed) else None,
        attempts=attempts,
        attempt_count=len(attempts) + (not failed),
        elapsed_seconds=handle._final_at - handle._accepted_at,
        finished_at=handle._final_at,
        size_bytes=handle.size_bytes,
        partition_key=handle.partition_key,
        ordering_key=handle.ordering_key,
        sequence_id=handle.sequence_id,
        properties=handle.properties,
        trace_id=handle.trace_id or trace_id_of(handle.properties),
    )


def attempts_of(handle: SendHandle) -> tuple[Attempt, ...]:
    """
    The attempts that failed, of a message that has its fate.
    """
    error = handle._error
    return error.attempts if isinstance(error, SendFailed) else handle._attempts


def code_of(error: BaseException) -> str:
    """
    The broker's code, or the name of our error; of a failed message, of what made it fail.
    """
    if isinstance(error, SendFailed) and isinstance(error.__cause__, SafePulsarError):
        error = error.__cause__
    return error.code if isinstance(error, BrokerError) else type(error).__name__


def trace_id_of(properties: Mapping[str, str] | None) -> str | None:
    """
    The trace of a message, as its property `traceparent` says.
    """
    traceparent = properties.get("traceparent") if properties else None
    return traceparent[_TRACE_ID] if traceparent else None


class AfterOutcome:
    """
    Tells a step's `after_outcome(outcome)` of each message by itself.

    Args:
        step: has that method.
    """

    def __init__(self, step: object) -> None:
        self.observer = step
        self._tell: Callable[[Outcome], object] = step.after_outcome  # type: ignore[attr-defined]  # said above

    def observe(self, fact: Fact) -> None:
        """
        One call for each message that has its fate.
        """
        if not isinstance(fact, Finished):
            return
        failure: Exception | None = None
        for outcome in fact.outcomes():
            try:
                self._tell(outcome)
            except Exception as error:  # noqa: BLE001  # whatever a step raises: the others are told, too
                failure = error
        if failure is not None:
            raise failure


class OfTopic:
    """
    Lets an observer see the facts of one topic only.

    Args:
        topic: full name.
        observer: who is told.
    """

    def __init__(self, topic: str, observer: Observer) -> None:
        self._topic = topic
        self.observer = observer

    def watch(self, sender: RetryingSender) -> None:
        """
        Pass it on, if it is wanted.
        """
        if isinstance(self.observer, Watcher):
            self.observer.watch(sender)

    def observe(self, fact: Fact) -> None:
        """
        Pass it on, or not.
        """
        if fact.topic == self._topic:
            self.observer.observe(fact)


def observers_of(observers: Sequence[Observer], chain: Chain) -> list[Observer]:
    """
    All that are told: the steps that want to know what became of their messages, and then the observers.

    Args:
        observers: of the sender.
        chain: whose steps may have `after_outcome(outcome)`, and are told of each message that passed them; or
            `observe(fact)`, and are told of each fact.

    Raises:
        InvalidSettings: something among the observers is none.
    """
    if not isinstance(observers, (list, tuple)):
        raise InvalidSettings("observers", f"must be a list or tuple of observers, not {type(observers).__name__}")
    for place, observer in enumerate(observers):
        if isinstance(observer, type) or not callable(getattr(observer, "observe", None)):
            what = f"the class {observer.__name__}" if isinstance(observer, type) else type(observer).__name__
            raise InvalidSettings(f"observers[{place}]", f"must be an object with a method observe(fact), not {what}")
    found = [each for step in chain.everywhere for each in _observing(step)]
    for topic, own in chain.of_topic.items():
        found += [OfTopic(topic, each) for step in own for each in _observing(step)]
    return [*found, *observers]


def name_of(observer: object) -> str:
    """
    The class of an observer, or of the step that it stands for.
    """
    while isinstance(observer, (AfterOutcome, OfTopic)):
        observer = observer.observer
    return type(observer).__name__


def _observing(step: object) -> list[Observer]:
    if callable(getattr(step, "observe", None)):
        return [step]  # type: ignore[list-item]  # just seen
    return [AfterOutcome(step)] if callable(getattr(step, "after_outcome", None)) else []
