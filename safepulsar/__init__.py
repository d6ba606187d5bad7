"""
A safe producer toolkit for Apache Pulsar: every accepted message has one fate, and you learn it.
"""

from safepulsar.books.handle import SendHandle
from safepulsar.books.ledger import Counts
from safepulsar.broker.client_registry import ClientRegistry
from safepulsar.broker.producer_pool import PoolStats, ProducerPool
from safepulsar.delivery.lanes import Lane, LaneState
from safepulsar.durable_source import DurableSource
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
    LaneNotPaused,
    LanePaused,
    MessageRefused,
    MessageTooBig,
    NoCurrentSender,
    NoRunningLoop,
    NoSuchFailedMessage,
    PoolClosed,
    ProducerBusy,
    ProducerFenced,
    ProducerGone,
    ProducerNameInUse,
    QueueFull,
    QuotaExceeded,
    SafePulsarError,
    SealBroken,
    SendCancelled,
    SenderClosed,
    SendFailed,
    SendTimeout,
    StepFailed,
    StoreCorrupted,
    StoreError,
    StoreFull,
    StoreInsecure,
    StoreOfAnotherProducer,
    StoreTooNew,
    StoreUnavailable,
    TopicNotFound,
    TopicTerminated,
)
from safepulsar.exactly_once.sequence_allocator import SequenceAllocator
from safepulsar.failed_messages import (
    FailedMessageFilter,
    FailedMessageState,
    FailedMessageStore,
    InMemoryFailedMessages,
    SqliteFailedMessages,
)
from safepulsar.integrity import Seal, SealKind
from safepulsar.message import Attempt, Certainty, FailedMessage, Fate, Message, MessageId, SendResult
from safepulsar.sender import RetryingSender
from safepulsar.sending.bulk import SendReport
from safepulsar.sending.engine import CloseReport, SenderStats
from safepulsar.sending.replay import ReplayReport, replay
from safepulsar.sending.sequence_lane import SequenceLane
from safepulsar.settings import (
    AccessMode,
    ClientSettings,
    Compression,
    Durability,
    LanePolicy,
    LogLevel,
    PoolSettings,
    ProducerSettings,
    RetrySettings,
    Schema,
    SchemaKind,
    SenderSettings,
    TopicSettings,
    WhenFull,
)
from safepulsar.steps import Draft, Step

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
    "Draft",
    "Durability",
    "DurableSource",
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
    "Lane",
    "LaneNotPaused",
    "LanePaused",
    "LanePolicy",
    "LaneState",
    "LogLevel",
    "Message",
    "MessageId",
    "MessageRefused",
    "MessageTooBig",
    "NoCurrentSender",
    "NoRunningLoop",
    "NoSuchFailedMessage",
    "PoolClosed",
    "PoolSettings",
    "PoolStats",
    "ProducerBusy",
    "ProducerFenced",
    "ProducerGone",
    "ProducerNameInUse",
    "ProducerPool",
    "ProducerSettings",
    "QueueFull",
    "QuotaExceeded",
    "ReplayReport",
    "RetrySettings",
    "RetryingSender",
    "SafePulsarError",
    "Schema",
    "SchemaKind",
    "Seal",
    "SealBroken",
    "SealKind",
    "SendCancelled",
    "SendFailed",
    "SendHandle",
    "SendReport",
    "SendResult",
    "SendTimeout",
    "SenderClosed",
    "SenderSettings",
    "SenderStats",
    "SequenceAllocator",
    "SequenceLane",
    "SqliteFailedMessages",
    "Step",
    "StepFailed",
    "StoreCorrupted",
    "StoreError",
    "StoreFull",
    "StoreInsecure",
    "StoreOfAnotherProducer",
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
