"""
An import from CSV that keeps the order of each customer's purchases, whatever happens on the way.

    python examples/08_import_csv.py [FILE]

The data are CDNOW's, 69,659 purchases of 23,570 customers (Fader and Hardie). `safepulsar send --durable` does the same
from the command line, and can also be killed and run again.
"""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from safepulsar import RetryingSender

if TYPE_CHECKING:
    from collections.abc import Iterator

URL = os.environ.get("SAFEPULSAR_URL", "pulsar://localhost:6650")
ORDERS = Path(__file__).parent / "data" / "cdnow_orders.csv"


def purchases(path: Path) -> Iterator[dict[str, str]]:
    """
    Yield the rows, one after the other, so that a file of any size will do.
    """
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def main(path: Path) -> int:
    """
    Import the file; 0 if all of it is in the topic.
    """
    with RetryingSender(URL, failed_messages="failed/purchases.db") as sender:
        for purchase in purchases(path):
            # One key is one lane: it is stored in the order of the file, also where something had to be tried again.
            # While too much is in flight this waits, and so the import goes no faster than the broker.
            sender.submit("purchases", purchase, partition_key=purchase["customer_id"])
        sender.flush()
        counts = sender.stats().counts
    print(f"{counts.delivered} delivered, {counts.failed} kept")
    return 1 if counts.failed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ORDERS))
