"""
The dashboard as a picture, for those who have no Grafana at hand: each panel with what a Prometheus answers.

    python -m tools.dashboard_picture http://localhost:9090 docs/pictures/dashboard.svg --minutes 5
"""

from __future__ import annotations

import argparse
import json
import math
import time
import urllib.parse
import urllib.request
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_DASHBOARD: Final = Path(__file__).parents[1] / "deploy" / "grafana" / "safepulsar.json"
_COLUMN, _ROW, _GAP = 50, 26, 8  # pixels of a cell of the grid, and between panels
_COLORS: Final = ("#73bf69", "#5794f2", "#f2495c", "#ff9830", "#b877d9", "#8ab8ff", "#fade2a", "#96d98d")
_POINTS: Final = 90
_NAMES: Final = 5  # in a legend
_THOUSAND: Final = 1000.0

Point = tuple[float, float]
Line = tuple[str, "list[Point]"]


def main() -> None:
    """
    Ask, draw, write.
    """
    parser = argparse.ArgumentParser(prog="python -m tools.dashboard_picture", description=__doc__)
    parser.add_argument("url", help="of Prometheus")
    parser.add_argument("file", type=Path, help="an .svg")
    parser.add_argument("--minutes", type=float, default=5.0)
    arguments = parser.parse_args()
    end = time.time()
    dashboard = json.loads(_DASHBOARD.read_text(encoding="utf-8"))
    picture = draw(dashboard, arguments.url, end - arguments.minutes * 60, end)
    arguments.file.write_text(picture, encoding="utf-8")
    print(f"{arguments.file}: {len(picture):,} bytes")


def draw(dashboard: dict[str, Any], url: str, start: float, end: float) -> str:
    """
    All panels, from one moment to another.
    """
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"]) * _ROW + 2 * _GAP
    width = 24 * _COLUMN + 2 * _GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#111217"/>',
    ]
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        x, y = _GAP + place["x"] * _COLUMN, _GAP + place["y"] * _ROW
        parts.append(f'<g transform="translate({x},{y})">')
        if panel["type"] == "row":
            parts.append(
                f'<text x="4" y="18" fill="#ccccdc" font-size="14" font-weight="bold">{escape(panel["title"])}</text>'
            )
        else:
            lines = [line for target in panel["targets"] for line in _ask(url, target, start, end)]
            size = place["w"] * _COLUMN - _GAP, place["h"] * _ROW - _GAP
            parts += _panel(panel, lines, size, (start, end))
        parts.append("</g>")
    return "\n".join([*parts, "</svg>", ""])


def _ask(url: str, target: dict[str, Any], start: float, end: float) -> Iterator[Line]:
    expression = target["expr"]
    for name, value in {"$__rate_interval": "20s", "$job": ".*", "$instance": ".*"}.items():
        expression = expression.replace(name, value)
    step = max(1.0, (end - start) / _POINTS)
    query = urllib.parse.urlencode({"query": expression, "start": start, "end": end, "step": step})
    with urllib.request.urlopen(f"{url}/api/v1/query_range?{query}", timeout=30) as answer:
        found = json.load(answer)["data"]["result"]
    for series in found:
        name = target["legendFormat"]
        for label, value in series["metric"].items():
            name = name.replace("{{" + label + "}}", value)
        values = [(float(at), float(value)) for at, value in series["values"]]
        yield name, [(at, value) for at, value in values if math.isfinite(value)]


def _panel(panel: dict[str, Any], lines: Sequence[Line], size: tuple[int, int], span: Point) -> Iterator[str]:
    width, height = size
    defaults = panel["fieldConfig"]["defaults"]
    unit = defaults["unit"]
    yield f'<rect width="{width}" height="{height}" rx="3" fill="#181b1f" stroke="#2c3235"/>'
    yield f'<text x="8" y="17" fill="#d8d9da" font-size="12">{escape(panel["title"])}</text>'
    if panel["type"] == "stat":
        last = next((points[-1][1] for _, points in lines if points), None)
        color = next(
            (step["color"] for step in reversed(defaults.get("thresholds", {}).get("steps", []))
             if last is not None and (step["value"] is None or last >= step["value"])), "green"
        )  # fmt: skip
        shown = "no data" if last is None else _shown(last, unit)
        fill = {"green": _COLORS[0], "yellow": _COLORS[6], "red": _COLORS[2]}[color]
        yield f'<text x="{width / 2}" y="{height / 2 + 20}" fill="{fill}" font-size="36" text-anchor="middle">{shown}</text>'
        return
    top = max((value for _, points in lines for _, value in points), default=0.0) or 1.0
    left, right, upper, lower = 52, width - 8, 28, height - 34
    for share in (0.0, 0.5, 1.0):
        at = lower - share * (lower - upper)
        yield f'<line x1="{left}" y1="{at:.0f}" x2="{right}" y2="{at:.0f}" stroke="#2c3235"/>'
        yield f'<text x="{left - 5}" y="{at + 4:.0f}" fill="#8e8e8e" text-anchor="end">{_shown(share * top, unit)}</text>'
    begin, end = span
    x = left
    for place, (name, points) in enumerate(lines):
        color = _COLORS[place % len(_COLORS)]
        path = " ".join(
            f"{left + (at - begin) / (end - begin) * (right - left):.0f},{lower - value / top * (lower - upper):.1f}"
            for at, value in points
        )
        yield f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.3"/>'
        if place < _NAMES:
            text = f"{name[:22]} {_shown(points[-1][1], unit) if points else ''}"
            yield f'<rect x="{x}" y="{height - 19}" width="9" height="3" fill="{color}"/>'
            yield f'<text x="{x + 13}" y="{height - 13}" fill="#ccccdc" font-size="10">{escape(text)}</text>'
            x += 22 + int(5.6 * len(text))


def _shown(value: float, unit: str) -> str:
    if unit == "percentunit":
        return f"{value * 100:.3g}%"
    if unit == "s":
        return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"
    suffix = {"ops": "/s", "bytes": " B", "Bps": " B/s"}.get(unit, "")
    for letter in ("", "k", "M"):
        if abs(value) < _THOUSAND:
            return f"{value:.3g}{letter}{suffix}"
        value /= _THOUSAND
    return f"{value:.3g}G{suffix}"


if __name__ == "__main__":
    main()
