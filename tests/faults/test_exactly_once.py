"""
Exactly-once under load, on brokers that deduplicate and on those that don't: each message is there once, whatever breaks.
"""

from __future__ import annotations

import contextlib
import csv
import json
import time
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter
from typing import TYPE_CHECKING, Final

import pytest

from safepulsar import Certainty, FailedMessageFilter, LanePolicy, RetrySettings, SenderSettings, TopicSettings
from safepulsar.broker.client_registry import ClientRegistry
from safepulsar.durable_source import DurableSource
from safepulsar.exactly_once.resolution import ExactlyOnce
from safepulsar.message import ID_PROPERTY
from tests.brokers import read_topic
from tests.faults.conftest import KINDS
from tests.faults.imports import ORDERS
from tests.faults.orders import identify
from tests.faults.proxy import Proxy
from tests.history import Kind, Rules, What, check
from tests.partitions import changes_of_partitions
from tests.subprocesses import Script
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.brokers import RealBroker, Record
    from tests.faults.trial import Trial
    from tests.history import Report

# Each test is of brokers, though it does not name their fixtures itself.
pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(240)]

_THREADS: Final = 8
_CUTS: Final = 5
_LONG_SECONDS: Final = 150.0  # a busy machine's Apache Pulsar takes a minute to be back
_ONCE: Final = Rules(exactly_once=True, ignored_properties=frozenset({ID_PROPERTY}))
_AGAIN: Final = RetrySettings(max_retries=1000)  # each fault costs those that were under way an attempt
_MAYBE: Final = FailedMessageFilter(certainty=Certainty.MAYBE_STORED)


@pytest.fixture(params=[False, True], ids=["one-by-one", "batches"])
def mix_keys(request: pytest.FixtureRequest) -> bool:
    """
    Whether messages of any key share a batch.
    """
    return bool(request.param)


def once(*, mix_keys: bool, lane_policy: LanePolicy = LanePolicy.PAUSE) -> TopicSettings:
    """
    The settings of an exactly-once topic.
    """
    return TopicSettings(producer_name="shop", exactly_once=True, mix_keys=mix_keys, lane_policy=lane_policy)


def finish(trial: Trial, *, partitions: int = 0) -> Report:
    """
    Close, and judge a run in which nothing may fail.
    """
    trial.close()
    counts = trial.sender.stats().counts
    assert counts.failed == 0, counts
    report = trial.judge(_ONCE, partitions=partitions)
    assert report.counts.found == report.counts.accepted
    return report


def test_a_broker_that_is_killed_and_frozen_has_each_message_once(once_trial: Trial, *, mix_keys: bool) -> None:
    """
    Back before the deadline, everything is delivered: what was under way is found, or sent again in its old place.
    """
    trial = once_trial
    kills, freezes = (1, 1) if trial.broker.features.admin else (4, 3)
    faults = [trial.broker.kill] * kills + [trial.broker.freeze] * freezes
    trial.rng.shuffle(faults)
    trial.open(retry=_AGAIN, topic_defaults=once(mix_keys=mix_keys))
    with trial.load(deadline_seconds=_LONG_SECONDS, workers=_THREADS) as load:
        for fault in faults:
            trial.wait_for_more(trial.rng.randint(100, 600), timeout_seconds=_LONG_SECONDS)
            fault()
            trial.wait_for_accepted(trial.rng.randint(1, 300))
            trial.broker.thaw()
            trial.broker.start()
        trial.wait_for_more(timeout_seconds=_LONG_SECONDS)
    assert not load.late
    finish(trial)


def test_a_connection_that_breaks_again_and_again_repeats_nothing(once_trial: Trial, *, mix_keys: bool) -> None:
    """
    Cut in the middle of what is sent, and behind lost acknowledgements, while the broker lives.
    """
    trial = once_trial
    with Proxy(trial.broker.url) as proxy:
        trial.open(url=proxy.url, retry=_AGAIN, topic_defaults=once(mix_keys=mix_keys))
        with trial.load(deadline_seconds=_LONG_SECONDS, workers=_THREADS, most=60, pause_seconds=0.01) as load:
            trial.wait_for_more(100)
            proxy.cut_every_bytes = trial.rng.randint(50_000, 150_000)
            wait_until(lambda: proxy.cuts >= _CUTS, "cuts", timeout_seconds=60.0)
            proxy.cut_every_bytes = None
            for _ in range(2):
                trial.wait_for_more(trial.rng.randint(50, 300))
                proxy.dropped = 0
                proxy.drop_receipts = True
                wait_until(lambda: proxy.dropped > 0, "a lost acknowledgement", timeout_seconds=30.0)
                proxy.cut()
                proxy.drop_receipts = False
            trial.wait_for_more()
        assert not load.late
        finish(trial)


