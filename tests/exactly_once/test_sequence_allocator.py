"""
Ids that rise for ever: no two callers get the same one, whatever ends and whoever else wants the name.
"""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

import pytest

from safepulsar.errors import InvalidInput, InvalidTopic, ProducerNameInUse, StoreOfAnotherProducer
from safepulsar.exactly_once.sequence_allocator import SequenceAllocator
from safepulsar.failed_messages import SqliteFailedMessages
from tests.failed_messages.samples import ManualClock
from tests.subprocesses import Script, run_script

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PREAMBLE = """
import os, sys, threading

from safepulsar.errors import *
from safepulsar.failed_messages import SqliteFailedMessages
from safepulsar.exactly_once.sequence_allocator import SequenceAllocator

path = sys.argv[1]
store = SqliteFailedMessages(path).open()
"""
_ROUNDS_OF_KILLS = 20


@pytest.fixture
def clock() -> ManualClock:
    """
    The clock of the leases, and of the allocators.
    """
    return ManualClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """
    Where the store is.
    """
    return tmp_path / "store" / "failed.db"


@pytest.fixture
def store(path: Path, clock: ManualClock) -> Iterator[SqliteFailedMessages]:
    """
    An open store.
    """
    with SqliteFailedMessages(path, clock=clock) as opened:
        yield opened


def _allocator(store: SqliteFailedMessages, clock: ManualClock, *, block: int = 10) -> SequenceAllocator:
    return SequenceAllocator(store, "shop", "orders", block=block, lease_seconds=30, clock=clock)


def test_ids_rise_from_one(store: SqliteFailedMessages, clock: ManualClock) -> None:
    """
    One by one or many at once, across blocks, without a gap as long as the allocator is open.
    """
    with _allocator(store, clock) as allocator:
        assert [allocator.next() for _ in range(12)] == list(range(1, 13))
        assert allocator.allocate(3) == range(13, 16)
        assert allocator.allocate(25) == range(16, 41)
        assert allocator.next() == 41
        assert repr(allocator) == "<SequenceAllocator 'shop' of 'persistent://public/default/orders' open>"
    assert repr(allocator).endswith("closed>")


def test_a_restart_leaves_a_gap_and_repeats_nothing(store: SqliteFailedMessages, clock: ManualClock) -> None:
    """
    What was reserved and not used is never used.
    """
    with _allocator(store, clock) as allocator:
        assert allocator.allocate(3) == range(1, 4)
    with _allocator(store, clock) as allocator:
        assert allocator.next() == 11


def test_one_write_reserves_a_block(store: SqliteFailedMessages, clock: ManualClock) -> None:
    """
    Within a block nothing is written, so it costs next to nothing.
    """
    with _allocator(store, clock, block=1000) as allocator:
        allocator.next()
        store.close()
        assert [allocator.next() for _ in range(999)] == list(range(2, 1001))
        store.open()


def test_ids_that_the_broker_knows_are_left_out(store: SqliteFailedMessages, clock: ManualClock) -> None:
    """
    After an advance the next id is above it, within the block and beyond it.
    """
    with _allocator(store, clock) as allocator:
        allocator.next()
        allocator.advance(5)
        assert allocator.next() == 6
        allocator.advance(2)
        assert allocator.next() == 7
        allocator.advance(100)
        assert allocator.allocate(2) == range(101, 103)


def test_a_name_has_one_allocator(store: SqliteFailedMessages, clock: ManualClock) -> None:
    """
    A second one is refused until the first is closed; closing and opening again do no harm.
    """
    first, second = _allocator(store, clock), _allocator(store, clock)
    first.open()
    assert first.open() is first
    with pytest.raises(ProducerNameInUse, match="use another producer name"):
        second.open()
    first.close()
    first.close()
    with second:
        second.next()
    with pytest.raises(ProducerNameInUse, match="is closed; call open"):
        first.next()
    with pytest.raises(ProducerNameInUse, match="is closed"):
        first.advance(5)


def test_a_name_is_for_one_topic(store: SqliteFailedMessages, clock: ManualClock) -> None:
    """
    The short and the full name of its topic are the same; another topic is refused.
    """
    with _allocator(store, clock):
        pass
    with SequenceAllocator(store, "shop", "persistent://public/default/orders"):
        pass
    with pytest.raises(StoreOfAnotherProducer):
        SequenceAllocator(store, "shop", "payments").open()


def test_a_reserved_id_is_not_handed_out_after_a_takeover(store: SqliteFailedMessages, clock: ManualClock) -> None:
    """
    One that slept through its lease still has ids in hand, below those of its successor: they are not used.
    """
    sleepy, next_one = _allocator(store, clock), _allocator(store, clock)
    sleepy.open()
    sleepy.next()
    clock.now += 30
    with next_one:
        assert next_one.next() == 11
        with pytest.raises(ProducerNameInUse, match="took over"):
            sleepy.next()
        sleepy.close()
        assert next_one.next() == 12


def test_an_allocator_in_use_keeps_its_name(store: SqliteFailedMessages, clock: ManualClock) -> None:
    """
    Whoever comes back in time, or before anybody else, goes on without a gap.
    """
    with _allocator(store, clock) as allocator:
        for _ in range(25):
            clock.now += 20
            allocator.next()
            with pytest.raises(ProducerNameInUse):
                _allocator(store, clock).open()
        clock.now += 3600
        assert allocator.next() == 26


