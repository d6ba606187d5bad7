"""
Numbers of senders: counted from what observers are told, and looked up when somebody asks.

    metrics = Metrics()
    sender = RetryingSender(url, observers=[metrics])

`safepulsar.metrics.prometheus` and `safepulsar.metrics.otel` bring them to where they are read; both read the same.
"""

from safepulsar.metrics.family import BUCKETS, Distribution, Family, Kind
from safepulsar.metrics.recorder import Metrics
from safepulsar.metrics.status import StatusServer, serve_status

__all__ = ["BUCKETS", "Distribution", "Family", "Kind", "Metrics", "StatusServer", "serve_status"]
