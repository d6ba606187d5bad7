"""
Which sequence ids a producer name may be given: what deduplication would drop silently is refused.
"""

from __future__ import annotations

from safepulsar.errors import InvalidMessage


class SequenceRule:
    """
    The ids that one named producer was given. Not thread-safe: the ledger's lock guards it.

    The broker drops an id that is not above the last one and calls that success, also with a new payload (Pulsar
    PIP-6). The client library's own count does not know the application's ids and starts below them.
    """

    def __init__(self) -> None:
        self._explicit: bool | None = None  # whether the ids are the application's; the first message decides
        self._last = 0

    def check(self, sequence_id: int | None) -> None:
        """
        Take note of the next message's id, None if it has none.

        Raises:
            InvalidMessage: not above the last one, or ids of the application and of the client library mixed.
        """
        explicit = sequence_id is not None
        if self._explicit is None:
            self._explicit = explicit
        if explicit is not self._explicit:
            problem = "is given for all messages of a producer name or for none"
            raise InvalidMessage("sequence_id", problem)
        if sequence_id is not None:
            if sequence_id <= self._last:
                problem = f"{sequence_id} is not above {self._last}, the last one accepted; ids only rise"
                raise InvalidMessage("sequence_id", problem)
            self._last = sequence_id
