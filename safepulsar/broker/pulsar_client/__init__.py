"""
The official client behind the seam of `transport.py`, without its hazards; only this package imports it.
"""

from safepulsar.broker.pulsar_client.client import PulsarClient, connect
from safepulsar.broker.pulsar_client.partitions import PartitionedProducer
from safepulsar.broker.pulsar_client.producer import PulsarProducer

__all__ = ["PartitionedProducer", "PulsarClient", "PulsarProducer", "connect"]
