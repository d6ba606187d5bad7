"""
Every error that safepulsar raises, as one tree, each answering two questions.

`retriable`: may the same call succeed later, unchanged?
`maybe_stored`: could the broker have stored the message all the same?

    SafePulsarError
    ├── InvalidInput              (also a ValueError) refused before anything was sent
    │   ├── InvalidSettings
    │   ├── InvalidTopic
    │   └── InvalidMessage
    ├── BrokerError               one answer of the broker or of the client library
    │   ├── BrokerUnavailable     no connection, lookup failed, broker overloaded
    │   ├── AuthenticationFailed
    │   ├── AuthorizationFailed
    │   ├── TopicNotFound
    │   ├── TopicTerminated
    │   ├── ProducerBusy          the producer name is in use elsewhere
    │   ├── ProducerFenced        another producer took this one's place
    │   ├── ProducerGone          the producer was closed under a message
    │   ├── QuotaExceeded
    │   ├── MessageTooBig
    │   ├── MessageRefused        checksum, encryption or format
    │   ├── IncompatibleSchema
    │   └── SendTimeout           the client library gave up waiting for an answer
    ├── SendFailed                the fate of one accepted message, with the message
    ├── DeadlineExceeded          the time that the caller allowed is over
    ├── QueueFull                 the bound on messages or bytes in flight is reached
    ├── SenderClosed
    ├── PoolClosed
    ├── CreationBackoff           a producer failed a moment ago and is not tried again yet
    ├── BrokerNotStarted          the embedded broker (safepulsar.local_broker)
    ├── ForkedProcess             a handle of the parent process, used in its child
    └── StoreError                the store of failed messages
        ├── StoreUnavailable      cannot be opened, read-only, locked
        ├── StoreFull             no space left
        ├── StoreInsecure         symlink, foreign owner, writable by others
        ├── StoreTooNew           written by a newer version
        ├── StoreCorrupted
        └── NoSuchFailedMessage
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safepulsar.message import Attempt, Certainty, Message

_LONGEST_BITS = 64  # Python refuses to print very long numbers


class SafePulsarError(Exception):
    """
    The root of all errors of this package. They can be pickled, so that they get through a process pool whole.
    """

    retriable: ClassVar[bool] = False
    maybe_stored: ClassVar[bool] = False

    def __reduce__(self) -> tuple[object, ...]:
        """
        Pickle and copy without `__init__`, whose arguments are other ones than those that Exception remembers.
        """
        return _restored, (type(self), self.args), self.__dict__


def _restored(kind: type[SafePulsarError], args: tuple[object, ...]) -> SafePulsarError:
    return kind.__new__(kind, *args)


def shown(value: object) -> str:
    """
    What an error tells of a wrong value: a number itself, of anything else the type, because it could be a secret.
    """
    if isinstance(value, float) or (isinstance(value, int) and value.bit_length() <= _LONGEST_BITS):
        return repr(value)
    return type(value).__name__


class InvalidInput(SafePulsarError, ValueError):
    """
    An argument is refused before anything is sent.

    The text names the field, the limit and the remedy, and never quotes a payload or a secret.

    Attributes:
        field: the argument's name, e.g. `partition_key`.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class InvalidSettings(InvalidInput):
    """
    A setting has a wrong type or value.
    """


class InvalidTopic(InvalidInput):
    """
    A topic name is malformed or outside the allowed namespaces.
    """


class InvalidMessage(InvalidInput):
    """
    A payload, key, property or time of a message is refused.
    """


class BrokerError(SafePulsarError):
    """
    One answer of the broker or the client library that is not success.

    Whether a retry makes sense and whether the message may be stored depends on the code *and* on when it
    came, so both are attributes of the instance here: an error that arrives before the hand-over returned is
    certainly not stored, the same code later is not certain. `safepulsar.outcomes` holds the table.

    Attributes:
        code: Pulsar's name of the result, e.g. `ProducerFenced`.
        topic: the topic, where known.
    """

    def __init__(
        self,
        code: str,
        detail: str = "",
        *,
        topic: str | None = None,
        retriable: bool | None = None,
        maybe_stored: bool | None = None,
    ) -> None:
        where = f" on topic {topic!r}" if topic else ""
        super().__init__(f"{code}{where}" + (f": {detail}" if detail else ""))
        self.code = code
        self.topic = topic
        if retriable is not None:
            self.retriable = retriable  # type: ignore[misc]  # the table's verdict beats the class default
        if maybe_stored is not None:
            self.maybe_stored = maybe_stored  # type: ignore[misc]  # as above


class BrokerUnavailable(BrokerError):
    """
    The broker could not be reached or answered that it is overloaded.
    """

    retriable = True


