"""
What the adapters' tests share.
"""

from __future__ import annotations

import pytest

from safepulsar.broker.client_registry import ClientRegistry
from safepulsar.testing import FakeBroker


@pytest.fixture
def broker() -> FakeBroker:
    """
    A fake broker whose answers come at once, from a thread.
    """
    return FakeBroker()


@pytest.fixture
def registry(broker: FakeBroker) -> ClientRegistry:
    """
    Makes clients of the fake broker, and no others.
    """
    return ClientRegistry(broker.connect)
