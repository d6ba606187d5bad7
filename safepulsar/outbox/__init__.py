"""
Messages on disk before they are accepted, so that a kill -9 between the acceptance and the send loses none.
"""

from safepulsar.outbox.claim import OutboxClaim
from safepulsar.outbox.outbox import Outbox
from safepulsar.outbox.row import OutboxRow, OutboxStats

__all__ = ["Outbox", "OutboxClaim", "OutboxRow", "OutboxStats"]
