"""
What README and docs say is true: every snippet runs, every link leads somewhere, every name exists.
"""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.docs_pages import PAGES, ROOT, Link, anchors, links, name_of, prose, quoted, snippets
from tests.subprocesses import run_script

if TYPE_CHECKING:
    from tests.brokers import LiteBroker

_DOCS: Final = ROOT / "docs"
_DECISIONS: Final = sorted((_DOCS / "decisions").glob("*.md"))
_LANGUAGES: Final = {"python", "sh", "text"}
_PAGE_SECONDS: Final = 90.0
_RUN: Final = "from tests.docs_runner import main\nmain()\n"

_each_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


def _has_code(page: Path) -> bool:
    return any(snippet.language == "python" or "safepulsar " in snippet.text for snippet in snippets(page))


# -- snippets ----------------------------------------------------------------------------------------------------


@pytest.mark.timeout(_PAGE_SECONDS + 30)
@pytest.mark.parametrize("page", [page for page in PAGES if _has_code(page)], ids=name_of)
def test_every_snippet_runs_and_prints_what_the_page_says(page: Path, lite_broker: LiteBroker) -> None:
    """
    A reader who follows a page from top to bottom meets no error, and sees what is shown there.
    """
    # Not in pytest's own folder, whose name is too long for a socket in it.
    with tempfile.TemporaryDirectory(prefix="reader-") as folder:
        run_script(_RUN, name_of(page), lite_broker.url, folder, timeout_seconds=_PAGE_SECONDS).check()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("```python\nprint(1)\n#> 2\n```", "page.md:2: the page says\n2\nand what comes is\n1"),
        ("```python\nprint(1)\nprint(2)\n#> 1\n```", "page.md:2: the page says\n1\nand what comes is\n1\n2"),
        ("a page\n\n```python\nx = 1\nx / 0\n```", '"page.md:4", line 5'),
        ("```python\ndef test_it():\n    assert not 1\n```", "AssertionError"),
        (
            "```python\ndef test_it(assert_sent):\n    assert_sent('x', timeout_seconds=0)\n```",
            "page.md: pytest ended with 1",
        ),
        ("```sh\nsafepulsar failed list --failed nowhere.db\n```", "ended with 2"),
        ("```sh\nsafepulsar --version  # exit code 3\n```", "ended with 0"),
        ("```sh\nprintf '' | safepulsar send orders - --json\n#> {}\n```", "and what comes is\n{"),
        ("```python\npass\n", "this fence has no end"),
        ("- a list\n  ```python\n  pass\n  ```\n", "this fence must stand at the left"),
    ],
)
def test_a_page_that_is_wrong_is_found_out(text: str, complaint: str, lite_broker: LiteBroker, tmp_path: Path) -> None:
    """
    Whatever a page may promise in vain fails its run, with the place where it stands.
    """
    page, folder = tmp_path / "page.md", tmp_path / "reader"
    page.write_text(text, encoding="utf-8")
    folder.mkdir()
    result = run_script(_RUN, page, lite_broker.url, folder, timeout_seconds=_PAGE_SECONDS)
    result.check(1)
    assert complaint in result.stderr


@_each_page
def test_every_snippet_says_its_language(page: Path) -> None:
    """
    No snippet escapes from being run because its language is missing or misspelt.
    """
    wrong = [
        f"{name_of(page)}:{each.line}: {each.language!r}" for each in snippets(page) if each.language not in _LANGUAGES
    ]
    assert not wrong


# -- links -------------------------------------------------------------------------------------------------------


def _problem(page: Path, link: Link) -> str:
    if link.target.startswith("https://"):
        return ""
    path, _, anchor = link.target.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.exists():
        return "leads to no file"
    if ROOT not in target.parents:
        return "leads out of the project"
    return "leads to no heading" if anchor and (target.suffix != ".md" or anchor not in anchors(target)) else ""


@_each_page
def test_every_link_leads_somewhere(page: Path) -> None:
    """
    A relative link has its file and its heading; any other is https.
    """
    wrong = [
        f"{name_of(page)}:{link.line}: {link.target} {what}" for link in links(page) if (what := _problem(page, link))
    ]
    assert not wrong


def test_every_page_is_found_from_the_readme() -> None:
    """
    No page is an orphan: whoever begins with the README can reach it by links.
    """
    found, todo = set[Path](), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in found:
            continue
        found.add(page)
        targets = [
            (page.parent / link.target.partition("#")[0]).resolve() for link in links(page) if "://" not in link.target
        ]
        todo += [target for target in targets if target.suffix == ".md" and target.is_file()]
    assert set(PAGES) == found


# -- decisions and changes -----------------------------------------------------------------------------------------


def test_decisions_are_numbered_without_a_gap() -> None:
    """
    A decision keeps its number for ever, so that others can refer to it.
    """
    numbers = [int(page.name[:4]) for page in _DECISIONS]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("page", _DECISIONS, ids=name_of)
def test_a_decision_says_when_to_think_again(page: Path) -> None:
    """
    Each has its situation, what was decided, what follows, and a *Revisit when*; and the index has its title.
    """
    lines = [line for _, line in prose(page)]
    starts = ["**Situation.**", "**Decision.**", "**What follows.**", "**Revisit when**"]
    assert [start for line in lines for start in starts if line.startswith(start)] == starts
    number, _, title = lines[0].removeprefix("# ").partition(". ")
    assert int(number) == int(page.name[:4])
    assert f"{number}. [{title}](decisions/{page.name})" in (_DOCS / "index.md").read_text(encoding="utf-8")


def test_the_changelog_begins_with_what_is_unreleased() -> None:
    """
    Keep a Changelog: what comes next stands first, and its full names exist.
    """
    page = ROOT / "CHANGELOG.md"
    headings = [line for _, line in prose(page) if line.startswith("## ")]
    assert headings[0] == "## [Unreleased]"
    for name in {
        name.split("(")[0] for _, line in prose(page) for name in quoted(line) if name.startswith("safepulsar.")
    }:
        _find(name)


def _find(name: str) -> object:
    """
    What a full name names.
    """
    module, attribute = name, list[str]()
    while True:
        try:
            found: object = importlib.import_module(module)
        except ImportError:
            module, _, last = module.rpartition(".")
            attribute.insert(0, last)
        else:
            for each in attribute:
                found = getattr(found, each)
            return found
