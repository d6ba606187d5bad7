"""
Threads that keep at the same time share one write, and each hears the truth about its own part.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from safepulsar.errors import StoreFull, StoreUnavailable
from safepulsar.failed_messages.group_commit import Batch, GroupCommit
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safepulsar.failed_messages.database import Transaction


class Writes:
    """
    Stands for the disk: records what each write held, and blocks or fails on demand.
    """

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.blocked = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.interrupts: dict[str, bool] = {}  # at the write of this item, and whether after its commit
        self.refuses: dict[str, StoreFull | StoreUnavailable] = {}

    def __call__(self, group: Sequence[Batch[str]], transaction: Transaction) -> None:
        """
        Write a group, or what was planned instead.
        """
        items = [item for batch in group for item in batch.items]
        self.blocked.set()
        self.go_on.wait(10)
        for item in items:
            if item in self.refuses:
                raise self.refuses[item]
        interrupted = next((item for item in items if item in self.interrupts), None)
        if interrupted is None or self.interrupts[interrupted]:
            self.groups.append(items)
            for batch in group:
                batch.ids = [int(item) for item in batch.items]
            transaction.committed = True
        if interrupted is not None:
            del self.interrupts[interrupted]
            raise KeyboardInterrupt


class Callers:
    """
    Threads that commit one item each, and what they got.
    """

    def __init__(self, group_commit: GroupCommit[str]) -> None:
        self._group_commit = group_commit
        self._threads: list[threading.Thread] = []
        self.results: dict[str, object] = {}

    def start(self, item: str) -> None:
        """
        Commit `item` in a thread of its own, and return once it waits for its turn.
        """
        thread = threading.Thread(target=self._commit, args=(item,))
        thread.start()
        self._threads.append(thread)
        wait_until(lambda: any(item in batch.items for batch in self._group_commit._queue), f"{item} to wait")

    def start_leader(self, writes: Writes, item: str) -> None:
        """
        Commit `item` in a thread of its own, and return once its write is going on, and on.
        """
        writes.go_on.clear()
        thread = threading.Thread(target=self._commit, args=(item,))
        thread.start()
        self._threads.append(thread)
        assert writes.blocked.wait(10)

    def _commit(self, item: str) -> None:
        try:
            self.results[item] = self._group_commit.commit([item])
        except (StoreFull, StoreUnavailable, KeyboardInterrupt) as error:
            self.results[item] = error

    def join(self) -> None:
        """
        Wait for all of them.
        """
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()


@pytest.fixture
def writes() -> Writes:
    """
    A disk.
    """
    return Writes()


@pytest.fixture
def group_commit(writes: Writes) -> GroupCommit[str]:
    """
    On that disk.
    """
    return GroupCommit(writes)


@pytest.fixture
def callers(group_commit: GroupCommit[str]) -> Callers:
    """
    Who keep at the same time.
    """
    return Callers(group_commit)


def test_who_waits_shares_the_next_write(writes: Writes, callers: Callers) -> None:
    """
    While one write goes on, all others gather and are written together, in the order in which they came.
    """
    callers.start_leader(writes, "1")
    for item in ("2", "3", "4", "5", "6", "7", "8"):
        callers.start(item)
    writes.go_on.set()
    callers.join()
    assert writes.groups == [["1"], ["2", "3", "4", "5", "6", "7", "8"]]
    assert callers.results == {str(i): [i] for i in range(1, 9)}


def test_a_failed_write_is_told_to_each(writes: Writes, callers: Callers) -> None:
    """
    Everybody in a failed write gets an error of its own, and the next write is not affected.
    """
    callers.start_leader(writes, "1")
    callers.start("2")
    callers.start("3")
    writes.refuses["2"] = StoreUnavailable("locked")
    writes.go_on.set()
    callers.join()
    errors = [callers.results["2"], callers.results["3"]]
    assert [str(error) for error in errors] == ["locked", "locked"]
    assert errors[0] is not errors[1]
    assert callers.results["1"] == [1]
    del writes.refuses["2"]
    callers.start_leader(writes, "4")
    writes.go_on.set()
    callers.join()
    assert callers.results["4"] == [4]


def test_a_large_one_does_not_take_the_room_of_the_small(writes: Writes, callers: Callers) -> None:
    """
    When a shared write finds no space, each is tried alone, and only what does not fit fails.
    """
    callers.start_leader(writes, "1")
    for item in ("2", "3", "4"):
        callers.start(item)
    writes.refuses["3"] = StoreFull("full")
    writes.go_on.set()
    callers.join()
    assert (callers.results["2"], callers.results["4"]) == ([2], [4])
    assert isinstance(callers.results["3"], StoreFull)


@pytest.mark.parametrize("committed", [True, False])
def test_an_interrupted_writer_loses_nothing_of_the_others(
    writes: Writes, callers: Callers, *, committed: bool
) -> None:
    """
    Ctrl-C in the thread that writes for all: what was on disk by then counts, the rest is written by the next.
    """
    callers.start_leader(writes, "1")
    callers.start("2")
    callers.start("3")
    writes.interrupts["2"] = committed
    writes.go_on.set()
    callers.join()
    results = [callers.results[item] for item in ("2", "3")]
    interrupted = [result for result in results if isinstance(result, KeyboardInterrupt)]
    assert len(interrupted) == 1
    survivor = "3" if isinstance(callers.results["2"], KeyboardInterrupt) else "2"
    assert callers.results[survivor] == [int(survivor)]
    written = [item for group in writes.groups for item in group]
    assert written.count(survivor) == 1
    assert sorted(written) == (["1", "2", "3"] if committed else sorted(["1", survivor]))


def test_everybody_is_told_in_order_before_anybody_returns(writes: Writes, group_commit: GroupCommit[str]) -> None:
    """
    `on_committed` is called for each batch in the order of the write, and all of them before the first caller goes on.
    """
    events: list[str] = []

    def commit(item: str) -> None:
        group_commit.commit([item], lambda batch: events.append(f"told {batch.ids[0]}"))
        events.append(f"returned {item}")

    writes.go_on.clear()
    threads = [threading.Thread(target=commit, args=(str(number),)) for number in range(1, 6)]
    threads[0].start()
    assert writes.blocked.wait(10)
    for place, thread in enumerate(threads[1:], 1):
        thread.start()
        wait_until(lambda place=place: len(group_commit._queue) == place, "it to wait")  # type: ignore[misc]  # its own
    writes.go_on.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert [event for event in events if event.startswith("told")] == [f"told {number}" for number in range(1, 6)]
    first_return = min(events.index(f"returned {number}") for number in range(2, 6))
    assert events.index("told 5") < first_return


def test_who_wakes_while_others_are_told_does_not_run_ahead(
    writes: Writes, group_commit: GroupCommit[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A thread that wakes by itself in the middle of the calls returns when its own has returned, and not before.
    """
    monkeypatch.setattr("safepulsar.failed_messages.group_commit._FORGOTTEN_SECONDS", 0.001)
    returned = {item: threading.Event() for item in ("1", "2", "3")}
    ahead: list[bool] = []

    def tell(batch: Batch[str]) -> None:
        (item,) = batch.items
        if threading.current_thread() is not threads[item]:  # another one's call
            ahead.append(returned[item].wait(0.2))

    def commit(item: str) -> None:
        group_commit.commit([item], tell)
        returned[item].set()

    threads = {item: threading.Thread(target=commit, args=(item,)) for item in returned}
    writes.go_on.clear()
    threads["1"].start()
    assert writes.blocked.wait(10)
    for place, item in enumerate(("2", "3"), 1):
        threads[item].start()
        wait_until(lambda place=place: len(group_commit._queue) == place, "it to wait")  # type: ignore[misc]  # its own
    writes.go_on.set()
    for thread in threads.values():
        thread.join(10)
        assert not thread.is_alive()
    assert ahead == [False]