@pytest.mark.parametrize("once_broker", ["pulsar-lite", KINDS[1]], indirect=True)
def test_eight_threads_send_real_orders_once(once_trial: Trial, *, mix_keys: bool) -> None:
    """
    Keyed by customer, and the connection breaks three times: each is there once, each customer's in the file's order.

    All of the CDNOW data where SAFEPULSAR_CDNOW names their file.
    """
    trial = once_trial
    with ORDERS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    started = time.monotonic()
    with Proxy(trial.broker.url) as proxy:
        sender = trial.open(url=proxy.url, retry=_AGAIN, topic_defaults=once(mix_keys=mix_keys))

        def work(thread: int) -> None:
            for row in rows:
                if int(row["customer_id"]) % _THREADS == thread:
                    sender.submit(trial.topic, row, ordering_key=row["customer_id"], deadline_seconds=_LONG_SECONDS)

        with ThreadPoolExecutor(_THREADS) as pool:
            working = [pool.submit(work, thread) for thread in range(_THREADS)]
            for part in (1, 2, 3):
                wait_until(lambda: trial.delivered() > part * len(rows) // 4, "more", timeout_seconds=120)  # noqa: B023  # at once
                proxy.cut()
            for each in working:
                each.result()
        trial.close()
        assert sender.stats().counts.failed == 0
    print(f"{len(rows)} orders in {time.monotonic() - started:.1f} s")  # noqa: T201  # for whoever measures
    records = read_topic(trial.broker, trial.topic, until=len(rows), timeout_seconds=120)
    stored = [json.loads(record.payload) for record in records]
    assert len(stored) == len(rows)

    def by_customer(orders: list[dict[str, str]]) -> list[dict[str, str]]:
        return sorted(orders, key=itemgetter("customer_id"))  # stable: each customer's stay in their order

    assert by_customer(stored) == by_customer(rows)


def test_what_an_outage_outlasts_ends_there_once_too(once_trial: Trial, *, mix_keys: bool) -> None:
    """
    What had to be given up is found out when the broker is back, kept as it is, and replayed: once, and lanes in order.
    """
    trial = once_trial
    outlast(trial, once(mix_keys=mix_keys, lane_policy=LanePolicy.PARK))
    report = trial.judge(
        Rules(exactly_once=True, replay_keeps_order=False, ignored_properties=_ONCE.ignored_properties)
    )
    assert report.counts.maybe_stored > 0, report
    assert_lanes_in_order(trial)


@pytest.mark.parametrize("once_broker", ["pulsar-lite"], indirect=True)
def test_without_lanes_the_same_outage_breaks_their_order(once_trial: Trial, *, mix_keys: bool) -> None:
    """
    The control: where nothing stops behind a failure, replayed messages stand behind later ones, and the test sees it.
    """
    outlast(once_trial, once(mix_keys=mix_keys, lane_policy=LanePolicy.SKIP))
    with pytest.raises(AssertionError, match="stands before one that was accepted earlier"):
        assert_lanes_in_order(once_trial)


def outlast(trial: Trial, settings: TopicSettings) -> None:
    """
    Send while the broker is frozen for longer than any deadline, and replay what is kept.
    """
    trial.open(topic_defaults=settings)
    with trial.load(deadline_seconds=1.5, workers=_THREADS):
        trial.wait_for_more(trial.rng.randint(100, 500))
        trial.broker.freeze()
        trial.outlast_deadline()
        trial.broker.thaw()
        trial.wait_for_more(300, timeout_seconds=60.0)  # of each lane, behind those that are kept
    trial.close()
    kept = trial.store.count()
    replayed = trial.replay(SenderSettings(topic_defaults=settings))
    assert replayed.failed == replayed.skipped == 0, replayed
    assert trial.store.count(_MAYBE) == trial.store.count() == 0, kept


def assert_lanes_in_order(trial: Trial) -> None:
    """
    Each ordering key's messages stand in the topic in the order in which they were given to the sender.
    """
    records = trial.read()
    places = {identify(record): place for place, record in enumerate(records)}
    latest: dict[str, int] = {}
    lanes = {record.ordering_key for record in records if record.ordering_key}
    for what, identity, facts in trial.history.events():
        lane = facts.get("lane")
        if what is What.ATTEMPTED and lane in lanes and identity in places:
            assert places[identity] > latest.get(lane, -1), f"{identity} stands before one that was accepted earlier"
            latest[lane] = places[identity]
    assert latest


@pytest.mark.parametrize("deduplication", [True, False])
def test_a_topic_that_moves_has_each_message_once(
    second_pulsar_broker: RealBroker, pulsar_trial: Trial, *, deduplication: bool
) -> None:
    """
    Unloaded again and again under load, as when brokers are upgraded.
    """
    trial = pulsar_trial
    if not deduplication:
        without_deduplication(second_pulsar_broker, trial)
    trial.open(retry=_AGAIN, topic_defaults=once(mix_keys=trial.rng.random() < 0.5))
    with trial.load(deadline_seconds=_LONG_SECONDS, workers=_THREADS) as load:
        for _ in range(3):
            trial.wait_for_more(trial.rng.randint(100, 400))
            second_pulsar_broker.admin.unload(trial.topic)
        trial.wait_for_more()
    assert not load.late
    finish(trial)


@pytest.mark.parametrize("deduplication", [True, False])
def test_partitions_that_are_added_repeat_nothing(
    second_pulsar_broker: RealBroker, pulsar_trial: Trial, caplog: pytest.LogCaptureFixture, *, deduplication: bool
) -> None:
    """
    In the middle, with the connection cut afterwards, so that keys move: each message is in one partition, once.

    What was on its way is stored or found missing before the first key moves, and the log tells it once.
    """
    trial = pulsar_trial
    if not deduplication:
        without_deduplication(second_pulsar_broker, trial)
    admin = second_pulsar_broker.admin
    admin.create_partitioned_topic(trial.topic, 2)
    with Proxy(trial.broker.url) as proxy:
        trial.open(url=proxy.url, retry=_AGAIN, topic_defaults=once(mix_keys=trial.rng.random() < 0.5))
        with trial.load(deadline_seconds=_LONG_SECONDS, workers=_THREADS) as load:
            trial.wait_for_more(trial.rng.randint(200, 400))
            admin.add_partitions(trial.topic, 4)
            for _ in range(3):
                proxy.dropped, proxy.drop_receipts = 0, True
                wait_until(lambda: proxy.dropped > 0, "a lost acknowledgement", timeout_seconds=30.0)
                proxy.cut()
                proxy.drop_receipts = False
                trial.wait_for_more()
        assert not load.late
        trial.close()
    assert changes_of_partitions(caplog) == [(trial.topic, 2, 4)]
    assert trial.sender.stats().counts.failed == 0
    records = key_by_key(trial.read(partitions=4))
    assert {record.position[-1] for record in records} == {0, 1, 2, 3}
    trial.history.found(trial.topic, records, identify)
    report = check(trial.history, _ONCE)
    assert report.ok, report


@pytest.mark.parametrize("deduplication", [True, False])
def test_partitions_that_are_added_between_runs_repeat_nothing(
    second_pulsar_broker: RealBroker, pulsar_trial: Trial, caplog: pytest.LogCaptureFixture, *, deduplication: bool
) -> None:
    """
    A run finds what the one before left in the partitions that there were then, sends the rest, and tells it once.
    """
    trial = pulsar_trial
    if not deduplication:
        without_deduplication(second_pulsar_broker, trial)
    second_pulsar_broker.admin.create_partitioned_topic(trial.topic, 2)
    number = 200

    def run(*rows: int) -> list[int]:
        source = DurableSource(
            trial.broker.url,
            trial.store_path.with_name("import.db"),
            topic=trial.topic,
            producer_name="rows",
            registry=ClientRegistry(),
        )
        with source:
            return [row for row in rows if source.submit(row, b"%d" % row, partition_key=f"key {row % 10}")]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ExactlyOnce, "delivered", lambda *_: None)  # nothing is noted, as if it was killed just before
        assert run(*range(1, number + 1)) == [*range(1, number + 1)]
    second_pulsar_broker.admin.add_partitions(trial.topic, 4)
    assert run(*range(1, 2 * number + 1)) == [*range(number + 1, 2 * number + 1)]
    assert changes_of_partitions(caplog) == [(trial.topic, 2, 4)]
    assert run(*range(1, 2 * number + 1)) == []
    assert changes_of_partitions(caplog) == [(trial.topic, 2, 4)]
    records = key_by_key(trial.read(partitions=4))
    assert {record.position[-1] for record in records} == {0, 1, 2, 3}
    for key in range(10):
        stored = [int(record.payload) for record in records if record.partition_key == f"key {key}"]
        assert stored == [row for row in range(1, 2 * number + 1) if row % 10 == key]


