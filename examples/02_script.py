"""
A script that sends many messages, says what became of them, and ends with an exit code that tells.

    python examples/02_script.py 1000
"""

from __future__ import annotations

import os
import sys

from safepulsar import RetryingSender

URL = os.environ.get("SAFEPULSAR_URL", "pulsar://localhost:6650")


def main(count: int) -> int:
    """
    Send so many readings; 0 if all of them are in the topic.
    """
    readings = ({"sensor": number % 10, "value": number} for number in range(count))
    with RetryingSender(URL, failed_messages="failed/readings.db") as sender:
        # As fast as it goes: a generator is enough, because only so much is taken of it as there is room.
        report = sender.send_many("readings", readings)
    print(f"{report.delivered} delivered, {report.failed} kept")
    if report.failed:
        print("send them again by: safepulsar failed replay --failed failed/readings.db", file=sys.stderr)
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