@pytest.mark.parametrize("committed", [True, False])
def test_who_is_interrupted_before_telling_leaves_that_to_the_next(
    writes: Writes, group_commit: GroupCommit[str], *, committed: bool
) -> None:
    """
    Ctrl-C after the write and before the calls: each of the others is told once, by whoever comes next.
    """
    told: list[str] = []
    results: dict[str, object] = {}

    def commit(item: str) -> None:
        try:
            results[item] = group_commit.commit([item], lambda batch: told.append(batch.items[0]))
        except KeyboardInterrupt as error:
            results[item] = error

    writes.go_on.clear()
    threads = [threading.Thread(target=commit, args=(str(number),)) for number in range(1, 5)]
    threads[0].start()
    assert writes.blocked.wait(10)
    for place, thread in enumerate(threads[1:], 1):
        thread.start()
        wait_until(lambda place=place: len(group_commit._queue) == place, "it to wait")  # type: ignore[misc]  # its own
    writes.interrupts["3"] = committed
    writes.go_on.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    interrupted = [item for item, result in results.items() if isinstance(result, KeyboardInterrupt)]
    assert len(interrupted) == 1
    assert sorted(set(told) - set(interrupted)) == sorted({"1", "2", "3", "4"} - set(interrupted))
    assert len(told) == len(set(told))


def test_who_is_forgotten_finds_out(
    writes: Writes, group_commit: GroupCommit[str], callers: Callers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    If the one that had to wake the next one was interrupted just there, it wakes by itself.
    """
    monkeypatch.setattr("safepulsar.failed_messages.group_commit._FORGOTTEN_SECONDS", 0.02)
    with group_commit._turn:
        callers.start("7")
    callers.join()  # nobody has called wake
    assert writes.groups == [["7"]]


def test_nobody_writes_in_a_turn(writes: Writes, group_commit: GroupCommit[str], callers: Callers) -> None:
    """
    Within `turn` nothing is written; what waits is written as soon as it ends.
    """
    with group_commit.turn():
        callers.start("1")
        callers.start("2")
        assert writes.groups == []
    callers.join()
    assert writes.groups == [["1", "2"]]


class _WatchedLock:
    """
    A lock that counts those who found it held, and waited.
    """

    def __init__(self) -> None:
        self.waited = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            self.waited += 1
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def locked(self) -> bool:
        """
        Whether somebody had it a moment ago: anything can happen before the caller goes on.
        """
        held = self._lock.locked()
        time.sleep(0.0005)
        return held


def test_nobody_waits_for_the_turn() -> None:
    """
    Who did would have to get it even once written, one behind the other: groups of eight became groups of two.
    """

    def write(group: Sequence[Batch[str]], transaction: Transaction) -> None:
        time.sleep(0.0001)  # as the disk: others run meanwhile
        for batch in group:
            batch.ids = [1]
        transaction.committed = True

    group_commit = GroupCommit(write)
    turn = _WatchedLock()
    group_commit._turn = turn  # type: ignore[assignment]

    def run() -> None:
        for _ in range(300):
            assert group_commit.commit(["1"], lambda _: time.sleep(0)) == [1]
            time.sleep(0)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert turn.waited == 0
