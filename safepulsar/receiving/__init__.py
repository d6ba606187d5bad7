"""
The receiving side: messages in the order of their lanes, each once, acknowledged when they are done.
"""

from safepulsar.receiving.consumer import Consumer, ReceivedMessage, ReceivedMessageId
from safepulsar.receiving.deduplicator import Deduplicator, DeduplicatorSettings
from safepulsar.receiving.errors import (
    BufferFull,
    InvalidSequence,
    InvalidState,
    NotHandedOut,
    SequenceGap,
    TooManyLanes,
)
from safepulsar.receiving.gap import Gap
from safepulsar.receiving.lane_sequence import LaneSequence, lane_properties, lane_sequence
from safepulsar.receiving.ordered_message import OrderedMessage
from safepulsar.receiving.ordered_receiver import OrderedReceiver, Progress
from safepulsar.receiving.reorder_buffer import ReorderBuffer
from safepulsar.receiving.settings import Acknowledge, GapPolicy, ReceiverSettings, ReorderSettings, Unsequenced
from safepulsar.receiving.stats import DeduplicatorStats, ReceiverStats, ReorderStats

__all__ = [
    "Acknowledge",
    "BufferFull",
    "Consumer",
    "Deduplicator",
    "DeduplicatorSettings",
    "DeduplicatorStats",
    "Gap",
    "GapPolicy",
    "InvalidSequence",
    "InvalidState",
    "LaneSequence",
    "NotHandedOut",
    "OrderedMessage",
    "OrderedReceiver",
    "Progress",
    "ReceivedMessage",
    "ReceivedMessageId",
    "ReceiverSettings",
    "ReceiverStats",
    "ReorderBuffer",
    "ReorderSettings",
    "ReorderStats",
    "SequenceGap",
    "TooManyLanes",
    "Unsequenced",
    "lane_properties",
    "lane_sequence",
]
