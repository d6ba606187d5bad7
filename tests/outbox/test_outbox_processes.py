"""
Applications and the one that sends as different processes: one order, every row handed out to one at a time.
"""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest

from safepulsar.errors import ProducerNameInUse
from safepulsar.failed_messages import SqliteFailedMessages
from safepulsar.outbox import Outbox
from tests.outbox.samples import name_of, orders
from tests.subprocesses import Script, run_script

if TYPE_CHECKING:
    from pathlib import Path

_PREAMBLE = """
import json, os, sys, threading, time

from safepulsar.errors import *
from safepulsar.failed_messages import SqliteFailedMessages
from safepulsar.outbox import Outbox
from tests.outbox.samples import Sender, name_of, orders

path = sys.argv[1]
"""


def test_a_dead_senders_rows_are_handed_out_at_once(outbox: Outbox, path: Path) -> None:
    """
    While the one that sends lives nobody else gets a row; once it was killed, the next one gets all of them.
    """
    script = (
        _PREAMBLE
        + """
store = SqliteFailedMessages(path, clock=lambda: 1_000_000.0).open()
outbox = Outbox(store, producer_name=name_of)
claim = outbox.claim("theirs", lease_seconds=3600)
sender = Sender()
outbox.put(orders("a", "b"), sender)
print(sender.sent, flush=True)
threading.Event().wait()
"""
    )
    with Script(script, path) as other:
        other.wait_for("[1, 2]")
        with pytest.raises(ProducerNameInUse, match="'theirs'"):
            outbox.claim("mine", lease_seconds=30)
        other.send_signal(signal.SIGKILL)
        other.finish(timeout_seconds=20)
        claim = outbox.claim("mine", lease_seconds=30)
    assert [row.message.payload for row in claim.take()] == [b"a", b"b"]
    assert claim.fencing_token == 2


def test_a_lost_hold_on_the_disk_is_no_loss(path: Path) -> None:
    """
    A removal that did not wait for the disk is there after a kill -9.
    """
    script = (
        _PREAMBLE
        + """
import signal
store = SqliteFailedMessages(path).open()
outbox = Outbox(store, producer_name=name_of)
outbox.put(orders("a", "b", "c"))
outbox.remove([1, 3])
os.kill(os.getpid(), signal.SIGKILL)
"""
    )
    assert run_script(script, path).returncode == -signal.SIGKILL
    with SqliteFailedMessages(path) as store:
        outbox = Outbox(store, producer_name=name_of)
        assert [row.id for row in outbox.claim("me", lease_seconds=30).take()] == [2]
        assert outbox.put(orders("d")) == [4]


def test_four_applications_and_one_that_sends(path: Path) -> None:
    """
    What four processes put, two threads each, goes through the one that sends: each once, in the order of the ids.
    """
    output = run_script(
        _PREAMBLE
        + """
def application(name):
    store = SqliteFailedMessages(path, busy_timeout_seconds=30).open()
    outbox = Outbox(store, producer_name=name_of)
    def put(thread):
        for count in range(25):
            ids = outbox.put(orders(*[f"{name}-{thread}-{count}-{part}" for part in range(1 + count % 3)]))
            assert ids == list(range(ids[0], ids[0] + len(ids)))
    threads = [threading.Thread(target=put, args=(thread,)) for thread in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

pids = []
for name in range(4):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            application(name)
            code = 0
        finally:
            os._exit(code)
    pids.append(pid)

store = SqliteFailedMessages(path, busy_timeout_seconds=30).open()
outbox = Outbox(store, producer_name=name_of)
claim = outbox.claim("the sender", lease_seconds=60)
sender = Sender()
mine = 0
def take():
    rows = claim.take(7)
    sender(rows, True)
    outbox.remove([row.id for row in rows])
    return rows
while pids:
    done, status = os.waitpid(pids[0], os.WNOHANG)
    if done:
        assert status == 0
        del pids[0]
    outbox.put(orders(f"mine-0-{mine}-0"), sender)
    mine += 1
    take()
while take():
    pass
print(json.dumps([sender.sent, [sender.payloads[number] for number in sender.sent], mine, outbox.stats()["waiting"]]))
""",
        path,
        timeout_seconds=90,
    ).check()
    ids, payloads, mine, waiting = json.loads(output)
    # What the sender was told of its own with False and took later is there once, in its place.
    assert ids == sorted(set(ids))
    assert len(payloads) == len(set(payloads)) == 4 * 2 * 49 + mine
    lanes: dict[str, list[tuple[int, int]]] = {}
    for payload in payloads:
        name, thread, count, part = payload.split("-")
        lanes.setdefault(f"{name}-{thread}", []).append((int(count), int(part)))
    assert len(lanes) == 9
    assert all(lane == sorted(lane) for lane in lanes.values())
    assert waiting <= mine  # its own, which were sent and not removed by this script


def test_a_child_puts_and_does_not_send(path: Path) -> None:
    """
    After a fork the claim is the parent's: what the child puts is written, and handed out to the parent.
    """
    output = run_script(
        _PREAMBLE
        + """
store = SqliteFailedMessages(path).open()
outbox = Outbox(store, producer_name=name_of)
claim = outbox.claim("parent", lease_seconds=30)
outbox.put(orders("a"), Sender())
pid = os.fork()
if pid == 0:
    sender = Sender()
    outbox.put(orders("b"), sender)
    refused = []
    for call in (claim.take, lambda: claim.extend(30), claim.release):
        try:
            call()
        except ForkedProcess:
            refused.append("ForkedProcess")
    print(json.dumps([sender.sent, sender.not_yet, refused]), flush=True)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
sender = Sender()
outbox.put(orders("c"), sender)
print(json.dumps([sender.not_yet, [row.message.payload.decode() for row in claim.take()]]))
""",
        path,
    ).check()
    child, parent = map(json.loads, output.splitlines())
    assert child == [[], [2], ["ForkedProcess"] * 3]
    assert parent == [[3], ["b", "c"]]
