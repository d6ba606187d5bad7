"""
`python -m benchmarks run`: the comparison on both brokers, as a table and as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from benchmarks.cases import Cases
from benchmarks.measure import Comparison, compare, import_milliseconds, machine
from safepulsar.local_broker import start_broker
from tools.pulsar.apache_pulsar import ApachePulsar

if TYPE_CHECKING:
    from collections.abc import Iterator

GOAL = 0.9
IMPORT_GOAL_MS = 30.0
SYNC_THREADS = (1, 8, 64)


def main() -> int:
    """
    Measure, print, and return 1 if a goal was missed.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("action", choices=["run"])
    parser.add_argument("--broker", choices=["lite", "real", "both"], default="both")
    parser.add_argument("--quick", action="store_true", help="few and short rounds, for a look")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    arguments = parser.parse_args()
    console = Console()
    results: list[Comparison] = []
    for result in measure(arguments.broker, quick=arguments.quick):
        results.append(result)
        console.print(f"{result.broker}, {result.name}, {result.size_bytes} B: {result.ratio:.2f} x raw", style="dim")
    raw_ms, added_ms = import_milliseconds(3 if arguments.quick else 9)
    console.print(as_table(results))
    console.print(
        f"import pulsar takes {raw_ms:.0f} ms, safepulsar {added_ms:.0f} ms more (at most {IMPORT_GOAL_MS:.0f})"
    )
    if arguments.json:
        found = {
            "machine": machine(),
            "import_ms": {"pulsar": raw_ms, "safepulsar adds": added_ms},
            "results": [result.as_json() for result in results],
        }
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return int(added_ms > IMPORT_GOAL_MS or any(result.ratio < result.goal for result in results))


def measure(brokers: str, *, quick: bool) -> Iterator[Comparison]:
    """
    Every comparison on every broker asked for.
    """
    rounds, messages, seconds = (3, 20_000, 0.5) if quick else (5, 60_000, 1.5)
    with tempfile.TemporaryDirectory(prefix="safepulsar-bench-") as folder, ExitStack() as running:
        urls: dict[str, str] = {}
        if brokers != "real":
            urls["pulsar-lite"] = running.enter_context(start_broker(Path(folder) / "lite")).url
        if brokers != "lite":
            real = running.enter_context(ApachePulsar(Path(folder) / "real"))
            real.start()
            urls["Apache Pulsar"] = real.url
        for broker, url in urls.items():
            for size in (100, 1000):
                with Cases(url, os.urandom(size), messages=messages, seconds=seconds) as cases:
                    yield compare("submit, 1 thread", broker, size, cases.asynchronous(1), rounds=rounds, goal=GOAL)
                    if size > 100:  # noqa: PLR2004 - one size is enough for the rest
                        continue
                    for threads in SYNC_THREADS:
                        name = f"send, {threads} thread{'s' if threads > 1 else ''}"
                        yield compare(name, broker, size, cases.synchronous(threads), rounds=rounds, goal=GOAL)


def as_table(results: list[Comparison]) -> Table:
    """
    One row a comparison.
    """
    table = Table(title="messages per second, medians of interleaved rounds", title_justify="left")
    for heading in ("broker", "case", "bytes", "raw, best", "safepulsar", "ratio", "goal"):
        table.add_column(heading, justify="left" if heading in ("broker", "case") else "right")
    for result in results:
        best = max(rate for case, rate in result.rates.items() if case.startswith("raw"))
        style = "bold" if result.ratio >= result.goal else "bold red"
        table.add_row(
            result.broker,
            result.name,
            str(result.size_bytes),
            f"{best:,.0f}",
            f"{result.rates['safepulsar']:,.0f}",
            f"[{style}]{result.ratio:.2f}[/]",
            f"{result.goal:.2f}",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
