"""
An import on trial: `safepulsar send --durable`, killed and disturbed again and again until it is done.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.brokers import read_topic

if TYPE_CHECKING:
    import random

    from tests.brokers import Broker
    from tests.cli.command import Commands, Ended

# A part of the CDNOW data; all of them where SAFEPULSAR_CDNOW names their file.
_SLICE: Final = Path(__file__).parents[2] / "examples" / "data" / "cdnow_orders.csv"
ORDERS: Final = Path(os.environ.get("SAFEPULSAR_CDNOW", _SLICE))
# Of a test in the suite; `make soak` has many more.
ROUNDS: Final = int(os.environ.get("SAFEPULSAR_ROUNDS", "2"))
_DISTURBED: Final = 6  # runs; the next one may end
_EARLY_SECONDS: Final = 0.8
_LONGEST_SECONDS: Final = 120.0
_READ_SECONDS: Final = 120.0


class Import:
    """
    Of one file, under one producer name.

    Args:
        commands: runs the command.
        broker: running; may be killed and frozen.
        topic: where to; nobody else's.
        file: a CSV with the column `customer_id`.
        flags: further options of the command.

    Attributes:
        runs: how often the command was started.
        killed: how often it was killed before its end.
        disturbances: what was done, by name and number.
    """

    def __init__(
        self, commands: Commands, broker: Broker, topic: str, file: Path, *flags: str, name: str = "orders-import"
    ) -> None:
        self.runs = 0
        self.killed = 0
        self.disturbances: Counter[str] = Counter()
        self._commands = commands
        self._broker = broker
        self._topic = topic
        self._arguments = (
            *("send", topic, file, "--url", broker.url, "--key-field", "customer_id", "--ordered", "--durable"),
            *("--producer-name", name, "--failed", "import.db", "--json", "--deadline", "30", *flags),
        )
        with file.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
        self.expected = [json.dumps(row, separators=(",", ":"), ensure_ascii=False).encode() for row in rows]

    def run(self) -> Ended:
        """
        Run it once, undisturbed.
        """
        with self._commands.start(*self._arguments) as running:
            running.process.wait(_LONGEST_SECONDS)
            return running.finish()

    def disturb_until_done(self, rng: random.Random, longest_seconds: float) -> Ended:
        """
        Start it again and again, and let something happen to it or to the broker at a random moment, until it ends with 0.

        The first run is killed, early enough that none has ended by itself by then.
        """
        ways = [self._kill, self._kill, self._kill_behind_a_frozen_broker, self._kill_broker, self._freeze_broker]
        while True:
            self.runs += 1
            with self._commands.start(*self._arguments) as running:
                process = running.process
                most = longest_seconds if self.runs > 1 else _EARLY_SECONDS
                with suppress(subprocess.TimeoutExpired):
                    process.wait(rng.uniform(0.1, most) if self.runs <= _DISTURBED else _LONGEST_SECONDS)
                if process.poll() is None:
                    assert self.runs <= _DISTURBED, f"it does not end; {running.stderr}"
                    way = rng.choice(ways) if self.runs > 1 else self._kill
                    self.disturbances[way.__name__.strip("_")] += 1
                    way(process, rng)
                    process.wait(_LONGEST_SECONDS)
                self.killed += process.returncode < 0
                ended = running.finish()
            assert "Traceback" not in ended.stderr, ended
            if ended.returncode == 0:
                return ended
            assert ended.returncode < 0 or self.runs <= _DISTURBED, ended

    def check_topic(self) -> None:
        """
        Each row once, in the order of the file.
        """
        records = read_topic(self._broker, self._topic, until=len(self.expected), timeout_seconds=_READ_SECONDS)
        stored = [record.payload for record in records]
        if stored == self.expected:
            return
        counts, rows = Counter(stored), set(self.expected)
        twice = [payload for payload, count in counts.items() if count > 1]
        missing = [payload for payload in self.expected if payload not in counts]
        strange = [payload for payload in counts if payload not in rows]
        told = f"{len(twice)} twice {twice[:3]}, {len(missing)} missing {missing[:3]}, {len(strange)} strange"
        raise AssertionError(f"{told} of {len(self.expected)} rows, or out of order; {self.disturbances}")

    def _kill(self, process: subprocess.Popen[bytes], _rng: random.Random) -> None:
        process.kill()

    def _kill_behind_a_frozen_broker(self, process: subprocess.Popen[bytes], rng: random.Random) -> None:
        # What stands in the broker's socket is stored when it goes on, and by then the next run may be there.
        self._broker.freeze()
        threading.Event().wait(rng.uniform(0, 0.2))
        process.kill()
        process.wait()
        self._broker.thaw()

    def _kill_broker(self, _process: subprocess.Popen[bytes], rng: random.Random) -> None:
        self._broker.kill()
        threading.Event().wait(rng.uniform(0, 0.5))
        self._broker.start()

    def _freeze_broker(self, _process: subprocess.Popen[bytes], rng: random.Random) -> None:
        self._broker.freeze()
        threading.Event().wait(rng.uniform(0.05, 1))
        self._broker.thaw()
