"""
Results as plots. Axes of rates begin at zero or are logarithmic, and spreads are drawn where they are known.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.latency import Latencies
from benchmarks.statistics import median, median_interval

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from benchmarks.results import Result, Results

_BROKERS = ("pulsar-lite", "Apache Pulsar")
_DPI = 110
_OURS = "#0b6e4f"
_RAW = ("#c1440e", "#e2904a", "#8a5a44", "#b59f84")
_NAIVE = "#8c8c8c"
_BROKER_COLOURS = {"pulsar-lite": "#3b6ea8", "Apache Pulsar": "#c1440e"}
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
_SHAPES = (
    ("topics", "topics"),
    ("keys", "keys, one message at a time"),
    ("size", "bytes of a message"),
    ("failing", "% of the hand-overs fail"),
)
_MANY_TICKS = 9
_PERCENTILES = (0, 50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99)


def draw_all(found: Results, folder: Path, *, source: str) -> list[Path]:
    """
    Draw every plot of which something was measured into the folder, and return their paths.

    Args:
        found: what was measured.
        folder: made if it is missing.
        source: goes into each picture, so that a test can tell from which results it was made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, draw in PLOTS.items():
        with mpl.rc_context(_STYLE):
            path = folder / f"{name}.png"
            figure = draw(found)
            if not any(axes.has_data() for axes in figure.axes):  # nothing of it was measured
                path.unlink(missing_ok=True)
                continue
            figure.savefig(path, dpi=_DPI, metadata={"Source": source, "Software": None})
        written.append(path)
    return written


def _ratios(found: Results) -> Figure:
    """
    A row for each kind of load at 100 B: the median ratio to the best raw setting, and between which values it lies.
    """
    rows: dict[str, dict[str, tuple[float, float, float, float | None]]] = {}
    for result in found.results:
        if result.subject not in {"submit", "sync", "awaiting"} or result.size_bytes != 100:  # noqa: PLR2004
            continue
        for finding in result.findings:
            if finding.name == "rate":
                rows.setdefault(result.title, {})[result.broker] = (
                    *(finding.median, finding.low, finding.high),
                    finding.at_least,
                )
    figure = Figure(figsize=(7.2, 0.38 * len(rows) + 1.6))
    axes = figure.add_subplot()
    labelled: set[str] = set()
    for number, by_broker in enumerate(rows.values()):
        for offset, broker in ((-0.14, _BROKERS[0]), (0.14, _BROKERS[1])):
            if broker not in by_broker:
                continue
            middle, low, high, wanted = by_broker[broker]
            colour = _BROKER_COLOURS[broker]
            axes.plot([low, high], [number + offset] * 2, color=colour, linewidth=2, alpha=0.45)
            label = None if broker in labelled else broker
            axes.plot(middle, number + offset, "o", color=colour, markersize=5, label=label)
            labelled.add(broker)
            if wanted is not None:
                label = None if "goal" in labelled else "goal"
                axes.plot([wanted] * 2, [number - 0.3, number + 0.3], color="#555555", linewidth=1, label=label)
                labelled.add("goal")
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xscale("log", base=2)
    low_end, high_end = axes.get_xlim()
    powers = [power for power in range(-10, 11) if low_end <= 2.0**power <= high_end]
    ticks = [2.0**power for power in powers if len(powers) < _MANY_TICKS or not power % 2]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    figure.supxlabel(
        "messages per second at 100 B, as a multiple of the raw client's at its best setting\n"
        "(dot: median of the rounds; bar: between which values the true median lies)",
        fontsize=8,
    )
    figure.legend(loc="outside upper center", ncols=3, fontsize=8)
    return figure


def _send_by_threads(found: Results) -> Figure:
    return _panels(found, lambda axes, broker: _lines(axes, _points(found, "send by threads", broker), "threads"))


