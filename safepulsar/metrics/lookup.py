"""
What senders say of themselves when they are asked: books, pool, lanes, store.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, Literal

from safepulsar.failed_messages import SqliteFailedMessages
from safepulsar.metrics.family import Family, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from safepulsar.failed_messages import FailedMessageStore, StoreStats
    from safepulsar.sender import RetryingSender
    from safepulsar.sending.engine import SenderStats

_STORE_EVERY_SECONDS: Final = 5.0  # a store counts its rows, which is not for every scrape
_STATES: Final[tuple[Literal["kept", "claimed", "delivered", "corrupted"], ...]] = (
    "kept",
    "claimed",
    "delivered",
    "corrupted",
)
# Of what rises: its names here, and what each is in `Counts` or `PoolStats`.
_FATES: Final = ("accepted", "delivered", "duplicate", "failed", "cancelled")
_RISING: Final = (*_FATES, "not_kept", "facts_dropped", "wait_timeouts", "created", "evicted")


class Lookup:
    """
    The senders that are watched. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards everything below
        self._senders: list[RetryingSender] = []
        self._past = dict.fromkeys(_RISING, 0)  # of senders that are closed
        self._stores: dict[object, tuple[float, StoreStats | None]] = {}

    def after_fork(self) -> None:
        """
        In a forked child: from the beginning.
        """
        self._lock = threading.Lock()
        self._past = dict.fromkeys(_RISING, 0)
        self._stores = {}

    def watch(self, sender: RetryingSender) -> None:
        """
        Ask this one, too.
        """
        with self._lock:
            self._forget_closed()
            self._senders.append(sender)

    def _forget_closed(self) -> None:
        for sender in list(self._senders):
            stats = sender.stats_if_open() if sender.closed else None
            if stats is not None and not stats.counts.in_flight:
                self._senders.remove(sender)
                for name, value in _rising(stats).items():
                    self._past[name] += value

    def collect(self, moment: float) -> list[Family]:
        """
        The numbers at this moment.
        """
        with self._lock:
            self._forget_closed()
            found = [stats for sender in self._senders if (stats := sender.stats_if_open()) is not None]
            stores = self._store_stats(moment)
            total = dict(self._past)
        for stats in found:
            for name, value in _rising(stats).items():
                total[name] += value
        pools = [stats.pool for stats in found]
        leases = [pool.mean_lease_seconds for pool in pools if pool.mean_lease_seconds]
        known = [numbers for numbers in stores if numbers is not None]
        return [
            _family("messages_total", "The books: messages by fate.", "fate").of(
                _samples({fate: total[fate] for fate in _FATES})
            ),
            _family("not_kept_total", "Messages that failed and that the store could not keep.").at(total["not_kept"]),
            _family("inflight_messages", "Messages accepted and without a fate yet.").at(
                sum(stats.counts.in_flight for stats in found)
            ),
            _family("inflight_bytes", "Bytes of these.").at(sum(stats.counts.in_flight_bytes for stats in found)),
            _family("paused_lanes", "Lanes that are stopped behind a message that failed.").at(
                sum(stats.paused_lanes for stats in found)
            ),
            _family("pool_producers", "Producers that are open.").at(sum(pool.open for pool in pools)),
            _family("pool_leased_producers", "Of these, the ones in use.").at(sum(pool.leased for pool in pools)),
            _family("pool_waiting", "Calls that wait for a producer.").at(sum(pool.waiting for pool in pools)),
            _family("pool_wait_timeouts_total", "Calls that waited for one in vain.").at(total["wait_timeouts"]),
            _family("pool_created_total", "Producers opened.").at(total["created"]),
            _family("pool_evicted_total", "Producers closed because they were idle, or to make room.").at(
                total["evicted"]
            ),
            _family("pool_mean_lease_seconds", "How long a producer is used at a time, on average.", largest=True).at(
                sum(leases) / len(leases) if leases else 0.0
            ),
            _family("pool_oldest_lease_seconds", "How long the longest use lasts by now.", largest=True).at(
                max((pool.oldest_lease_seconds for pool in pools), default=0.0)
            ),
            _family("store_up", "Whether every store of failed messages answers: 1, or else 0.", largest=True).at(
                float(len(known) == len(stores))
            ),
            # Processes of one host share a store: its size is no sum over them.
            _family("store_messages", "Rows of the store, by state.", "state", largest=True).of(
                _samples({state: sum(numbers[state] for numbers in known) for state in _STATES})
            ),
            _family("store_bytes", "Size of the store.", largest=True).at(sum(numbers["bytes"] for numbers in known)),
            _family("store_oldest_seconds", "Since the oldest message of the store failed first.", largest=True).at(
                max((numbers["oldest_age_seconds"] for numbers in known), default=0.0)
            ),
            _family("facts_dropped_total", "Messages that observers were too slow to be told of.").at(
                total["facts_dropped"]
            ),
        ]

    def _store_stats(self, moment: float) -> list[StoreStats | None]:
        stores = {_identity(sender.failed_messages): sender for sender in self._senders if sender.stats_if_open()}
        for key in list(self._stores):
            if key not in stores:
                del self._stores[key]
        for key, sender in stores.items():
            known = self._stores.get(key)
            if known is None or moment - known[0] >= _STORE_EVERY_SECONDS:
                self._stores[key] = moment, _ask(sender.failed_messages)
        return [numbers for _, numbers in self._stores.values()]


def _ask(store: FailedMessageStore) -> StoreStats | None:
    try:
        return store.stats()
    except Exception:  # noqa: BLE001  # whatever a store raises: the other numbers are asked for all the same
        return None


def _identity(store: FailedMessageStore) -> object:
    # Senders that were given the same path have each its own object of it.
    return str(store.database.path) if isinstance(store, SqliteFailedMessages) else id(store)


def _samples(values: Mapping[str, float]) -> dict[tuple[str, ...], float]:
    return {(label,): float(value) for label, value in values.items()}


def _rising(stats: SenderStats) -> dict[str, int]:
    counts, pool = stats.counts, stats.pool
    return {
        "accepted": counts.accepted,
        "delivered": counts.delivered,
        "duplicate": counts.duplicate,
        "failed": counts.failed,
        "cancelled": counts.cancelled,
        "not_kept": counts.not_kept,
        "facts_dropped": stats.facts_dropped,
        "wait_timeouts": pool.wait_timeouts,
        "created": pool.created,
        "evicted": pool.evicted,
    }


def _family(name: str, text: str, *labels: str, largest: bool = False) -> Family:
    kind = Kind.COUNTER if name.endswith("_total") else Kind.MAXIMUM if largest else Kind.GAUGE
    return Family(name=f"safepulsar_{name}", kind=kind, text=text, labels=labels)
