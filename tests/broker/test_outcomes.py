"""
The table of outcomes knows every code of the client library, and says the safe thing about each.
"""

from __future__ import annotations

import _pulsar
import pytest

from safepulsar.broker.outcomes import Phase, classify, markdown, table
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

_RESULTS = set(_pulsar.Result.__members__) - {"Ok"}
_EXCEPTIONS = {
    name
    for name, value in vars(_pulsar).items()
    if isinstance(value, type) and issubclass(value, _pulsar.PulsarException) and value is not _pulsar.PulsarException
}
_KNOWN = [row.code for row in table()[:-1]]

# Written by hand: what the client library decides before it sends, or the broker before it stores.
_NEVER_STORED = {
    "CryptoError",
    "InvalidMessage",
    "MemoryBufferIsFull",
    "MessageTooBig",
    "ProducerQueueIsFull",
}


def test_every_code_of_the_client_library_is_known() -> None:
    """
    No result and no exception class of the installed client library is missing, and none is listed twice.
    """
    assert len(_RESULTS) == 45
    assert _EXCEPTIONS == _RESULTS
    assert set(_KNOWN) >= _RESULTS
    assert len(_KNOWN) == len(set(_KNOWN))
    assert set(_KNOWN) - _RESULTS == {"BatchSplit", "Disconnected", "Retryable"}


@pytest.mark.parametrize("code", [*_KNOWN, "a code of tomorrow"])
def test_nothing_is_stored_that_was_refused_at_once(code: str) -> None:
    """
    Before the hand-over returned, and while a producer is opened, no code leaves it open whether something is stored.
    """
    assert not classify(code, Phase.INLINE).maybe_stored
    assert not classify(code, Phase.CREATE).maybe_stored


@pytest.mark.parametrize("code", [*_KNOWN, "a code of tomorrow"])
def test_a_later_error_leaves_it_open_unless_it_is_known_not_to(code: str) -> None:
    """
    After the hand-over every code means maybe stored, but for those that are decided before anything is stored.
    """
    assert classify(code, Phase.LATER).maybe_stored is (code not in _NEVER_STORED)


@pytest.mark.parametrize(
    ("code", "phase", "error", "retriable"),
    [
        ("Timeout", Phase.CREATE, BrokerUnavailable, True),
        ("Timeout", Phase.LATER, SendTimeout, True),
        ("ConnectError", Phase.CREATE, BrokerUnavailable, True),
        ("Disconnected", Phase.CREATE, BrokerUnavailable, True),
        ("ServiceUnitNotReady", Phase.CREATE, BrokerUnavailable, True),
        ("NotConnected", Phase.CREATE, BrokerUnavailable, True),
        ("NotConnected", Phase.INLINE, ProducerGone, True),
        ("AlreadyClosed", Phase.INLINE, ProducerGone, True),
        ("AlreadyClosed", Phase.LATER, ProducerGone, True),
        ("ProducerBusy", Phase.CREATE, ProducerBusy, True),
        ("ProducerFenced", Phase.CREATE, ProducerFenced, False),
        ("ProducerFenced", Phase.LATER, ProducerFenced, False),
        ("ProducerBlockedQuotaExceededError", Phase.CREATE, QuotaExceeded, True),
        ("ProducerBlockedQuotaExceededException", Phase.LATER, QuotaExceeded, True),
        ("ProducerQueueIsFull", Phase.INLINE, BrokerUnavailable, True),
        ("MessageTooBig", Phase.LATER, MessageTooBig, False),
        ("CryptoError", Phase.LATER, MessageRefused, False),
        ("ChecksumError", Phase.LATER, MessageRefused, True),
        ("AuthenticationError", Phase.CREATE, AuthenticationFailed, False),
        ("AuthorizationError", Phase.CREATE, AuthorizationFailed, False),
        ("TopicNotFound", Phase.CREATE, TopicNotFound, False),
        ("TopicTerminated", Phase.INLINE, TopicTerminated, False),
        ("IncompatibleSchema", Phase.CREATE, IncompatibleSchema, False),
        ("UnknownError", Phase.LATER, BrokerError, True),
        ("BatchSplit", Phase.LATER, BrokerError, False),
        ("ConsumerBusy", Phase.LATER, BrokerError, False),
        ("a code of tomorrow", Phase.LATER, BrokerError, False),
    ],
)
def test_the_class_and_whether_to_try_again(
    code: str, phase: Phase, error: type[BrokerError], *, retriable: bool
) -> None:
    """
    Each code has its class, which an application catches, and says whether the same may succeed later.
    """
    classified = classify(code, phase, "persistent://public/default/orders")
    assert type(classified) is error
    assert classified.retriable is retriable
    assert classified.code == code


def test_the_text_says_what_happened_where() -> None:
    """
    An error names its code and its topic and explains itself; what is known beyond the table takes its place.
    """
    topic = "persistent://public/default/orders"
    assert str(classify("ProducerFenced", Phase.LATER, topic)) == (
        f"ProducerFenced on topic {topic!r}: another producer has taken the topic for itself"
    )
    told = classify("AuthenticationError", Phase.CREATE, topic, detail="the token callable raised KeyError")
    assert str(told) == f"AuthenticationError on topic {topic!r}: the token callable raised KeyError"


def test_the_printed_table_has_every_code_once() -> None:
    """
    The table of the docs has a row for each code of producers, one for all others together, and five columns.
    """
    lines = markdown().splitlines()
    assert all(line.startswith("| ") and line.endswith(" |") and line.count(" | ") == 4 for line in lines)
    text = markdown()
    for code in _KNOWN:
        assert text.count(f"`{code}`") >= 1
    assert "| `Timeout` |" in text
    assert "`SendTimeout`: retriable, maybe stored" in text
    assert sum("a producer never gets it" in line for line in lines) == 1
