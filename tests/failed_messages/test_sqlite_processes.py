"""
The store on disk under kill -9 and in several processes: what was acknowledged is there, once and in order.
"""

from __future__ import annotations

import hashlib
import signal
from typing import TYPE_CHECKING

import pytest

from safepulsar.failed_messages import SqliteFailedMessages
from tests.failed_messages.samples import failed
from tests.failed_messages.scripts import PREAMBLE, payloads, run
from tests.subprocesses import Script

if TYPE_CHECKING:
    from pathlib import Path

_KEEP_UNTIL_KILLED = (
    PREAMBLE
    + """
import hashlib, itertools

store = SqliteFailedMessages(path).open()
printing = threading.Lock()
lines = itertools.count(1)
print("open", flush=True)

def keep(name):
    for count in itertools.count():
        batch = [f"{name} {count} {i} ".encode() + os.urandom(50 + 3000 * (count % 3)) for i in range(3)]
        ids = store.keep([failed(payload, key=str(name)) for payload in batch])
        with printing:
            for number, payload in zip(ids, batch):
                print(next(lines), number, hashlib.sha256(payload).hexdigest(), flush=True)

for name in range(3):
    threading.Thread(target=keep, args=(name,)).start()
"""
)


@pytest.mark.slow
def test_what_was_acknowledged_survives_kill_9(path: Path) -> None:
    """
    20 times a process is killed while three threads keep messages: all that was acknowledged is there and intact.
    """
    acknowledged: dict[int, str] = {}
    for round_number in range(20):
        with Script(_KEEP_UNTIL_KILLED, path) as script:
            # Some rounds die in the first writes, others later, at whatever point that is.
            script.wait_for("open\n" if round_number % 4 == 0 else f"\n{5 * round_number} ")
            script.send_signal(signal.SIGKILL)
            result = script.finish(timeout_seconds=20)
        for line in result.stdout.split("\n")[1:-1]:  # the first is "open", the last may be half written
            _, number, digest = line.split()
            acknowledged[int(number)] = digest
        with SqliteFailedMessages(path) as store:
            found = {message.id: hashlib.sha256(message.message.payload or b"").hexdigest() for message in store.find()}
            assert store.corrupted_ids() == ()
        assert {number: found.get(number) for number in acknowledged} == acknowledged
    assert len(acknowledged) > 200


def test_many_processes_make_the_same_store_at_once(path: Path) -> None:
    """
    Eight processes that open the same new path at the same moment all keep into one store.
    """
    run(
        """
go = os.pipe()

def work():
    os.close(go[1])
    os.read(go[0], 1)
    with SqliteFailedMessages(path) as store:
        for i in range(10):
            store.keep([failed(b"x")])

pids = [child(work) for _ in range(8)]
os.close(go[1])
wait(*pids)
assert [file.name for file in Path(path).parent.iterdir()] == ["failed.db"]
""",
        path,
    )
    assert len(payloads(path)) == 80


def test_two_processes_replay_without_meeting(path: Path) -> None:
    """
    Two replayers in two processes deliver everything once, and each lane in order.
    """
    with SqliteFailedMessages(path) as store:
        store.keep([failed(key=f"k{i % 5}") for i in range(600)])
    output = run(
        """
def work():
    owner = str(os.getpid())
    with SqliteFailedMessages(path) as store:
        while store.count():
            for message in store.claim(owner, limit=7, lease_seconds=60):
                os.write(1, f"{message.id} {message.message.partition_key}\\n".encode())
                store.delivered(owner, {message.id: MessageId(1, message.id)})

wait(*[child(work) for _ in range(2)])
""",
        path,
    )
    sent = [line.split() for line in output.splitlines()]
    assert sorted(int(number) for number, _ in sent) == list(range(1, 601))
    for key in ("k0", "k1", "k2", "k3", "k4"):
        lane = [int(number) for number, each in sent if each == key]
        assert lane == sorted(lane)


def test_a_dead_replayers_claims_come_back_with_a_doubt(path: Path) -> None:
    """
    A replayer that is killed gives nothing back; when its lease is over, the next one gets all of it as MAYBE_STORED.
    """
    with SqliteFailedMessages(path) as store:
        store.keep([failed(key="a"), failed(key="a")])
    script = (
        PREAMBLE
        + """
store = SqliteFailedMessages(path, clock=lambda: 1000.0).open()
print(len(store.claim("dead", limit=10, lease_seconds=60)), flush=True)
threading.Event().wait()
"""
    )
    with Script(script, path) as replayer:
        replayer.wait_for("2")
        replayer.send_signal(signal.SIGKILL)
        replayer.finish(timeout_seconds=20)
    with SqliteFailedMessages(path, clock=lambda: 1059.0) as store:
        assert store.claim("next", limit=10, lease_seconds=60) == []
    with SqliteFailedMessages(path, clock=lambda: 1060.0) as store:
        taken = store.claim("next", limit=10, lease_seconds=60)
        assert [(message.id, message.certainty.value) for message in taken] == [
            (1, "MAYBE_STORED"),
            (2, "MAYBE_STORED"),
        ]
