"""
What a benchmark is: contenders that take turns, and goals that their figures are held against.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path


class NotHereError(Exception):
    """
    A case can't run here; the text says what is missing.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """
    How much is measured.

    Args:
        rounds: that count; one more goes before them and does not.
        messages: of a round that sends a fixed number.
        seconds: of a round that sends for a fixed time.
        scale: of the numbers that a case names itself, such as rows of a store; 1 is all of them.
    """

    rounds: int
    messages: int
    seconds: float
    scale: float

    def scaled(self, count: int, at_least: int = 1) -> int:
        """
        That share of `count`.
        """
        return max(at_least, round(count * self.scale))


FULL = Effort(rounds=5, messages=60_000, seconds=1.5, scale=1.0)
QUICK = Effort(rounds=2, messages=2_000, seconds=0.1, scale=0.002)


class Admin(Protocol):
    """
    What a case may ask a real broker for.
    """

    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """
    Where a case runs.

    Args:
        broker: which kind; empty where the case needs none.
        url: of the broker.
        size_bytes: of each payload.
        effort: how much is measured.
        folder: for files; gone afterwards.
        orders: a CSV of real orders.
        freeze: stops the broker's process.
        thaw: lets it go on.
    """

    broker: str
    url: str
    size_bytes: int
    effort: Effort
    folder: Path
    orders: Path
    freeze: Callable[[], None] | None = None
    thaw: Callable[[], None] | None = None
    payload: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """
        Make the payload: random, so that nothing on the way can make it smaller.
        """
        object.__setattr__(self, "payload", os.urandom(self.size_bytes))

    def topic(self, name: str) -> str:
        """
        A topic that nothing else uses.
        """
        return f"bench-{name}-{uuid.uuid4().hex[:12]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """
    One turn of one contender.

    Args:
        figures: by their names in `FIGURES`.
        latencies_ns: of single calls, where the case looks at them.
    """

    figures: Mapping[str, float]
    latencies_ns: Sequence[int] = ()


Contender: TypeAlias = "Callable[[], Sample]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """
    A kind of number.

    Args:
        unit: printed behind it.
        more_is_better: or less is.
        digits: behind the point, where it is printed.
    """

    unit: str
    more_is_better: bool = False
    digits: int = 0


FIGURES: dict[str, Figure] = {
    "rate": Figure(unit="/s", more_is_better=True),
    "cpu_us": Figure(unit="µs CPU per message", digits=2),
    "p50_us": Figure(unit="µs, median", digits=1),
    "p99_us": Figure(unit="µs, p99", digits=1),
    "call_us": Figure(unit="µs per call", digits=3),
    "ms": Figure(unit="ms", digits=1),
    "mb": Figure(unit="MB", digits=2),
    "mb_per_million": Figure(unit="MB per million messages", digits=3),
    "bound_share": Figure(unit="of what is allowed", digits=2),
    "count": Figure(unit=""),
}


class Kind(str, Enum):
    """
    What of a contender's figure is held against the goal.
    """

    RATIO = "ratio"  # divided by the best of the others, in the same round
    DIFFERENCE = "difference"  # less the best of the others, in the same round
    VALUE = "value"  # the figure itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """
    One line of the result.

    Args:
        name: what is compared, unique within its case.
        ours: the contender.
        against: names of others, or how they begin; the one with the best median counts.
        kind: see `Kind`.
        figure: see `FIGURES`.
        at_least: of what `kind` says; None with `at_most` None for a line that only informs.
        at_most: likewise.
    """

    name: str
    ours: str
    against: tuple[str, ...] = ()
    kind: Kind = Kind.RATIO
    figure: str = "rate"
    at_least: float | None = None
    at_most: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """
    A benchmark.

    Args:
        name: for `--only` and in the results.
        title: for tables.
        subject: the module that has it.
        prepare: opens what the contenders need, and closes it afterwards.
        goals: see `Goal`.
        sizes: of payloads, each a run of its own; (0,) where there is no payload.
        needs_broker: runs once on each kind of broker, or else once.
        series: cases of one series are points of one curve.
        x: where on that curve.
        max_rounds: for what takes long.
        warm_up: whether a first round goes before, that does not count.
    """

    name: str
    title: str
    subject: str
    prepare: Callable[[Scene], AbstractContextManager[Mapping[str, Contender]]]
    goals: tuple[Goal, ...] = ()
    sizes: tuple[int, ...] = (100, 1000)
    needs_broker: bool = True
    series: str = ""
    x: float = 0.0
    max_rounds: int | None = None
    warm_up: bool = True
