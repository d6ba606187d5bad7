"""
Observers are told what happened, soon and in order, and can neither slow, stop nor change it.
"""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING

import pytest

import safepulsar.books.observers
from safepulsar.errors import InvalidSettings, QueueFull, SafePulsarError, SendFailed
from safepulsar.logs import LogOutcomes
from safepulsar.message import Certainty, Fate
from safepulsar.metrics import Distribution, Metrics
from safepulsar.observing import Cancelled, Finished, Outcome, RateLimited, Refused, Retrying
from safepulsar.settings import WhenFull
from safepulsar.testing import FakeBroker, Phase
from tests.observability.observed import NO_RETRY, TOPIC, Listener, Records, observed
from tests.subprocesses import run_script
from tests.waiting import wait_until

if TYPE_CHECKING:
    from safepulsar.observing import Fact
    from safepulsar.steps import Draft


@pytest.fixture
def broker() -> FakeBroker:
    """
    One of its own for each test.
    """
    return FakeBroker()


def test_every_message_is_told_once_with_its_fate(broker: FakeBroker) -> None:
    """
    Delivered, duplicate and failed messages add up to what was accepted, and none is told twice.
    """
    broker = FakeBroker(deduplication=True)
    listener = Listener()
    with observed(broker, listener) as sender:
        sender.send_many("orders", [b"x"] * 500)
        broker.fail_next(1, "TopicTerminated", phase=Phase.CREATE, topic="closed")
        with pytest.raises(SendFailed):
            sender.send("closed", b"x")
    handles = [handle for fact in listener.facts if isinstance(fact, Finished) for handle in fact.handles]
    assert len(handles) == len({id(handle) for handle in handles}) == 501
    assert (listener.finished(Fate.DELIVERED), listener.finished(Fate.FAILED)) == (500, 1)
    assert listener.threads == {"safepulsar-observers"}


def test_a_duplicate_is_told_as_such(broker: FakeBroker) -> None:
    """
    What the broker had already is no delivery.
    """
    from safepulsar.settings import TopicSettings  # noqa: PLC0415 - for this test alone

    broker = FakeBroker(deduplication=True)
    listener = Listener()
    named = {"orders": TopicSettings(producer_name="p", batch_max_messages=1)}
    with observed(broker, listener, topics=named) as sender:
        sender.send("orders", b"x", sequence_id=1)
    with observed(broker, listener, topics=named) as sender:
        sender.send("orders", b"x", sequence_id=1)
    assert (listener.finished(Fate.DELIVERED), listener.finished(Fate.DUPLICATE)) == (1, 1)


def test_an_outcome_says_all_that_is_known(broker: FakeBroker) -> None:
    """
    A failed message: its code, certainty, attempts, place in the store, and nothing of its payload.
    """
    listener = Listener()
    with observed(broker, listener) as sender:
        result = sender.send("orders", b"secret", ordering_key="k", properties={"a": "b"})
        broker.fail_next(9, "ServiceUnitNotReady", phase=Phase.CREATE, topic="away")
        with pytest.raises(SendFailed) as failed:
            sender.send("away", b"secret", partition_key="k", deadline_seconds=5)
    outcomes = [each for fact in listener.facts if isinstance(fact, Finished) for each in fact.outcomes()]
    good, bad = outcomes
    assert (good.topic, good.fate, good.message_id, good.certainty) == (TOPIC, Fate.DELIVERED, result.message_id, None)
    assert (good.attempt_count, good.ordering_key, good.properties, good.size_bytes) == (1, "k", {"a": "b"}, 9)
    assert good.elapsed_seconds == pytest.approx(result.elapsed_seconds)
    assert (bad.fate, bad.certainty, bad.message_id) == (Fate.FAILED, Certainty.NOT_STORED, None)
    assert bad.failed_message_id == failed.value.failed_message_id
    assert bad.attempts == failed.value.attempts
    assert bad.attempt_count == len(failed.value.attempts) > 1
    assert bad.error_code == bad.attempts[-1].code
    assert not any(hasattr(each, "payload") for each in outcomes)
    assert "secret" not in repr(outcomes)


def test_retries_and_waits_and_refusals_are_told(broker: FakeBroker) -> None:
    """
    What delays a message and what keeps it out are facts, too.
    """
    listener = Listener()
    with observed(
        broker, listener, messages_per_second=100, max_in_flight_messages=50, when_full=WhenFull.RAISE
    ) as sender:
        broker.fail_next(1, "ProducerBusy", phase=Phase.CREATE)
        sender.send("orders", b"x")
        for _ in range(50):
            sender.submit("orders", b"x", deadline_seconds=20)
        with pytest.raises(QueueFull):
            sender.submit("orders", b"x")
    kinds = {type(fact) for fact in listener.facts}
    assert kinds == {Finished, Retrying, RateLimited, Refused}
    (retrying,) = (fact for fact in listener.facts if isinstance(fact, Retrying))
    assert (retrying.topic, retrying.error_code, retrying.messages) == (TOPIC, "ProducerBusy", 1)
    (refused,) = (fact for fact in listener.facts if isinstance(fact, Refused))
    assert (refused.topic, refused.error_code) == (TOPIC, "QueueFull")
    waits = [fact for fact in listener.facts if isinstance(fact, RateLimited)]
    assert all(fact.seconds > 0 and fact.messages >= 1 for fact in waits)