def _producers_by_threads(found: Results) -> Figure:
    """
    Grouped bars, with the spread of the rounds.
    """

    def draw(axes: Axes, broker: str) -> None:
        points = _points(found, "producers by threads", broker)
        names = list(dict.fromkeys(name for point in points for name in point.figures))
        width = 0.8 / max(1, len(names))
        for place, (name, colour) in enumerate(_coloured(names)):
            middles = [median(point.figures[name]["rate"]) / 1000 for point in points]
            ends = [median_interval(point.figures[name]["rate"]) for point in points]
            spread = [
                [middle - low / 1000 for middle, (low, _) in zip(middles, ends, strict=True)],
                [high / 1000 - middle for middle, (_, high) in zip(middles, ends, strict=True)],
            ]
            where = [number + (place - (len(names) - 1) / 2) * width for number in range(len(points))]
            axes.bar(where, middles, width, color=colour, label=name, yerr=spread, error_kw={"linewidth": 1})
        axes.set_xticks(range(len(points)), [f"{point.x:g}" for point in points])
        axes.set_xlabel("threads")
        axes.set_ylabel("thousand messages per second")
        axes.grid(visible=False, axis="x")

    return _panels(found, draw)


def _latency(found: Results) -> Figure:
    """
    Percentiles on an axis where each nine takes the same room.
    """

    def draw(axes: Axes, broker: str) -> None:
        result = found.find("send-8", broker, 100)
        names = [] if result is None else [name for name in result.latencies if name != "naive, a client per send"]
        for name, colour in _coloured(names):
            assert result is not None  # noqa: S101 - there are names
            histogram = Latencies(str(result.latencies[name]["histogram"]))
            enough = [percent for percent in _PERCENTILES if len(histogram) * (1 - percent / 100) >= 1]
            axes.plot(
                [1 / (1 - percent / 100) for percent in enough],
                [histogram.percentile_us(percent) / 1000 for percent in enough],
                color=colour,
                label=name,
                linewidth=2 if colour == _OURS else 1.3,
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        ticks = (2, 10, 100, 1000, 10_000)
        axes.set_xticks(ticks, [f"{100 - 100 / tick:g} %" for tick in ticks])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("of all calls took no longer than")
        axes.set_ylabel("ms")

    return _panels(found, draw)


def _shape(found: Results) -> Figure:
    """
    One panel a series that was measured, on the first broker that was.
    """
    broker = next((name for name in reversed(_BROKERS) if any(r.broker == name for r in found.results)), _BROKERS[0])
    measured = [(series, label) for series, label in _SHAPES if _points(found, series, broker)]
    rows = (len(measured) + 1) // 2
    figure = Figure(figsize=(7.6, 2.8 * max(1, rows)))
    for number, (series, label) in enumerate(measured, start=1):
        axes = figure.add_subplot(rows, 2, number)
        _lines(axes, _points(found, series, broker), label, linear_x=series == "failing")
        axes.legend(fontsize=8)
    figure.suptitle(f"messages per second on {broker}", x=0.01, ha="left", fontsize=10)
    return figure


def _web(found: Results) -> Figure:
    """
    A service with the naive code, with the best raw code and with safepulsar: how long a request takes, and how many there are.
    """
    groups = [
        result
        for case in ("web-send", "web-send-flask")
        for broker in _BROKERS
        if (result := found.find(case, broker)) is not None
    ]
    figure = Figure(figsize=(7.6, 0.85 * len(groups) + 1.6))
    latency, rate = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    ticks, labelled = [], set()
    for group, result in enumerate(groups):
        raw = max((name for name in result.figures if name.startswith("raw")), key=partial(_rate, result))
        rows = {"naive, a client per request": _NAIVE, raw: _RAW[0], "safepulsar send": _OURS}
        ticks.append((4 * group + 1, f"{result.title.partition(',')[0]}\n{result.broker}"))
        for place, (name, colour) in enumerate(rows.items(), start=4 * group):
            middle, most = (median(result.figures[name][figure]) / 1000 for figure in ("p50_us", "p99_us"))
            label = "raw, one producer, the best setting" if name == raw else name
            latency.plot([middle, most], [place] * 2, color=colour, linewidth=2, alpha=0.45)
            latency.plot(most, place, "|", color=colour, markersize=9, markeredgewidth=2)
            label_once = None if label in labelled else label
            latency.plot(middle, place, "o", color=colour, markersize=5, label=label_once)
            labelled.add(label)
            note = {"xytext": (6, 0), "textcoords": "offset points", "va": "center", "fontsize": 8, "color": "#333333"}
            latency.annotate(f"{_three(middle)} to {_three(most)} ms", (most, place), **note)
            requests = _rate(result, name)
            rate.barh(place, requests, 0.7, color=colour)
            rate.annotate(_three(requests), (requests, place), **note)
    latency.set_xscale("log")
    low, high = latency.get_xlim()
    latency.set_xlim(10 ** math.floor(math.log10(low)), 6 * high)  # with room for numbers
    latency.minorticks_off()
    latency.xaxis.set_major_formatter(lambda value, _: f"{value:,g} ms")
    latency.set_xlabel("time of a request: median (dot) to p99 (line)")
    latency.set_yticks([place for place, _ in ticks], [name for _, name in ticks])
    latency.invert_yaxis()
    rate.set_xlim(0, 1.2 * rate.get_xlim()[1])
    rate.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    rate.set_xlabel("requests per second")
    for axes in (latency, rate):
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
    figure.legend(*latency.get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8)
    return figure


def _rate(result: Result, name: str) -> float:
    return median(result.figures[name]["rate"])


def _three(value: float) -> str:
    """
    Three digits, and no more of them than are known.
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004 - three digits


def _panels(found: Results, draw: Callable[[Axes, str], None]) -> Figure:
    """
    One panel a broker, side by side, with one legend below.
    """
    brokers = [name for name in _BROKERS if any(result.broker == name for result in found.results)] or [_BROKERS[0]]
    figure = Figure(figsize=(3.8 * len(brokers), 3.9))
    first: Axes | None = None
    for number, broker in enumerate(brokers, start=1):
        axes = figure.add_subplot(1, len(brokers), number, sharey=first)
        first = first or axes
        draw(axes, broker)
        axes.set_title(broker, loc="left", fontsize=10)
    if first is not None:
        handles, labels = first.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8)
    return figure


def _lines(axes: Axes, points: Sequence[Result], label: str, *, linear_x: bool = False) -> None:
    names = list(dict.fromkeys(name for point in points for name in point.figures))
    for name, colour in _coloured(names):
        mine = [point for point in points if name in point.figures]
        rates = [point.figures[name]["rate"] for point in mine]
        middles = [median(each) for each in rates]
        ends = [median_interval(each) for each in rates]
        x = [point.x for point in mine]
        axes.fill_between(
            x, [low for low, _ in ends], [high for _, high in ends], color=colour, alpha=0.15, linewidth=0
        )
        axes.plot(x, middles, "o-", color=colour, label=name, linewidth=2 if colour == _OURS else 1.3, markersize=4)
    if not linear_x:
        axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([point.x for point in points], [_short(point.x) for point in points])
    axes.minorticks_off()
    _whole_decades(axes)
    axes.yaxis.set_major_formatter(lambda value, _: _short(value))
    axes.set_xlabel(label)
    axes.set_ylabel("messages per second")


def _whole_decades(axes: Axes) -> None:
    """
    Let a logarithmic axis begin and end at a power of ten, so that there are two numbers on it at least.
    """
    low, high = axes.get_ylim()
    axes.set_ylim(10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high)))


def _coloured(names: Sequence[str]) -> list[tuple[str, str]]:
    others = iter(_RAW * len(names))
    found = []
    for name in names:
        ours = name.startswith("safepulsar") and "none fails" not in name
        found.append((name, _NAIVE if "naive" in name else _OURS if ours else next(others)))
    return found


def _points(found: Results, series: str, broker: str) -> list[Result]:
    points = [result for result in found.results if result.series == series and result.broker == broker]
    return sorted((point for point in points if point.size_bytes in (0, 100)), key=lambda point: point.x)


def _short(value: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


PLOTS: dict[str, Callable[[Results], Figure]] = {
    "ratios": _ratios,
    "send-by-threads": _send_by_threads,
    "producers-by-threads": _producers_by_threads,
    "latency": _latency,
    "shape": _shape,
    "web": _web,
}
