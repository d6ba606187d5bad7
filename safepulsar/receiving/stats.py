"""
The numbers of the receiving side.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ReorderStats:
    """
    A `ReorderBuffer` at one moment.

    Args:
        released: items that came out so far.
        duplicates: dropped so far, because their place had been released or skipped, or was taken by one that waits.
        refused: not taken so far, because a bound was reached.
        waiting_messages: items that wait behind a gap now.
        waiting_bytes: the sum of their sizes.
        lanes: that are remembered.
        blocked_lanes: of these, in how many something waits.
        skipped_gaps: given up so far.
        skipped_sequences: how many were missing in those.
    """

    released: int
    duplicates: int
    refused: int
    waiting_messages: int
    waiting_bytes: int
    lanes: int
    blocked_lanes: int
    skipped_gaps: int
    skipped_sequences: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeduplicatorStats:
    """
    A `Deduplicator` at one moment.

    Args:
        seen: added so far that were new.
        duplicates: added so far that were not.
        refused: not taken so far, because a bound was reached.
        lanes: that are remembered.
        beyond: sequences that are remembered one by one, because earlier ones of their lanes have not come.
        ids: ids of the application that are remembered.
        forgotten_ids: so far, to make room: a duplicate of one of these would not be recognised.
    """

    seen: int
    duplicates: int
    refused: int
    lanes: int
    beyond: int
    ids: int
    forgotten_ids: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiverStats:
    """
    An `OrderedReceiver` at one moment.

    Args:
        received: from the consumer so far, also again.
        handed_out: so far, also again.
        done: so far, as the application said.
        committed: of these, those whose progress is saved.
        duplicates: received so far of what was done or held already; acknowledged with it, and not handed out.
        refused: received so far and given back to the broker, because of a bound, a gap or a malformed sequence.
        unsequenced: received so far without a sequence, or with one that is malformed.
        held: received and not done now: they wait behind a gap, in order for their turn, or are handed out.
        reorder: of the buffer.
    """

    received: int
    handed_out: int
    done: int
    committed: int
    duplicates: int
    refused: int
    unsequenced: int
    held: int
    reorder: ReorderStats
