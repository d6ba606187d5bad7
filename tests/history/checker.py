"""
The judge of every contract and fault test: one pass over a history finds whatever breaks a promise.

What may be wrong with a history, and under which rules it isn't, stands at `Kind` and at `Rules`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import TYPE_CHECKING

from tests.history.recorder import What
from tests.history.story import Stories

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.history.recorder import History
    from tests.history.story import Attempt, Found, Story

_SHOWN = 5  # violations of each kind that a report spells out


class Kind(str, Enum):
    """
    What can be wrong.
    """

    LOST = "LOST"  # delivered or a duplicate, as we were told, and not in the topic
    UNEXPECTED = "UNEXPECTED"  # in the topic, though never attempted there or surely not stored
    CORRUPT = "CORRUPT"  # in the topic with another payload, key or property
    MISPLACED = "MISPLACED"  # acknowledged with a message id at which the topic holds something else
    DUPLICATED = "DUPLICATED"  # more often in the topic than any ambiguity explains
    OUT_OF_ORDER = "OUT_OF_ORDER"  # first stored after a message of its lane that was accepted later
    SILENT = "SILENT"  # accepted, and nobody ever said what became of it
    TWO_FATES = "TWO_FATES"  # ended twice
    NOT_KEPT = "NOT_KEPT"  # failed, and not in the store
    UNBALANCED = "UNBALANCED"  # the ledger does not add up, or not to the recorded fates


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """
    What a test lets pass; nothing unless it says so.

    Ambiguity is no rule but a fact of the history: an attempt that was `MAYBE_STORED`, was under way at a kill or
    was recorded as resent may have left one copy more.

    Args:
        connection_broken: a message in flight between BROKEN and HEALED may have been stored once more, because
            the client library sends again what was not acknowledged. False forbids that copy, as with a broker
            that deduplicates.
        exactly_once: True lets no ambiguity excuse a second copy.
        killed: what was accepted and in flight at a KILLED may have no fate.
        failed_is_kept: False lets a failed message name no number in the store, as where there is no store.
        replay_keeps_order: False lets a replayed message stand behind later ones of its lane.
        ignored_properties: names of properties that the code under test may add.
    """

    connection_broken: bool = False
    exactly_once: bool = False
    killed: bool = False
    failed_is_kept: bool = True
    replay_keeps_order: bool = True
    ignored_properties: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Violation:
    """
    One broken promise.
    """

    kind: Kind
    identity: str
    detail: str

    def __str__(self) -> str:
        of = f" {self.identity!r}" if self.identity else ""
        return f"{self.kind.value}{of}: {self.detail}"


@dataclass(slots=True, kw_only=True)
class Counts:
    """
    How many there were. Attempts, except for the last three.
    """

    attempted: int = 0
    accepted: int = 0
    rejected: int = 0
    delivered: int = 0
    duplicate: int = 0
    not_stored: int = 0
    maybe_stored: int = 0
    in_flight: int = 0  # accepted, without a fate
    replayed: int = 0  # messages that were replayed
    found: int = 0  # messages in the topics
    extra_copies: int = 0  # of those, how many only repeat another


@dataclass(frozen=True, slots=True)
class Report:
    """
    The verdict.
    """

    counts: Counts
    violations: tuple[Violation, ...]

    @property
    def ok(self) -> bool:
        """
        Whether nothing was wrong.
        """
        return not self.violations

    def by_kind(self) -> dict[Kind, list[Violation]]:
        """
        The violations, of those kinds that occurred.
        """
        kinds: dict[Kind, list[Violation]] = {}
        for violation in self.violations:
            kinds.setdefault(violation.kind, []).append(violation)
        return kinds

    def __str__(self) -> str:
        numbers = ", ".join(
            f"{getattr(self.counts, item.name)} {item.name}"
            for item in fields(self.counts)
            if getattr(self.counts, item.name)
        )
        if self.ok:
            return f"valid history: {numbers or 'empty'}"
        lines = [f"{len(self.violations)} violations in a history of {numbers}"]
        for kind, violations in self.by_kind().items():
            lines += [f"  {violation}" for violation in violations[:_SHOWN]]
            if len(violations) > _SHOWN:
                lines.append(f"  ... and {len(violations) - _SHOWN} more {kind.value}")
        return "\n".join(lines)


def check(history: History, rules: Rules | None = None) -> Report:
    """
    Judge a history. Takes time in proportion to its events.

    Raises:
        ValueError: the history contradicts itself, see `Stories`.
    """
    return _Judge(Stories(history.events()), rules or Rules()).report()


def assert_valid(history: History, rules: Rules | None = None) -> Report:
    """
    Fail the test if anything is wrong, naming the first few violations of each kind.
    """
    report = check(history, rules)
    if not report.ok:
        raise AssertionError(str(report))
    return report


@dataclass(slots=True)
class _Judge:
    stories: Stories
    rules: Rules
    counts: Counts = field(default_factory=Counts)
    violations: list[Violation] = field(default_factory=list)

    def report(self) -> Report:
        self._judge_topics()
        for identity, story in self.stories.by_identity.items():
            self._judge_copies(identity, story)
            for attempt in story.attempts:
                self._judge_attempt(identity, story, attempt)
            for what in story.second_fates:
                first = story.attempts[-1].fate
                self._blame(Kind.TWO_FATES, identity, f"{what.value} after {first.value if first else 'nothing'}")
        self._judge_ledgers()
        return Report(self.counts, tuple(self.violations))

    def _blame(self, kind: Kind, identity: str, detail: str) -> None:
        self.violations.append(Violation(kind, identity, detail))

    def _judge_topics(self) -> None:
        latest: dict[tuple[str, str], tuple[int, str]] = {}  # of each lane, the latest accepted that was seen so far
        for found in self.stories.found:
            self.counts.found += 1
            story = self.stories.by_identity.get(found.identity)
            if story is None or story.topic != found.topic:
                known = "nobody attempted it" if story is None else f"it was attempted in {story.topic!r}"
                self._blame(
                    Kind.UNEXPECTED, found.identity, f"in topic {found.topic!r} at {found.message_id}, but {known}"
                )
                continue
            story.copies += 1
            story.message_ids.append(found.message_id)
            if differing := self._differences(story, found):
                self._blame(Kind.CORRUPT, found.identity, f"at {found.message_id}: {', '.join(differing)}")
            if story.copies > 1 or story.lane is None or (story.replayed and not self.rules.replay_keeps_order):
                continue
            lane = (story.topic, story.lane)
            position = _order(story)
            before, other = latest.get(lane, (-1, ""))
            if position < before:
                detail = f"lane {story.lane!r}: behind {other!r}, which was accepted later"
                self._blame(Kind.OUT_OF_ORDER, found.identity, detail)
            else:
                latest[lane] = (position, found.identity)

    def _differences(self, story: Story, found: Found) -> list[str]:
        differing = []
        names = ("payload size", "payload", "partition key", "ordering key")
        for name, sent, read in zip(names, story.content, found.content, strict=True):
            if sent != read:
                differing.append(f"{name} was {sent!r:.60} and is {read!r:.60}")
        sent_properties, read_properties = self._properties(story.properties), self._properties(found.properties)
        if sent_properties != read_properties:
            differing.append(f"properties were {sent_properties!r:.200} and are {read_properties!r:.200}")
        return differing

    def _properties(self, properties: Mapping[str, str]) -> dict[str, str]:
        return {name: value for name, value in properties.items() if name not in self.rules.ignored_properties}

    def _judge_copies(self, identity: str, story: Story) -> None:
        self.counts.replayed += bool(story.replayed)
        self.counts.extra_copies += max(story.copies - 1, 0)
        if story.copies == 0:
            told = [a.fate.value for a in story.attempts if a.fate in (What.ACKED, What.DUPLICATE)]
            told += [What.REPLAYED.value] * bool(story.replayed)
            if told:
                self._blame(Kind.LOST, identity, f"{' and '.join(told)}, but not in topic {story.topic!r}")
            return
        if not _copies_of(story):
            self._blame(Kind.UNEXPECTED, identity, f"in topic {story.topic!r}, but surely not stored")
            return
        if story.copies > 1 and story.copies > (allowed := self._allowed(story)):
            detail = f"{story.copies} copies at {story.message_ids}, at most {allowed} explained"
            self._blame(Kind.DUPLICATED, identity, detail)
        for attempt in story.attempts:
            if attempt.message_id is not None and attempt.message_id not in story.message_ids:
                detail = f"acknowledged as {attempt.message_id}, but the topic has it at {story.message_ids}"
                self._blame(Kind.MISPLACED, identity, detail)

    def _allowed(self, story: Story) -> int:
        if self.rules.exactly_once:
            return 1
        ambiguous = sum(attempt.maybe_stored and attempt.fate in (None, What.FAILED) for attempt in story.attempts)
        # Each try leaves at most one copy, and only an ambiguous one is a reason for a further try.
        allowed = min(_copies_of(story), 1 + ambiguous) + story.resent
        if self.rules.connection_broken:
            allowed += sum(self.stories.breaks_during(attempt) for attempt in story.attempts)
        return allowed

    def _judge_attempt(self, identity: str, story: Story, attempt: Attempt) -> None:
        counts = self.counts
        counts.attempted += 1
        counts.accepted += attempt.was_accepted
        counts.rejected += attempt.fate is What.REJECTED
        counts.delivered += attempt.fate is What.ACKED
        counts.duplicate += attempt.fate is What.DUPLICATE
        if attempt.fate is What.FAILED:
            counts.maybe_stored += attempt.maybe_stored
            counts.not_stored += not attempt.maybe_stored
            self._judge_keeping(identity, story, attempt)
        elif attempt.was_accepted and attempt.fate is None:
            counts.in_flight += 1
            killed = self.stories.stretch(attempt.began) < len(self.stories.kills)
            if not (killed and self.rules.killed):
                self._blame(Kind.SILENT, identity, "accepted, but neither delivered, duplicate nor failed")

    def _judge_keeping(self, identity: str, story: Story, attempt: Attempt) -> None:
        if story.replayed:
            return
        if attempt.kept_id is None:
            if self.rules.failed_is_kept:
                self._blame(Kind.NOT_KEPT, identity, "failed, and names no failed message in the store")
        elif attempt.kept_id not in story.kept:
            self._blame(Kind.NOT_KEPT, identity, f"kept as {attempt.kept_id}, as we were told, but not in the store")

    def _judge_ledgers(self) -> None:
        recorded: dict[int, Counter[str]] = {stretch: Counter() for stretch in self.stories.ledgers}
        for story in self.stories.by_identity.values():
            for attempt in story.attempts:
                numbers = recorded.get(self.stories.stretch(attempt.began))
                if numbers is not None and attempt.was_accepted:
                    numbers["accepted"] += 1
                    numbers[_IN_A_LEDGER[attempt.fate]] += 1
        for stretch, ledger in self.stories.ledgers.items():
            fates = sum(number for name, number in ledger.items() if name != "accepted")
            if ledger["accepted"] != fates:
                self._blame(Kind.UNBALANCED, "", f"accepted {ledger['accepted']}, but {fates} fates and in flight")
                continue
            for name, number in ledger.items():
                if number != recorded[stretch][name]:
                    seen = recorded[stretch][name]
                    self._blame(Kind.UNBALANCED, "", f"the ledger says {number} {name}, the history {seen}")


_IN_A_LEDGER = {
    What.ACKED: "delivered",
    What.DUPLICATE: "duplicate",
    What.FAILED: "failed",
    None: "in_flight",
}


def _copies_of(story: Story) -> int:
    # How many copies the tries that the history names can have left. A duplicate left none itself, but it tells of
    # one that an earlier try left, perhaps before this history began.
    left = sum(attempt.maybe_stored and attempt.fate is not What.DUPLICATE for attempt in story.attempts)
    told = any(attempt.fate is What.DUPLICATE for attempt in story.attempts)
    return max(left + story.replayed, told)


def _order(story: Story) -> int:
    # The place of a message in its lane: where the first try that can have stored it was accepted. Where the
    # acceptance was not recorded (a synchronous call, or a kill in between) the beginning of the call stands for it.
    for attempt in story.attempts:
        if attempt.maybe_stored:
            return attempt.began if attempt.accepted is None else attempt.accepted
    return story.attempts[0].began
