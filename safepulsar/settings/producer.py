"""
The settings of producers: of one by itself, and of those that send a topic's messages.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from safepulsar.errors import InvalidSettings, shown
from safepulsar.settings.base import Settings, check_enum, check_flag, check_number, check_text
from safepulsar.settings.schema import Schema

BROKER_MAX_MESSAGE_BYTES = 5 * 1024 * 1024  # the broker's own default (maxMessageSize)
_MAX_SEQUENCE_ID = 2**63 - 1
_PAIR = 2


class Compression(str, Enum):
    """
    How the client library compresses payloads, batch by batch.
    """

    NONE = "NONE"
    LZ4 = "LZ4"
    ZLIB = "ZLIB"
    ZSTD = "ZSTD"
    SNAPPY = "SNAPPY"


class AccessMode(str, Enum):
    """
    Who else may produce to the topic (Pulsar PIP-68 and PIP-161).
    """

    SHARED = "SHARED"
    EXCLUSIVE = "EXCLUSIVE"
    EXCLUSIVE_WITH_FENCING = "EXCLUSIVE_WITH_FENCING"


class LanePolicy(str, Enum):
    """
    What becomes of the messages of one ordering key when one of them fails.

    In every case what was accepted before it goes its way, and the failed one goes to the store. Those behind it, which
    were accepted by then and are not stored, follow it there in their order, unless the policy is `BLOCK` or `SKIP`.
    """

    PAUSE = "PAUSE"  # later ones are refused at once: LanePaused names the one that failed
    BLOCK = "BLOCK"  # later ones wait, until the lane is resumed or their deadline is over
    PARK = "PARK"  # later ones go to the store, too, in their order
    SKIP = "SKIP"  # later ones go on


class Durability(str, Enum):
    """
    Where a message is when it is accepted.
    """

    MEMORY = "MEMORY"  # a kill -9 loses what is in flight
    OUTBOX = "OUTBOX"  # on disk: the next run sends what this one could not, exactly once


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ProducerSettings(Settings):
    """
    One producer; the key of the pool, so that equal settings share one.

    Args:
        topic: full topic name (`safepulsar.topics.TopicNames` makes it).
        producer_name: None lets the broker choose. A name makes deduplication possible and may be in use
            by one producer at a time.
        batch_max_messages: 1 sends each message by itself; more lets the client library put that many into
            one batch, closed by count or by `flush`, never by a timer: whoever sends decides the boundaries.
        batch_max_bytes: a batch is closed before it grows over this.
        compression: of payloads, batch by batch.
        access_mode: see `AccessMode`.
        chunking: split messages over the broker's limit. Only without batching.
        encryption_key: name of the public key for end-to-end encryption, read by `crypto_key_files`.
        crypto_key_files: (public, private) PEM files.
        initial_sequence_id: None continues after the broker's last.
        properties: shown in the broker's statistics of this producer; pairs of text.
        exactly_once: each message carries its number in a property, by which it is recognised in the topic.
        schema: registered with the broker when the producer opens; None for bytes, of which the broker knows nothing.
    """

    topic: str
    producer_name: str | None = None
    batch_max_messages: int = 500
    batch_max_bytes: int = 1024 * 1024
    compression: Compression = Compression.NONE
    access_mode: AccessMode = AccessMode.SHARED
    chunking: bool = False
    encryption_key: str | None = None
    crypto_key_files: tuple[str, str] | None = None
    initial_sequence_id: int | None = None
    properties: tuple[tuple[str, str], ...] = field(default=(), metadata={"secret": True})
    exactly_once: bool = False
    schema: Schema | None = field(default=None, metadata={"part": Schema})

    def __post_init__(self) -> None:
        """
        Refuse what the client library would take silently.
        """
        me = "ProducerSettings"
        check_text(me, "topic", self.topic, optional=False)
        if self.initial_sequence_id is not None:
            # The client drops 0 silently (a truth test), and -1 is its own word for "none".
            check_number(me, "initial_sequence_id", self.initial_sequence_id, 1, _MAX_SEQUENCE_ID, whole=True)
        _check_common(me, self)
        if self.chunking and self.batch_max_messages > 1:
            problem = "needs batch_max_messages=1: the client library does not split what it batches"
            raise InvalidSettings(f"{me}.chunking", problem)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TopicSettings(Settings):
    """
    How messages of one topic are sent; the defaults suit every kind of subscription.

    Args:
        mix_keys: True lets messages of different keys share a batch, several times as fast. A Key_Shared
            subscription hands a batch to one consumer as a whole, so its order per key then breaks silently;
            every other kind of subscription is unharmed. False sends messages with a key one by one.
        lane_policy: see `LanePolicy`. It is for messages with an ordering key; a partition key alone keeps the order
            of what is stored, and a failure does not stop it.
        batch_max_messages: see `ProducerSettings`; 1 switches batching off.
        batch_max_bytes: see `ProducerSettings`.
        compression: see `ProducerSettings`.
        producer_name: see `ProducerSettings`.
        exactly_once: True finds out what is stored when an answer is missing, by reading the topic back, so that nothing
            is kept as `MAYBE_STORED` that can be read. Needs a `producer_name`, the right to consume, and a name that no
            other process uses at the same time.
        durability: see `Durability`. `OUTBOX` needs a `producer_name` and a store on disk, and makes `exactly_once` true;
            each call waits for the disk, and many threads share the wait.
        access_mode: see `ProducerSettings`.
        chunking: see `ProducerSettings`; messages are then sent one by one.
        encryption_key: see `ProducerSettings`.
        crypto_key_files: see `ProducerSettings`.
        properties: see `ProducerSettings`.
        schema: see `ProducerSettings`.
    """

    mix_keys: bool = False
    lane_policy: LanePolicy = LanePolicy.PAUSE
    batch_max_messages: int = 500
    batch_max_bytes: int = 1024 * 1024
    compression: Compression = Compression.NONE
    producer_name: str | None = None
    exactly_once: bool = False
    durability: Durability = Durability.MEMORY
    access_mode: AccessMode = AccessMode.SHARED
    chunking: bool = False
    encryption_key: str | None = None
    crypto_key_files: tuple[str, str] | None = None
    properties: tuple[tuple[str, str], ...] = field(default=(), metadata={"secret": True})
    schema: Schema | None = field(default=None, metadata={"part": Schema})

    def __post_init__(self) -> None:
        """
        Check what `producer` will need.
        """
        me = "TopicSettings"
        check_flag(me, "mix_keys", self.mix_keys)
        check_enum(me, "lane_policy", self.lane_policy, LanePolicy)
        check_enum(me, "durability", self.durability, Durability)
        if self.durability is Durability.OUTBOX and not self.exactly_once:
            object.__setattr__(self, "exactly_once", True)
        _check_common(me, self)

    def producer(self, topic: str, *, keyed: bool) -> ProducerSettings:
        """
        The settings of the producer that sends `topic`'s messages with a key, or without one.

        Both are the same producer if it has a name, if keys may mix, or if batching is off.
        """
        # A producer name is held by one producer at a time, so a named one serves both kinds.
        alone = self.chunking or ((keyed or self.producer_name is not None) and not self.mix_keys)
        return ProducerSettings(
            topic=topic,
            producer_name=self.producer_name,
            exactly_once=self.exactly_once,
            batch_max_messages=1 if alone else self.batch_max_messages,
            batch_max_bytes=self.batch_max_bytes,
            compression=self.compression,
            access_mode=self.access_mode,
            chunking=self.chunking,
            encryption_key=self.encryption_key,
            crypto_key_files=self.crypto_key_files,
            properties=self.properties,
            schema=self.schema,
        )


def _check_common(owner: str, settings: ProducerSettings | TopicSettings) -> None:
    check_text(owner, "producer_name", settings.producer_name)
    check_text(owner, "encryption_key", settings.encryption_key)
    check_number(owner, "batch_max_messages", settings.batch_max_messages, 1, 100_000, whole=True)
    check_number(owner, "batch_max_bytes", settings.batch_max_bytes, 1, BROKER_MAX_MESSAGE_BYTES, whole=True)
    check_enum(owner, "compression", settings.compression, Compression)
    check_enum(owner, "access_mode", settings.access_mode, AccessMode)
    check_flag(owner, "chunking", settings.chunking)
    check_flag(owner, "exactly_once", settings.exactly_once)
    if settings.exactly_once and settings.producer_name is None:
        raise InvalidSettings(f"{owner}.exactly_once", "needs a producer_name, which the broker lets one producer have")
    if settings.exactly_once and settings.chunking:
        raise InvalidSettings(
            f"{owner}.exactly_once", "does not go with chunking, which splits what is to be recognised"
        )
    if settings.schema is not None and not isinstance(settings.schema, Schema):
        raise InvalidSettings(f"{owner}.schema", f"must be a Schema, not {shown(settings.schema)}")
    if settings.crypto_key_files is not None:
        _check_texts(owner, "crypto_key_files", settings.crypto_key_files, "(public, private)")
    if (settings.encryption_key is None) != (settings.crypto_key_files is None):
        problem = "the key's name and its files are given together or not at all"
        raise InvalidSettings(f"{owner}.encryption_key", problem)
    if not isinstance(settings.properties, tuple):
        raise InvalidSettings(f"{owner}.properties", "must be a tuple of (name, value) pairs of text")
    for pair in settings.properties:
        _check_texts(owner, "properties", pair, "(name, value) in each place")


def _check_texts(owner: str, name: str, pair: object, what: str) -> None:
    # Tuples, because settings are the keys of the pool and must not change under it.
    if not isinstance(pair, tuple) or len(pair) != _PAIR:
        raise InvalidSettings(f"{owner}.{name}", f"must be a tuple of two texts, {what}")
    for text in pair:
        check_text(owner, name, text, optional=False)
