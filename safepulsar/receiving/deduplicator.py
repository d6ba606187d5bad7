"""
Recognises what has come before: by lane and sequence exactly, by ids of the application's own as far back as bounded.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from safepulsar.errors import InvalidInput, InvalidSettings, shown
from safepulsar.receiving.errors import BufferFull, InvalidState, TooManyLanes
from safepulsar.receiving.lane_sequence import check_lane, check_sequence
from safepulsar.receiving.saved_state import numbers_of, seal, unseal
from safepulsar.receiving.stats import DeduplicatorStats
from safepulsar.settings.base import Settings, check_number

if TYPE_CHECKING:
    from typing_extensions import Self

_KIND: Final = "deduplicator"
_BILLION: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class DeduplicatorSettings(Settings):
    """
    How much a `Deduplicator` remembers.

    Args:
        max_lanes: each costs some 200 bytes and its name. One more is refused with `TooManyLanes`.
        max_beyond: sequences, over all lanes, that came before earlier ones of their lanes; some 100 bytes each.
            One more is refused with `BufferFull`: to forget one would let its duplicate pass.
        max_ids: ids of the application's own. For one more the oldest is forgotten, so that duplicates are
            recognised only as long as no more than this number of others lie between.
    """

    max_lanes: int = 100_000
    max_beyond: int = 100_000
    max_ids: int = 100_000

    def __post_init__(self) -> None:
        """
        Check every number.
        """
        me = "DeduplicatorSettings"
        check_number(me, "max_lanes", self.max_lanes, 1, _BILLION, whole=True)
        check_number(me, "max_beyond", self.max_beyond, 0, _BILLION, whole=True)
        check_number(me, "max_ids", self.max_ids, 1, _BILLION, whole=True)


class Deduplicator:
    """
    Remembers what was done. Ask with `is_new`, do it, and then `add` it, so that what failed is still new.

    Of each lane it keeps the sequence below which all have come, and one by one those beyond: exact, in any order of
    coming, and small as long as little is missing. Ids of the application's own have no order, so of those the last
    `max_ids` are kept. Whatever raises changes nothing. Belongs to one thread.
    """

    def __init__(self, settings: DeduplicatorSettings | None = None) -> None:
        if settings is not None and not isinstance(settings, DeduplicatorSettings):
            raise InvalidSettings("settings", f"must be DeduplicatorSettings(...), not {type(settings).__name__}")
        self._settings = settings or DeduplicatorSettings()
        self._missing: dict[str, int] = {}  # by lane, the lowest sequence that has not come
        self._beyond: dict[str, set[int]] = {}  # by lane, those above it that have
        self._beyond_count = 0
        self._ids: OrderedDict[str, None] = OrderedDict()  # the one added last at the end
        self._seen = self._duplicates = self._refused = self._forgotten_ids = 0

    @classmethod
    def from_state(cls, state: bytes, settings: DeduplicatorSettings | None = None) -> Self:
        """
        Return one that remembers what the one of the state did.

        Raises:
            InvalidState: it is not what `state()` returned, or holds more than the settings allow.
        """
        dedup = cls(settings)
        body = unseal(_KIND, state)
        missing, beyond, ids = numbers_of(body.get("missing")), body.get("beyond"), body.get("ids")
        if (
            not isinstance(beyond, dict)
            or not isinstance(ids, list)
            or not all(isinstance(sequences, list) for sequences in beyond.values())
        ):
            raise InvalidState("holds something else than lanes and ids; it was not made by state()")
        count = sum(map(len, beyond.values()))
        limits = dedup._settings
        if len(missing) > limits.max_lanes or count > limits.max_beyond or len(ids) > limits.max_ids:
            raise InvalidState(
                f"holds {len(missing)} lanes, {count} sequences beyond a gap and {len(ids)} ids, which is more than "
                f"the settings allow; raise max_lanes, max_beyond or max_ids"
            )
        dedup._missing = missing
        dedup._beyond = {lane: set(sequences) for lane, sequences in beyond.items()}
        dedup._beyond_count = count
        dedup._ids = OrderedDict.fromkeys(ids)
        return dedup

    def __repr__(self) -> str:
        return f"<Deduplicator of {len(self._missing)} lanes and {len(self._ids)} ids>"

    def is_new(self, lane: str, sequence: int) -> bool:
        """
        Whether this place of a lane has not been added yet. Changes nothing.

        Raises:
            InvalidSequence: a wrong lane or sequence.
        """
        check_sequence(sequence)
        missing = self._missing.get(check_lane(lane), 1)
        return sequence >= missing and sequence not in self._beyond.get(lane, ())

    def add(self, lane: str, sequence: int) -> bool:
        """
        Remember this place of a lane, and return whether it was new.

        Raises:
            InvalidSequence: a wrong lane or sequence.
            BufferFull: earlier ones are missing, and no more can be remembered beyond them.
            TooManyLanes: it is the first of its lane, and no more lanes can be remembered.
        """
        if not self.is_new(lane, sequence):
            self._duplicates += 1
            return False
        if lane not in self._missing and len(self._missing) >= self._settings.max_lanes:
            self._refused += 1
            raise TooManyLanes(
                f"max_lanes={self._settings.max_lanes} lanes are remembered already; call forget() for those that are "
                f"finished, or raise max_lanes"
            )
        missing = self._missing.get(lane, 1)
        if sequence == missing:
            self._missing[lane] = self._absorb(lane, sequence + 1)
        else:
            if self._beyond_count >= self._settings.max_beyond:
                self._refused += 1
                raise BufferFull(
                    f"max_beyond={self._settings.max_beyond} sequences are remembered whose predecessors have not come; "
                    f"call settle() for lanes where these never will, or raise max_beyond"
                )
            self._missing[lane] = missing
            self._beyond.setdefault(lane, set()).add(sequence)
            self._beyond_count += 1
        self._seen += 1
        return True

    def settle(self, lane: str, sequence: int) -> None:
        """
        Count all of a lane up to this sequence as come, e.g. because the rest was lost; it frees what they cost.

        Raises:
            InvalidSequence: a wrong lane or sequence.
            TooManyLanes: the lane is unknown, and no more lanes can be remembered.
        """
        check_sequence(sequence)
        missing = self._missing.get(check_lane(lane))
        if missing is None and len(self._missing) >= self._settings.max_lanes:
            raise TooManyLanes(f"max_lanes={self._settings.max_lanes} lanes are remembered already; raise max_lanes")
        if sequence < (missing or 1):
            return
        beyond = self._beyond.get(lane)
        if beyond is not None:
            settled = {each for each in beyond if each <= sequence}
            beyond -= settled
            self._beyond_count -= len(settled)
        self._missing[lane] = self._absorb(lane, sequence + 1)

    def forget(self, lane: str) -> None:
        """
        Forget a lane that is finished. What comes of it afterwards is new.
        """
        self._missing.pop(check_lane(lane), None)
        self._beyond_count -= len(self._beyond.pop(lane, ()))

    def is_new_id(self, message_id: str) -> bool:
        """
        Whether this id of the application's own is not among those remembered. Changes nothing.

        Raises:
            InvalidInput: not text of at least one character.
        """
        return _check_id(message_id) not in self._ids

    def add_id(self, message_id: str) -> bool:
        """
        Remember this id, and return whether it was new. For one too many the oldest is forgotten.

        Raises:
            InvalidInput: not text of at least one character.
        """
        if not self.is_new_id(message_id):
            # It counts as recent again: what came twice is the likeliest to come a third time.
            self._ids.move_to_end(message_id)
            self._duplicates += 1
            return False
        if len(self._ids) >= self._settings.max_ids:
            self._ids.popitem(last=False)
            self._forgotten_ids += 1
        self._ids[message_id] = None
        self._seen += 1
        return True

    def state(self) -> bytes:
        """
        Return everything that is remembered. Save it together with what was done, and acknowledge afterwards.
        """
        beyond = {lane: sorted(sequences) for lane, sequences in self._beyond.items()}
        return seal(_KIND, {"missing": self._missing, "beyond": beyond, "ids": list(self._ids)})

    def stats(self) -> DeduplicatorStats:
        """
        Return the numbers of this moment.
        """
        return DeduplicatorStats(
            seen=self._seen,
            duplicates=self._duplicates,
            refused=self._refused,
            lanes=len(self._missing),
            beyond=self._beyond_count,
            ids=len(self._ids),
            forgotten_ids=self._forgotten_ids,
        )

    def _absorb(self, lane: str, missing: int) -> int:
        """
        Return the next sequence that has not come, from `missing` on, and drop those before it one by one.
        """
        beyond = self._beyond.get(lane)
        if beyond is None:
            return missing
        while missing in beyond:
            beyond.remove(missing)
            self._beyond_count -= 1
            missing += 1
        if not beyond:
            del self._beyond[lane]
        return missing


def _check_id(value: object) -> str:
    if not isinstance(value, str) or not value:
        what = "empty" if value == "" else shown(value)
        raise InvalidInput("message_id", f"must be text of at least one character, not {what}")
    return value
