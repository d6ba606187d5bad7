"""
Runs a real Apache Pulsar in the foreground until Ctrl-C or SIGTERM: `python -m tools.pulsar [--data FOLDER]`.

Its first line on standard output is the URL, the second the admin URL. Without a folder its data are gone afterwards.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
import threading
from pathlib import Path

from safepulsar.broker_process import BrokerNotStarted
from tools.pulsar.apache_pulsar import ApachePulsar
from tools.pulsar.jars import PulsarUnavailableError


def main() -> int:
    """
    Run it; the result is the exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m tools.pulsar", description="Runs a real Apache Pulsar standalone.")
    parser.add_argument("--data", type=Path, help="keep the data in this folder, and start on what is there")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # both ends take the same way out
    with contextlib.ExitStack() as at_end:
        folder = arguments.data or Path(at_end.enter_context(tempfile.TemporaryDirectory(prefix="safepulsar-pulsar-")))
        try:
            broker = at_end.enter_context(ApachePulsar(folder))
        except (BrokerNotStarted, PulsarUnavailableError) as exc:
            print(exc, file=sys.stderr)
            return 1
        print(broker.url, broker.admin_url, sep="\n", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
