"""
`multiprocessing`, by each of its ways to start a process: workers of a pool and single processes send, and end.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Final

import pytest

from tests.brokers import read_topic
from tests.subprocesses import run_script

if TYPE_CHECKING:
    from tests.brokers import LiteBroker

END_SECONDS: Final = 60.0

pytestmark = pytest.mark.timeout(100)

each_method = pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])

# The parent sends as well, before and after, so that there is something to be inherited.
_BEGINNING: Final = """
    import json, multiprocessing, os, sys
    from safepulsar import RetryingSender

    sender = RetryingSender(sys.argv[1], failed_messages=sys.argv[3])
    topic = sys.argv[2]

    def order(name):
        return {"id": name, "pid": os.getpid()}

    def work(number):
        sender.send(topic, order(f"sent-{number}"))
        sender.submit(topic, order(f"submitted-{number}"))  # its fate is left to the end of the process
"""
_POOL: Final = """
    if __name__ == "__main__":
        sender.send(topic, order("parent-before"))
        context = multiprocessing.get_context(sys.argv[4])
        with context.Pool(2, maxtasksperchild=10) as pool:
            pool.map(work, range(40), chunksize=1)
            pool.close()
            pool.join()
        sender.send(topic, order("parent-after"))
        print("done")
"""
_PROCESSES: Final = """
    if __name__ == "__main__":
        sender.send(topic, order("parent-before"))
        handle = sender.submit(topic, order("parent-under-way"))
        context = multiprocessing.get_context(sys.argv[4])
        processes = [context.Process(target=work, args=(number,)) for number in range(4)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0] * 4, processes
        handle.result()
        print("done")
"""


def _ids(broker: LiteBroker, topic: str) -> tuple[Counter[str], dict[int, set[str]]]:
    counts: Counter[str] = Counter()
    producers: dict[int, set[str]] = {}
    for record in read_topic(broker, topic):
        found = json.loads(record.payload)
        counts[found["id"]] += 1
        producers.setdefault(found["pid"], set()).add(record.producer_name)
    return counts, producers


@each_method
def test_a_pool_whose_workers_are_recycled(
    method: str, lite_broker: LiteBroker, topic: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """
    Every worker has one producer, delivers what it submitted before it ends, and none hangs.
    """
    store = tmp_path_factory.mktemp("store") / "kept" / "failed.db"
    script = _BEGINNING + _POOL
    result = run_script(script, lite_broker.url, topic, store, method, timeout_seconds=END_SECONDS)
    assert result.check() == "done\n", result
    assert not result.stderr, result
    counts, producers = _ids(lite_broker, topic)
    names = {f"{how}-{number}" for how in ("sent", "submitted") for number in range(40)}
    assert counts == Counter({*names, "parent-before", "parent-after"})
    assert len(producers) >= 5  # four workers of ten tasks each, and the parent
    assert all(len(each) == 1 for each in producers.values())


@each_method
def test_single_processes(
    method: str, lite_broker: LiteBroker, topic: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """
    Each ends with 0, and what it submitted is delivered; the parent's message goes its way undisturbed.
    """
    store = tmp_path_factory.mktemp("store") / "kept" / "failed.db"
    script = _BEGINNING + _PROCESSES
    result = run_script(script, lite_broker.url, topic, store, method, timeout_seconds=END_SECONDS)
    assert result.check() == "done\n", result
    assert not result.stderr, result
    counts, producers = _ids(lite_broker, topic)
    names = {f"{how}-{number}" for how in ("sent", "submitted") for number in range(4)}
    assert counts == Counter({*names, "parent-before", "parent-under-way"})
    assert len(producers) == 5
    assert all(len(each) == 1 for each in producers.values())
