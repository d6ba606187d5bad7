"""
The pages of the documentation, taken apart: snippets, anchors, links and tables.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[1]
PAGES: Final = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

_FENCE: Final = "```"
_CODE: Final = re.compile(r"(`+)(.+?)\1")
_HEADING: Final = re.compile(r"#{1,6} +(.*?) *#*")
_LINK: Final = re.compile(r"\]\(([^()\s]+)\)|^\[[^\]]+\]: +(\S+)$")
_LINK_TEXT: Final = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_NOT_IN_SLUGS: Final = re.compile(r"[^\w\- ]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Snippet:
    """
    A fenced block of a page.

    Args:
        language: what stands behind the fence; empty if nothing does.
        text: what stands in it, with its last line break.
        line: where its first line stands in the page, from 1.
    """

    language: str
    text: str
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """
    A link of a page.

    Args:
        target: as it is written.
        line: where it stands, from 1.
    """

    target: str
    line: int


def name_of(page: Path) -> str:
    """
    Return the path of a page in the project, e.g. `docs/errors.md`; of any other only its name.
    """
    return page.relative_to(ROOT).as_posix() if page.is_relative_to(ROOT) else page.name


def snippets(page: Path) -> list[Snippet]:
    """
    Return the fenced blocks of a page, in its order.

    Raises:
        AssertionError: a fence that is indented, and so would not be seen, or has no end.
    """
    found: list[Snippet] = []
    language, first, lines = "", 0, list[str]()
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if line.lstrip().startswith(_FENCE):
            assert line.startswith(_FENCE), f"{name_of(page)}:{number}: this fence must stand at the left"
            if first:
                found.append(Snippet(language=language, text="".join(lines), line=first))
                first, lines = 0, []
            else:
                language, first = line.removeprefix(_FENCE).strip(), number + 1
        elif first:
            lines.append(f"{line}\n")
    assert not first, f"{name_of(page)}:{first - 1}: this fence has no end"
    return found


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """
    Yield the lines of a page that stand outside of fenced blocks, with their numbers.
    """
    fenced = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith(_FENCE):
            fenced = not fenced
        elif not fenced:
            yield number, line


def anchors(page: Path) -> set[str]:
    """
    Return what a link to a page may name behind `#`: its headings, as GitHub makes anchors of them.
    """
    found: set[str] = set()
    for _, line in prose(page):
        heading = _HEADING.fullmatch(line)
        if heading is None:
            continue
        text = _LINK_TEXT.sub(r"\1", heading[1]).replace("`", "").replace("*", "")
        slug = base = _NOT_IN_SLUGS.sub("", text.lower()).replace(" ", "-")
        number = 0
        while slug in found:
            number += 1
            slug = f"{base}-{number}"
        found.add(slug)
    return found


def links(page: Path) -> list[Link]:
    """
    Return the links of a page.
    """
    return [
        Link(target=match[1] or match[2], line=number)
        for number, line in prose(page)
        for match in _LINK.finditer(_CODE.sub("code", line))
    ]


def quoted(text: str) -> list[str]:
    """
    Return what stands between backticks.
    """
    return re.findall(r"`([^`]+)`", text)


def section(page: Path, heading: str) -> list[str]:
    """
    Return the lines below a heading, named without its `#`s, down to the next one of the same depth or above.

    Raises:
        AssertionError: there is no such heading.
    """
    found: list[str] = []
    depth = 0
    for _, line in prose(page):
        if _HEADING.fullmatch(line):
            level = len(line) - len(line.lstrip("#"))
            if depth and level <= depth:
                return found
            if line.lstrip("#").strip() == heading:
                depth = level
                continue
        if depth:
            found.append(line)
    assert depth, f"{name_of(page)} has no heading {heading!r}"
    return found


def rows(lines: list[str]) -> list[list[str]]:
    """
    Return the rows of the tables in some lines, cell by cell, without their headers.
    """
    found: list[list[str]] = []
    body = False
    for line in lines:
        if not line.startswith("|"):
            body = False
        elif body:
            found.append([cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        else:
            body = set(line) <= set("|-: ")
    return found
