"""
Faults of every kind, one after the other at random, with settings at random: whatever comes, everything is accounted for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from safepulsar import LanePolicy, TopicSettings
from tests.brokers import RealBroker
from tests.faults.proxy import Proxy
from tests.history import Rules

if TYPE_CHECKING:
    from tests.faults.trial import Trial

_FAULTS: Final = 6


class Mixture:
    """
    The faults, each over when its method returns. How long it takes is counted in messages that are accepted meanwhile.
    """

    def __init__(self, trial: Trial, proxy: Proxy) -> None:
        self._trial = trial
        self._proxy = proxy
        self.all = [self.cuts, self.short_freeze, self.long_freeze, self.lost_receipts, self.lost_sends, self.delay]
        # A restart of the real broker takes long, and has tests of its own.
        self.all.append(self.unload if trial.broker.features.admin else self.kill)

    def go_on(self, most: int) -> None:
        """
        Let some messages be accepted.
        """
        self._trial.wait_for_accepted(self._trial.rng.randint(1, most))

    def cuts(self) -> None:
        """
        Connections break in the middle of what is sent.
        """
        self._proxy.cut_every_bytes = self._trial.rng.randint(5_000, 60_000)
        self.go_on(600)
        self._proxy.cut_every_bytes = None

    def short_freeze(self) -> None:
        """
        The broker hangs for a moment.
        """
        self._trial.broker.freeze()
        self.go_on(200)
        self._trial.broker.thaw()

    def long_freeze(self) -> None:
        """
        The broker hangs for longer than messages may wait.
        """
        self._trial.broker.freeze()
        self._trial.outlast_deadline()
        self._trial.broker.thaw()

    def lost_receipts(self) -> None:
        """
        The broker's answers are lost, then the connection.
        """
        self._proxy.drop_receipts = True
        self.go_on(200)
        self._proxy.cut()
        self._proxy.drop_receipts = False

    def lost_sends(self) -> None:
        """
        Messages are lost on their way, then the connection.
        """
        self._proxy.lose_sends_after = self._trial.rng.randint(0, 20)
        self.go_on(200)
        self._proxy.cut()
        self._proxy.lose_sends_after = None

    def delay(self) -> None:
        """
        The network is slow.
        """
        self._proxy.delay_seconds = self._trial.rng.uniform(0, 0.3)
        self.go_on(300)
        self._proxy.delay_seconds = 0.0

    def kill(self) -> None:
        """
        The broker is killed (-9) and started again.
        """
        self._trial.history.broken()
        self._trial.broker.kill()
        self.go_on(600)
        self._trial.broker.start()

    def unload(self) -> None:
        """
        The topic moves.
        """
        assert isinstance(self._trial.broker, RealBroker)
        self._trial.broker.admin.unload(self._trial.topic)


@pytest.mark.timeout(180)
def test_whatever_happens_everything_is_accounted_for(trial: Trial) -> None:
    """
    After any faults in any order nothing is lost, and a message stands twice only where somebody was told that it might.
    """
    mix_keys, producer_name = trial.rng.random() < 0.5, trial.rng.choice([None, "shop"])
    with Proxy(trial.broker.url, on_cut=trial.history.broken) as proxy:
        trial.open(
            url=proxy.url,
            topic_defaults=TopicSettings(mix_keys=mix_keys, producer_name=producer_name, lane_policy=LanePolicy.SKIP),
        )
        mixture = Mixture(trial, proxy)
        faults = [trial.rng.choice(mixture.all) for _ in range(_FAULTS)]
        print(f"{mix_keys=}, {producer_name=}", *(each.__name__ for each in faults))  # noqa: T201  # beside a failure
        with trial.load(deadline_seconds=1.5):
            trial.wait_for_more(50)
            for fault in faults:
                fault()
                mixture.go_on(300)
            trial.wait_for_more(50)
        trial.close()
    replayed = trial.replay()
    assert replayed.failed == replayed.skipped == 0, replayed
    # Healed is never noted, which is lenient where connections break; where the broker deduplicates, nothing is excused.
    excuse = not trial.broker.features.deduplication
    trial.judge(Rules(connection_broken=excuse, replay_keeps_order=False))
