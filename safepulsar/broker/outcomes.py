"""
What every code of the client library means for a message: which error, try again or not, stored or not.

A code alone does not tell. Refused while it was handed over (`INLINE`), a message is surely not stored; the same code
afterwards (`LATER`) leaves it open, unless the client library makes that decision before it sends. Codes are names, so
that nothing here needs the client library. `docs/errors.md` prints the table.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from safepulsar.errors import (
    AuthenticationFailed,
    AuthorizationFailed,
    BrokerError,
    BrokerUnavailable,
    IncompatibleSchema,
    MessageRefused,
    MessageTooBig,
    ProducerBusy,
    ProducerFenced,
    ProducerGone,
    QuotaExceeded,
    SendTimeout,
    TopicNotFound,
    TopicTerminated,
)


class Phase(str, Enum):
    """
    When a code came.
    """

    CREATE = "CREATE"  # while a producer was opened: there was no message yet
    INLINE = "INLINE"  # before the hand-over of a message returned: it never left
    LATER = "LATER"  # afterwards


class Outcome(NamedTuple):
    """
    The verdict on one code in one phase.

    Args:
        error: the class that is raised.
        retriable: whether the same may succeed later, unchanged.
        maybe_stored: whether the broker could have stored the message all the same.
    """

    error: type[BrokerError]
    retriable: bool
    maybe_stored: bool


class Row(NamedTuple):
    """
    One code of the table.

    Args:
        code: Pulsar's name of the result.
        meaning: what happened and what to do, in our words: the client library's own text may quote arguments.
        error: the class that is raised, but see `error_at_create`.
        retriable: in every phase; trying again means another producer where this one is gone.
        never_stored: the client library or the broker refuses it before it stores anything, in every phase.
        error_at_create: the class that is raised for a producer, where it differs.
        of_producers: False for codes of consumers and transactions, which a producer never gets.
    """

    code: str
    meaning: str
    error: type[BrokerError] = BrokerError
    retriable: bool = False
    never_stored: bool = False
    error_at_create: type[BrokerError] | None = None
    of_producers: bool = True

    def outcome(self, phase: Phase) -> Outcome:
        """
        The verdict in this phase.
        """
        at_create = self.error_at_create if phase is Phase.CREATE else None
        return Outcome(
            error=at_create or self.error,
            retriable=self.retriable,
            maybe_stored=phase is Phase.LATER and not self.never_stored,
        )


_CONSUMERS = "an answer to a consumer or a transaction; a producer never gets it"


def _consumers(code: str) -> Row:
    return Row(code, _CONSUMERS, of_producers=False)


_UNKNOWN = Row("any other", "unknown to this version of safepulsar")

_TABLE = (
    # The network and the broker's health.
    Row(
        "Timeout",
        "no answer in time; the broker is down, frozen or overloaded",
        SendTimeout,
        retriable=True,
        error_at_create=BrokerUnavailable,
    ),
    Row("ConnectError", "no connection; check that the broker runs and the URL", BrokerUnavailable, retriable=True),
    Row("ReadError", "the connection broke while reading", BrokerUnavailable, retriable=True),
    Row("Disconnected", "the connection broke", BrokerUnavailable, retriable=True),
    Row("Retryable", "the client library would try again, but was stopped", BrokerUnavailable, retriable=True),
    Row("LookupError", "no broker is found that serves the topic", BrokerUnavailable, retriable=True),
    Row("TooManyLookupRequestException", "too many look-ups at once", BrokerUnavailable, retriable=True),
    Row("ServiceUnitNotReady", "the topic is moving to another broker", BrokerUnavailable, retriable=True),
    Row("BrokerMetadataError", "the broker cannot reach its metadata", BrokerUnavailable, retriable=True),
    Row("BrokerPersistenceError", "the broker cannot write to its storage", BrokerUnavailable, retriable=True),
    # The producer.
    Row("AlreadyClosed", "the producer or its client was closed", ProducerGone, retriable=True),
    Row(
        "NotConnected",
        "the producer never became ready",
        ProducerGone,
        retriable=True,
        error_at_create=BrokerUnavailable,
    ),
    Row("ProducerNotInitialized", "the producer was never opened", ProducerGone, retriable=True),
    Row("Interrupted", "the client library was stopped while it waited", ProducerGone, retriable=True),
    Row(
        "ProducerBusy",
        "another producer has this name, or the topic for itself; close it or take another name",
        ProducerBusy,
        retriable=True,
    ),
    Row("ProducerFenced", "another producer has taken the topic for itself", ProducerFenced),
    # Room.
    Row(
        "ProducerQueueIsFull",
        "the client library's queue is full",
        BrokerUnavailable,
        retriable=True,
        never_stored=True,
    ),
    Row(
        "MemoryBufferIsFull",
        "the client library's memory limit is reached",
        BrokerUnavailable,
        retriable=True,
        never_stored=True,
    ),
    Row(
        "ProducerBlockedQuotaExceededError",
        "the topic's backlog is full; consume it or raise its quota",
        QuotaExceeded,
        retriable=True,
    ),
    Row(
        "ProducerBlockedQuotaExceededException",
        "the topic's backlog is full; consume it or raise its quota",
        QuotaExceeded,
        retriable=True,
    ),
    # The message.
    Row(
        "MessageTooBig",
        "over the broker's maxMessageSize, with its properties or with its whole batch; send less at once",
        MessageTooBig,
        never_stored=True,
    ),
    Row("InvalidMessage", "the client library does not take this message", MessageRefused, never_stored=True),
    Row(
        "CryptoError",
        "it could not be encrypted; check encryption_key and its files",
        MessageRefused,
        never_stored=True,
    ),
    # Of a message that was sent again after its connection broke, only the last way is known to have damaged it.
    Row("ChecksumError", "it was damaged on its way", MessageRefused, retriable=True),
    # Rights.
    Row(
        "AuthenticationError",
        "the broker does not accept the credentials; see ClientSettings.token",
        AuthenticationFailed,
    ),
    Row(
        "ErrorGettingAuthenticationData",
        "the credentials could not be read; see ClientSettings.token and the certificate files",
        AuthenticationFailed,
    ),
    Row("AuthorizationError", "the credentials carry no right to produce to the topic", AuthorizationFailed),
    # The topic.
    Row("TopicNotFound", "the broker has no such topic and does not make it; create it", TopicNotFound),
    Row("TopicTerminated", "the topic was terminated and takes no more messages", TopicTerminated),
    Row("IncompatibleSchema", "the topic's schema does not accept the producer's", IncompatibleSchema),
    Row("InvalidTopicName", "the broker does not accept the topic's name"),
    # What was asked for.
    Row("InvalidConfiguration", "the client library does not accept the settings"),
    Row("InvalidUrl", "the client library does not accept the URL; see ClientSettings.url"),
    Row("UnsupportedVersionError", "the broker is too old for what the settings ask for"),
    Row("NotAllowedError", "the broker does not allow it; see its log"),
    Row("OperationNotSupported", "the broker or the client library cannot do it"),
    Row("UnknownError", "the broker failed without saying why; see its log", retriable=True),
    # Ours: an acknowledgement for another number of messages than were handed over as one batch.
    Row("BatchSplit", "the acknowledgement does not cover the whole batch; some of it may be missing"),
    # Never a producer's.
    _consumers("ConsumerAssignError"),
    _consumers("ConsumerBusy"),
    _consumers("ConsumerNotFound"),
    _consumers("ConsumerNotInitialized"),
    _consumers("CumulativeAcknowledgementNotAllowedError"),
    _consumers("InvalidTxnStatusError"),
    _consumers("SubscriptionNotFound"),
    _consumers("TransactionConflict"),
    _consumers("TransactionCoordinatorNotFoundError"),
    _consumers("TransactionNotFound"),
)

_ROWS = {row.code: row for row in _TABLE}


def classify(code: str, phase: Phase, topic: str | None = None, *, detail: str | None = None) -> BrokerError:
    """
    Make the error for `code`, with the table's verdict.

    A code that is not in the table is not retriable, and after the hand-over the message may be stored.

    Args:
        code: Pulsar's name of the result.
        phase: when it came.
        topic: for the text.
        detail: what is known beyond the table; it must not quote a payload, a key or a secret.
    """
    row = _ROWS.get(code, _UNKNOWN)
    outcome = row.outcome(phase)
    return outcome.error(
        code,
        row.meaning if detail is None else detail,
        topic=topic,
        retriable=outcome.retriable,
        maybe_stored=outcome.maybe_stored,
    )


def table() -> tuple[Row, ...]:
    """
    Every known code, and as the last row what holds for any other.
    """
    return (*_TABLE, _UNKNOWN)


def markdown() -> str:
    """
    The table as `docs/errors.md` prints it.
    """
    rows = [row for row in table() if row.of_producers]
    others = ", ".join(f"`{row.code}`" for row in table() if not row.of_producers)
    lines = [
        "| Code | Meaning | Opening a producer | Refused at once | Later |",
        "| --- | --- | --- | --- | --- |",
        *(f"| {' | '.join([_name(row), row.meaning, *(_verdict(row, phase) for phase in Phase)])} |" for row in rows),
        f"| {others} | {_CONSUMERS} | - | - | - |",
    ]
    return "\n".join(lines) + "\n"


def _name(row: Row) -> str:
    return row.code if row is _UNKNOWN else f"`{row.code}`"


def _verdict(row: Row, phase: Phase) -> str:
    outcome = row.outcome(phase)
    facts = ["retriable" if outcome.retriable else "final"]
    if phase is not Phase.CREATE:  # there is no message yet
        facts.append("maybe stored" if outcome.maybe_stored else "not stored")
    return f"`{outcome.error.__name__}`: {', '.join(facts)}"