def test_threads_share_an_allocator(store: SqliteFailedMessages, clock: ManualClock) -> None:
    """
    Eight threads get each id once, and each of them sees its ids rise.
    """
    taken: list[list[int]] = [[] for _ in range(8)]

    def take(into: list[int]) -> None:
        for count in (1, 4, 2) * 30:
            into.extend(allocator.allocate(count))

    with _allocator(store, clock) as allocator:
        threads = [threading.Thread(target=take, args=(into,)) for into in taken]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(number for ids in taken for number in ids) == list(range(1, 8 * 7 * 30 + 1))
    assert all(ids == sorted(ids) for ids in taken)


@pytest.mark.parametrize("count", [0, -1, True, 1.0, "1", None, 2**63])
def test_a_wrong_count_is_refused(store: SqliteFailedMessages, clock: ManualClock, count: int) -> None:
    """
    A count is a whole number of at least 1 and of at most what is left; the next id is not affected.
    """
    with _allocator(store, clock) as allocator:
        with pytest.raises(InvalidInput, match="count"):
            allocator.allocate(count)
        assert allocator.next() == 1


@pytest.mark.parametrize("beyond", [-1, True, 1.0, "1", None, 2**63])
def test_what_is_no_id_is_not_advanced_to(store: SqliteFailedMessages, clock: ManualClock, beyond: int) -> None:
    """
    An id is a whole number of 63 bits.
    """
    with _allocator(store, clock) as allocator, pytest.raises(InvalidInput, match="beyond"):
        allocator.advance(beyond)


def test_wrong_arguments_are_refused_at_once(store: SqliteFailedMessages) -> None:
    """
    A constructor that can't work says so before anything is opened.
    """
    for block in (0, 1_000_001, True, "1"):
        with pytest.raises(InvalidInput, match="block"):
            SequenceAllocator(store, "shop", "orders", block=block)  # type: ignore[arg-type]  # that is what is tested
    with pytest.raises(InvalidInput, match="lease_seconds"):
        SequenceAllocator(store, "shop", "orders", lease_seconds=0)
    with pytest.raises(InvalidTopic):
        SequenceAllocator(store, "shop", "")
    with pytest.raises(InvalidInput, match="producer_name"):
        SequenceAllocator(store, "", "orders").open()


def test_a_child_gets_an_error_and_no_id(path: Path) -> None:
    """
    In a forked child the parent's allocator raises, also while a thread of the parent held its lock at the fork.
    """
    output = run_script(
        _PREAMBLE
        + """
allocator = SequenceAllocator(store, "shop", "orders").open()
allocator.next()
allocator._lock.acquire()
pid = os.fork()
if pid == 0:
    for call in (allocator.next, allocator.open, lambda: allocator.advance(1)):
        try:
            call()
        except ForkedProcess:
            print("ForkedProcess", flush=True)
    allocator.close()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
allocator._lock.release()
print(allocator.next())
""",
        path,
    ).check()
    assert output.split() == ["ForkedProcess"] * 3 + ["2"]


def test_kill_9_repeats_no_id(path: Path) -> None:
    """
    A process is killed again and again while two threads allocate: no id that was seen comes twice, and they rise.
    """
    script = (
        _PREAMBLE
        + """
allocator = SequenceAllocator(store, "shop", "orders", block=3).open()
printing = threading.Lock()

def allocate(count):
    while True:
        with printing:
            ids = allocator.allocate(count)
            os.write(1, "".join(f"{number}\\n" for number in ids).encode())

for count in (1, 4):
    threading.Thread(target=allocate, args=(count,)).start()
"""
    )
    seen: list[int] = []
    for number in range(_ROUNDS_OF_KILLS):
        with Script(script, path) as process:
            process.wait_for("\n" * 1 if number % 2 else f"{(seen or [0])[-1] + 40}")
            process.send_signal(signal.SIGKILL)
            output = process.finish(timeout_seconds=20).stdout
        seen.extend(int(line) for line in output.split("\n")[:-1])
    assert len(seen) > 10 * _ROUNDS_OF_KILLS
    assert seen == sorted(set(seen))


def test_processes_that_fight_for_a_name_share_no_id(path: Path) -> None:
    """
    Four processes open, allocate and close as fast as they can, and some die in between: each id is had once.
    """
    output = run_script(
        _PREAMBLE
        + """
def fight(number):
    mine = SqliteFailedMessages(path).open()
    rounds = 0
    while rounds < 15:
        try:
            allocator = SequenceAllocator(mine, "shop", "orders", block=5).open()
        except ProducerNameInUse:
            continue
        rounds += 1
        ids = [*allocator.allocate(rounds), allocator.next()]
        os.write(1, ("\\n".join(map(str, ids)) + "\\n").encode())
        if rounds == 10 and number % 2:
            os._exit(0)  # without a word
        allocator.close()
    os._exit(0)

pids = []
for number in range(4):
    pid = os.fork()
    if pid == 0:
        fight(number)
    pids.append(pid)
for pid in pids:
    assert os.waitpid(pid, 0)[1] == 0
""",
        path,
        timeout_seconds=90,
    ).check()
    ids = [int(line) for line in output.split()]
    assert len(ids) == len(set(ids)) == 2 * sum(range(2, 17)) + 2 * sum(range(2, 12))
    assert ids == sorted(ids)
