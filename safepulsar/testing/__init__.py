"""
A fake broker for your own tests: `RetryingSender` runs on it as on a real one, and every fault comes on command.
"""

from safepulsar.outcomes import Phase
from safepulsar.testing.client import FakeClient, FakeProducer
from safepulsar.testing.counts import BrokerCounts
from safepulsar.testing.fake import FakeBroker
from safepulsar.testing.topic_log import StoredMessage

__all__ = ["BrokerCounts", "FakeBroker", "FakeClient", "FakeProducer", "Phase", "StoredMessage"]
