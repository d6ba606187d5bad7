"""
Results as sections of the pages, in Markdown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.statistics import median
from benchmarks.tables import goal, number, unit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from benchmarks.results import Finding, Result, Results

_NOTHING = "Not measured yet: `make bench` does it, and writes what it finds here.\n"
_BROKERS = ("pulsar-lite", "Apache Pulsar")
_MISSING = "–"
# For the README: the shortest list that shows what to expect.
_README = (
    ("submit-1", 100, "rate", "`submit`, 1 thread"),
    ("submit-8", 100, "rate", "`submit`, 8 threads"),
    ("send-many-100", 100, "rate", "`send_many`"),
    ("send-1", 100, "rate", "`send`, 1 thread"),
    ("send-64", 100, "rate", "`send`, 64 threads"),
    ("await-100", 100, "rate", "`await submit`, 100 outstanding"),
)


def section(name: str, found: Results | None) -> str:
    """
    Return the Markdown of a section.

    Raises:
        KeyError: there is none of that name.
    """
    write = SECTIONS[name]
    return _NOTHING if found is None or not found.results else write(found)


def _machine(found: Results) -> str:
    described = found.machine
    versions, effort = described["versions"], found.effort
    assert isinstance(versions, dict)  # noqa: S101 - as `machine.describe` made it
    facts = [
        ("measured", found.began.replace("T", " ").replace("+00:00", " UTC")),
        ("processor", f"{described['cpu']}, {described['cores']} cores, for the brokers too"),
        ("memory", f"{described['memory_gb']} GB"),
        ("system", described["system"]),
        ("Python", described["python"]),
        ("versions", ", ".join(f"{package} {version}" for package, version in versions.items())),
        ("rounds that count", f"{effort['rounds']:g}, of {effort['messages']:,g} messages or {effort['seconds']:g} s"),
    ]
    return table(("", ""), [(name, str(value)) for name, value in facts])


def _goals(found: Results) -> str:
    return _by_broker(found, lambda _result, finding: finding.met is not None, goals=True)


def _informing(*subjects: str, skip: str = "") -> Callable[[Results], str]:
    return lambda found: _by_broker(
        found, lambda result, finding: result.subject in subjects and finding.name != skip, missing=subjects
    )


def _by_broker(
    found: Results,
    wanted: Callable[[Result, Finding], bool],
    *,
    goals: bool = False,
    missing: Sequence[str] = (),
) -> str:
    """
    A row for each finding that is wanted, with a column for each kind of broker.
    """
    rows: dict[tuple[str, str], dict[str, Finding]] = {}
    for result in found.results:
        for finding in result.findings:
            if wanted(result, finding):
                what = result.title if finding.name == "rate" else f"{result.title}: {finding.name}"
                rows.setdefault((what, _size(result)), {})[result.broker] = finding
    if not rows:
        return _missing(found, *missing)
    lines = []
    for (what, size), by_broker in rows.items():
        one = next(iter(by_broker.values()))
        # What needs no broker stands in the first column, and the other one says so.
        cells = [_cell(one), "no broker"] if "" in by_broker else [_cell(by_broker.get(name)) for name in _BROKERS]
        lines.append((what, size, *cells, f"{goal(one)} {unit(one)}".strip() if goals else unit(one)))
    return table(("", "bytes", *_BROKERS, "goal" if goals else ""), lines, right=(1, 2, 3, *((4,) if goals else ())))


def _cell(finding: Finding | None) -> str:
    """
    Return the median and between which values the true one lies; bold if the goal was missed.
    """
    if finding is None:
        return _MISSING
    middle = number(finding.median, finding)
    middle = f"**{middle}**" if finding.met is False else middle
    return f"{middle} ({number(finding.low, finding)}–{number(finding.high, finding)})"


def _plot(name: str, alternative: str, subject: str | None = None) -> Callable[[Results], str]:
    def section(found: Results) -> str:
        if subject is not None and all(result.subject != subject for result in found.results):
            return _missing(found, subject)  # its picture would be empty, and is not made
        return f"![{alternative}](plots/{name}.png)\n"

    return section


def _send(found: Results) -> str:
    return _rates(found, "send by threads", "thread")


def _threads(found: Results) -> str:
    return _rates(found, "producers by threads", "thread")


def _rates(found: Results, series: str, of_what: str, size_bytes: int = 100) -> str:
    """
    Messages per second of every contender of a series, a row for each.
    """
    lines = []
    for broker in _BROKERS:
        points = [
            result
            for result in found.results
            if result.series == series and result.broker == broker and result.size_bytes == size_bytes
        ]
        contenders = dict.fromkeys(name for point in points for name in point.figures)
        for name in contenders:
            rates = [f"{_median(point, name, 'rate'):,.0f}" if name in point.figures else _MISSING for point in points]
            lines.append((broker, name, *rates))
        headings = ("", "", *(f"{point.x:,.0f} {of_what}{'s' if point.x > 1 else ''}" for point in points))
    return table(headings, lines, right=range(2, len(headings))) if lines else _NOTHING


def _latency(found: Results) -> str:
    lines = []
    for result in found.results:
        if result.subject == "sync" and result.size_bytes == 100:  # noqa: PLR2004 - one size will do
            for name, latencies in result.latencies.items():
                figures = [
                    f"{float(latencies[f'p{percent}_us']) / 1000:,.1f}" for percent in ("50", "90", "99", "99.9")
                ]
                lines.append((result.broker, result.title, name, *figures))
    headings = ("", "", "ms", "median", "90 %", "99 %", "99.9 %")
    return table(headings, lines, right=range(3, 7)) if lines else _missing(found, "sync")


def _languages(found: Results) -> str:
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for result in found.results:
        if result.subject == "languages":
            for name in result.figures:
                rate = f"{_median(result, name, 'rate'):,.0f}"
                rows.setdefault((result.title, _size(result), name), {})[result.broker] = rate
    lines = [(*key, *(by_broker.get(name, _MISSING) for name in _BROKERS)) for key, by_broker in rows.items()]
    headings = ("", "bytes", "messages per second", *_BROKERS)
    return table(headings, lines, right=(1, 3, 4)) if lines else _missing(found, "languages")


def _web(found: Results) -> str:
    lines = []
    for result in found.results:
        if result.subject == "web":
            for name in result.figures:
                middle, most = (_median(result, name, figure) / 1000 for figure in ("p50_us", "p99_us"))
                cells = (f"{_median(result, name, 'rate'):,.0f}", f"{middle:,.2f}", f"{most:,.2f}")
                lines.append((result.broker, result.title, name, *cells, f"{_median(result, name, 'cpu_us'):,.0f}"))
    headings = ("", "", "", "requests per second", "median, ms", "p99, ms", "µs CPU per request")
    return table(headings, lines, right=range(3, 7)) if lines else _missing(found, "web")


def _missing(found: Results, *subjects: str) -> str:
    why = [f"{case}: {text}" for case, text in {**found.missing, **found.failed}.items()]
    return f"Nothing of {', '.join(sorted(subjects))} was measured. {' '.join(why)}".strip() + "\n"


def _readme(found: Results) -> str:
    lines = []
    for case, size, name, what in _README:
        cells = []
        for broker in _BROKERS:
            result = found.find(case, broker, size)
            finding = next((each for each in result.findings if each.name == name), None) if result else None
            cells.append(f"{number(finding.median, finding)} ×" if finding else _MISSING)
        lines.append((what, *cells))
    headings = ("messages per second, to the raw client at its best", *_BROKERS)
    picture = "![Throughput as a multiple of the raw client's, by kind of load](docs/plots/ratios.png)\n"
    return table(headings, lines, right=(1, 2)) + "\n" + picture


def _median(result: Result, contender: str, figure: str) -> float:
    return median(result.figures[contender][figure])


def _size(result: Result) -> str:
    return f"{result.size_bytes:,}" if result.size_bytes else ""


def table(headings: Sequence[str], lines: Iterable[Sequence[str]], right: Iterable[int] = ()) -> str:
    """
    Return a table in Markdown.
    """
    to_the_right = set(right)
    marks = ["---:" if column in to_the_right else "---" for column in range(len(headings))]
    rows = [headings, marks, *lines]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows)


SECTIONS: dict[str, Callable[[Results], str]] = {
    "machine": _machine,
    "goals": _goals,
    "ratios-plot": _plot("ratios", "Throughput as a multiple of the raw client's, by kind of load"),
    "send": _send,
    "send-plot": _plot("send-by-threads", "Messages per second of send, by threads"),
    "threads": _threads,
    "threads-plot": _plot(
        "producers-by-threads", "Messages per second by threads, with one producer or several", "threads"
    ),
    "latency": _latency,
    "latency-plot": _plot("latency", "Latency of send from 8 threads, by percentile"),
    "languages": _languages,
    "pipeline": _informing("steps", "pipeline"),
    "shape": _informing("shape", skip="CPU per message"),
    "shape-plot": _plot("shape", "Messages per second by topics, keys, size and failures", "shape"),
    "store": _informing("store", "outbox", "reorder"),
    "cost": _informing("cost", "pool", "imports", "memory"),
    "web": _web,
    "web-plot": _plot("web", "Latency and requests per second of a service: naive, raw and safe", "web"),
    "readme": _readme,
}
