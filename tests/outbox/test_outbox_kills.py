"""
An application that is killed at any named point of a message's life: what was accepted is in the topic, once, in order.
"""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pytest

from tests.subprocesses import run_script

if TYPE_CHECKING:
    from pathlib import Path

ROUNDS = 200

POINTS = (
    "before the write",
    "after the write, before the commit",
    "after the commit, before the return",
    "after the return",
    "before the send",
    "after the send, before the removal",
    "in the removal, before the commit",
    "after the removal",
    "in the failing, before the commit",
    "after the failing",
    "in the claim",
    "while taking",
)

# The topic is a file, and behaves as a broker with deduplication: an id that is not above its last one is dropped.
_APPLICATION = '''
import json, os, signal, sys, traceback
from pathlib import Path

from safepulsar.failed_messages import SqliteFailedMessages
from safepulsar.outbox import Outbox, outbox as outboxes, rows
from tests.outbox.samples import failure, name_of, order

folder = Path(sys.argv[1])
plan = json.loads(sys.argv[2])


class Point:
    """
    Kills this process when it comes to a point for the n-th time.
    """

    def __init__(self, name, count):
        self.name, self.left = name, count

    def at(self, name):
        if name == self.name:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def around(function, point, before, after):
    def patched(*arguments, **named):
        point.at(before)
        answer = function(*arguments, **named)
        point.at(after)
        return answer
    return patched


def lines(name):
    path = folder / name
    return path.read_text().splitlines() if path.exists() else []


def append(name, text):
    descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, (text + "\\n").encode())
    os.close(descriptor)


def application(number, name, count, messages):
    point = Point(name, count)
    rows.insert = around(rows.insert, point, "before the write", "after the write, before the commit")
    real_delete = rows.delete
    doing = []
    rows.delete = lambda *a: (real_delete(*a), point.at(f"in the {doing[-1]}, before the commit"))
    rows.read = around(rows.read, point, "while taking", "while taking")
    real_journal = outboxes.JournalClaim
    outboxes.JournalClaim = lambda *a, **k: (point.at("in the claim"), real_journal(*a, **k), point.at("in the claim"))[1]
    store = SqliteFailedMessages(folder / "store" / "failed.db").open()
    outbox = Outbox(store, producer_name=name_of)
    claim = outbox.claim(f"round-{number}", lease_seconds=3600)
    last = [int(line.split()[0]) for line in lines("topic")][-1:] or [0]
    waiting = []

    def send():
        while waiting:
            row = waiting[0]
            point.at("before the send")
            text = row.message.payload.decode()
            if row.id > last[0]:
                if text.endswith("bad"):
                    doing.append("failing")
                    outbox.fail({row.id: failure(row.message, row.id)})
                    point.at("after the failing")
                    waiting.pop(0)
                    continue
                last[0] = row.id
                append("topic", f"{row.id} {text}")
                point.at("after the send, before the removal")
            doing.append("removal")
            outbox.remove([row.id])
            point.at("after the removal")
            waiting.pop(0)

    def committed(rows, is_next):
        point.at("after the commit, before the return")
        if is_next:
            waiting.extend(rows)

    while taken := claim.take(2):
        waiting.extend(taken)
    send()
    for each in range(messages):
        texts = [f"{number}-{each}-{part}-{'bad' if (each + part) % 5 == 4 else 'good'}" for part in range(1 + each % 3)]
        outbox.put([order(text.encode()) for text in texts], committed)
        point.at("after the return")
        append("accepted", "\\n".join(texts))
        if each % 2:
            send()
    send()
    claim.release()
    store.close()


killed = 0
for number, (name, count, messages) in enumerate(plan):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            application(number, name, count, messages)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    assert status in (0, signal.SIGKILL), (number, name, status)
    killed += status != 0
application(len(plan), "never", 0, 0)
with SqliteFailedMessages(folder / "store" / "failed.db") as store:
    waiting = Outbox(store, producer_name=name_of).stats()["waiting"]
    failed = [(each.message.sequence_id, each.message.payload.decode()) for each in store.find()]
print(json.dumps({"killed": killed, "waiting": waiting, "failed": failed, "topic": lines("topic"),
                  "accepted": lines("accepted")}))
'''


def _check(outcome: dict[str, Any]) -> None:
    stored = [(int(number), text) for number, text in (line.split() for line in outcome["topic"])]
    failed = [(int(number), text) for number, text in outcome["failed"]]
    assert outcome["waiting"] == 0
    ids = [number for number, _ in stored]
    assert ids == sorted(set(ids))
    settled = sorted(stored + failed)
    texts = [text for _, text in settled]
    assert len(texts) == len(set(texts)), "a message has two fates, or was stored twice"
    assert set(outcome["accepted"]) <= set(texts), "an accepted message is gone"
    assert [text for text in texts if text in set(outcome["accepted"])] == outcome["accepted"], "the order is lost"
    assert all(text.endswith("bad") == ((number, text) in failed) for number, text in settled)


@pytest.mark.slow
def test_an_application_that_is_killed_anywhere_loses_and_repeats_nothing(tmp_path: Path) -> None:
    """
    Killed again and again, each time at another point: each accepted message has one fate, and the order is kept.
    """
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - shown with a failure
    dice = random.Random(seed)  # noqa: S311 - repeatable, not secret
    plan = [(POINTS[number % len(POINTS)], dice.randint(1, 5), dice.randint(3, 12)) for number in range(ROUNDS)]
    outcome = json.loads(run_script(_APPLICATION, tmp_path, json.dumps(plan), timeout_seconds=110).check())
    _check(outcome)
    assert outcome["killed"] > ROUNDS / 2
    assert len(outcome["topic"]) > ROUNDS
    assert len(outcome["failed"]) > ROUNDS / 10


@pytest.mark.parametrize("point", POINTS)
def test_each_point_is_come_to(tmp_path: Path, point: str) -> None:
    """
    The application really dies at each point that has a name, the first time it comes there.
    """
    plan = [("never", 0, 4), (point, 1, 6)]
    if point in ("in the claim", "while taking"):
        plan[1] = (point, 1, 0)
    outcome = json.loads(run_script(_APPLICATION, tmp_path, json.dumps(plan)).check())
    assert outcome["killed"] == 1
    _check(outcome)


def test_a_removal_before_the_send_would_be_seen(tmp_path: Path) -> None:
    """
    The check can fail: an application that removes a row before it has sent it loses messages.
    """
    careless = _APPLICATION.replace(
        'point.at("before the send")', 'outbox.remove([row.id]); point.at("before the send")'
    ).replace("doing = []", 'doing = [""]')
    plan = [("before the send", 1, 6)] * 3
    outcome = json.loads(run_script(careless, tmp_path, json.dumps(plan)).check())
    with pytest.raises(AssertionError, match="an accepted message is gone"):
        _check(outcome)
