"""
The pages show what is in the file of results, and nothing else.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from benchmarks import pages, sections
from benchmarks.results import save
from tests.benchmarks import samples

if TYPE_CHECKING:
    from pathlib import Path

_MAX_BYTES = 150_000


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.name)
def test_the_page_agrees_with_the_results(page: Path) -> None:
    """
    Written anew from `benchmarks/results.json` it stays as it is: `python -m benchmarks plot` was not forgotten.
    """
    text = page.read_text(encoding="utf-8")
    assert "<!-- benchmarks: " in text
    assert pages.filled(text, pages.shown_results()) == text


def test_the_plots_were_made_from_the_results() -> None:
    """
    Each carries the fingerprint of its file, and none is without one.
    """
    plots = sorted(pages.PLOTS.glob("*.png"))
    if pages.shown_results() is None:
        assert plots == []
        return
    assert plots
    for plot in plots:
        assert _source(plot) == pages.fingerprint(pages.SHOWN), plot.name
        assert plot.stat().st_size < _MAX_BYTES


def test_pages_and_plots_are_made_from_a_file(tmp_path: Path) -> None:
    """
    Every section and every plot; a second time nothing changes.
    """
    save(samples.results(), tmp_path / "measured.json")
    page = tmp_path / "page.md"
    page.write_text("".join(f"<!-- benchmarks: {name} -->\n<!-- end -->\n" for name in sections.SECTIONS))
    shown, plots = tmp_path / "shown.json", tmp_path / "plots"
    assert pages.main(tmp_path / "measured.json", pages=(page,), shown=shown, plots=plots) == 0
    text = page.read_text(encoding="utf-8")
    assert "| submit, 1 thread | 100 | 2.50 (2.50–2.50) | 2.50 (2.50–2.50) | ≥ 2 × |" in text
    assert "| send_many | 100 | **2.50** (2.50–2.50) | **2.50** (2.50–2.50) | ≥ 5 × |" in text
    assert "Not measured yet" not in text
    assert pages.main(pages=(page,), shown=shown, plots=plots) == 0
    assert page.read_text(encoding="utf-8") == text
    drawn = sorted(plots.iterdir())
    assert {f"({plot.parent.name}/{plot.name})" in text for plot in drawn} == {True}
    for plot in drawn:
        assert _source(plot) == pages.fingerprint(shown)
        assert 5_000 < plot.stat().st_size < _MAX_BYTES


def test_without_results_the_pages_say_so() -> None:
    """
    In every section, with the command that measures.
    """
    for name in sections.SECTIONS:
        assert "make bench" in sections.section(name, None)


def test_a_page_that_asks_for_something_unknown_is_found_out() -> None:
    """
    Rather than left empty.
    """
    with pytest.raises(KeyError, match="nonsense"):
        pages.filled("<!-- benchmarks: nonsense -->\n<!-- end -->\n", None)


def _source(plot: Path) -> str | None:
    """
    The text that a PNG carries under `Source`.
    """
    data = plot.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    place = 8
    while place < len(data):
        length, kind = struct.unpack(">I4s", data[place : place + 8])
        if kind == b"tEXt":
            name, _, text = data[place + 8 : place + 8 + length].partition(b"\0")
            if name == b"Source":
                return text.decode()
        place += 12 + length
    return None
