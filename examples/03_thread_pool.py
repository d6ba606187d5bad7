"""
A pool of threads that do something slow and send what comes of it. All share one sender, and so one producer.

    python examples/03_thread_pool.py
"""

from __future__ import annotations

import os
import time

from safepulsar import RetryingSender
from safepulsar.adapters.threads import ThreadSender

URL = os.environ.get("SAFEPULSAR_URL", "pulsar://localhost:6650")


def resize(sender: ThreadSender, number: int) -> None:
    """
    The work: it sends without waiting, because the pool waits for every fate at its end.
    """
    time.sleep(0.01)  # as if an image were made smaller
    sender.submit("images", {"image": number, "width": 640}, partition_key=f"image-{number}")


def main() -> None:
    """
    Work on a hundred images, eight at a time.
    """
    with RetryingSender(URL, failed_messages="failed/images.db") as shared, ThreadSender(shared) as sender:
        with sender.pool(max_workers=8) as pool:
            for number in range(100):
                pool.submit(resize, sender, number)
        counts = shared.stats().counts
    print(f"{counts.delivered} delivered, {counts.failed} kept")


if __name__ == "__main__":
    main()
