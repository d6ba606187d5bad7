"""
One answer of the broker or of the client library.
"""

from __future__ import annotations

from safepulsar.errors.base import SafePulsarError


class BrokerError(SafePulsarError):
    """
    One answer of the broker or the client library that is not success.

    Whether a retry makes sense and whether the message may be stored depends on the code *and* on when it
    came, so both are attributes of the instance here: an error that arrives before the hand-over returned is
    certainly not stored, the same code later is not certain. `safepulsar.broker.outcomes` holds the table.

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
