"""
The producers that a pool has: which may be lent, and which are on their way out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from safepulsar.broker.producer_pool.lease import PooledProducer
    from safepulsar.broker.transport import TransportProducer
    from safepulsar.settings import ProducerSettings


class Shelf:
    """
    Producers by their settings. The pool's lock guards all of it, but for `get`.
    """

    def __init__(self) -> None:
        self._lent: dict[ProducerSettings, PooledProducer] = {}  # or to be lent
        self._all: dict[int, PooledProducer] = {}  # and those not closed yet, by the producer's id

    def __len__(self) -> int:
        """
        Return how many are not closed.
        """
        return len(self._all)

    def everyone(self) -> list[PooledProducer]:
        """
        Return those that are not closed.
        """
        return list(self._all.values())

    def get(self, settings: ProducerSettings) -> PooledProducer | None:
        """
        Return the one that may be lent for these settings. Needs no lock where its `open` is looked at afterwards.
        """
        return self._lent.get(settings)

    def put(self, pooled: PooledProducer) -> None:
        """
        Add one that was opened.
        """
        self._lent[pooled.settings] = self._all[id(pooled.producer)] = pooled

    def find(self, producer: TransportProducer) -> PooledProducer | None:
        """
        Return what is known of a producer; None if it is closed, or of another pool.
        """
        return self._all.get(id(producer))

    def drop(self, producer: TransportProducer) -> PooledProducer | None:
        """
        Forget a producer that is closed; None if that was done before.
        """
        return self._all.pop(id(producer), None)

    def doom(self, pooled: PooledProducer) -> None:
        """
        Lend it no more, whoever has it.
        """
        pooled.doomed = True
        self._stop_lending(pooled)

    def withdraw_idle(self, since: float, most: int) -> list[PooledProducer]:
        """
        Take out at most so many that nobody has and nobody had since then.
        """
        idle = [each for each in self._lent.values() if each.idle_since <= since and not each.leases]
        return [each for each in idle[:most] if self._withdraw(each)]

    def withdraw_oldest(self) -> PooledProducer | None:
        """
        Take out the one that nobody has for longest; None if all are leased.
        """
        idle = [each for each in self._lent.values() if not each.leases]
        return next((each for each in sorted(idle, key=lambda each: each.idle_since) if self._withdraw(each)), None)

    def withdraw_all(self) -> None:
        """
        Lend none any more.
        """
        for pooled in list(self._lent.values()):
            self._stop_lending(pooled)

    def take_returned(self, most: int) -> list[PooledProducer]:
        """
        Take out at most so many that nobody has, after `withdraw_all`.

        Also those that are on their way out: who began that may have been interrupted, and twice does no harm.
        """
        returned = [each for each in self._all.values() if not each.leases][:most]
        for pooled in returned:
            pooled.retiring = True
        return returned

    def _withdraw(self, pooled: PooledProducer) -> bool:
        pooled.open = False
        if pooled.leases:  # it has just been lent
            pooled.open = True
            return False
        pooled.retiring = True
        self._stop_lending(pooled)
        return True

    def _stop_lending(self, pooled: PooledProducer) -> None:
        pooled.open = False
        if self._lent.get(pooled.settings) is pooled:
            del self._lent[pooled.settings]