def test_a_cancelled_message_is_told_as_such(broker: FakeBroker) -> None:
    """
    It is neither delivered nor failed.
    """
    listener = Listener()
    with Records() as log, observed(broker, listener, LogOutcomes()) as sender:
        broker.freeze()
        handle = sender.submit("orders", b"x")
        if not handle.cancel():  # it is being handed over already; the next one waits behind it
            handle = sender.submit("orders", b"x")
            assert handle.cancel()
        broker.thaw()
    (cancelled,) = (fact for fact in listener.facts if isinstance(fact, Cancelled))
    assert (cancelled.topic, cancelled.handle) == (TOPIC, handle)
    assert len(log.of("safepulsar.cancelled")) == 1


def test_an_observer_that_raises_changes_nothing(broker: FakeBroker) -> None:
    """
    It is logged, the next observer is told, the next fact is told, and every message has its fate.
    """

    class Raising:
        def observe(self, fact: Fact) -> None:
            raise SystemExit(fact.topic)

    listener = Listener()
    with Records() as log, observed(broker, Raising(), listener) as sender:
        for _ in range(3):
            sender.send("orders", b"x")
        assert sender.stats().counts.delivered == 3
    assert listener.finished(Fate.DELIVERED) == 3
    assert {vars(record)["observer"] for record in log.of("safepulsar.observer_failed")} == {"Raising"}


