"""
A safe producer toolkit for Apache Pulsar: every accepted message has one fate, and you learn it.
"""

from safepulsar.bulk import SendReport
from safepulsar.client_registry import ClientRegistry
from safepulsar.engine import CloseReport
from safepulsar.errors import (
    AuthenticationFailed,
    AuthorizationFailed,
    BrokerError,
    BrokerUnavailable,
    CreationBackoff,
    DeadlineExceeded,
    ForkedProcess,
    IncompatibleSchema,
    InvalidInput,
    InvalidMessage,
    InvalidSettings,
    InvalidTopic,
    MessageRefused,
    MessageTooBig,
    NoSuchFailedMessage,
    PoolClosed,
    ProducerBusy,
    ProducerFenced,
    ProducerGone,
    QueueFull,
    QuotaExceeded,
    SafePulsarError,
    SenderClosed,
    SendFailed,
    SendTimeout,
    StoreCorrupted,
    StoreError,
    StoreFull,
    StoreInsecure,
    StoreTooNew,
    StoreUnavailable,
    TopicNotFound,
    TopicTerminated,
)
from safepulsar.failed_messages import (
    FailedMessageFilter,
    FailedMessageState,
    FailedMessageStore,
    InMemoryFailedMessages,
    SqliteFailedMessages,
)
from safepulsar.handle import SendHandle
from safepulsar.ledger import Counts
from safepulsar.message import Attempt, Certainty, FailedMessage, Fate, Message, MessageId, SendResult
from safepulsar.producer_pool import PoolStats, ProducerPool
from safepulsar.replay import ReplayReport, replay
from safepulsar.sender import RetryingSender, SenderStats
from safepulsar.settings import (
    AccessMode,
    ClientSettings,
    Compression,
    LogLevel,
    PoolSettings,
    ProducerSettings,
    RetrySettings,
    SenderSettings,
    TopicSettings,
    WhenFull,
)

__all__ = [
    "AccessMode",
    "Attempt",
    "AuthenticationFailed",
    "AuthorizationFailed",
    "BrokerError",
    "BrokerUnavailable",
    "Certainty",
    "ClientRegistry",
    "ClientSettings",
    "CloseReport",
    "Compression",
    "Counts",
    "CreationBackoff",
    "DeadlineExceeded",
    "FailedMessage",
    "FailedMessageFilter",
    "FailedMessageState",
    "FailedMessageStore",
    "Fate",
    "ForkedProcess",
    "InMemoryFailedMessages",
    "IncompatibleSchema",
    "InvalidInput",
    "InvalidMessage",
    "InvalidSettings",
    "InvalidTopic",
    "LogLevel",
    "Message",
    "MessageId",
    "MessageRefused",
    "MessageTooBig",
    "NoSuchFailedMessage",
    "PoolClosed",
    "PoolSettings",
    "PoolStats",
    "ProducerBusy",
    "ProducerFenced",
    "ProducerGone",
    "ProducerPool",
    "ProducerSettings",
    "QueueFull",
    "QuotaExceeded",
    "ReplayReport",
    "RetrySettings",
    "RetryingSender",
    "SafePulsarError",
    "SendFailed",
    "SendHandle",
    "SendReport",
    "SendResult",
    "SendTimeout",
    "SenderClosed",
    "SenderSettings",
    "SenderStats",
    "SqliteFailedMessages",
    "StoreCorrupted",
    "StoreError",
    "StoreFull",
    "StoreInsecure",
    "StoreTooNew",
    "StoreUnavailable",
    "TopicNotFound",
    "TopicSettings",
    "TopicTerminated",
    "WhenFull",
    "replay",
]


def __getattr__(name: str) -> str:
    """
    `__version__`, looked up when asked for: reading the package's metadata takes longer than much of the above.
    """
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - as said

        return version("safepulsar")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
