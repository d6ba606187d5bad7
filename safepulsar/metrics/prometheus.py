"""
Prometheus reads the numbers here (extra `prometheus`).

    metrics = Metrics()
    export(metrics)  # into the default registry, beside the application's own numbers

With `PROMETHEUS_MULTIPROC_DIR` in the environment, as under gunicorn, each process writes them there once a second.
"""

from __future__ import annotations

import os
from itertools import accumulate
from typing import TYPE_CHECKING

try:
    from prometheus_client import REGISTRY
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
    from prometheus_client.registry import Collector
except ImportError as error:
    msg = "metrics for Prometheus need prometheus_client: pip install 'safepulsar[prometheus]'"
    raise ImportError(msg) from error

from safepulsar.metrics.family import BUCKETS, Distribution, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import CollectorRegistry, Metric

    from safepulsar.metrics.family import Family
    from safepulsar.metrics.recorder import Metrics


def export(metrics: Metrics, registry: CollectorRegistry = REGISTRY) -> None:
    """
    Let Prometheus read `metrics` wherever `registry` is served.

    In multiprocess mode it is not `registry` that is served but the folder, by prometheus_client's
    `MultiProcessCollector`: see docs/observability.md.

    Raises:
        ValueError: something in this registry has the same names already.
    """
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        from safepulsar.metrics.multiprocess import write_to_folder  # noqa: PLC0415 - where it is needed

        write_to_folder(metrics)
    else:
        registry.register(_Collector(metrics))


class _Collector(Collector):
    """
    Asks for the numbers whenever Prometheus does.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        """
        All of them.
        """
        return map(_as_metric, self._metrics.collect())


def _as_metric(family: Family) -> Metric:
    if family.kind is Kind.HISTOGRAM:
        histogram = HistogramMetricFamily(family.name, family.text, labels=family.labels)
        for labels, spread in family.samples.items():
            if isinstance(spread, Distribution):
                histogram.add_metric(labels, _cumulative(spread), spread.total)
        return histogram
    made = CounterMetricFamily if family.kind is Kind.COUNTER else GaugeMetricFamily
    metric = made(family.name, family.text, labels=family.labels)
    for labels, value in family.samples.items():
        if not isinstance(value, Distribution):
            metric.add_metric(labels, value)
    return metric


def _cumulative(spread: Distribution) -> list[tuple[str, float]]:
    bounds = [*map(str, BUCKETS), "+Inf"]
    return [(bound, float(count)) for bound, count in zip(bounds, accumulate(spread.counts), strict=True)]
