"""
Takes one sample: the time and the CPU time of some messages, and the latency of single calls.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from benchmarks.case import Sample
from benchmarks.statistics import percentile

if TYPE_CHECKING:
    from collections.abc import Callable

MICROSECOND_NS = 1000.0


def timed(count: int, work: Callable[[], object]) -> Sample:
    """
    Run `work`, which deals with `count` messages from the first call to the last fate.
    """
    cpu = time.process_time()
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    return Sample(figures={"rate": count / seconds, "cpu_us": 1e6 * (time.process_time() - cpu) / count})


def repeat(count: int, call: Callable[[], object], threads: int = 1) -> None:
    """
    Call `call` `count` times in all, from so many threads at once; from this one alone if it is one.

    Raises:
        BaseException: what a call raised, the first of them.
    """
    if threads == 1:
        for _ in range(count):
            call()
        return
    share, more = divmod(count, threads)
    side_by_side(threads, lambda number: repeat(share + (number < more), call))


def side_by_side(threads: int, work: Callable[[int], object]) -> None:
    """
    Run `work(number)` in so many threads, and wait for all.

    Raises:
        BaseException: what one of them raised, the first of them.
    """
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001 - raised again below, on the thread that waits
            errors.append(error)

    running = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    if errors:
        raise errors[0]


def for_seconds(seconds: float, threads: int, call: Callable[[], object]) -> Sample:
    """
    Call `call` from so many threads again and again for that time, and look at each call's latency.

    The time begins when all threads are there, and each makes one call at least.
    """
    latencies: list[list[int]] = [[] for _ in range(threads)]
    clock = time.perf_counter_ns
    cpu = began = end = 0.0

    def begin() -> None:
        nonlocal cpu, began, end
        cpu, began = time.process_time(), clock()
        end = began + seconds * 1e9

    start = threading.Barrier(threads, begin)

    def work(number: int) -> None:
        mine = latencies[number]
        start.wait()
        moment = clock()
        while True:
            call()
            before, moment = moment, clock()
            mine.append(moment - before)
            if moment >= end:
                return

    side_by_side(threads, work)
    elapsed = (clock() - began) / 1e9
    cpu = time.process_time() - cpu
    return with_latencies([value for each in latencies for value in each], seconds=elapsed, cpu_seconds=cpu)


def with_latencies(latencies_ns: list[int], *, seconds: float, cpu_seconds: float) -> Sample:
    """
    Make a sample of calls, each one message.
    """
    count = len(latencies_ns)
    return Sample(
        figures={
            "rate": count / seconds,
            "cpu_us": 1e6 * cpu_seconds / count,
            "p50_us": percentile(latencies_ns, 50) / MICROSECOND_NS,
            "p99_us": percentile(latencies_ns, 99) / MICROSECOND_NS,
        },
        latencies_ns=latencies_ns,
    )


def nanoseconds_per_call(call: Callable[[], object], seconds: float) -> float:
    """
    Return what one call of something short takes, less the loop around it: the best of several runs.

    The best and not the median, because whatever disturbs can only add.
    """

    def run(what: Callable[[], object], times: int) -> float:
        began = time.perf_counter_ns()
        for _ in range(times):
            what()
        return (time.perf_counter_ns() - began) / times

    times = 100
    while run(call, times) * times < seconds * 1e8:  # a tenth of the time
        times *= 2
    return min(run(call, times) for _ in range(5)) - min(run(_nothing, times) for _ in range(5))


def _nothing() -> None:
    pass
