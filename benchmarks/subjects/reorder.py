"""
The receiving side: messages that come in order go through the `ReorderBuffer`.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.case import Case, Goal, Kind, Sample
from benchmarks.measuring import timed
from safepulsar.receiving import ReorderBuffer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.case import Contender, Scene

_OURS, _SWAPPED = "ReorderBuffer, in order", "ReorderBuffer, each pair swapped"
_LANES = 1_000
_PER_SECOND = 500_000


@contextmanager
def buffers(scene: Scene) -> Iterator[dict[str, Contender]]:
    """
    A new buffer for each turn, and messages of a thousand lanes in turn.
    """
    each = max(2, 10 * scene.effort.messages // _LANES) & ~1
    straight = range(1, each + 1)
    swapped = [number + 1 if number % 2 else number - 1 for number in straight]

    def run(order: range | list[int]) -> Sample:
        buffer: ReorderBuffer[bytes] = ReorderBuffer()
        lanes = [f"lane-{number}" for number in range(_LANES)]
        item = b"x" * 100
        out = 0

        def everything() -> None:
            nonlocal out
            add = buffer.add
            for sequence in order:
                for lane in lanes:
                    out += len(add(lane, sequence, item))

        sample = timed(each * _LANES, everything)
        if out != each * _LANES:
            raise AssertionError(f"{out} of {each * _LANES} came out")
        return sample

    yield {_OURS: partial(run, straight), _SWAPPED: partial(run, swapped)}


CASES = [
    Case(
        name="reorder",
        title="ReorderBuffer",
        subject="reorder",
        prepare=buffers,
        goals=(
            Goal(name="rate, in order", ours=_OURS, kind=Kind.VALUE, at_least=_PER_SECOND),
            Goal(name="rate, each pair swapped", ours=_SWAPPED, kind=Kind.VALUE),
        ),
        sizes=(0,),
        needs_broker=False,
    ),
]
