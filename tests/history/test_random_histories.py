"""
Random valid histories pass, a violation planted at random in one is found, and a long one is judged in one pass.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safepulsar.message import Certainty
from tests.history import Event, History, Kind, Rules, What, check
from tests.history.scene import Scene

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from random import Random

RULES = Rules(connection_broken=True, killed=True)
KEYS = 3
LONG = 50_000


class End(str, Enum):
    """
    How a message ends.
    """

    DELIVERED = "delivered"
    DELIVERED_TWICE = "delivered after a broken connection, stored twice"
    DUPLICATE = "duplicate"
    REJECTED = "rejected"
    NOT_STORED = "surely not stored, kept"
    MAYBE_STORED = "maybe stored, and there, kept"
    NOT_THERE = "maybe stored, and not there, kept"
    REPLAYED = "surely not stored, replayed"
    REPLAYED_TWICE = "maybe stored, and there, replayed, so there twice"
    KILLED = "in flight at the kill, and there"
    KILLED_AWAY = "in flight at the kill, and not there"


_COPIES = {
    **dict.fromkeys(End, 1),
    **dict.fromkeys([End.DELIVERED_TWICE, End.REPLAYED_TWICE], 2),
    **dict.fromkeys([End.REJECTED, End.NOT_STORED, End.NOT_THERE, End.KILLED_AWAY], 0),
}


def build(random: Random, ends: dict[str, End]) -> list[Event]:
    """
    A valid history in which each message ends as it is said, with keys and orders at random.
    """
    scene = Scene()
    scene.history.broken()
    for name, end in ends.items():
        begin = scene.attempt if end is End.REJECTED else scene.accept
        begin(name, key=f"customer-{random.randrange(KEYS)}")
    order = [name for name, end in ends.items() if _COPIES[end]]
    for name, end in ends.items():
        if _COPIES[end] > 1:
            order.insert(random.randint(order.index(name) + 1, len(order)), name)
    ids = {name: scene.store(name) for name in order}
    for number, name in enumerate(random.sample(list(ends), len(ends))):
        end = ends[name]
        if end in (End.DELIVERED, End.DELIVERED_TWICE):
            scene.history.acked(name, ids[name])
        elif end is End.DUPLICATE:
            scene.history.duplicate(name)
        elif end is End.REJECTED:
            scene.history.rejected(name)
        elif end not in (End.KILLED, End.KILLED_AWAY):
            sure = end in (End.NOT_STORED, End.REPLAYED)
            scene.history.failed(name, Certainty.NOT_STORED if sure else Certainty.MAYBE_STORED, number)
            if end in (End.REPLAYED, End.REPLAYED_TWICE):
                scene.history.replayed(name)
            else:
                scene.history.kept(name, number)
    scene.history.healed()
    counts = check(scene.history).counts
    scene.history.ledger(
        accepted=counts.accepted,
        delivered=counts.delivered,
        duplicate=counts.duplicate,
        failed=counts.not_stored + counts.maybe_stored,
        in_flight=counts.in_flight,
    )
    scene.history.killed()
    return list(scene.read().events())


@st.composite
def histories(draw: st.DrawFn) -> tuple[Random, dict[str, End], list[Event]]:
    """
    A random, how each message ends, and the history. Every end and a second DELIVERED occur.
    """
    random = draw(st.randoms(use_true_random=False))
    more = draw(st.lists(st.sampled_from(End), max_size=30))
    ends = draw(st.permutations([*End, End.DELIVERED, *more]))
    named = {f"m-{number}": end for number, end in enumerate(ends)}
    return random, named, build(random, named)


@settings(deadline=None)
@given(histories())
def test_a_valid_history_passes(case: tuple[Random, dict[str, End], list[Event]]) -> None:
    """
    However messages end, and in whatever order, no violation is invented.
    """
    _, ends, events = case
    report = check(History.of(events), RULES)
    assert report.ok, str(report)
    assert report.counts.attempted == len(ends)
    assert report.counts.found == sum(_COPIES[end] for end in ends.values())


Mutation = tuple["Random", dict[str, End], list[Event]]


def named(mutation: Mutation, *wanted: End) -> str:
    """
    One of the messages that end so.
    """
    random, ends, _ = mutation
    return random.choice([name for name, end in ends.items() if end in wanted])


def without(mutation: Mutation, name: str, what: What) -> list[Event]:
    """
    The history without the events of this kind about this message.
    """
    return [event for event in mutation[2] if (event.what, event.identity) != (what, name)]


def changed(mutation: Mutation, name: str, what: What, **facts: Any) -> list[Event]:  # noqa: ANN401 - any fact
    """
    The history with other facts in the first event of this kind about this message.
    """
    events = list(mutation[2])
    index = next(i for i, event in enumerate(events) if (event.what, event.identity) == (what, name))
    events[index] = events[index]._replace(facts={**events[index].facts, **facts})
    return events


def _lose(mutation: Mutation) -> list[Event]:
    ends = (End.DELIVERED, End.DELIVERED_TWICE, End.DUPLICATE, End.REPLAYED, End.REPLAYED_TWICE)
    return without(mutation, named(mutation, *ends), What.FOUND)


def _find_what_is_not_stored(mutation: Mutation) -> list[Event]:
    model = next(event for event in mutation[2] if event.what is What.FOUND)
    name = mutation[0].choice(["stranger", named(mutation, End.REJECTED, End.NOT_STORED)])
    told = next((event for event in mutation[2] if event.identity == name), model)
    facts = {**model.facts, "content": told.facts["content"], "properties": told.facts["properties"]}
    return [*mutation[2], Event(What.FOUND, name, facts)]


def _corrupt(mutation: Mutation) -> list[Event]:
    name = named(mutation, *(end for end in End if _COPIES[end]))
    facts = next(e.facts for e in mutation[2] if (e.what, e.identity) == (What.FOUND, name))
    content = list(facts["content"])
    content[mutation[0].randrange(4)] = "x"
    if mutation[0].random() < 0.5:
        return changed(mutation, name, What.FOUND, properties={**facts["properties"], "x": "y"})
    return changed(mutation, name, What.FOUND, content=content)


def _misplace(mutation: Mutation) -> list[Event]:
    return changed(mutation, named(mutation, End.DELIVERED), What.ACKED, message_id=[7, 10**6, 0])


def _duplicate(mutation: Mutation) -> list[Event]:
    name = named(mutation, *(end for end in End if _COPIES[end]))
    copies = [event for event in mutation[2] if (event.what, event.identity) == (What.FOUND, name)]
    return [*mutation[2], *(copies[:1] * 2)]  # one more may be explained, two are not


def _disorder(mutation: Mutation) -> list[Event]:
    # One lane for all makes any two neighbours the wrong way round a violation.
    one_lane = [e._replace(facts={**e.facts, "lane": "all"}) if e.what is What.ATTEMPTED else e for e in mutation[2]]
    found = [index for index, event in enumerate(one_lane) if event.what is What.FOUND]
    firsts = list({one_lane[index].identity: index for index in reversed(found)}.values())[::-1]
    left = mutation[0].randrange(len(firsts) - 1)
    first, second = firsts[left], firsts[left + 1]
    one_lane[first], one_lane[second] = one_lane[second], one_lane[first]
    return one_lane


def _silence(mutation: Mutation) -> list[Event]:
    # Without the kill, which would excuse it; what was in flight then was only attempted.
    killed = {name for name, end in mutation[1].items() if end in (End.KILLED, End.KILLED_AWAY)}
    name = named(mutation, End.DELIVERED, End.DUPLICATE)
    return [
        event
        for event in mutation[2]
        if event.what is not What.KILLED
        and not (event.what is What.ACCEPTED and event.identity in killed)
        and not (event.what in (What.ACKED, What.DUPLICATE) and event.identity == name)
    ]


def _end_twice(mutation: Mutation) -> list[Event]:
    name = named(mutation, End.DELIVERED, End.DUPLICATE, End.NOT_STORED, End.MAYBE_STORED)
    return [*mutation[2], mutation[0].choice([Event(What.DUPLICATE, name, {}), Event(What.ACKED, name, {})])]


def _drop_from_the_store(mutation: Mutation) -> list[Event]:
    return without(mutation, named(mutation, End.NOT_STORED, End.MAYBE_STORED, End.NOT_THERE), What.KEPT)


def _miscount(mutation: Mutation) -> list[Event]:
    name = mutation[0].choice(["accepted", "delivered", "duplicate", "failed", "in_flight"])
    ledger = next(event for event in mutation[2] if event.what is What.LEDGER)
    return changed(mutation, "", What.LEDGER, **{name: ledger.facts[name] + mutation[0].choice([-1, 1])})


MUTATIONS: dict[Kind, Callable[[Mutation], list[Event]]] = {
    Kind.LOST: _lose,
    Kind.UNEXPECTED: _find_what_is_not_stored,
    Kind.CORRUPT: _corrupt,
    Kind.MISPLACED: _misplace,
    Kind.DUPLICATED: _duplicate,
    Kind.OUT_OF_ORDER: _disorder,
    Kind.SILENT: _silence,
    Kind.TWO_FATES: _end_twice,
    Kind.NOT_KEPT: _drop_from_the_store,
    Kind.UNBALANCED: _miscount,
}


@pytest.mark.parametrize("kind", Kind)
@settings(deadline=None)
@given(case=histories())
def test_a_random_violation_is_found(kind: Kind, case: Mutation) -> None:
    """
    A valid history with one thing changed fails, with the kind of violation that the change is.
    """
    report = check(History.of(MUTATIONS[kind](case)), RULES)
    assert kind in report.by_kind(), str(report)


def test_a_long_history_is_read_once() -> None:
    """
    The checker takes the events one after the other, once, however many there are.
    """
    scene = Scene()
    scene.deliver(*(f"m-{number}" for number in range(LONG)))
    events = list(scene.read().events())
    taken = 0

    class Counted(History):
        def events(self) -> Iterator[Event]:
            nonlocal taken
            for event in events:
                taken += 1
                yield event

    report = check(Counted())
    assert report.ok
    assert report.counts.delivered == LONG
    assert taken == len(events) == 4 * LONG
