"""
Errors: one tree as drawn, two answers each, whole after pickling, and silent about payloads and secrets.
"""

from __future__ import annotations

import copy
import inspect
import pickle
import re

import pytest

from safepulsar import errors
from safepulsar.broker_process import BrokerNotStarted
from safepulsar.errors import (
    BrokerError,
    BrokerUnavailable,
    CreationBackoff,
    DeadlineExceeded,
    InvalidMessage,
    InvalidTopic,
    NoSuchFailedMessage,
    ProducerFenced,
    QueueFull,
    SafePulsarError,
    SendFailed,
    SendTimeout,
    StoreUnavailable,
    shown,
)
from safepulsar.message import Attempt, Certainty, Message

_ALL = {
    name: value for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, SafePulsarError)
}


def _send_failed(certainty: Certainty = Certainty.NOT_STORED, failed_id: int | None = 7) -> SendFailed:
    message = Message(topic="persistent://public/default/t", payload=b"canary", properties={"p": "canary"})
    attempt = Attempt(started_at=1.0, elapsed_seconds=0.5, code="ProducerFenced", maybe_stored=False)
    return SendFailed(message, attempts=[attempt], certainty=certainty, failed_message_id=failed_id, cause="fenced")


def test_the_tree_is_the_one_that_is_drawn() -> None:
    """
    The docstring of the module draws every error of the package below its base, and no others.
    """
    drawn: dict[str, str] = {}
    path: list[str] = []
    for depth, name in re.findall(r"^    ([│├└─ ]*)([A-Za-z]+)", inspect.getdoc(errors) or "", re.MULTILINE):
        del path[len(depth) // 4 :]
        if path:
            drawn[name] = path[-1]
        path.append(name)
    kinds = {*_ALL.values(), BrokerNotStarted} - {SafePulsarError}
    real = {kind.__name__: kind.__mro__[1].__name__ for kind in kinds}
    assert drawn == real


def test_every_error_answers_both_questions() -> None:
    """
    Only these errors may pass by themselves, and only a timeout may have stored the message, unless one knows better.
    """
    assert {name for name, kind in _ALL.items() if kind.retriable} == {
        "BrokerUnavailable",
        "CreationBackoff",
        "DeadlineExceeded",
        "LanePaused",
        "ProducerBusy",
        "ProducerGone",
        "ProducerNameInUse",
        "QueueFull",
        "QuotaExceeded",
        "SendTimeout",
        "StoreFull",
        "StoreUnavailable",
    }
    assert {name for name, kind in _ALL.items() if kind.maybe_stored is True} == {"SendTimeout"}


def test_invalid_input_names_the_field() -> None:
    """
    Bad input is a ValueError whose text begins with the field.
    """
    error = InvalidMessage("partition_key", "must not be empty")
    assert isinstance(error, ValueError)
    assert (error.field, str(error)) == ("partition_key", "partition_key: must not be empty")


def test_the_verdict_of_a_broker_error_beats_its_class() -> None:
    """
    Whether to retry and what may be stored depends on the moment too, so an instance can say otherwise.
    """
    timeout = SendTimeout("Timeout", topic="t", retriable=False, maybe_stored=False)
    assert (timeout.retriable, timeout.maybe_stored) == (False, False)
    assert (SendTimeout.retriable, SendTimeout.maybe_stored) == (True, True)
    plain = SendTimeout("Timeout")
    assert (plain.retriable, plain.maybe_stored) == (True, True)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (BrokerError("Timeout"), "Timeout"),
        (BrokerError("Timeout", topic="t"), "Timeout on topic 't'"),
        (BrokerError("Timeout", "no answer"), "Timeout: no answer"),
        (BrokerError("Timeout", "no answer", topic="t"), "Timeout on topic 't': no answer"),
    ],
)
def test_a_broker_error_says_what_and_where(error: BrokerError, text: str) -> None:
    """
    The text has the code, the topic where known, and the detail where there is one.
    """
    assert str(error) == text


def test_a_failed_send_says_what_became_of_the_message() -> None:
    """
    The text has the topic, the certainty, the attempts, the cause and where the message is now.
    """
    assert str(_send_failed()) == (
        "message for topic 'persistent://public/default/t' is NOT_STORED after 1 attempt: fenced "
        "(kept as failed message 7; replay it)"
    )
    assert "NOT kept in a store: this exception holds the only copy" in str(_send_failed(failed_id=None))


def test_a_failed_send_is_as_ambiguous_as_its_certainty() -> None:
    """
    `maybe_stored` of a failed send follows from its certainty.
    """
    assert not _send_failed().maybe_stored
    assert _send_failed(Certainty.MAYBE_STORED).maybe_stored


def test_a_failed_send_shows_no_payload() -> None:
    """
    Neither text nor repr of a failed send quotes payload or properties, though the message is with it.
    """
    error = _send_failed()
    assert error.message.payload == b"canary"
    assert "canary" not in str(error) + repr(error)


@pytest.mark.parametrize("way", ["pickle", "copy"])
@pytest.mark.parametrize(
    "error",
    [
        InvalidTopic("topic", "is empty"),
        BrokerUnavailable("ConnectError", "down", topic="t", maybe_stored=True),
        ProducerFenced("ProducerFenced"),
        _send_failed(Certainty.MAYBE_STORED),
        CreationBackoff("t", 0.25),
        NoSuchFailedMessage("no failed message 7"),
        QueueFull("full"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_pickling_and_copying(error: SafePulsarError, way: str) -> None:
    """
    An error that crosses to another process keeps its type, text and attributes; one that couldn't would break the pool.
    """
    again = pickle.loads(pickle.dumps(error)) if way == "pickle" else copy.copy(error)  # noqa: S301 - our own bytes
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.args == error.args
    assert vars(again) == vars(error)
    assert (again.retriable, again.maybe_stored) == (error.retriable, error.maybe_stored)


def test_a_missing_failed_message_is_a_key_error_with_a_plain_text() -> None:
    """
    NoSuchFailedMessage can be caught as KeyError, and prints its sentence, not the sentence's repr.
    """
    error = NoSuchFailedMessage("no failed message 7")
    assert isinstance(error, KeyError)
    assert str(error) == "no failed message 7"
    assert str(NoSuchFailedMessage()) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, "7"),
        (1.5, "1.5"),
        (float("nan"), "nan"),
        (True, "True"),
        pytest.param(10**5000, "int", id="a very long number"),
        ("canary", "str"),
        (b"canary", "bytes"),
        (None, "NoneType"),
        (["canary"], "list"),
    ],
)
def test_only_numbers_are_shown(value: object, text: str) -> None:
    """
    Of a wrong value an error shows numbers that can be printed, and of anything else only the type.
    """
    assert shown(value) == text


def test_a_retriable_error_is_no_promise_of_storage() -> None:
    """
    What was refused before acceptance is surely not stored, and what a full or slow system refused may pass later.
    """
    for kind in (QueueFull, DeadlineExceeded, StoreUnavailable):
        assert kind.retriable
        assert not kind.maybe_stored
