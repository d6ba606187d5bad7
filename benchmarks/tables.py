"""
Results as tables for a terminal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from benchmarks.case import FIGURES, Kind

if TYPE_CHECKING:
    from benchmarks.results import Finding, Results


_WIDTH = 160


def console() -> Console:
    """
    Return a console on which a row has one line, also where the output goes into a file.
    """
    found = Console(highlight=False)
    return found if found.is_terminal else Console(width=_WIDTH, highlight=False)


def number(value: float, finding: Finding) -> str:
    """
    Return a figure of a finding as it is printed, without its unit.
    """
    if finding.kind == Kind.RATIO.value:
        return f"{value:,.2f}"
    digits = FIGURES[finding.figure].digits
    if finding.figure == "count":
        return f"{value:g}"
    return f"{value:,.{digits}f}"


def unit(finding: Finding) -> str:
    """
    Return what stands behind it.
    """
    return "×" if finding.kind == Kind.RATIO.value else FIGURES[finding.figure].unit


def goal(finding: Finding) -> str:
    """
    Return the goal, with the direction that is meant; empty if there is none.
    """
    if finding.at_least is not None and finding.at_least == finding.at_most:
        return f"{finding.at_least:g}"
    if finding.at_least is not None:
        return f"≥ {finding.at_least:,g}"
    return "" if finding.at_most is None else f"≤ {finding.at_most:,g}"


def of_goals(found: Results) -> Table:
    """
    One row a goal.
    """
    table = Table(
        title="medians of interleaved rounds, and between which values the true one lies", title_justify="left"
    )
    for heading in ("case", "broker", "bytes", "what", "median", "between", "goal"):
        table.add_column(heading, justify="right" if heading in ("bytes", "median", "between", "goal") else "left")
    for result in found.results:
        for finding in result.findings:
            style = {None: "", True: "green", False: "bold red"}[finding.met]
            table.add_row(
                result.case,
                result.broker,
                str(result.size_bytes or ""),
                finding.name + (f" : {finding.against}" if finding.against else ""),
                f"{number(finding.median, finding)} {unit(finding)}",
                f"{number(finding.low, finding)} – {number(finding.high, finding)}",
                goal(finding),
                style=style,
            )
    return table


def side_by_side(old: Results, new: Results) -> Table:
    """
    One row a goal that both have: it changed only where the two ranges don't meet.
    """
    table = Table(title="the same goals in two results", title_justify="left")
    for heading in ("case", "broker", "bytes", "what", "old", "new", "change", ""):
        table.add_column(heading, justify="right" if heading in ("bytes", "old", "new", "change") else "left")
    before = {result.key: {finding.name: finding for finding in result.findings} for result in old.results}
    for result in new.results:
        for finding in result.findings:
            was = before.get(result.key, {}).get(finding.name)
            if was is None:
                continue
            apart = finding.low > was.high or finding.high < was.low
            table.add_row(
                result.case,
                result.broker,
                str(result.size_bytes or ""),
                finding.name,
                number(was.median, was),
                f"{number(finding.median, finding)} {unit(finding)}",
                f"{100 * (finding.median / was.median - 1):+.0f} %" if was.median else "",
                "changed" if apart else "within the noise",
                style="bold" if apart else "",
            )
    return table
