"""
All settings: frozen, checked when made, in seconds and bytes; nothing here opens a connection.
"""

from safepulsar.settings.base import Settings
from safepulsar.settings.client import ClientSettings, LogLevel
from safepulsar.settings.producer import (
    BROKER_MAX_MESSAGE_BYTES,
    AccessMode,
    Compression,
    Durability,
    LanePolicy,
    ProducerSettings,
    TopicSettings,
)
from safepulsar.settings.schema import Schema, SchemaKind
from safepulsar.settings.sender import PoolSettings, RetrySettings, SenderSettings, WhenFull

__all__ = [
    "BROKER_MAX_MESSAGE_BYTES",
    "AccessMode",
    "ClientSettings",
    "Compression",
    "Durability",
    "LanePolicy",
    "LogLevel",
    "PoolSettings",
    "ProducerSettings",
    "RetrySettings",
    "Schema",
    "SchemaKind",
    "SenderSettings",
    "Settings",
    "TopicSettings",
    "WhenFull",
]
