"""
Results made by hand, as a run on both brokers would make them.
"""

from __future__ import annotations

from functools import cache

from benchmarks import machine
from benchmarks.case import FULL, Case
from benchmarks.latency import Latencies
from benchmarks.results import Result, Results, judge
from benchmarks.subjects import cases

_CONTENDERS = {
    "submit": ("raw send_async, batched", "raw send_async, unbatched", "safepulsar send_many", "safepulsar submit"),
    "sync": (
        "raw, unbatched",
        "raw, batched 1 ms",
        "raw, batched 10 ms",
        "naive, a client per send",
        "safepulsar send",
    ),
    "awaiting": ("pulsar.asyncio, unbatched", "pulsar.asyncio, batched 1 ms", "safepulsar await submit"),
    "web": (
        "no message",
        "raw, unbatched",
        "raw, batched 1 ms",
        "naive, a client per request",
        "safepulsar submit",
        "safepulsar send",
    ),
    "threads": (
        "raw, one shared producer",
        "raw, one producer per thread",
        "raw, four producers in turn",
        "safepulsar, one shared sender",
    ),
    "shape": ("raw send_async, batched", "safepulsar submit, none fails", "safepulsar submit"),
}


def results() -> Results:
    """
    Every case of those subjects on both brokers; ours is always 2.5 times as fast as the best other.
    """
    found = Results(
        machine=machine.describe(),
        effort={"rounds": 5, "messages": FULL.messages, "seconds": FULL.seconds, "scale": 1.0},
        began="2026-01-02T03:04:05+00:00",
    )
    for case in cases():
        if case.subject in _CONTENDERS:
            for broker in ("pulsar-lite", "Apache Pulsar"):
                found.results.extend(_result(case, broker, size) for size in case.sizes)
    return found


@cache
def _latencies() -> dict[str, float | str]:
    found = Latencies()
    found.add([1_000_000 + 1_000 * number for number in range(5_000)])
    return found.as_json()


def _result(case: Case, broker: str, size: int) -> Result:
    figures = {}
    for number, name in enumerate(_CONTENDERS[case.subject]):
        rate = 25_000.0 if name.startswith("safepulsar") else 10_000.0 / (1 + number)
        rounds = [rate * spread for spread in (0.9, 0.95, 1.0, 1.05, 1.1)]
        figures[name] = {"rate": rounds, "cpu_us": rounds, "p50_us": rounds, "p99_us": rounds}
    return Result(
        case=case.name,
        title=case.title,
        subject=case.subject,
        broker=broker,
        size_bytes=size,
        series=case.series,
        x=case.x,
        figures=figures,
        latencies={name: dict(_latencies()) for name in figures} if case.subject == "sync" else {},
        findings=[finding for goal in case.goals if (finding := judge(goal, figures)) is not None],
        seconds=1.0,
    )
