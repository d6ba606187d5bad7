"""
The mark behind the numbers of an exactly-once producer: others may have used its name, and count from 1, too.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from safepulsar.exactly_once.producer_journal import JournalClaim

_BYTES = 4


def mark_of(source: str | None) -> str:
    """
    The mark of whatever the numbers count, the same for ever; empty if nobody said what that is.
    """
    return "" if source is None else hashlib.blake2b(source.encode(), digest_size=_BYTES).hexdigest()


def source_of(claim: JournalClaim | None) -> str:
    """
    What a sender's own numbers count: drawn once for a store, and kept in its journal, if there is one.

    Raises:
        StoreError: the journal.
    """
    source = None if claim is None else claim.source
    if source is None:
        source = os.urandom(16).hex()
        if claim is not None:
            claim.set_source(source)
    return source
