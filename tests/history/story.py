"""
The history of a whole test, told message by message.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.history.recorder import What

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tests.history.recorder import Event

_FATES = frozenset({What.ACKED, What.DUPLICATE, What.FAILED, What.REJECTED})


@dataclass(slots=True)
class Attempt:
    """
    One call with a message, from before the call to its fate. Positions count the events of the history.
    """

    began: int
    accepted: int | None = None
    ended: int | None = None
    fate: What | None = None
    maybe_stored: bool = True
    kept_id: int | None = None
    message_id: list[int] | None = None

    @property
    def was_accepted(self) -> bool:
        """
        Whether it was taken: somebody said so, or it has the fate of an accepted message.
        """
        return self.accepted is not None or self.fate in (What.ACKED, What.DUPLICATE, What.FAILED)


@dataclass(slots=True)
class Story:
    """
    Everything about one message.
    """

    topic: str
    lane: str | None
    content: list[Any]
    properties: Mapping[str, str]
    attempts: list[Attempt] = field(default_factory=list)
    second_fates: list[What] = field(default_factory=list)
    resent: int = 0
    replayed: int = 0
    kept: set[int] = field(default_factory=set)
    copies: int = 0
    message_ids: list[list[int]] = field(default_factory=list)


@dataclass(slots=True)
class Found:
    """
    One message in a topic.
    """

    identity: str
    topic: str
    content: list[Any]
    properties: Mapping[str, str]
    message_id: list[int]


class Stories:
    """
    All stories of a history, and what concerns no single message. One pass over the events.

    Raises:
        ValueError: the history contradicts itself: the test that recorded it is wrong, not what it tests.
    """

    def __init__(self, events: Iterable[Event]) -> None:
        self.by_identity: dict[str, Story] = {}
        self.found: list[Found] = []
        self.kills: list[int] = []
        # For each stretch between two kills, the sum of the ledgers given in it.
        self.ledgers: dict[int, dict[str, int]] = {}
        self._breaks: list[int] = []
        self._heals: list[int] = []
        for position, event in enumerate(events):
            self._add(position, event)

    def stretch(self, position: int) -> int:
        """
        How many kills came before this position.
        """
        return bisect_left(self.kills, position)

    def breaks_during(self, attempt: Attempt) -> int:
        """
        How many times connections broke while this attempt was in flight, for a part of it at least.
        """
        began_before_end = len(self._breaks) if attempt.ended is None else bisect_left(self._breaks, attempt.ended)
        return began_before_end - bisect_left(self._heals, attempt.began)

    def _add(self, position: int, event: Event) -> None:
        what, identity, facts = event
        if what is What.FOUND:
            self.found.append(Found(identity, **facts))
        elif what is What.ATTEMPTED:
            self._begin(position, identity, facts)
        elif what is What.KILLED:
            self.kills.append(position)
        elif what is What.BROKEN:
            self._breaks.append(position)
        elif what is What.HEALED:
            if len(self._heals) == len(self._breaks):
                raise ValueError(f"event {position}: healed, but nothing was broken")
            self._heals.append(position)
        elif what is What.LEDGER:
            sums = self.ledgers.setdefault(len(self.kills), {})
            for name, number in facts.items():
                sums[name] = sums.get(name, 0) + number
        else:
            self._continue(position, event)

    def _begin(self, position: int, identity: str, facts: Mapping[str, Any]) -> None:
        story = self.by_identity.get(identity)
        told = (facts["topic"], facts["lane"], facts["content"], facts["properties"])
        if story is None:
            story = self.by_identity[identity] = Story(*told)
        elif (story.topic, story.lane, story.content, story.properties) != told:
            raise ValueError(f"event {position}: two different messages are called {identity!r}")
        story.attempts.append(Attempt(began=position))

    def _continue(self, position: int, event: Event) -> None:
        what, identity, facts = event
        story = self.by_identity.get(identity)
        if story is None:
            raise ValueError(f"event {position}: {what.value} {identity!r}, which was never attempted")
        attempt = story.attempts[-1]
        if what is What.ACCEPTED:
            attempt.accepted = position
        elif what is What.RESENT:
            story.resent += 1
        elif what is What.REPLAYED:
            story.replayed += 1
        elif what is What.KEPT:
            story.kept.add(facts["kept_id"])
        elif what is What.REJECTED and attempt.accepted is not None:
            raise ValueError(f"event {position}: rejected {identity!r}, which was accepted")
        elif attempt.fate is not None:
            story.second_fates.append(what)
        else:
            assert what in _FATES
            attempt.fate, attempt.ended = what, position
            attempt.maybe_stored = what is not What.REJECTED and facts.get("certainty") != "NOT_STORED"
            attempt.kept_id = facts.get("kept_id")
            attempt.message_id = facts.get("message_id")
