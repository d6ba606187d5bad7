"""
Flushing and closing producers that nobody uses, a few at a time and never for longer than allowed.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safepulsar.broker.transport import TransportProducer

_END_SECONDS: Final = 1.0  # a flush whose producer is closed ends at once; a daemon thread in it must not meet the exit


def flush_and_close(producers: Sequence[TransportProducer], until: float) -> None:
    """
    Flush each on a thread of its own, all at once, and close them; a flush that hangs is ended by the close.

    Where no thread can be had, as at the exit of Python 3.12, it closes without a flush: whoever gave back the
    producer had the answers to all that it sent, or gave them up.

    Args:
        producers: as many as there may be threads.
        until: when to close at the latest, by `time.monotonic`.
    """
    flushes: list[threading.Thread] = []
    for producer in producers:
        flush = threading.Thread(target=producer.flush, name="safepulsar-flush", daemon=True)
        try:
            flush.start()
        except RuntimeError:
            break
        flushes.append(flush)
    for flush in flushes:
        flush.join(max(0.0, until - time.monotonic()))
    for producer in producers:
        producer.close()
    for flush in flushes:
        flush.join(_END_SECONDS)
