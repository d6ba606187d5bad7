"""
All settings: frozen, checked when made, in seconds and bytes; nothing here opens a connection.
"""

from safepulsar.settings.base import Settings
from safepulsar.settings.client import ClientSettings, LogLevel
from safepulsar.settings.producer import (
    BROKER_MAX_MESSAGE_BYTES,
    AccessMode,
    Compression,
    ProducerSettings,
    TopicSettings,
)
from safepulsar.settings.sender import PoolSettings, RetrySettings, SenderSettings, WhenFull

__all__ = [
    "BROKER_MAX_MESSAGE_BYTES",
    "AccessMode",
    "ClientSettings",
    "Compression",
    "LogLevel",
    "PoolSettings",
    "ProducerSettings",
    "RetrySettings",
    "SenderSettings",
    "Settings",
    "TopicSettings",
    "WhenFull",
]
