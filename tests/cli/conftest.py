"""
Fixtures of the command line's tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.command import Commands

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """
    A folder that only this user may write into, as the store wants it.
    """
    path = tmp_path / "home"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def commands(folder: Path) -> Commands:
    """
    Commands that run in that folder.
    """
    return Commands(folder)