class AuthenticationFailed(BrokerError):
    """
    The broker does not accept the credentials; see `ClientSettings.token`.
    """


class AuthorizationFailed(BrokerError):
    """
    The credentials carry no produce right for the topic.
    """


class TopicNotFound(BrokerError):
    """
    The topic does not exist and the broker does not create it.
    """


class TopicTerminated(BrokerError):
    """
    The topic was terminated and takes no more messages.
    """


class ProducerBusy(BrokerError):
    """
    Another producer holds this producer name, or the topic exclusively.
    """

    retriable = True


class ProducerFenced(BrokerError):
    """
    Another producer took over the topic with fencing.
    """


class ProducerGone(BrokerError):
    """
    The producer was closed, or never became ready, under this message.
    """

    retriable = True


class QuotaExceeded(BrokerError):
    """
    The backlog quota of the topic holds the producer back.
    """

    retriable = True


class MessageTooBig(BrokerError):
    """
    The message, with its properties, is over the broker's limit.
    """


class MessageRefused(BrokerError):
    """
    The message itself is refused: checksum, encryption or format.
    """


class IncompatibleSchema(BrokerError):
    """
    The topic's schema does not accept the producer's.
    """


class SendTimeout(BrokerError):
    """
    The client library gave up waiting for the broker's answer: the message may be stored.
    """

    retriable = True
    maybe_stored = True


class SendFailed(SafePulsarError):
    """
    An accepted message was not confirmed: here it is, with what is known about it.

    Attributes:
        message: the message as it was accepted, or None where only its fate is known.
        attempts: what was tried, in order; empty if nothing could be tried in time.
        certainty: `NOT_STORED` or `MAYBE_STORED`.
        failed_message_id: its id in the store of failed messages, or None if it could not be kept there.
    """

    def __init__(
        self,
        message: Message,
        *,
        attempts: Sequence[Attempt],
        certainty: Certainty,
        failed_message_id: int | None,
        cause: str,
    ) -> None:
        kept = (
            f"kept as failed message {failed_message_id}; replay it"
            if failed_message_id is not None
            else "NOT kept in a store: this exception holds the only copy"
        )
        tried = f"after {len(attempts)} attempt{'' if len(attempts) == 1 else 's'}"
        super().__init__(f"message for topic {message.topic!r} is {certainty.value} {tried}: {cause} ({kept})")
        self.message = message
        self.attempts = tuple(attempts)
        self.certainty = certainty
        self.failed_message_id = failed_message_id

    @property
    def maybe_stored(self) -> bool:  # type: ignore[override]  # a fact of the instance here
        """
        True if the broker could have stored the message.
        """
        return self.certainty.value == "MAYBE_STORED"


class DeadlineExceeded(SafePulsarError):
    """
    The time allowed is over. As the cause of a `SendFailed`, the certainty there says what is known.
    """

    retriable = True


class QueueFull(SafePulsarError):
    """
    The bound on messages or bytes in flight is reached; the message was not accepted and is not stored.
    """

    retriable = True


class SenderClosed(SafePulsarError):
    """
    The sender takes no more messages; the message was not accepted and is not stored.
    """


class PoolClosed(SafePulsarError):
    """
    The producer pool is closed and lends no more producers.
    """


class CreationBackoff(SafePulsarError):
    """
    Creating this producer failed a moment ago; it is not tried again before `retry_after_seconds`.

    Attributes:
        retry_after_seconds: how long the pool still waits before it asks the broker again.
    """

    retriable = True

    def __init__(self, topic: str, retry_after_seconds: float) -> None:
        super().__init__(f"topic {topic!r}: the last creation failed; next try in {retry_after_seconds:.2f} s")
        self.retry_after_seconds = retry_after_seconds


class ForkedProcess(SafePulsarError):
    """
    The object belongs to the parent process: only the parent learns the fate of its messages.
    """


class StoreError(SafePulsarError):
    """
    The store of failed messages could not do what was asked; nothing else is lost by it.
    """


class StoreUnavailable(StoreError):
    """
    The store cannot be opened or written: a folder, read-only, locked for too long, not a database.
    """

    retriable = True


class StoreFull(StoreError):
    """
    The disk or the quota is full; free space and replay or resend.
    """

    retriable = True


class StoreInsecure(StoreError):
    """
    The store's file or folder could be read or replaced by others.
    """


class StoreTooNew(StoreError):
    """
    A newer version of safepulsar wrote this store.
    """


class StoreCorrupted(StoreError):
    """
    A row or the file fails its checksum.
    """


class NoSuchFailedMessage(StoreError, KeyError):
    """
    The store holds no failed message of this id.
    """

    def __str__(self) -> str:
        """
        The sentence itself (KeyError would print its repr).
        """
        return str(self.args[0]) if self.args else ""
