"""
Shared producers: one per settings, opened when first asked for, lent, and closed when nobody needs them.
"""

from safepulsar.broker.producer_pool.lease import Lease
from safepulsar.broker.producer_pool.pool import ProducerPool
from safepulsar.broker.producer_pool.stats import PoolStats

__all__ = ["Lease", "PoolStats", "ProducerPool"]
