"""
Every error that safepulsar raises, as one tree, each answering two questions.

`retriable`: may the same call succeed later, unchanged?
`maybe_stored`: could the broker have stored the message all the same?

    SafePulsarError
    ├── InvalidInput              (also a ValueError) refused before anything was sent
    │   ├── InvalidSettings
    │   ├── InvalidTopic
    │   ├── InvalidMessage
    │   │   └── SealBroken        not what was sealed when it was sent
    │   └── StepFailed            a step of the chain raised
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
    ├── LanePaused                a message of this ordering key failed, and the next ones wait for it
    ├── LaneNotPaused             resumed, and not stopped
    ├── QueueFull                 the bound on messages or bytes in flight is reached
    ├── SendCancelled             `cancel()` took an accepted message back before it was handed over
    ├── SenderClosed
    ├── PoolClosed
    ├── CreationBackoff           a producer failed a moment ago and is not tried again yet
    ├── BrokerNotStarted          the embedded broker (safepulsar.local_broker)
    ├── ForkedProcess             a handle of the parent process, used in its child
    ├── NoRunningLoop             (also a RuntimeError) a coroutine's sender, used in a thread without a loop
    ├── NoCurrentSender           (also a RuntimeError) an adapter's sender, asked for where there is none
    └── StoreError                the store of failed messages
        ├── StoreUnavailable      cannot be opened, read-only, locked
        ├── StoreFull             no space left
        ├── StoreInsecure         symlink, foreign owner, writable by others
        ├── StoreTooNew           written by a newer version
        ├── StoreCorrupted
        ├── StoreOfAnotherProducer the producer name belongs to another topic or input
        ├── ProducerNameInUse     another process or object numbers its messages
        └── NoSuchFailedMessage
"""

from safepulsar.errors.base import SafePulsarError, shown
from safepulsar.errors.broker import (
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
from safepulsar.errors.inputs import InvalidInput, InvalidMessage, InvalidSettings, InvalidTopic, SealBroken, StepFailed
from safepulsar.errors.sending import (
    CreationBackoff,
    DeadlineExceeded,
    ForkedProcess,
    LaneNotPaused,
    LanePaused,
    NoCurrentSender,
    NoRunningLoop,
    PoolClosed,
    QueueFull,
    SendCancelled,
    SenderClosed,
    SendFailed,
)
from safepulsar.errors.store import (
    NoSuchFailedMessage,
    ProducerNameInUse,
    StoreCorrupted,
    StoreError,
    StoreFull,
    StoreInsecure,
    StoreOfAnotherProducer,
    StoreTooNew,
    StoreUnavailable,
)

__all__ = [
    "AuthenticationFailed",
    "AuthorizationFailed",
    "BrokerError",
    "BrokerUnavailable",
    "CreationBackoff",
    "DeadlineExceeded",
    "ForkedProcess",
    "IncompatibleSchema",
    "InvalidInput",
    "InvalidMessage",
    "InvalidSettings",
    "InvalidTopic",
    "LaneNotPaused",
    "LanePaused",
    "MessageRefused",
    "MessageTooBig",
    "NoCurrentSender",
    "NoRunningLoop",
    "NoSuchFailedMessage",
    "PoolClosed",
    "ProducerBusy",
    "ProducerFenced",
    "ProducerGone",
    "ProducerNameInUse",
    "QueueFull",
    "QuotaExceeded",
    "SafePulsarError",
    "SealBroken",
    "SendCancelled",
    "SendFailed",
    "SendTimeout",
    "SenderClosed",
    "StepFailed",
    "StoreCorrupted",
    "StoreError",
    "StoreFull",
    "StoreInsecure",
    "StoreOfAnotherProducer",
    "StoreTooNew",
    "StoreUnavailable",
    "TopicNotFound",
    "TopicTerminated",
    "shown",
]
