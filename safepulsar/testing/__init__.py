"""
Brokers for your own tests, in memory and real: `RetryingSender` runs on both, and every fault comes on command.

The fixtures for pytest are in `safepulsar.testing.plugin`, which pytest finds by itself.
"""

from safepulsar.broker.outcomes import Phase
from safepulsar.testing.assertions import assert_sent
from safepulsar.testing.client import FakeClient, FakeProducer
from safepulsar.testing.counts import BrokerCounts
from safepulsar.testing.embedded import EmbeddedPulsar
from safepulsar.testing.fake import FakeBroker
from safepulsar.testing.fault_switch import BrokerForTests, FaultSwitch
from safepulsar.testing.substitution import all_senders_on
from safepulsar.testing.topic_log import StoredMessage

__all__ = [
    "BrokerCounts",
    "BrokerForTests",
    "EmbeddedPulsar",
    "FakeBroker",
    "FakeClient",
    "FakeProducer",
    "FaultSwitch",
    "Phase",
    "StoredMessage",
    "all_senders_on",
    "assert_sent",
]
