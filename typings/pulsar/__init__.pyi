# What safepulsar and its tests use of pulsar-client 3.13, which ships no types of its own.

from collections.abc import Callable
from datetime import timedelta
from typing import ClassVar

import _pulsar
from _pulsar import (
    AlreadyClosed as AlreadyClosed,
    AuthenticationError as AuthenticationError,
    AuthorizationError as AuthorizationError,
    BatchingType as BatchingType,
    BrokerMetadataError as BrokerMetadataError,
    BrokerPersistenceError as BrokerPersistenceError,
    ChecksumError as ChecksumError,
    CompressionType as CompressionType,
    ConnectError as ConnectError,
    ConsumerAssignError as ConsumerAssignError,
    ConsumerBusy as ConsumerBusy,
    ConsumerNotFound as ConsumerNotFound,
    ConsumerNotInitialized as ConsumerNotInitialized,
    ConsumerType as ConsumerType,
    CryptoError as CryptoError,
    CumulativeAcknowledgementNotAllowedError as CumulativeAcknowledgementNotAllowedError,
    ErrorGettingAuthenticationData as ErrorGettingAuthenticationData,
    IncompatibleSchema as IncompatibleSchema,
    InitialPosition as InitialPosition,
    Interrupted as Interrupted,
    InvalidConfiguration as InvalidConfiguration,
    InvalidMessage as InvalidMessage,
    InvalidTopicName as InvalidTopicName,
    InvalidTxnStatusError as InvalidTxnStatusError,
    InvalidUrl as InvalidUrl,
    LoggerLevel as LoggerLevel,
    LookupError as LookupError,
    MemoryBufferIsFull as MemoryBufferIsFull,
    MessageTooBig as MessageTooBig,
    NotAllowedError as NotAllowedError,
    NotConnected as NotConnected,
    OperationNotSupported as OperationNotSupported,
    PartitionsRoutingMode as PartitionsRoutingMode,
    ProducerAccessMode as ProducerAccessMode,
    ProducerBlockedQuotaExceededError as ProducerBlockedQuotaExceededError,
    ProducerBlockedQuotaExceededException as ProducerBlockedQuotaExceededException,
    ProducerBusy as ProducerBusy,
    ProducerFenced as ProducerFenced,
    ProducerNotInitialized as ProducerNotInitialized,
    ProducerQueueIsFull as ProducerQueueIsFull,
    PulsarException as PulsarException,
    ReadError as ReadError,
    Result as Result,
    ServiceUnitNotReady as ServiceUnitNotReady,
    SubscriptionNotFound as SubscriptionNotFound,
    Timeout as Timeout,
    TooManyLookupRequestException as TooManyLookupRequestException,
    TopicNotFound as TopicNotFound,
    TopicTerminated as TopicTerminated,
    TransactionConflict as TransactionConflict,
    TransactionCoordinatorNotFoundError as TransactionCoordinatorNotFoundError,
    TransactionNotFound as TransactionNotFound,
    UnknownError as UnknownError,
    UnsupportedVersionError as UnsupportedVersionError,
)
from pulsar import schema as schema

__version__: str

# The public names of message ids are wrappers, but everything returns the native class.
class MessageId:
    earliest: ClassVar[_pulsar.MessageId]
    latest: ClassVar[_pulsar.MessageId]
    def __init__(self, partition: int = -1, ledger_id: int = -1, entry_id: int = -1, batch_index: int = -1) -> None: ...
    def ledger_id(self) -> int: ...
    def entry_id(self) -> int: ...
    def batch_index(self) -> int: ...
    def partition(self) -> int: ...
    def serialize(self) -> bytes: ...
    @staticmethod
    def deserialize(message_id_bytes: bytes, topic: str | None = None) -> _pulsar.MessageId: ...

class Message:
    def data(self) -> bytes: ...
    def value(self) -> object: ...
    def properties(self) -> dict[str, str]: ...
    def partition_key(self) -> str: ...
    def ordering_key(self) -> str: ...
    def publish_timestamp(self) -> int: ...
    def event_timestamp(self) -> int: ...
    def message_id(self) -> _pulsar.MessageId: ...
    def topic_name(self) -> str: ...
    def redelivery_count(self) -> int: ...
    def producer_name(self) -> str: ...
    def has_null_value(self) -> bool: ...

class Authentication:
    def __init__(self, dynamicLibPath: str, authParamsString: str) -> None: ...

class AuthenticationTLS(Authentication):
    def __init__(self, certificate_path: str, private_key_path: str) -> None: ...

class AuthenticationToken(Authentication):
    def __init__(self, token: str | Callable[[], str]) -> None: ...

class AuthenticationAthenz(Authentication):
    def __init__(self, auth_params_string: str) -> None: ...

class AuthenticationOauth2(Authentication):
    def __init__(self, auth_params_string: str) -> None: ...

class AuthenticationBasic(Authentication):
    def __init__(
        self,
        username: str | None = None,
        password: str | None = None,
        method: str = "basic",
        auth_params_string: str | None = None,
    ) -> None: ...

class ConsumerCryptoFailureAction:
    FAIL: ClassVar[ConsumerCryptoFailureAction]
    DISCARD: ClassVar[ConsumerCryptoFailureAction]
    CONSUME: ClassVar[ConsumerCryptoFailureAction]