def key_by_key(records: list[Record]) -> list[Record]:
    """
    The records of all partitions as a consumer of one key saw them: one partition after the other, as the key moved.
    """
    first: dict[tuple[str, int], int] = {}
    for record in records:
        home = (record.partition_key or record.ordering_key, record.position[-1])
        first[home] = min(first.get(home, record.publish_timestamp), record.publish_timestamp)
    return sorted(records, key=lambda each: first[each.partition_key or each.ordering_key, each.position[-1]])


def without_deduplication(broker: RealBroker, trial: Trial) -> None:
    """
    Have the trial in a namespace that does not deduplicate.
    """
    broker.admin.create_namespace("public/undeduplicated", deduplication=False)
    trial.topic = trial.topic.replace("public/default", "public/undeduplicated")


_FIGHTER: Final = """
import sys

from safepulsar import ClientSettings, RetryingSender, RetrySettings, SenderSettings, TopicSettings

url, topic, store, who, number = sys.argv[1:]
settings = SenderSettings(
    topic_defaults=TopicSettings(producer_name="shop", exactly_once=True, mix_keys=True),
    retry=RetrySettings(max_retries=100_000, max_delay_seconds=0.2),
    deadline_seconds=150,
    drain_on_sigterm=False,
)
client = ClientSettings(url=url, operation_timeout_seconds=3)
with RetryingSender(client, failed_messages=store, settings=settings) as sender:
    handles = []
    for each in range(int(number)):
        handles.append(sender.submit(topic, f"{who} {each}", ordering_key=f"{who} {each % 5}"))
        if each >= 100:
            handles[each - 100].result()
        if each % 100 == 0:
            print(f"at {each};", flush=True)
    print("delivered", sum(handle.result() is not None for handle in handles), flush=True)
"""


