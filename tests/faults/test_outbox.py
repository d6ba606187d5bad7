"""
Applications with an outbox that are killed (-9) anywhere: what they accepted is in the topic, once, in order.
"""

from __future__ import annotations

import json
import os
import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import pytest

from safepulsar import RetryingSender
from tests.brokers import read_topic
from tests.faults.outbox_application import ANY_MOMENT, NEVER, POINTS, settings, waiting
from tests.subprocesses import Script, run_script
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.brokers import Broker, LiteBroker

ROUNDS: Final = int(os.environ.get("SAFEPULSAR_ROUNDS", "200"))
_SUITE: Final = 200
_PARTS: Final = 4  # side by side, each with a store and a topic of its own, because a round mostly waits
_SCRIPT: Final = "from tests.faults.outbox_application import main; main()"
_DRAIN_SECONDS: Final = 60.0


def drain(broker: Broker, topic: str, folder: Path) -> None:
    """
    Run once more, as the application begins again, until nothing is left.
    """
    with RetryingSender(broker.url, failed_messages=folder / "shop.db", settings=settings(mix_keys=True)) as sender:
        sender.send(topic, "last 0 0", partition_key="0")
        wait_until(lambda: waiting(folder / "shop.db") == 0, "an empty outbox", timeout_seconds=_DRAIN_SECONDS)
        assert sender.failed_messages.count() == 0


def check(broker: Broker, topic: str, folder: Path, *, seconds: float = 120.0) -> list[str]:
    """
    What was accepted is there, nothing is there twice, and each thread's messages are in their order.
    """
    accepted = (folder / "accepted").read_text(encoding="ascii").splitlines()
    records = read_topic(broker, topic, until=len(accepted), timeout_seconds=seconds)
    stored = [record.payload.decode() for record in records]
    assert len(set(stored)) == len(stored), f"twice: {sorted({each for each in stored if stored.count(each) > 1})[:5]}"
    missing = set(accepted) - set(stored)
    assert not missing, f"{len(missing)} are missing: {sorted(missing)[:5]}"
    latest: dict[tuple[str, str], int] = {}
    for each in stored:
        number, thread, place = each.split()
        assert int(place) > latest.get((number, thread), -1), f"{each} is out of order"
        latest[number, thread] = int(place)
    return stored


@pytest.mark.slow
@pytest.mark.timeout(300 if ROUNDS <= _SUITE else 0)
def test_killed_anywhere_it_loses_and_repeats_nothing(
    lite_broker: LiteBroker, topic: str, tmp_path: Path, seed: int
) -> None:
    """
    One life after the other, each ended at another point, or at any moment; each one drains what the one before left.
    """
    dice = random.Random(seed)  # noqa: S311  # guards nothing
    names = [*POINTS, *[ANY_MOMENT] * 6, NEVER]

    def live(part: int) -> int:
        folder = tmp_path / f"{begin}-{part}"
        folder.mkdir(mode=0o700)
        name = f"{topic}-{folder.name}"
        result = run_script(_SCRIPT, lite_broker.url, name, folder, json.dumps(plans[part]), seed, timeout_seconds=280)
        killed = int(result.check().rpartition("killed ")[2])
        drain(lite_broker, name, folder)
        check(lite_broker, name, folder)
        return killed

    for begin in range(0, ROUNDS, _SUITE):
        plan = [
            (names[number % len(names)], dice.randint(1, 4), dice.randint(2, 8))
            for number in range(begin, min(begin + _SUITE, ROUNDS))
        ]
        plans = [plan[part::_PARTS] for part in range(_PARTS)]
        with ThreadPoolExecutor(_PARTS) as pool:
            killed = sum(pool.map(live, range(_PARTS)))
        assert killed > len(plan) / 2
        print(f"{begin + len(plan)} rounds, {killed} of the last {len(plan)} killed", flush=True)  # noqa: T201  # progress


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.timeout(120)
def test_each_point_is_come_to(lite_broker: LiteBroker, topic: str, tmp_path: Path, point: str) -> None:
    """
    The application dies at each point that has a name, though messages are left that are stored; each is there once.
    """
    plan = [(NEVER, 0, 1), ("after the answer", 1, 3), (point, 1, 3)]
    killed = run_script(_SCRIPT, lite_broker.url, topic, tmp_path, json.dumps(plan), 0, timeout_seconds=50).check()
    assert killed.endswith("killed 2\n")
    drain(lite_broker, topic, tmp_path)
    check(lite_broker, topic, tmp_path)


