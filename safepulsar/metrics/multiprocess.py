"""
Prometheus' multiprocess mode: each process writes its numbers into a folder, from where any of them is served.

Custom collectors can't do that, so the numbers are copied into prometheus_client's own once a second.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from safepulsar.metrics.family import BUCKETS, Distribution, Kind
from safepulsar.processes.process import Stage, process

if TYPE_CHECKING:
    from safepulsar.metrics.family import Family
    from safepulsar.metrics.recorder import Metrics
    from safepulsar.observing import Finished

log = logging.getLogger("safepulsar")
_EVERY_SECONDS: Final = 1.0


def write_to_folder(metrics: Metrics) -> None:
    """
    Copy `metrics` from the first message on, in this process and in each that is forked from it.
    """
    metrics.on_finished(_Copier(metrics).wake)


class _Copier:
    """
    Copies on the thread `safepulsar-metrics`, and a last time at the end of the process, behind the senders.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._registry = CollectorRegistry()  # of its own: it is the folder that is served
        self._instruments: dict[str, Counter | Gauge | Histogram] = {}
        self._copied: dict[tuple[str, tuple[str, ...]], float | Distribution] = {}
        self._lock = threading.Lock()  # guards what is copied
        self._thread: threading.Thread | None = None
        self._over = threading.Event()

    def wake(self, _fact: Finished) -> None:
        """
        Have the thread.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="safepulsar-metrics", daemon=True)
            process.watch(self, Stage.CLIENTS)
            try:
                self._thread.start()
            except RuntimeError:  # at the end of the process, which copies once more
                return

    def at_exit(self) -> None:
        """
        Copy what the senders' last moments have added.
        """
        self._over.set()
        self._copy()

    def after_fork(self) -> None:
        """
        In a forked child: its numbers begin at zero, and so does what was copied. The files are its own.
        """
        self._copied = {}
        self._lock = threading.Lock()
        self._thread = None
        self._over = threading.Event()

    def _run(self) -> None:
        over = self._over
        while not over.wait(_EVERY_SECONDS):
            self._copy()

    def _copy(self) -> None:
        with self._lock:
            try:
                for family in self._metrics.collect():
                    for labels, value in family.samples.items():
                        self._set(family, labels, value)
            except Exception:  # a full disk, a removed folder: numbers are missing, and no message
                log.exception("safepulsar.metrics_not_written")

    def _set(self, family: Family, labels: tuple[str, ...], value: float | Distribution) -> None:
        made = self._instruments.get(family.name)
        if made is None:
            made = self._instruments[family.name] = self._make(family)
        one = made.labels(*labels) if labels else made
        before = self._copied.get((family.name, labels))
        self._copied[family.name, labels] = value
        if isinstance(one, Histogram) and isinstance(value, Distribution):
            known = before if isinstance(before, Distribution) else Distribution()
            _add_all(one, value, known)
        elif isinstance(one, Counter) and not isinstance(value, Distribution):
            one.inc(value - (before if isinstance(before, (int, float)) else 0.0))
        elif isinstance(one, Gauge) and not isinstance(value, Distribution):
            one.set(value)

    def _make(self, family: Family) -> Counter | Gauge | Histogram:
        if family.kind is Kind.COUNTER:
            return Counter(family.name, family.text, family.labels, registry=self._registry)
        if family.kind is Kind.HISTOGRAM:
            return Histogram(family.name, family.text, family.labels, buckets=BUCKETS, registry=self._registry)
        return Gauge(
            family.name,
            family.text,
            family.labels,
            registry=self._registry,
            multiprocess_mode="livemax" if family.kind is Kind.MAXIMUM else "livesum",
        )


def _add_all(histogram: Histogram, value: Distribution, before: Distribution) -> None:
    """
    Add what is new. `observe` takes one value at a time, so this goes to the buckets themselves.
    """
    for bucket, now, then in zip(histogram._buckets, value.counts, before.counts, strict=True):  # noqa: SLF001 - as said
        if now > then:
            bucket.inc(now - then)
    histogram._sum.inc(value.total - before.total)  # noqa: SLF001 - as above
