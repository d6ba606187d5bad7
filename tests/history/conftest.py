"""
Where the checker's own tests begin.
"""

from __future__ import annotations

import pytest

from tests.history.scene import Scene


@pytest.fixture
def scene() -> Scene:
    """
    Two messages of one key delivered, `a` and `b`; what comes then may go wrong.
    """
    scene = Scene()
    scene.deliver("a", "b")
    return scene