class CryptoKeyReader:
    def __init__(self, public_key_path: str, private_key_path: str) -> None: ...

class ConsoleLogger:
    log_level: LoggerLevel
    def __init__(self, log_level: LoggerLevel = ...) -> None: ...

class FileLogger:
    log_level: LoggerLevel
    log_file: str
    def __init__(self, log_level: LoggerLevel, log_file: str) -> None: ...

class Client:
    _client: _pulsar.Client
    def __init__(
        self,
        service_url: str,
        authentication: Authentication | None = None,
        operation_timeout_seconds: int = 30,
        io_threads: int = 1,
        message_listener_threads: int = 1,
        concurrent_lookup_requests: int = 50000,
        log_conf_file_path: str | None = None,
        stats_interval_in_seconds: int = 600,
        use_tls: bool = False,
        tls_trust_certs_file_path: str | None = None,
        tls_allow_insecure_connection: bool = False,
        tls_validate_hostname: bool = False,
        logger: object = None,
        connection_timeout_ms: int = 10000,
        listener_name: str | None = None,
        tls_private_key_file_path: str | None = None,
        tls_certificate_file_path: str | None = None,
    ) -> None: ...
    def create_producer(
        self,
        topic: str,
        producer_name: str | None = None,
        schema: schema.Schema = ...,
        initial_sequence_id: int | None = None,
        send_timeout_millis: int = 30000,
        compression_type: CompressionType = ...,
        max_pending_messages: int = 1000,
        max_pending_messages_across_partitions: int = 50000,
        block_if_queue_full: bool = False,
        batching_enabled: bool = False,
        batching_max_messages: int = 1000,
        batching_max_allowed_size_in_bytes: int = 131072,
        batching_max_publish_delay_ms: int = 10,
        chunking_enabled: bool = False,
        message_routing_mode: PartitionsRoutingMode = ...,
        lazy_start_partitioned_producers: bool = False,
        properties: dict[str, str] | None = None,
        batching_type: BatchingType = ...,
        encryption_key: str | None = None,
        crypto_key_reader: CryptoKeyReader | None = None,
        access_mode: ProducerAccessMode = ...,
        message_router: Callable[[Message, int], int] | None = None,
    ) -> Producer: ...
    # Left out, as nothing here uses them: the settings of a consumer and of a reader beyond these.
    def subscribe(
        self,
        topic: str | list[str],
        subscription_name: str,
        consumer_type: ConsumerType = ...,
        *,
        receiver_queue_size: int = 1000,
        consumer_name: str | None = None,
        initial_position: InitialPosition = ...,
        schema: schema.Schema = ...,
        crypto_key_reader: CryptoKeyReader | None = None,
        crypto_failure_action: ConsumerCryptoFailureAction = ...,
    ) -> Consumer: ...
    def create_reader(
        self,
        topic: str,
        start_message_id: _pulsar.MessageId,
        *,
        receiver_queue_size: int = 1000,
        reader_name: str | None = None,
        start_message_id_inclusive: bool = False,
        crypto_key_reader: CryptoKeyReader | None = None,
    ) -> Reader: ...
    def get_topic_partitions(self, topic: str) -> list[str]: ...
    def shutdown(self) -> None: ...
    def close(self) -> None: ...

class Producer:
    _producer: _pulsar.Producer
    def topic(self) -> str: ...
    def producer_name(self) -> str: ...
    def last_sequence_id(self) -> int: ...
    def is_connected(self) -> bool: ...
    def send(
        self,
        content: object,
        properties: dict[str, str] | None = None,
        partition_key: str | None = None,
        ordering_key: str | None = None,
        sequence_id: int | None = None,
        replication_clusters: list[str] | None = None,
        disable_replication: bool = False,
        event_timestamp: int | None = None,
        deliver_at: int | None = None,
        deliver_after: timedelta | None = None,
    ) -> _pulsar.MessageId: ...
    # A callback may be None, which the client accepts and never calls.
    def send_async(
        self,
        content: object,
        callback: Callable[[Result, _pulsar.MessageId], object] | None,
        properties: dict[str, str] | None = None,
        partition_key: str | None = None,
        ordering_key: str | None = None,
        sequence_id: int | None = None,
        replication_clusters: list[str] | None = None,
        disable_replication: bool = False,
        event_timestamp: int | None = None,
        deliver_at: int | None = None,
        deliver_after: timedelta | None = None,
    ) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...

class Consumer:
    def topic(self) -> str: ...
    def receive(self, timeout_millis: int | None = None) -> Message: ...
    def acknowledge(self, message: Message | MessageId | _pulsar.Message | _pulsar.MessageId) -> None: ...
    def acknowledge_cumulative(self, message: Message | MessageId | _pulsar.Message | _pulsar.MessageId) -> None: ...
    def negative_acknowledge(self, message: Message | MessageId | _pulsar.Message | _pulsar.MessageId) -> None: ...
    def unsubscribe(self) -> None: ...
    def close(self) -> None: ...
    def is_connected(self) -> bool: ...

class Reader:
    def topic(self) -> str: ...
    def read_next(self, timeout_millis: int | None = None) -> Message: ...
    def has_message_available(self) -> bool: ...
    def seek(self, messageid: MessageId | _pulsar.MessageId | int) -> None: ...
    def close(self) -> None: ...
    def is_connected(self) -> bool: ...
