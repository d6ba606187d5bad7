"""
An outbox under test, with clocks that only move when told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from safepulsar.failed_messages import SqliteFailedMessages
from safepulsar.outbox import Outbox
from tests.failed_messages.samples import ManualClock
from tests.outbox.samples import name_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def clock() -> ManualClock:
    """
    The clock of the leases, and of the outbox.
    """
    return ManualClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """
    Where the store is.
    """
    return tmp_path / "store" / "failed.db"


@pytest.fixture
def store(path: Path, clock: ManualClock) -> Iterator[SqliteFailedMessages]:
    """
    An open store.
    """
    with SqliteFailedMessages(path, clock=clock) as opened:
        yield opened


@pytest.fixture
def outbox(store: SqliteFailedMessages, clock: ManualClock) -> Outbox:
    """
    The outbox in it.
    """
    return Outbox(store, producer_name=name_of, clock=clock)
