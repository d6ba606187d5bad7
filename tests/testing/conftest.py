"""
The fake broker, with answers only when a test asks for them.
"""

from __future__ import annotations

import pytest

from safepulsar.testing import FakeBroker


@pytest.fixture
def fake() -> FakeBroker:
    """
    A fake broker without threads.
    """
    return FakeBroker(threaded=False)
