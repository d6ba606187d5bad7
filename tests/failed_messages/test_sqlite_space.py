"""
A full or read-only disk is a typed error that says what to do, and nothing that was kept is lost.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from safepulsar.errors import StoreFull, StoreUnavailable
from safepulsar.failed_messages import SqliteFailedMessages
from safepulsar.failed_messages.database import Database
from safepulsar.message import MessageId
from tests.failed_messages.samples import failed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.failed_messages.samples import ManualClock


def test_a_bounded_store_is_full_at_its_bound(path: Path, clock: ManualClock) -> None:
    """
    At `max_bytes` keeping fails with the remedy, small messages included; replaying makes room again.
    """
    with SqliteFailedMessages(path, max_bytes=256 * 1024, clock=clock) as store:
        store.keep([failed(b"x" * 100_000)])
        with pytest.raises(StoreFull, match="max_bytes=262144: replay or purge"):
            store.keep([failed(b"small"), failed(b"x" * 150_000)])
        assert store.keep([failed(b"small")]) == [2]
        (first,) = store.claim("r1", limit=1, lease_seconds=30)
        assert store.delivered("r1", {first.id or 0: MessageId(1, 1)}) == [1]
        assert store.keep([failed(b"x" * 150_000)]) == [3]


def fill(database: Database) -> None:
    """
    Write more than SQLite is allowed to.
    """
    with database.writing() as connection:
        connection.execute("PRAGMA max_page_count = 1")
        connection.execute("CREATE TABLE large (x)")
        connection.execute("INSERT INTO large VALUES (zeroblob(100000))")


def test_sqlites_own_full_is_the_same_error(path: Path) -> None:
    """
    When SQLite finds no space in the middle of a transaction, nothing of it is kept and the rest stays.
    """
    with SqliteFailedMessages(path) as store:
        store.keep([failed(b"safe")])
    database = Database(path, busy_timeout_seconds=1)
    database.open()
    with pytest.raises(StoreFull, match="free disk space"):
        fill(database)
    database.close()
    with SqliteFailedMessages(path) as store:
        assert [message.message.payload for message in store.find()] == [b"safe"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """
    A file system of one megabyte, where we may mount one.
    """
    folder = tmp_path / "small"
    folder.mkdir(0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)  # noqa: S607 - as above


def test_a_full_disk_loses_nothing_that_was_kept(small_disk: Path) -> None:
    """
    On a full disk keeping fails with the remedy, what was kept before stays, and with free space it goes on.
    """
    ballast = small_disk / "ballast"
    with SqliteFailedMessages(small_disk / "failed.db") as store:
        kept = store.keep([failed(b"safe")])
        ballast.write_bytes(b"x" * 100_000)
        with contextlib.suppress(StoreFull):
            while len(kept) < 100:
                kept += store.keep([failed(b"x" * 50_000)])
        with pytest.raises(StoreFull, match="free disk space"):
            store.keep([failed(b"x" * 50_000)])
        assert [message.id for message in store.find()] == kept
        ballast.unlink()
        kept += store.keep([failed(b"x" * 50_000)])
    with SqliteFailedMessages(small_disk / "failed.db") as store:
        assert [message.id for message in store.find()] == kept


def test_a_disk_that_is_full_from_the_start_says_so(small_disk: Path) -> None:
    """
    A store that cannot even be made for lack of space is `StoreFull`, and opens once there is space.
    """
    ballast = small_disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb") as file:
        file.write(b"x" * 2_000_000)
    with pytest.raises(StoreFull, match="free disk space"):
        SqliteFailedMessages(small_disk / "failed.db").open()
    ballast.unlink()
    with SqliteFailedMessages(small_disk / "failed.db") as store:
        assert store.keep([failed()]) == [1]


def test_a_read_only_disk_says_so(small_disk: Path) -> None:
    """
    A store on a disk that became read-only is refused for root, too, and is whole when it can be written again.
    """
    path = small_disk / "failed.db"
    with SqliteFailedMessages(path) as store:
        store.keep([failed()])
    for change in ("ro", "rw"):
        subprocess.run(["mount", "-o", f"remount,{change}", str(small_disk)], check=True)  # noqa: S607 - found on PATH
        if change == "ro":
            with pytest.raises(StoreUnavailable, match="writable for this user"):
                SqliteFailedMessages(path).open()
            with pytest.raises(StoreUnavailable, match="make its folder writable"):
                SqliteFailedMessages(small_disk / "new.db").open()
    with SqliteFailedMessages(path) as store:
        assert store.count() == 1