@pytest.mark.parametrize("deduplication", [True, False])
def test_processes_that_fight_for_a_name_lose_and_repeat_nothing(
    second_pulsar_broker: RealBroker, pulsar_trial: Trial, tmp_path: Path, *, deduplication: bool
) -> None:
    """
    Two that know nothing of each other, with the same numbers: whichever is cut off, the other one gets the name.
    """
    trial = pulsar_trial
    if not deduplication:
        without_deduplication(second_pulsar_broker, trial)
    number, rounds = 3000, 5
    with contextlib.ExitStack() as stack:
        proxies = [stack.enter_context(Proxy(trial.broker.url)) for _ in range(2)]
        proxies[1].swallow = trial.topic.encode()
        fighters = [
            stack.enter_context(
                Script(
                    _FIGHTER,
                    proxy.url,
                    trial.topic,
                    tmp_path / f"{who}.db",
                    who,
                    number,
                )
            )
            for who, proxy in zip("ab", proxies, strict=True)
        ]
        for turn in range(rounds):
            ours, theirs = turn % 2, 1 - turn % 2
            fighters[ours].wait_for(f"at {turn // 2 * 900 + 400};", timeout_seconds=100)
            proxies[ours].lose_sends_after = trial.rng.randint(0, 3)  # what is lost has no answer
            proxies[ours].lost = 0
            wait_until(lambda: proxies[ours].lost > 0, "lost messages", timeout_seconds=30.0)  # noqa: B023  # at once
            proxies[ours].swallow = trial.topic.encode()  # it does not get the name back
            proxies[ours].cut()
            proxies[ours].lose_sends_after = None
            proxies[theirs].swallow = None
        proxies[0].swallow = proxies[1].swallow = None
        told = [fighter.finish(timeout_seconds=150).check() for fighter in fighters]
    assert all(text.endswith(f"delivered {number}\n") for text in told)
    stored = [record.payload.decode() for record in trial.read()]
    assert len(stored) == len(set(stored)), "twice"
    for who in "ab":
        for lane in range(5):
            mine = [int(text[2:]) for text in stored if text[0] == who and int(text[2:]) % 5 == lane]
            assert mine == list(range(lane, number, 5)), f"of {who} {number // 5 - len(mine)} are missing, or the order"


def test_without_it_the_same_faults_make_duplicates(once_trial: Trial) -> None:
    """
    The control: a sender that sends again what may be stored, as most do, stores it twice, and the checker sees it.
    """
    trial = once_trial
    with Proxy(trial.broker.url) as proxy:
        again = RetrySettings(resend_maybe_stored=True, max_retries=1000)
        trial.open(url=proxy.url, retry=again, topic_defaults=TopicSettings(lane_policy=LanePolicy.SKIP))
        with trial.load(deadline_seconds=_LONG_SECONDS, workers=_THREADS):
            for _ in range(3):
                trial.wait_for_more(100)
                proxy.dropped, proxy.drop_receipts = 0, True
                wait_until(lambda: proxy.dropped > 0, "lost acknowledgements", timeout_seconds=30.0)
                proxy.cut()
                proxy.drop_receipts = False
            trial.wait_for_more()
        trial.close()
    trial.history.found(trial.topic, trial.read(), identify)
    kinds = check(trial.history, _ONCE).by_kind()
    assert set(kinds) <= {Kind.DUPLICATED}, kinds
    # The client library numbers messages by itself: a broker that deduplicates knows those that it sends again.
    assert bool(kinds) is not ("default" in trial.topic and trial.broker.features.deduplication), kinds
