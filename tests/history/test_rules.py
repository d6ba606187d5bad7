"""
What the checker lets pass: valid histories of every kind, and what a rule or an ambiguity excuses, no more.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from safepulsar.message import Certainty, Message
from tests.brokers import Record
from tests.history import History, Kind, Rules, assert_valid, check
from tests.history.scene import TOPIC, Scene, identify


@pytest.mark.parametrize("name", ["delivered", "duplicate", "failed", "in_flight"])
def test_each_number_of_a_ledger_is_compared(scene: Scene, name: str) -> None:
    """
    A ledger that adds up, but not to the recorded fates, is unbalanced.
    """
    numbers = {"delivered": 2, "duplicate": 0, "failed": 0, "in_flight": 0}
    numbers[name] += 1
    scene.history.ledger(accepted=3, **numbers)
    assert set(scene.kinds()) == {("UNBALANCED", "")}


def test_the_ledger_of_a_killed_process_is_not_asked_for(scene: Scene) -> None:
    """
    A ledger stands for what was accepted since the last kill, and several add up.
    """
    scene.accept("c")
    scene.history.killed()
    scene.deliver("d", "e")
    scene.history.ledger(accepted=1, delivered=1, duplicate=0, failed=0)
    scene.history.ledger(accepted=1, delivered=1, duplicate=0, failed=0)
    assert scene.kinds(Rules(killed=True)) == []


def test_ambiguity_explains_a_copy_for_each_further_try(scene: Scene) -> None:
    """
    After a MAYBE_STORED, an acknowledged second try may leave a second copy, but no third.
    """
    scene.accept("c")
    scene.history.failed("c", Certainty.MAYBE_STORED, 1)
    scene.history.kept("c", 1)
    scene.store("c")
    scene.accept("c")
    scene.history.acked("c", scene.store("c"))
    report = check(scene.read())
    assert report.ok
    assert report.counts.extra_copies == 1
    scene.store("c")
    scene.history.found(TOPIC, scene.topic[-1:], identify)
    assert [(v.kind, v.identity) for v in check(scene.history).violations] == [(Kind.DUPLICATED, "c")]


def test_exactly_once_accepts_no_excuse(scene: Scene) -> None:
    """
    Under `exactly_once` even an explained second copy is a violation.
    """
    scene.accept("c")
    scene.history.resent("c")
    scene.store("c")
    scene.history.acked("c", scene.store("c"))
    assert scene.kinds(Rules(exactly_once=True)) == [("DUPLICATED", "c")]


def test_a_resend_on_purpose_explains_a_copy(scene: Scene) -> None:
    """
    A recorded resend after an ambiguous try may leave one copy more.
    """
    scene.accept("c")
    scene.history.resent("c")
    scene.store("c")
    scene.history.acked("c", scene.store("c"))
    assert scene.kinds() == []


@pytest.mark.parametrize(
    ("connection_broken", "violations"),
    [(True, []), (False, [("DUPLICATED", "c")])],
    ids=["allowed", "forbidden"],
)
def test_the_client_librarys_own_resend_is_allowed_by_rule_only(
    scene: Scene, violations: list[tuple[str, str]], *, connection_broken: bool
) -> None:
    """
    What was in flight while connections broke may be there twice, if the rules say so.
    """
    scene.accept("c")
    scene.history.broken()
    scene.store("c")
    scene.history.acked("c", scene.store("c"))
    scene.history.healed()
    assert scene.kinds(Rules(connection_broken=connection_broken)) == violations


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_broken_connection_excuses_only_what_was_in_flight(scene: Scene, moment: str) -> None:
    """
    What was acknowledged before, or attempted after connections broke, must be there once.
    """
    if moment == "before":
        scene.deliver("c")
    scene.history.broken()
    scene.history.healed()
    if moment == "after":
        scene.deliver("c")
    scene.store("c")
    assert scene.kinds(Rules(connection_broken=True)) == [("DUPLICATED", "c")]


def test_each_break_excuses_one_copy(scene: Scene) -> None:
    """
    Two breaks during one flight explain two more copies, and not three.
    """
    scene.accept("c")
    for _ in range(2):
        scene.history.broken()
        scene.store("c")
        scene.history.healed()
    scene.history.acked("c", scene.store("c"))
    assert scene.kinds(Rules(connection_broken=True)) == []
    scene.store("c")
    scene.history.found(TOPIC, scene.topic[-1:], identify)
    report = check(scene.history, Rules(connection_broken=True))
    assert [violation.kind for violation in report.violations] == [Kind.DUPLICATED]


def test_a_kill_excuses_only_what_was_in_flight_then(scene: Scene) -> None:
    """
    With `killed` a message without a fate is no violation if it was accepted before the kill; it may be stored or not.
    """
    scene.accept("c")
    scene.accept("d")
    scene.store("d")
    scene.history.killed()
    report = check(scene.read(), Rules(killed=True))
    assert report.ok
    assert report.counts.in_flight == 2
    assert [(v.kind, v.identity) for v in check(scene.history).violations] == [(Kind.SILENT, "c"), (Kind.SILENT, "d")]


def test_what_was_killed_and_sent_again_may_be_there_twice(scene: Scene) -> None:
    """
    A kill is an ambiguity: the next process's try may be the second copy.
    """
    scene.accept("c")
    scene.store("c")
    scene.history.killed()
    scene.accept("c")
    scene.history.acked("c", scene.store("c"))
    assert scene.kinds(Rules(killed=True)) == []


def test_keys_are_ordered_by_themselves(scene: Scene) -> None:
    """
    Messages of different keys, and messages without a key, may stand in any order.
    """
    scene.accept("c", key="customer-2")
    scene.accept("d", key="customer-3")
    scene.accept("e", key=None)
    scene.accept("f", key=None)
    for identity in "fedc":
        scene.history.acked(identity, scene.store(identity))
    assert scene.kinds() == []


def test_a_lane_may_be_named(scene: Scene) -> None:
    """
    A test that expects messages without a key in order says so by naming their lane.
    """
    for identity in "cd":
        message = Message(topic=TOPIC, payload=b"x", properties={"id": identity})
        scene.messages[identity] = message
        scene.history.attempted(identity, TOPIC, message, lane="all")
    for identity in "dc":
        scene.history.acked(identity, scene.store(identity))
    assert scene.kinds() == [("OUT_OF_ORDER", "c")]


def test_only_the_first_occurrence_is_ordered(scene: Scene) -> None:
    """
    A late second copy of an early message is a duplicate and no matter of order.
    """
    scene.accept("c")
    scene.history.resent("c")
    scene.history.acked("c", scene.store("c"))
    scene.deliver("d")
    scene.store("c")
    assert scene.kinds() == []


def test_acceptance_orders_and_not_the_attempt(scene: Scene) -> None:
    """
    Two attempts under way at once stand in the order in which they were accepted.
    """
    for identity in "cd":
        message = Message(topic=TOPIC, payload=b"x", properties={"id": identity}, ordering_key="customer-1")
        scene.messages[identity] = replace(message, ordering_key=None, partition_key="customer-1")
        scene.history.attempted(identity, TOPIC, scene.messages[identity])
    for identity in "dc":
        scene.history.accepted(identity)
    for identity in "dc":
        scene.history.acked(identity, scene.store(identity))
    assert scene.kinds() == []


def test_rules_let_pass_what_they_name(scene: Scene) -> None:
    """
    Added properties, replays out of order and failures without a store pass where the rules say so.
    """
    scene.accept("c")
    scene.history.failed("c", Certainty.NOT_STORED, 1)
    scene.deliver("d")
    scene.store("c")
    scene.history.replayed("c")
    scene.accept("e")
    scene.history.failed("e", Certainty.NOT_STORED, None)
    scene.topic[0] = replace(scene.topic[0], properties={"id": "a", "traceparent": "00-1"})
    lenient = Rules(
        failed_is_kept=False, replay_keeps_order=False, ignored_properties=frozenset({"traceparent", "tracestate"})
    )
    assert scene.kinds(lenient) == []


def test_a_history_of_every_outcome_is_valid(scene: Scene) -> None:
    """
    Every way a message may end, side by side, is counted and is no violation.
    """
    scene.accept("c")
    scene.history.failed("c", Certainty.MAYBE_STORED, 1)
    scene.store("c")
    scene.history.kept("c", 1)
    scene.accept("d")
    scene.history.failed("d", Certainty.NOT_STORED, 2)
    scene.history.kept("d", 2)
    scene.accept("e")
    scene.history.failed("e", Certainty.NOT_STORED, 3)
    scene.store("e")
    scene.history.replayed("e")
    scene.attempt("f")
    scene.history.rejected("f")
    scene.accept("g")
    scene.store("g")
    scene.history.duplicate("g")
    scene.history.ledger(accepted=6, delivered=2, duplicate=1, failed=3)
    counts = assert_valid(scene.read()).counts
    assert (counts.attempted, counts.accepted, counts.rejected, counts.delivered, counts.duplicate) == (7, 6, 1, 2, 1)
    assert (counts.not_stored, counts.maybe_stored, counts.in_flight, counts.replayed) == (2, 1, 0, 1)
    assert (counts.found, counts.extra_copies) == (5, 0)


def test_records_of_a_real_reader_are_understood(scene: Scene) -> None:
    """
    What the official client's reader shows, with empty text for no key and 0 for no batch, equals what was sent.
    """
    scene.deliver("c", key=None)
    records = [
        Record(
            position=(stored.message_id.ledger_id, stored.message_id.entry_id, -1, -1),
            payload=stored.payload or b"",
            properties=dict(stored.properties),
            partition_key=stored.partition_key or "",
            ordering_key=stored.ordering_key or "",
            producer_name="shop",
            event_timestamp=0,
            publish_timestamp=0,
        )
        for stored in scene.topic
    ]
    scene.history.found(TOPIC, records, identify)
    assert_valid(scene.history)


def test_a_report_names_the_first_few_of_each_kind(scene: Scene) -> None:
    """
    A failed test says how many violations of which kinds there are, and spells out some.
    """
    for number in range(8):
        scene.accept(f"lost-{number}")
        scene.history.acked(f"lost-{number}")
    scene.accept("c")
    with pytest.raises(AssertionError) as raised:
        assert_valid(scene.read())
    text = str(raised.value)
    assert text.startswith("9 violations in a history of 11 attempted, 11 accepted, 10 delivered, 1 in_flight, 2 found")
    assert "LOST 'lost-4': acked, but not in topic 'persistent://public/default/orders'" in text
    assert "lost-5" not in text
    assert "... and 3 more LOST" in text
    assert "SILENT 'c': accepted, but neither delivered, duplicate nor failed" in text
    assert str(check(History())) == "valid history: empty"


def test_a_history_that_contradicts_itself_is_refused() -> None:
    """
    A test that records nonsense is told so, in place of a verdict.
    """
    history = History()
    history.acked("a")
    with pytest.raises(ValueError, match="event 0: acked 'a', which was never attempted"):
        check(history)
    twice = Scene()
    twice.deliver("a")
    twice.history.attempted("a", TOPIC, Message(topic=TOPIC, payload=b"something else"))
    with pytest.raises(ValueError, match="event 3: two different messages are called 'a'"):
        check(twice.history)
    refused = Scene()
    refused.accept("a")
    refused.history.rejected("a")
    with pytest.raises(ValueError, match="event 2: rejected 'a', which was accepted"):
        check(refused.history)
    healed = History()
    healed.healed()
    with pytest.raises(ValueError, match="event 0: healed, but nothing was broken"):
        check(healed)
