"""
Writes what was measured into the pages: plots, and the tables between `<!-- benchmarks: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import results, sections

if TYPE_CHECKING:
    from benchmarks.results import Results

ROOT = Path(__file__).parents[1]
SHOWN = Path(__file__).parent / "results.json"
PLOTS = ROOT / "docs" / "plots"
PAGES = (ROOT / "docs" / "performance.md", ROOT / "README.md")
_SECTION = re.compile(
    r"(?<=<!-- benchmarks: )(?P<name>[a-z-]+)(?P<head> -->\n)(?P<text>.*?)(?=<!-- end -->)", re.DOTALL
)


def main(path: Path | None = None, *, pages: tuple[Path, ...] = PAGES, shown: Path = SHOWN, plots: Path = PLOTS) -> int:
    """
    Make `path` what the pages show, and write them anew.

    Raises:
        ResultsError: the file can't be used.
    """
    found = results.load(path or shown)
    if path is not None:
        results.save(found, shown)
    from benchmarks import plots as drawing  # noqa: PLC0415 - matplotlib takes a second

    for name in drawing.draw_all(found, plots, source=fingerprint(shown)):
        print(f"wrote {name}")
    for page in pages:
        page.write_text(filled(page.read_text(encoding="utf-8"), found), encoding="utf-8")
        print(f"wrote {page}")
    return 0


def shown_results(path: Path = SHOWN) -> Results | None:
    """
    Return what the pages show, None as long as nothing was measured.
    """
    return results.load(path) if path.exists() else None


def fingerprint(path: Path) -> str:
    """
    Return what a plot carries to say from which file it was made.
    """
    return hashlib.sha256(path.read_bytes()).hexdigest()


def filled(text: str, found: Results | None) -> str:
    """
    Return a page with its sections written anew.

    Raises:
        KeyError: it asks for one that does not exist.
    """

    def section(match: re.Match[str]) -> str:
        return match["name"] + match["head"] + "\n" + sections.section(match["name"], found) + "\n"

    return _SECTION.sub(section, text)
