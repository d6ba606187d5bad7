"""
The control: the official client, used as many do, under the same faults. The checker must see what goes wrong.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Final

import pytest

from tests.faults.orders import identify
from tests.faults.proxy import Proxy
from tests.history import History, Kind, Rules, check
from tests.subprocesses import Script
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.trial import Trial

_FINISH_SECONDS: Final = 40.0
# Whatever fails is sent again by its callback, and acknowledged at last: to the application nothing seems to be wrong.
_RETRY_IN_CALLBACK: Final = """
import signal, sys, threading
from itertools import islice
from pathlib import Path

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})

import pulsar

from tests.faults.orders import orders_of
from tests.history import History

url, topic, path, send_timeout_ms, *numbers = sys.argv[1:]
history = History(Path(path))
orders = orders_of(topic, 0, 1, keyed=True)
client = pulsar.Client(url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
producer = client.create_producer(topic, batching_enabled=False, send_timeout_millis=int(send_timeout_ms))

def send(identity, message, settled):
    def on_result(result, message_id):
        if result == pulsar.Result.Ok:
            history.acked(identity)
            settled.release()
        else:
            print("sends again", flush=True)
            send(identity, message, settled)

    keys = {"partition_key": message.partition_key, "properties": dict(message.properties)}
    producer.send_async(message.payload, on_result, **keys)

print("ready", flush=True)
signal.sigwait({signal.SIGUSR1})
for number in map(int, numbers):
    settled = threading.Semaphore(0)
    for identity, message in islice(orders, number):
        history.attempted(identity, topic, message)
        send(identity, message, settled)
        history.accepted(identity)
    for _ in range(number):
        settled.acquire()
client.close()
"""


@pytest.mark.timeout(120)
def test_sending_again_after_a_timeout_makes_duplicates(trial: Trial, tmp_path: Path) -> None:
    """
    On a frozen broker a blind retry after the client's timeout stores every message twice, whoever deduplicates.
    """
    trial.history = History(tmp_path / "history")
    with Script(_RETRY_IN_CALLBACK, trial.broker.url, trial.topic, tmp_path / "history", 1000, 100) as script:
        script.wait_for("ready")
        trial.broker.freeze()
        script.send_signal(signal.SIGUSR1)
        script.wait_for("sends again")
        trial.broker.thaw()
        script.finish(timeout_seconds=_FINISH_SECONDS).check()
    assert _wrong(trial, Rules()) == {Kind.DUPLICATED: 100}


@pytest.mark.timeout(120)
def test_a_cut_before_the_first_acknowledgement_loses_messages(pulsar_trial: Trial, tmp_path: Path) -> None:
    """
    Where the broker deduplicates, messages are acknowledged that it never stored: their ids were used before.
    """
    trial = pulsar_trial
    trial.history = History(tmp_path / "history")
    with Proxy(trial.broker.url) as proxy:
        proxy.drop_receipts, proxy.lose_sends_after = True, 10
        with Script(_RETRY_IN_CALLBACK, proxy.url, trial.topic, tmp_path / "history", 0, 20, 20) as script:
            script.wait_for("ready")
            script.send_signal(signal.SIGUSR1)
            wait_until(lambda: proxy.dropped == proxy.lost == 10, "ten of twenty at the broker, and no answer here")
            proxy.drop_receipts, proxy.lose_sends_after = False, None
            proxy.cut()
            script.finish(timeout_seconds=_FINISH_SECONDS).check()
    assert _wrong(trial, Rules()) == {Kind.LOST: 10}


def _wrong(trial: Trial, rules: Rules) -> dict[Kind, int]:
    """
    Return what the checker finds in the topic, and how many times.
    """
    trial.history.found(trial.topic, trial.read(complete=False), identify)
    return {kind: len(violations) for kind, violations in check(trial.history, rules).by_kind().items()}
