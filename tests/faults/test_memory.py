"""
Memory under a flood: bounded in bytes, whatever the application pours in.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Final

import pytest

from tests.subprocesses import run_script

if TYPE_CHECKING:
    from tests.faults.trial import Trial

_BOUND_BYTES: Final = 8 * 1024 * 1024
_MESSAGES: Final = 300_000
_FINISH_SECONDS: Final = 100.0
# Each payload is an object of its own, as an application's are.
_FLOOD: Final = """
import json, sys, threading
from pathlib import Path
from safepulsar import RetryingSender, SenderSettings

url, topic, store, messages, bound_bytes = *sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5])
settings = SenderSettings(
    max_in_flight_bytes=bound_bytes, max_in_flight_messages=messages, deadline_seconds=90.0, close_seconds=90.0
)

def most_kilobytes():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

def sample():
    while not done.wait(0.001):
        sampled.append(sender.stats().counts.in_flight_bytes)

done, sampled = threading.Event(), []
with RetryingSender(url, failed_messages=store, settings=settings) as sender:
    for number in range(1000):
        sender.submit(topic, b"%1024d" % number)
    sender.flush()
    before = most_kilobytes()
    sampler = threading.Thread(target=sample)
    sampler.start()
    for number in range(messages):
        sender.submit(topic, b"%1024d" % number)
    sender.flush()
    done.set()
    sampler.join()
    grown = most_kilobytes() - before
counts = sender.close().counts
print(json.dumps({"grown": grown * 1024, "in_flight": max(sampled), "delivered": counts.delivered}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the most memory that a process had")
@pytest.mark.timeout(150)
def test_a_flood_takes_no_more_memory_than_the_bound_allows(trial: Trial) -> None:
    """
    300,000 messages of 1 KB: never more in flight than the bound, and memory grows by 2.5 times the bound and 30 MB at most.
    """
    script = run_script(
        _FLOOD,
        *(trial.broker.url, trial.topic, trial.store_path, _MESSAGES, _BOUND_BYTES),
        timeout_seconds=_FINISH_SECONDS,
    )
    told = json.loads(script.check().splitlines()[-1])
    print(told)  # noqa: T201  # for whoever looks how near it came
    assert told["delivered"] == _MESSAGES + 1000
    assert _BOUND_BYTES / 2 < told["in_flight"] <= _BOUND_BYTES
    assert told["grown"] <= 2.5 * _BOUND_BYTES + 30e6
