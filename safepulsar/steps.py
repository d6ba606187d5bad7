"""
The chain that a message passes on its way in: each step sees it before it is accepted, and may change or refuse it.

    class Stamp:
        def before_send(self, draft: Draft) -> Draft:
            draft.set_property("sent-by", "shop-7")
            return draft

    sender = RetryingSender(url, steps=[Stamp()], topic_steps={"orders": [Validate(Order)]})

The steps of the topic come first, because they know what its values mean; then those of the sender, in their order. What
is not bytes after the last one becomes bytes as without any steps, and then everything is checked. Steps run in the
thread that sends, before the message counts as accepted; `resend` and `replay` don't run them again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from safepulsar.errors import InvalidSettings, SafePulsarError, StepFailed
from safepulsar.topics import TopicNames

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from safepulsar.message import Message

_MAX_NAMES = 10_000


class Draft:
    """
    One message that is not accepted yet. Steps change it in place; it belongs to one call and one thread.

    Args:
        topic: its full name.
        value: what the application passed; after serialisation bytes, or None for a tombstone.
        partition_key: see `RetryingSender.send`, and so for the next six.
        ordering_key: see there.
        properties: a dict of its own, or None if there are none.
        sequence_id: see there.
        event_timestamp_ms: see there.
        deliver_at_ms: see there.
        deadline_seconds: None for the sender's own.

    Attributes:
        trace_id: of the request that sends it; it goes into the store with a failed message.
        span: whatever a tracing step wants to have back with the outcome; never kept, never sent.
    """

    __slots__ = (
        "deadline_seconds",
        "deliver_at_ms",
        "event_timestamp_ms",
        "ordering_key",
        "partition_key",
        "properties",
        "sequence_id",
        "span",
        "topic",
        "trace_id",
        "value",
    )

    def __init__(
        self,
        topic: str,
        value: object,
        partition_key: str | None = None,
        ordering_key: str | None = None,
        properties: dict[str, str] | None = None,
        sequence_id: int | None = None,
        event_timestamp_ms: int | None = None,
        deliver_at_ms: int | None = None,
        deadline_seconds: float | None = None,
    ) -> None:
        self.topic = topic
        self.value = value
        self.partition_key = partition_key
        self.ordering_key = ordering_key
        self.properties = properties
        self.sequence_id = sequence_id
        self.event_timestamp_ms = event_timestamp_ms
        self.deliver_at_ms = deliver_at_ms
        self.deadline_seconds = deadline_seconds
        self.trace_id: str | None = None
        self.span: object = None

    def set_property(self, name: str, value: str) -> None:
        """
        Set one property, whether there were any or not.
        """
        if self.properties is None:
            self.properties = {name: value}
        else:
            self.properties[name] = value

    def __repr__(self) -> str:
        """
        Say where it goes; no value, no keys.
        """
        return f"<Draft for {self.topic!r}>"


@runtime_checkable
class Step(Protocol):
    """
    One step of the chain; built-in steps and yours are the same kind of thing.

    Shared by all threads that send, so it keeps nothing of a message in itself.
    """

    def before_send(self, draft: Draft) -> Draft:
        """
        Look at a message, change it, or refuse it by raising.

        An error of safepulsar's own reaches the application as it is; any other becomes `StepFailed`. Nothing is
        accepted then.
        """
        ...


@runtime_checkable
class BeforeResend(Protocol):
    """
    What a step may have beside: a look at what the store of failed messages gives back.
    """

    def before_resend(self, message: Message) -> None:
        """
        Look at a message before it is sent again, and refuse it by raising; it stays in the store then.
        """
        ...


class Chain:
    """
    The steps of a sender, those of each topic put before them. Thread-safe: it never changes.

    Args:
        steps: for every message.
        topic_steps: for the messages of single topics, by their name in any form.

    Attributes:
        everywhere: the steps for every message.
        of_topic: by full name, those that messages of this topic pass before.

    Raises:
        InvalidSettings: something in it is no step.
        InvalidTopic: a topic's name is none.
    """

    def __init__(self, steps: Sequence[Step] = (), topic_steps: Mapping[str, Sequence[Step]] | None = None) -> None:
        self._full_name = TopicNames().full
        self.everywhere = _checked("steps", steps)
        self.of_topic = {
            self._full_name(topic): _checked(f"topic_steps[{topic!r}]", own)
            for topic, own in (topic_steps or {}).items()
        }
        self._whole = {topic: own + self.everywhere for topic, own in self.of_topic.items()}
        # By the topic as the application writes it: its full name and what to call; filled as topics come.
        self._calls: dict[str, tuple[str, tuple[Callable[[Draft], Draft], ...]]] = {}

    def __bool__(self) -> bool:
        """
        Whether there is any step at all.
        """
        return bool(self.everywhere or self.of_topic)

    def run(self, draft: Draft) -> Draft:
        """
        Give `draft` the full name of its topic, and pass it through the topic's steps.

        Raises:
            InvalidTopic: its name is none.
            StepFailed: a step raised something of its own, or gave back no draft.
            SafePulsarError: a step raised it.
        """
        try:
            draft.topic, calls = self._calls[draft.topic]
        except (KeyError, TypeError):
            draft.topic, calls = self._look_up(draft.topic)
        for before_send in calls:
            try:
                result: object = before_send(draft)
            except SafePulsarError:
                raise
            except Exception as error:
                problem = f"raised {type(error).__name__} for a message to {draft.topic!r}; nothing was sent"
                raise StepFailed(_name(before_send), problem) from error
            if result is not draft:
                if not isinstance(result, Draft):
                    problem = f"must return the draft that it was given, not {type(result).__name__}; nothing was sent"
                    raise StepFailed(_name(before_send), problem)
                draft = result
        return draft

    def _look_up(self, topic: str) -> tuple[str, tuple[Callable[[Draft], Draft], ...]]:
        full = self._full_name(topic)
        found = full, tuple([step.before_send for step in self._whole.get(full, self.everywhere)])
        if len(self._calls) >= _MAX_NAMES:
            self._calls.clear()  # names made of user input must not grow the table without end
        self._calls[topic] = found
        return found

    def check(self, message: Message) -> None:
        """
        Show a message from the store to those of its topic's steps that have `before_resend`.

        Raises:
            SafePulsarError: a step raised it.
            StepFailed: a step raised something of its own.
        """
        for step in self._whole.get(message.topic, self.everywhere):
            if isinstance(step, BeforeResend):
                try:
                    step.before_resend(message)
                except SafePulsarError:
                    raise
                except Exception as error:
                    raise StepFailed(_name(step), f"raised {type(error).__name__}; nothing was sent") from error


def _checked(field: str, steps: object) -> tuple[Step, ...]:
    if isinstance(steps, (str, bytes)) or not hasattr(steps, "__iter__"):
        raise InvalidSettings(field, f"must be a sequence of steps, not {type(steps).__name__}")
    chain = tuple(steps)
    for place, step in enumerate(chain):
        if isinstance(step, type) or not isinstance(step, Step):
            what = f"the class {step.__name__}; make an instance" if isinstance(step, type) else type(step).__name__
            raise InvalidSettings(f"{field}[{place}]", f"must have a method before_send(draft), not {what}")
    return chain


def _name(step: object) -> str:
    return f"step {type(getattr(step, '__self__', step)).__name__}"
