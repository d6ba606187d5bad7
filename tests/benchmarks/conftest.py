"""
A scene so short that only whether a case runs can be seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.case import Effort, Scene
from benchmarks.stage import ORDERS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.brokers import LiteBroker


@pytest.fixture
def scene(lite_broker: LiteBroker, tmp_path: Path) -> Scene:
    """
    On the shared pulsar-lite.
    """
    folder = tmp_path / "scene"
    folder.mkdir(mode=0o700)
    return Scene(
        broker="pulsar-lite",
        url=lite_broker.url,
        size_bytes=100,
        effort=Effort(rounds=1, messages=200, seconds=0.02, scale=0.0005),
        folder=folder,
        orders=ORDERS,
        freeze=lite_broker.freeze,
        thaw=lite_broker.thaw,
    )


@pytest.fixture
def nowhere(tmp_path: Path) -> Scene:
    """
    Without a broker.
    """
    effort = Effort(rounds=1, messages=200, seconds=0.02, scale=0.0005)
    tmp_path.chmod(0o700)
    return Scene(broker="", url="", size_bytes=0, effort=effort, folder=tmp_path, orders=ORDERS)
