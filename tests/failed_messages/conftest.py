"""
The stores under test, each with a clock that only moves when told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from safepulsar.failed_messages import FailedMessageStore, InMemoryFailedMessages, SqliteFailedMessages
from tests.failed_messages.samples import ManualClock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def clock() -> ManualClock:
    """
    The clock of the test's stores.
    """
    return ManualClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """
    Where a store on disk shall be; neither file nor folder exist.
    """
    return tmp_path / "store" / "failed.db"


@pytest.fixture
def disk(path: Path, clock: ManualClock) -> Iterator[SqliteFailedMessages]:
    """
    An open store on disk.
    """
    with SqliteFailedMessages(path, clock=clock) as store:
        yield store


@pytest.fixture(params=["memory", "sqlite"])
def closed_store(request: pytest.FixtureRequest, path: Path, clock: ManualClock) -> FailedMessageStore:
    """
    Each kind of store, not opened yet.
    """
    if request.param == "memory":
        return InMemoryFailedMessages(clock=clock)
    return SqliteFailedMessages(path, clock=clock)


@pytest.fixture
def store(closed_store: FailedMessageStore) -> Iterator[FailedMessageStore]:
    """
    Each kind of store, open.
    """
    with closed_store:
        yield closed_store