_UNPROTECTED: Final = {
    "missing": """
careful = outbox_application.settings

def settings(*, mix_keys):
    in_memory = replace(careful(mix_keys=mix_keys).topic_defaults, durability=Durability.MEMORY, exactly_once=True)
    return replace(careful(mix_keys=mix_keys), topic_defaults=in_memory)

outbox_application.settings = settings
""",
    "twice": """
Search.run = lambda search: {}  # what is stored is not looked for
""",
}


@pytest.mark.parametrize(("what", "told"), [("missing", r"held \d+ messages, not \d+"), ("twice", "twice")])
@pytest.mark.timeout(120)
def test_without_protection_the_check_sees_it(
    lite_broker: LiteBroker, topic: str, tmp_path: Path, what: str, told: str
) -> None:
    """
    The controls: without an outbox messages are missing, and without looking for what is stored some are there twice.
    """
    careless = f"""
from dataclasses import replace

from safepulsar import Durability
from safepulsar.exactly_once.search import Search
from tests.faults import outbox_application
{_UNPROTECTED[what]}
outbox_application.main()
"""
    plan = [
        (NEVER, 0, 1),
        *[("after the return", 6, 20) if what == "missing" else ("after the answer", 1, 20)] * 3,
        (NEVER, 0, 1),
    ]
    result = run_script(careless, lite_broker.url, topic, tmp_path, json.dumps(plan), 0, timeout_seconds=100)
    assert result.check().endswith("killed 3\n")
    with pytest.raises(AssertionError, match=told):
        check(lite_broker, topic, tmp_path, seconds=5.0)


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.timeout(420)  # more than all that it waits for together: a real broker starts again on a busy machine
def test_the_broker_may_die_as_well(once_broker: Broker, once_topic: str, tmp_path: Path, seed: int) -> None:
    """
    Both are killed again and again, at moments that have nothing to do with each other.
    """
    dice = random.Random(seed)  # noqa: S311  # guards nothing
    real = once_broker.features.admin
    plan = [(dice.choice([*POINTS, ANY_MOMENT, ANY_MOMENT]), dice.randint(1, 4), 20) for _ in range(8 if real else 30)]
    with Script(_SCRIPT, once_broker.url, once_topic, tmp_path, json.dumps(plan), seed) as script:
        for number in range(1 if real else 6):
            script.wait_for(f"round {number * 5}:", timeout_seconds=120)
            once_broker.kill()
            once_broker.start()
        script.finish(timeout_seconds=150).check()
    drain(once_broker, once_topic, tmp_path)
    assert len(check(once_broker, once_topic, tmp_path)) > len(plan)


_PUT: Final = """
import sys, threading
from pathlib import Path

from safepulsar import Message
from safepulsar.failed_messages import SqliteFailedMessages
from safepulsar.outbox import Outbox
from tests.faults.outbox_application import append

topic, folder, life = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
with SqliteFailedMessages(folder / "shop.db") as store:
    outbox = Outbox(store, producer_name=lambda _: "shop")

    def put(thread):
        for number in range(1_000_000):
            text = f"{life} {thread} {number}"
            outbox.put([Message(topic=topic, payload=text.encode(), partition_key=str(thread))])
            append(folder / "accepted", text)
            if number == 20 and thread == 0:
                print("puts", flush=True)

    for thread in range(3):
        threading.Thread(target=put, args=(thread,)).start()
    threading.Event().wait()
"""
_SEND: Final = """
import sys, threading
from pathlib import Path

from safepulsar import RetryingSender
from tests.faults.outbox_application import settings

url, topic, folder, life = sys.argv[1:]
with RetryingSender(url, failed_messages=Path(folder) / "shop.db", settings=settings(mix_keys=True)) as sender:
    sender.send(topic, f"relay-{life} 0 0", partition_key="0")
    print("sends", flush=True)
    threading.Event().wait()
"""


@pytest.mark.timeout(120)
def test_one_process_puts_and_another_sends(lite_broker: LiteBroker, topic: str, tmp_path: Path, seed: int) -> None:
    """
    Either is killed again and again: what `put` returned for is there once, in order.
    """
    dice = random.Random(seed)  # noqa: S311  # guards nothing
    for life in range(3):
        with Script(_PUT, topic, tmp_path, f"put-{life}") as puts:
            for again in range(2):
                with Script(_SEND, lite_broker.url, topic, tmp_path, f"{life}-{again}") as sends:
                    puts.wait_for("puts")
                    sends.wait_for("sends")
                    grown = (tmp_path / "accepted").stat().st_size + dice.randint(100, 3000)
                    wait_until(lambda: (tmp_path / "accepted").stat().st_size > grown, "more", timeout_seconds=30)  # noqa: B023  # at once
    drain(lite_broker, topic, tmp_path)
    check(lite_broker, topic, tmp_path)
