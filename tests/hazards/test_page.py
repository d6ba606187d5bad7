"""
The page about hazards and the tests of them say the same.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

_HERE = Path(__file__).parent
_PAGE = _HERE.parents[1] / "docs" / "hazards.md"


def _tests(folder: Path) -> set[str]:
    return {
        node.name
        for path in folder.glob("test_*.py")
        if path != Path(__file__)
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_every_hazard_stands_on_the_page() -> None:
    """
    Each test of a hazard is named on the page, and each test that the page names exists, here or beside the others of its part.
    """
    named = set(re.findall(r"`(test_\w+)`", _PAGE.read_text(encoding="utf-8")))
    hazards = _tests(_HERE)
    assert hazards <= named
    assert named - hazards <= set().union(*(_tests(_HERE.parent / part) for part in ("faults", "contract", "broker")))
