"""
The numbers as OpenTelemetry's (extra `otel`), with the names of its semantic conventions where it has some.

    metrics = Metrics()
    export(metrics)  # to the meter provider that the application has set
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

try:
    from opentelemetry.metrics import CallbackOptions, Observation, get_meter_provider
except ImportError as error:
    msg = "metrics for OpenTelemetry need its API: pip install 'safepulsar[otel]'"
    raise ImportError(msg) from error

from safepulsar.message import Fate
from safepulsar.metrics.family import BUCKETS, Distribution, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.metrics import Meter, MeterProvider

    from safepulsar.metrics.family import Family
    from safepulsar.metrics.recorder import Metrics
    from safepulsar.observing import Finished

_FRESH_SECONDS: Final = 0.1  # every instrument is asked by itself; they share one look
# Names that others have given; the rest are ours, with dots.
_NAMES: Final = {
    "safepulsar_attempts_total": "messaging.client.sent.messages",
    "safepulsar_inflight_messages": "pulsar.client.producer.message.pending.count",
    "safepulsar_inflight_bytes": "pulsar.client.producer.message.pending.size",
    "safepulsar_pool_created_total": "pulsar.client.producer.opened",
    "safepulsar_pool_evicted_total": "pulsar.client.producer.closed",
    "safepulsar_sent_bytes_total": "pulsar.client.producer.message.send.size",
    "safepulsar_store_bytes": "safepulsar.store_size",
}
_UNITS: Final = {
    "messages": "{message}",
    "bytes": "By",
    "seconds": "s",
    "lanes": "{lane}",
    "producers": "{producer}",
    "attempts": "{message}",
}
_MESSAGING: Final = {"messaging.system": "pulsar", "messaging.operation.name": "send"}


def export(metrics: Metrics, meter_provider: MeterProvider | None = None) -> None:
    """
    Make an instrument for each number, and record the duration of each message as `messaging.client.operation.duration`.

    Args:
        metrics: whose numbers.
        meter_provider: the application's own by default.
    """
    provider = meter_provider or get_meter_provider()
    meter = provider.get_meter("safepulsar", schema_url="https://opentelemetry.io/schemas/1.44.0")
    _record_durations(metrics, meter)
    look = _Look(metrics)
    for family in metrics.collect():
        if family.kind is Kind.HISTOGRAM:
            continue
        make: Callable[..., object] = {
            Kind.COUNTER: meter.create_observable_counter,
            Kind.GAUGE: meter.create_observable_up_down_counter,
            Kind.MAXIMUM: meter.create_observable_gauge,
        }[family.kind]
        make(
            _name(family.name), callbacks=[look.callback(family.name)], unit=_unit(family.name), description=family.text
        )


def _record_durations(metrics: Metrics, meter: Meter) -> None:
    histogram = meter.create_histogram(
        "messaging.client.operation.duration",
        unit="s",
        description="From the call to the fate.",
        explicit_bucket_boundaries_advisory=BUCKETS,
    )

    def record(fact: Finished) -> None:
        attributes = {**_MESSAGING, "messaging.operation.type": "send"}
        topic = metrics.topic_of(fact.topic)
        if topic:
            attributes["messaging.destination.name"] = topic[0]
        if fact.fate is Fate.FAILED:
            attributes["error.type"] = fact.error_code
        for seconds in fact.durations():
            histogram.record(seconds, attributes)

    metrics.on_finished(record)


class _Look:
    """
    One look at all numbers, shared by the instruments that are asked at the same time.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._lock = threading.Lock()  # guards the two below
        self._families: dict[str, Family] = {}
        self._until = 0.0

    def callback(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        """
        What an instrument calls for its values.
        """

        def observe(_options: CallbackOptions) -> Iterable[Observation]:
            with self._lock:
                if time.monotonic() >= self._until:
                    self._families = {family.name: family for family in self._metrics.collect()}
                    self._until = time.monotonic() + _FRESH_SECONDS
                family = self._families[name]
            return [
                Observation(value, _attributes(family, labels))
                for labels, value in family.samples.items()
                if not isinstance(value, Distribution)
            ]

        return observe


def _attributes(family: Family, values: tuple[str, ...]) -> dict[str, str]:
    labels = dict(zip(family.labels, values, strict=True))
    found: dict[str, str] = {}
    if "topic" in labels:
        found["messaging.destination.name"] = labels.pop("topic")
    if family.name == "safepulsar_attempts_total":
        found |= _MESSAGING
        result = labels.pop("result")
        if result not in ("ok", "duplicate"):
            found["error.type"] = result
        else:
            found["safepulsar.result"] = result
    if "code" in labels:
        found["error.type"] = labels.pop("code")
    return found | {f"safepulsar.{name}": value for name, value in labels.items()}


def _name(name: str) -> str:
    ours = name.removeprefix("safepulsar_").removesuffix("_total").removesuffix("_seconds")  # the unit says that
    return _NAMES.get(name) or f"safepulsar.{ours}"


def _unit(name: str) -> str:
    return _UNITS.get(name.removesuffix("_total").rpartition("_")[2], "1")