def test_a_slow_observer_delays_no_message_and_misses_facts(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    While it hangs messages get their fates; what does not fit into the bounded queue is counted and logged.
    """
    monkeypatch.setattr(safepulsar.books.observers, "_MOST_MESSAGES", 10)
    go, entered = threading.Event(), threading.Event()

    class Hanging:
        seen = 0

        def observe(self, fact: Fact) -> None:
            entered.set()
            assert go.wait(30)
            self.seen += isinstance(fact, Finished)

    hanging = Hanging()
    with Records() as log, observed(broker, hanging) as sender:
        sender.send("orders", b"x")
        assert entered.wait(10)
        for _ in range(50):
            sender.send("orders", b"x")
        assert sender.stats().counts.delivered == 51
        dropped = sender.stats().facts_dropped
        assert dropped > 0
        go.set()
    assert hanging.seen == 51 - dropped
    assert sum(vars(record)["messages"] for record in log.of("safepulsar.facts_dropped")) == dropped


def test_closing_waits_for_observers_but_not_for_ever(broker: FakeBroker) -> None:
    """
    The last facts are told before `close` returns; an observer that hangs then makes the report say so.
    """
    go = threading.Event()

    class Hanging:
        def observe(self, _fact: Fact) -> None:
            go.wait(30)

    sender = observed(broker, Hanging())
    sender.send("orders", b"x")
    began = time.monotonic()
    report = sender.close(0.1)
    assert not report.clean
    assert report.counts.delivered == 1
    assert time.monotonic() - began < 5
    go.set()


def test_a_step_may_have_after_outcome(broker: FakeBroker) -> None:
    """
    A step of one topic is told of that topic's messages, one of the sender of all; one that raises changes no fate.
    """

    class Step:
        def __init__(self) -> None:
            self.outcomes: list[Outcome] = []

        def before_send(self, draft: Draft) -> Draft:
            return draft

        def after_outcome(self, outcome: Outcome) -> None:
            self.outcomes.append(outcome)
            raise ValueError

    everywhere, orders = Step(), Step()
    with Records() as log, observed(broker, steps=[everywhere], topic_steps={"orders": [orders]}) as sender:
        sender.send("orders", b"x")
        sender.send("others", b"x")
    assert [each.topic.rpartition("/")[2] for each in everywhere.outcomes] == ["orders", "others"]
    assert [each.topic for each in orders.outcomes] == [TOPIC]
    assert all(each.fate is Fate.DELIVERED for each in everywhere.outcomes)
    (first,) = log.of("safepulsar.observer_failed")  # the same again is not told for a while
    assert vars(first)["observer"] == "Step"


@pytest.mark.parametrize("observers", ["metrics", [object()], [Listener], {"a": 1}, [None]])
def test_what_is_no_observer_is_refused(broker: FakeBroker, observers: object) -> None:
    """
    At once, with its place.
    """
    from safepulsar.sender import RetryingSender  # noqa: PLC0415 - for this test alone

    with pytest.raises(InvalidSettings, match=r"observers(\[0\])?: must be"):
        RetryingSender(broker.url, observers=observers)  # type: ignore[arg-type]  # that is the test


def test_without_observers_nothing_is_kept_and_no_thread_runs(broker: FakeBroker) -> None:
    """
    Deliveries that nobody wants to know of cost no thread and no memory.
    """
    with observed(broker) as sender:
        sender.send_many("orders", [b"x"] * 100)
        assert "safepulsar-observers" not in {thread.name for thread in threading.enumerate()}


def test_a_failure_is_told_where_no_thread_can_be_had(broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    As at the exit of Python 3.12: then `close` tells it.
    """
    listener = Listener()
    sender = observed(broker, listener, retry=NO_RETRY)
    sender.send("orders", b"x")
    wait_until(lambda: bool(listener.facts), "the first fact")
    second = Listener()
    other = observed(broker, second, retry=NO_RETRY)

    def no_thread(_worker: object) -> None:
        raise RuntimeError("can't start new thread")

    other.open()
    monkeypatch.setattr(type(other._engine.observers._worker), "start_locked", no_thread)  # type: ignore[union-attr]
    other._engine.observers.delivered(TOPIC, listener.facts[0].handles, 0)  # type: ignore[union-attr]
    assert not second.facts
    monkeypatch.undo()
    other.close()
    sender.close()
    assert second.finished(Fate.DELIVERED) == 1


def test_a_forked_child_has_observers_of_its_own() -> None:
    """
    Whatever the parent's thread was doing at the fork, the child is told of the child's messages, and only of those.
    """
    run_script(
        """
        import os
        from safepulsar.testing import FakeBroker
        from tests.observability.observed import Listener, observed

        broker, listener = FakeBroker(), Listener()
        sender = observed(broker, listener)
        sender.send_many("orders", [b"x"] * 1000)
        pid = os.fork()
        if pid == 0:
            listener.facts.clear()
            broker = FakeBroker()
            child = observed(broker, listener)
            child.send("orders", b"y")
            child.close()
            assert sum(len(fact.handles) for fact in listener.facts) == 1, listener.facts
            print("child", flush=True)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        sender.close()
        assert sum(len(fact.handles) for fact in listener.facts) == 1000
        """,
        timeout_seconds=30,
    ).check()


def test_a_step_that_raises_for_one_message_is_told_of_the_others(broker: FakeBroker) -> None:
    """
    Also where they got their fates together.
    """

    class Picky:
        def __init__(self) -> None:
            self.seen = 0

        def before_send(self, draft: Draft) -> Draft:
            return draft

        def after_outcome(self, _outcome: Outcome) -> None:
            self.seen += 1
            if self.seen == 1:
                raise ValueError

    picky = Picky()
    with observed(broker, steps=[picky]) as sender:
        broker.freeze()
        handles = [sender.submit("orders", b"x") for _ in range(50)]
        broker.thaw()
    assert all(handle.done() for handle in handles)
    assert picky.seen == 50


@pytest.mark.parametrize("seed", range(5))
def test_facts_and_books_agree_whatever_happens(seed: int) -> None:
    """
    Threads that send, cancel and are refused, beside faults of every kind: each fate is told once, and no other.
    """
    chance = random.Random(seed)  # noqa: S311 - so that a failure can be had again
    broker, listener, metrics = FakeBroker(), Listener(), Metrics()
    with observed(
        broker,
        listener,
        metrics,
        retry=NO_RETRY,
        when_full=WhenFull.KEEP,
        max_in_flight_messages=200,
        deadline_seconds=1.0,
        close_seconds=2.0,
    ) as sender:

        def send(own: random.Random) -> None:
            for number in range(300):
                key = f"k{own.randrange(5)}" if own.random() < 0.3 else None
                try:
                    handle = sender.submit("orders", str(number), ordering_key=key)
                except SafePulsarError:
                    continue  # its lane is paused
                if own.random() < 0.05:
                    handle.cancel()

        threads = [threading.Thread(target=send, args=(random.Random(f"{seed}-{n}"),)) for n in range(3)]  # noqa: S311
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            code = chance.choice(["Timeout", "ProducerBusy", "AlreadyClosed", "TopicTerminated", "MessageTooBig"])
            broker.fail_next(1, code, phase=chance.choice([Phase.CREATE, Phase.INLINE, Phase.LATER]))
            chance.choice([broker.cut, broker.freeze, broker.thaw, broker.forget_faults])()
            threads[0].join(0.01)
        broker.thaw()
        broker.forget_faults()
        report = sender.close()
    counts = report.counts
    told = {fate: listener.finished(fate) for fate in Fate}
    assert told == {Fate.DELIVERED: counts.delivered, Fate.DUPLICATE: counts.duplicate, Fate.FAILED: counts.failed}
    assert sum(isinstance(fact, Cancelled) for fact in listener.facts) == counts.cancelled
    handles = [id(handle) for fact in listener.facts if isinstance(fact, Finished) for handle in fact.handles]
    assert len(handles) == len(set(handles))
    (durations,) = (each for each in metrics.collect() if each.name == "safepulsar_send_duration_seconds")
    assert sum(sum(each.counts) for each in durations.samples.values() if isinstance(each, Distribution)) == len(
        handles
    )
    assert counts.accepted == len(handles) + counts.cancelled
