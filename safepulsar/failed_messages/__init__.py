"""
Failed messages: kept until they are delivered, explained, and replayed in order by one replayer at a time.
"""

from safepulsar.failed_messages.codec import to_json
from safepulsar.failed_messages.filter import EVERYTHING, FailedMessageFilter, FailedMessageState
from safepulsar.failed_messages.memory import InMemoryFailedMessages
from safepulsar.failed_messages.sqlite import SqliteFailedMessages
from safepulsar.failed_messages.status import FailedMessageStatus, StoreStats
from safepulsar.failed_messages.store import FailedMessageStore
from safepulsar.failed_messages.transitions import FailedAgain

__all__ = [
    "EVERYTHING",
    "FailedAgain",
    "FailedMessageFilter",
    "FailedMessageState",
    "FailedMessageStatus",
    "FailedMessageStore",
    "InMemoryFailedMessages",
    "SqliteFailedMessages",
    "StoreStats",
    "to_json",
]
