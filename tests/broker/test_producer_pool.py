"""
The pool shares producers, waits for none longer than asked, and closes only what nobody has.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, fields
from typing import TYPE_CHECKING

import pytest

from safepulsar.broker.producer_pool import Lease, PoolStats, ProducerPool
from safepulsar.errors import BrokerUnavailable, CreationBackoff, DeadlineExceeded, PoolClosed
from safepulsar.settings import PoolSettings
from tests.opening import Clock, Opener, settings_of
from tests.subprocesses import run_script
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(60)

_A, _B, _C = settings_of("a"), settings_of("b"), settings_of("c")


@pytest.fixture
def opener() -> Opener:
    """
    What opens producers.
    """
    return Opener()


@pytest.fixture
def clock() -> Clock:
    """
    The pool's time.
    """
    return Clock()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """
    Threads for calls that wait.
    """
    with ThreadPoolExecutor(80) as threads:
        yield threads


def _pool(opener: Opener, clock: Clock | None = None, **settings: object) -> ProducerPool:
    made = PoolSettings(**settings)  # type: ignore[arg-type]  # the tests' own
    return ProducerPool(opener, made) if clock is None else ProducerPool(opener, made, clock)


def _waits(pool: ProducerPool, count: int = 1) -> None:
    wait_until(lambda: pool.stats().waiting == count, f"{count} waiting calls")


# -- sharing -----------------------------------------------------------------------------------------------------


def test_nothing_is_opened_before_the_first_lease(opener: Opener) -> None:
    """
    Making a pool opens nothing.
    """
    pool = _pool(opener)
    assert opener.opened == []
    assert pool.stats() == PoolStats(
        open=0,
        leased=0,
        created=0,
        evicted=0,
        waiting=0,
        wait_timeouts=0,
        mean_lease_seconds=0.0,
        oldest_lease_seconds=0.0,
    )


def test_64_threads_share_one_producer(opener: Opener, threads: ThreadPoolExecutor) -> None:
    """
    However many threads ask for a topic at the same time, it is opened once, and all get the same producer.
    """
    opener.hanging[_A.topic] = threading.Event()
    pool = _pool(opener)
    leases = [threads.submit(pool.lease, settings_of("a"), 10) for _ in range(64)]
    _waits(pool, 64)
    opener.hanging[_A.topic].set()
    producers = {id(lease.result().producer) for lease in leases}
    assert len(producers) == len(opener.opened) == 1
    assert pool.stats().leased == 1
    for lease in leases:
        lease.result().release()
    with pool.lease(_A, 0) as producer:
        assert producer is opener.opened[0]


def test_other_settings_get_another_producer(opener: Opener) -> None:
    """
    The key of a producer is all of its settings.
    """
    pool = _pool(opener)
    with pool.lease(_A, 10) as a, pool.lease(_B, 10) as b:
        assert a is not b
    assert pool.stats().open == 2


def test_a_topic_that_hangs_or_fails_delays_no_other(opener: Opener, threads: ThreadPoolExecutor) -> None:
    """
    While one topic hangs and another fails, a third opens at once.
    """
    opener.hanging[_A.topic] = threading.Event()
    opener.failing[_B.topic] = BrokerUnavailable("LookupError")
    pool = _pool(opener)
    hanging = threads.submit(pool.lease, _A, 10)
    _waits(pool)
    with pytest.raises(BrokerUnavailable):
        pool.lease(_B, 10)
    with pool.lease(_C, 10) as producer:
        assert producer.settings == _C
    assert not hanging.done()
    opener.hanging[_A.topic].set()
    hanging.result().release()


def test_concurrent_openings_are_bounded(opener: Opener, threads: ThreadPoolExecutor) -> None:
    """
    Never more topics are opened at once than allowed; the others follow as soon as one is done.
    """
    gate = threading.Event()
    many = [settings_of(f"many-{i}") for i in range(20)]
    opener.hanging = {settings.topic: gate for settings in many}
    pool = _pool(opener, max_concurrent_creations=3)
    leases = [threads.submit(pool.lease, settings, 10) for settings in many]
    _waits(pool, 20)
    wait_until(lambda: opener.most_at_once == 3, "three are being opened")
    gate.set()
    for lease in leases:
        lease.result().release()
    assert opener.most_at_once == 3
    assert pool.stats().open == 20


# -- waiting -----------------------------------------------------------------------------------------------------


def test_a_lease_waits_no_longer_than_asked_and_opening_goes_on(opener: Opener, threads: ThreadPoolExecutor) -> None:
    """
    A call gives up in time; the producer still opens and serves the next one.
    """
    opener.hanging[_A.topic] = threading.Event()
    pool = _pool(opener)
    with pytest.raises(DeadlineExceeded, match="still being opened"):
        pool.lease(_A, 0.01)
    assert pool.stats().wait_timeouts == 1
    patient = threads.submit(pool.lease, _A, 10)
    _waits(pool)
    opener.hanging[_A.topic].set()
    patient.result().release()
    assert len(opener.opened) == 1


def test_a_lease_may_not_wait_at_all(opener: Opener) -> None:
    """
    With a time of 0 a call gets what is open, begins to open what is not, and does not wait.
    """
    opener.hanging[_A.topic] = threading.Event()
    pool = _pool(opener)
    with pytest.raises(DeadlineExceeded):
        pool.lease(_A, 0)
    opener.hanging[_A.topic].set()
    wait_until(lambda: pool.stats().open == 1, "the producer opens")
    pool.lease(_A, 0).release()


def test_everyone_who_waited_gets_the_failure(opener: Opener, threads: ThreadPoolExecutor) -> None:
    """
    A failed opening is raised to each call that waited for it, and opens nothing.
    """
    opener.hanging[_A.topic] = threading.Event()
    opener.failing[_A.topic] = BrokerUnavailable("ConnectError")
    pool = _pool(opener)
    leases = [threads.submit(pool.lease, _A, 10) for _ in range(5)]
    _waits(pool, 5)
    opener.hanging[_A.topic].set()
    for lease in leases:
        assert isinstance(lease.exception(), BrokerUnavailable)
    assert pool.stats().open == 0
    assert pool.stats().wait_timeouts == 0


def test_a_failure_is_not_remembered_but_backs_off(opener: Opener, clock: Clock) -> None:
    """
    After a failure calls are refused for a pause, doubled each time up to the longest; then the broker is asked again.
    """
    opener.failing[_A.topic] = BrokerUnavailable("ConnectError")
    pool = _pool(opener, clock, creation_backoff_seconds=1.0, creation_backoff_max_seconds=3.0)
    for pause in (1.0, 2.0, 3.0, 3.0):
        with pytest.raises(BrokerUnavailable):
            pool.lease(_A, 10)
        clock.now += pause - 0.25
        with pytest.raises(CreationBackoff) as caught:
            pool.lease(_A, 10)
        assert caught.value.retry_after_seconds == pytest.approx(0.25)
        assert isinstance(caught.value.__cause__, BrokerUnavailable)
        clock.now += 0.25
    del opener.failing[_A.topic]
    with pool.lease(_A, 10) as producer:
        pass
    # A success ends the doubling.
    pool.discard(producer)
    opener.failing[_A.topic] = BrokerUnavailable("ConnectError")
    with pytest.raises(BrokerUnavailable):
        pool.lease(_A, 10)
    with pytest.raises(CreationBackoff) as caught:
        pool.lease(_A, 10)
    assert caught.value.retry_after_seconds == pytest.approx(1.0)


def test_the_pauses_of_topics_that_nobody_tries_again_are_forgotten(opener: Opener, clock: Clock) -> None:
    """
    A failure that is long past costs no memory and doubles nothing.
    """
    opener.failing[_A.topic] = BrokerUnavailable("ConnectError")
    pool = _pool(opener, clock, creation_backoff_seconds=1.0, creation_backoff_max_seconds=4.0)
    for _ in range(2):
        with pytest.raises(BrokerUnavailable):
            pool.lease(_A, 10)
        clock.now += 10
        pool.evict_idle()
    with pytest.raises(BrokerUnavailable):
        pool.lease(_A, 10)
    with pytest.raises(CreationBackoff) as caught:
        pool.lease(_A, 10)
    assert caught.value.retry_after_seconds == pytest.approx(1.0)


# -- eviction ----------------------------------------------------------------------------------------------------


def test_idle_producers_are_flushed_and_closed_and_busy_ones_kept(opener: Opener, clock: Clock) -> None:
    """
    With one idle and one leased, only the idle one goes: first flushed, then closed.
    """
    pool = _pool(opener, clock, idle_seconds=60.0)
    busy = pool.lease(_A, 10)
    pool.lease(_B, 10).release()
    clock.now += 59
    assert pool.evict_idle() == 0
    clock.now += 1
    assert pool.evict_idle() == 1
    a, b = opener.opened
    assert a.calls == []
    assert b.calls == ["flush", "close"]
    busy.release()
    assert pool.evict_idle() == 0  # its time begins when it comes back
    clock.now += 60
    assert pool.evict_idle() == 1
    assert pool.stats().open == 0
    assert pool.stats().evicted == 2


def test_an_evicted_topic_opens_again(opener: Opener, clock: Clock) -> None:
    """
    The lease after an eviction opens another producer.
    """
    pool = _pool(opener, clock)
    pool.lease(_A, 10).release()
    clock.now += 60
    pool.evict_idle()
    with pool.lease(_A, 10) as producer:
        assert producer is opener.opened[1]


def test_room_is_made_by_the_one_that_is_idle_for_longest(opener: Opener, clock: Clock) -> None:
    """
    At the maximum, with one busy and two idle, the one whose lease ended first is evicted, before another is opened.
    """
    pool = _pool(opener, clock, max_producers=3)
    busy = pool.lease(_A, 10)
    older, newer = pool.lease(_C, 10), pool.lease(_B, 10)
    clock.now += 1
    older.release()
    clock.now += 1
    newer.release()
    pool.lease(settings_of("d"), 10).release()
    assert [producer.calls for producer in opener.opened] == [[], ["flush", "close"], [], []]
    assert opener.most == 3
    busy.release()


def test_when_all_are_leased_a_lease_waits_for_one_to_come_back(opener: Opener, threads: ThreadPoolExecutor) -> None:
    """
    At the maximum with all leased, a call waits, gets its turn when a lease ends, and nothing leased is evicted.
    """
    pool = _pool(opener, max_producers=2)
    first, second = pool.lease(_A, 10), pool.lease(_B, 10)
    with pytest.raises(DeadlineExceeded, match="max_producers"):
        pool.lease(_C, 0.01)
    waiting = threads.submit(pool.lease, _C, 10)
    _waits(pool)
    assert opener.open() == opener.opened[:2]
    second.release()
    assert waiting.result().producer is opener.opened[2]
    assert opener.open() == [opener.opened[0], opener.opened[2]]
    first.release()


def test_many_threads_share_a_pool_that_is_too_small(opener: Opener, threads: ThreadPoolExecutor) -> None:
    """
    With more topics than room and many threads, everyone gets a producer, never a closed one, and never too many open.
    """
    pool = _pool(opener, max_producers=3, max_concurrent_creations=2)
    topics = [settings_of(f"topic-{i}") for i in range(6)]

    def work(start: int) -> bool:
        closed = False
        for i in range(30):
            with pool.lease(topics[(start + i) % 6], 30) as producer:
                closed = closed or not producer.is_connected()
        return closed

    assert not any(threads.map(work, range(12)))
    assert opener.most == 3
    assert opener.most_at_once <= 2
    stats = pool.stats()
    assert stats.created == len(opener.opened) == stats.evicted + stats.open
    assert pool.close(10)
    assert opener.open() == []


def test_a_flush_that_hangs_holds_eviction_up_for_a_second_only(opener: Opener, clock: Clock) -> None:
    """
    A producer whose flush does not end is closed all the same.
    """
    opener.frozen.add(_A.topic)
    pool = _pool(opener, clock)
    pool.lease(_A, 10).release()
    pool.lease(_B, 10).release()
    clock.now += 60
    assert pool.evict_idle() == 2
    assert [producer.calls for producer in opener.opened] == [["flush", "close"]] * 2


# -- dead producers ----------------------------------------------------------------------------------------------


def test_a_discarded_producer_is_replaced_and_closes_with_its_last_lease(opener: Opener) -> None:
    """
    After `discard` the next lease opens another producer; those who still have the old one keep it to the end.
    """
    pool = _pool(opener)
    first, second = pool.lease(_A, 10), pool.lease(_A, 10)
    pool.discard(first.producer)
    with pool.lease(_A, 10) as producer:
        assert producer is opener.opened[1]
    first.release()
    assert opener.opened[0].calls == []
    second.release()
    assert opener.opened[0].calls == ["close"]
    assert pool.stats().open == 1
    pool.discard(opener.opened[0])
    pool.lease(_A, 10).release()
    assert len(opener.opened) == 2


def test_a_discarded_producer_that_nobody_has_closes_at_once(opener: Opener) -> None:
    """
    There is no lease whose end it could wait for.
    """
    pool = _pool(opener)
    with pool.lease(_A, 10) as producer:
        pass
    pool.discard(producer)
    assert opener.opened[0].calls == ["close"]
    assert pool.stats().open == 0


def test_an_abandoned_producer_closes_now(opener: Opener) -> None:
    """
    `abandon` closes a producer that is leased, and makes room; the end of its lease does no harm.
    """
    pool = _pool(opener, max_producers=1)
    lease = pool.lease(_A, 10)
    pool.abandon(lease.producer)
    assert opener.opened[0].calls == ["close"]
    pool.lease(_A, 10).release()
    lease.release()
    assert pool.stats().open == 1
    assert opener.opened[1].calls == []


def test_a_lease_comes_back_once(opener: Opener) -> None:
    """
    Releasing a lease twice does not give back that of another.
    """
    pool = _pool(opener)
    first, second = pool.lease(_A, 10), pool.lease(_A, 10)
    first.release()
    first.release()
    assert pool.stats().leased == 1
    second.release()
    assert pool.stats().leased == 0


# -- numbers -----------------------------------------------------------------------------------------------------


def test_statistics(opener: Opener, clock: Clock) -> None:
    """
    The names are these, always, and the numbers follow what happened.
    """
    assert [field.name for field in fields(PoolStats)] == [
        "open",
        "leased",
        "created",
        "evicted",
        "waiting",
        "wait_timeouts",
        "mean_lease_seconds",
        "oldest_lease_seconds",
    ]
    pool = _pool(opener, clock)
    for seconds in (1.0, 3.0):
        with pool.lease(_A, 10):
            clock.now += seconds
    lease = pool.lease(_A, 10)
    clock.now += 2.5
    pool.lease(_B, 10).release()
    stats = asdict(pool.stats())
    assert stats.pop("mean_lease_seconds") == pytest.approx(4 / 3)
    assert stats == {
        "open": 2,
        "leased": 1,
        "created": 2,
        "evicted": 0,
        "waiting": 0,
        "wait_timeouts": 0,
        "oldest_lease_seconds": 2.5,
    }
    lease.release()


def test_a_lease_that_takes_too_long_is_logged_once_with_its_place(
    opener: Opener, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """
    The log names the topic and the line where an overlong lease was taken; others are not mentioned.
    """
    pool = _pool(opener, clock, leak_seconds=5.0)
    leaked = pool.lease(_A, 10)
    clock.now += 4
    recent = pool.lease(_B, 10)
    clock.now += 2
    with caplog.at_level(logging.WARNING, "safepulsar"):
        pool.evict_idle()
        pool.evict_idle()
    [record] = caplog.records
    assert record.getMessage() == "safepulsar.lease_overdue"
    assert vars(record)["topic"] == _A.topic
    assert vars(record)["held_seconds"] == 6.0
    assert __file__ in vars(record)["place"]
    assert test_a_lease_that_takes_too_long_is_logged_once_with_its_place.__name__ in vars(record)["place"]
    assert __file__ in repr(leaked)
    leaked.release()
    recent.release()


def test_a_representation_shows_the_state(opener: Opener) -> None:
    """
    A repr says what it is and in which state, and a lease that was not granted has no producer.
    """
    pool = _pool(opener)
    with pool.lease(_A, 10):
        assert repr(pool) == "<ProducerPool open, 1 producers>"
    pool.close(10)
    assert repr(pool) == "<ProducerPool closed, 0 producers>"
    assert repr(Lease(pool, None)) == "<Lease not granted>"
    with pytest.raises(RuntimeError, match="not granted"):
        _ = Lease(pool, None).producer


# -- the end -----------------------------------------------------------------------------------------------------


def test_closing_flushes_and_closes_everything(opener: Opener) -> None:
    """
    After `close` nothing is open and nothing is lent; a second call finds nothing to do.
    """
    pool = _pool(opener)
    for settings in (_A, _B, _C):
        pool.lease(settings, 10).release()
    assert pool.close(10)
    assert [producer.calls for producer in opener.opened] == [["flush", "close"]] * 3
    assert pool.stats().open == 0
    with pytest.raises(PoolClosed):
        pool.lease(_A, 10)
    assert pool.close(10)


def test_closing_waits_for_leases(opener: Opener, threads: ThreadPoolExecutor) -> None:
    """
    With one busy and one idle, the idle one closes at once and the busy one when its lease ends.
    """
    pool = _pool(opener)
    lease = pool.lease(_A, 10)
    pool.lease(_B, 10).release()
    closing = threads.submit(pool.close, 10)
    wait_until(lambda: opener.opened[1].is_closed, "the idle one closes")
    assert not opener.opened[0].is_closed
    lease.release()
    assert closing.result() is True
    assert opener.opened[0].calls == ["flush", "close"]


def test_closing_in_time_closes_also_what_is_leased_or_hangs(opener: Opener) -> None:
    """
    When the time is over, a leased producer and one whose flush hangs are closed too, and `close` tells.
    """
    opener.frozen.add(_B.topic)
    pool = _pool(opener)
    lease = pool.lease(_A, 10)
    pool.lease(_B, 10).release()
    assert pool.close(0.05) is False
    assert opener.open() == []
    lease.release()


def test_closing_ends_every_wait(opener: Opener, threads: ThreadPoolExecutor) -> None:
    """
    Calls that wait for an opening or for room are refused at once, and what opens afterwards is closed.
    """
    opener.hanging[_B.topic] = threading.Event()
    pool = _pool(opener, max_producers=2)
    lease = pool.lease(_A, 10)
    waiting: list[Future[Lease]] = [threads.submit(pool.lease, settings, 30) for settings in (_B, _B, _C)]
    _waits(pool, 3)
    closing = threads.submit(pool.close, 10)
    for each in waiting:
        assert isinstance(each.exception(10), PoolClosed)
    lease.release()
    assert closing.result() is True
    opener.hanging[_B.topic].set()
    wait_until(lambda: len(opener.opened) == 2 and opener.opened[1].is_closed, "what opened late is closed")


def test_a_forked_child_has_none_of_the_producers(opener: Opener) -> None:
    """
    After a fork they are leaked and not closed, a lease that was inherited ends quietly, and the child opens its own.
    """
    pool = _pool(opener)
    inherited = pool.lease(_A, 10)
    pool.lease(_B, 10).release()
    pool.after_fork()
    assert all(producer.leaked and producer.calls == [] for producer in opener.opened)
    inherited.release()
    assert pool.stats().open == 0
    with pool.lease(_A, 10) as producer:
        assert producer is opener.opened[2]
    assert opener.opened[0].calls == []


def test_a_pool_works_where_no_thread_can_be_had() -> None:
    """
    At the exit of an interpreter that starts no more threads, a last lease still opens, and closing still closes.
    """
    result = run_script(
        """
        import atexit, threading
        from safepulsar.broker.producer_pool import ProducerPool
        from tests.opening import Opener, settings_of

        opener = Opener()
        pool = ProducerPool(opener)
        pool.lease(settings_of("before"), 10).release()

        def no_more_threads(self):
            raise RuntimeError("can't create new thread at interpreter shutdown")

        def at_exit():
            threading.Thread.start = no_more_threads  # as Python 3.12 does by itself
            pool.lease(settings_of("last"), 10).release()
            print([len(opener.opened), pool.close(10), len(opener.open())])

        atexit.register(at_exit)
        """,
        timeout_seconds=20,
    )
    assert result.check() == "[2, True, 0]\n"
