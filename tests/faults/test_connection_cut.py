"""
The connection breaks under load while the broker lives: cut in the middle, slow, and with acknowledgements lost.
"""

from __future__ import annotations

import threading
from itertools import islice
from typing import TYPE_CHECKING

import pytest

from safepulsar import TopicSettings
from tests.faults.orders import orders_of
from tests.faults.proxy import Proxy
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.faults.trial import Trial
    from tests.history import History


class Breaks:
    """
    Notes in a history when connections broke, and when there was one again.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._lock = threading.Lock()  # guards _open
        self._open = 0

    def cut(self) -> None:
        """
        They break from here on.
        """
        with self._lock:
            self._open += 1
            self._history.broken()

    def connected(self) -> None:
        """
        There is one: all that is sent anew from here on was not in flight when they broke.
        """
        with self._lock:
            for _ in range(self._open):
                self._history.healed()
            self._open = 0


@pytest.fixture
def proxy(trial: Trial) -> Proxy:
    """
    In front of the trial's broker.
    """
    breaks = Breaks(trial.history)
    return Proxy(trial.broker.url, on_cut=breaks.cut, on_connect=breaks.connected)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("mix_keys", [False, True])
def test_cuts_in_the_middle_of_everything_lose_nothing(trial: Trial, proxy: Proxy, *, mix_keys: bool) -> None:
    """
    Cut again and again, in the middle of batches, it all arrives: at worst twice, and once where the broker deduplicates.
    """
    with proxy:
        trial.open(url=proxy.url, topic_defaults=TopicSettings(mix_keys=mix_keys))
        with trial.load(deadline_seconds=60.0, most=60, pause_seconds=0.01) as load:
            proxy.cut_every_bytes = trial.rng.randint(50_000, 150_000)
            wait_until(lambda: proxy.cuts >= 8, "cuts", timeout_seconds=60.0)
            proxy.cut_every_bytes = None
            trial.wait_for_more()
        trial.close()
    assert not load.late
    counts = trial.judge().counts
    assert counts.not_stored == counts.maybe_stored == 0


@pytest.mark.timeout(120)
@pytest.mark.parametrize("producer_name", [None, "shop"])
def test_a_cut_before_the_first_acknowledgement_loses_nothing(
    trial: Trial, proxy: Proxy, producer_name: str | None
) -> None:
    """
    A producer whose connection breaks before the broker's first answer gets there does not count its ids anew.

    The client library does, unless it is told where to begin; see `test_control.py` for what that costs.
    """
    orders = orders_of(trial.topic, 0, 1, keyed=True)
    with proxy:
        trial.open(url=proxy.url, topic_defaults=TopicSettings(producer_name=producer_name))
        proxy.drop_receipts, proxy.lose_sends_after = True, 10
        ways = trial.ways()
        first = ways.submit(list(islice(orders, 20)))
        wait_until(lambda: proxy.dropped == proxy.lost == 10, "ten of twenty at the broker, and no answer here")
        proxy.drop_receipts, proxy.lose_sends_after = False, None
        proxy.cut()
        for handle, _ in first:
            handle.result()
        ways.result(list(islice(orders, 20)))
        trial.close()
    counts = trial.judge().counts
    assert counts.accepted == 40


@pytest.mark.timeout(120)
def test_lost_acknowledgements_lose_no_message(trial: Trial, proxy: Proxy) -> None:
    """
    What was stored without our knowing is sent again: stored twice, or answered as a duplicate; nothing fails.
    """
    with proxy:
        trial.open(url=proxy.url)
        with trial.load(deadline_seconds=60.0) as load:
            for _ in range(3):
                trial.wait_for_more(trial.rng.randint(100, 300))
                proxy.dropped = 0
                proxy.drop_receipts = True
                trial.wait_for_accepted(trial.rng.randint(20, 200))
                wait_until(lambda: proxy.dropped > 0, "a lost acknowledgement")
                proxy.cut()
                proxy.drop_receipts = False
            trial.wait_for_more()
        trial.close()
    assert not load.late
    counts = trial.judge().counts
    assert counts.not_stored == counts.maybe_stored == 0
    # The fault was there: what is stored once only was acknowledged as a duplicate.
    assert counts.duplicate + counts.extra_copies > 0


@pytest.mark.timeout(120)
def test_a_slow_network_only_delays(trial: Trial, proxy: Proxy) -> None:
    """
    A network that takes its time, and is cut at last, changes nothing but the time.
    """
    with proxy:
        trial.open(url=proxy.url)
        with trial.load(deadline_seconds=60.0) as load:
            trial.wait_for_more()
            proxy.delay_seconds = 0.1
            trial.wait_for_more(300)
            proxy.cut()
            trial.wait_for_more(300)
            proxy.delay_seconds = 0.0
        trial.close()
    assert not load.late
    trial.judge()
