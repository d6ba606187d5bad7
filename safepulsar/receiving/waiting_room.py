"""
Items that wait behind gaps: by lane in the order of their sequences, and all together in the order of their coming.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

from safepulsar.receiving.gap import Gap

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Item = TypeVar("Item")


class WaitingRoom(Generic[Item]):
    """
    Whatever came too early. Each operation takes at most logarithmic time, except for `gaps`, which looks at all.

    Attributes:
        size_bytes: the sum of the sizes given.
    """

    __slots__ = ("_arrivals", "_items", "_sequences", "size_bytes")

    def __init__(self) -> None:
        self._items: dict[str, dict[int, Item]] = {}
        # Of each lane, a heap. Items leave it by rising sequences only, so its top is always one that waits.
        self._sequences: dict[str, list[int]] = {}
        # When each came, and its size. Not a plain dict, whose first key is slow to find after many removals.
        self._arrivals: OrderedDict[tuple[str, int], tuple[float, int]] = OrderedDict()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._arrivals)

    def __contains__(self, lane: object) -> bool:
        return lane in self._items

    @property
    def lanes(self) -> int:
        """
        In how many lanes something waits.
        """
        return len(self._items)

    def has(self, lane: str, sequence: int) -> bool:
        """
        Whether the item of this place waits.
        """
        return (lane, sequence) in self._arrivals

    def put(self, lane: str, sequence: int, item: Item, size_bytes: int, now: float) -> None:
        """
        Let an item wait whose place is free.
        """
        if lane not in self._items:
            self._items[lane] = {}
            self._sequences[lane] = []
        self._items[lane][sequence] = item
        heapq.heappush(self._sequences[lane], sequence)
        self._arrivals[lane, sequence] = now, size_bytes
        self.size_bytes += size_bytes

    def take_run(self, lane: str, sequence: int) -> list[Item]:
        """
        Remove and return what waits at this place and right behind it without a gap; nothing, if the place is empty.
        """
        run: list[Item] = []
        heap = self._sequences.get(lane)
        if heap is None:
            return run
        items = self._items[lane]
        while heap and heap[0] == sequence:
            heapq.heappop(heap)
            run.append(items.pop(sequence))
            self.size_bytes -= self._arrivals.pop((lane, sequence))[1]
            sequence += 1
        if not heap:
            del self._items[lane], self._sequences[lane]
        return run

    def first_of(self, lane: str) -> int | None:
        """
        The lowest sequence that waits in a lane, None if nothing does.
        """
        heap = self._sequences.get(lane)
        return heap[0] if heap else None

    def oldest(self) -> tuple[str, float] | None:
        """
        The lane of the item that waits longest, and when it came; None if nothing waits.
        """
        if not self._arrivals:
            return None
        (lane, _), (arrived, _) = next(iter(self._arrivals.items()))
        return lane, arrived

    def gaps(self, expected: Mapping[str, int], now: float) -> Iterator[Gap]:
        """
        Yield what each lane with waiting items waits for, the one that waits longest first.
        """
        seen: set[str] = set()
        for (lane, _), (arrived, _) in self._arrivals.items():
            if lane not in seen:
                seen.add(lane)
                yield self._gap(lane, expected[lane], now - arrived)

    def oldest_gap(self, expected: Mapping[str, int], now: float) -> Gap:
        """
        What the item that waits longest waits for. Something must wait.
        """
        return next(self.gaps(expected, now))

    def gap_of(self, lane: str, expected: int, now: float) -> Gap:
        """
        What a lane waits for in which something waits.
        """
        arrived = min(self._arrivals[lane, sequence][0] for sequence in self._sequences[lane])
        return self._gap(lane, expected, now - arrived)

    def _gap(self, lane: str, expected: int, waiting_seconds: float) -> Gap:
        heap = self._sequences[lane]
        return Gap(
            lane=lane,
            first_missing=expected,
            last_missing=heap[0] - 1,
            waiting_messages=len(heap),
            waiting_seconds=max(0.0, waiting_seconds),
        )
