"""
The store's file belongs to its user alone: made so under any umask, and refused where it is not so.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import sqlite3
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from safepulsar.errors import InvalidSettings, StoreInsecure, StoreUnavailable
from safepulsar.failed_messages import SqliteFailedMessages
from tests.failed_messages.samples import failed

if TYPE_CHECKING:
    from collections.abc import Iterator

SOMEBODY = 65534  # a user who is neither root nor us


def mode(path: Path) -> int:
    """
    The permission bits.
    """
    return stat.S_IMODE(path.lstat().st_mode)


@contextlib.contextmanager
def umask(mask: int) -> Iterator[None]:
    """
    Under another umask.
    """
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextlib.contextmanager
def unprivileged() -> Iterator[Path]:
    """
    A folder of our own as a user whom permissions stop: as ourselves, or as somebody if we are root.
    """
    folder = Path(tempfile.mkdtemp(prefix="safepulsar-store-"))
    root = os.geteuid() == 0
    try:
        if root:
            os.chown(folder, SOMEBODY, SOMEBODY)
            os.seteuid(SOMEBODY)
        yield folder
    finally:
        if root:
            os.seteuid(0)
        for path in (folder, *folder.rglob("*")):
            if path.is_dir():
                path.chmod(0o700)
        shutil.rmtree(folder)


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o277, 0o777])
def test_file_and_folders_are_for_this_user_alone(tmp_path: Path, mask: int) -> None:
    """
    Under any umask the folders that are made are 0700, and the database and its companions 0600.
    """
    path = tmp_path / "a" / "b" / "failed.db"
    with umask(mask), SqliteFailedMessages(path) as store:
        store.keep([failed()])
        assert sorted(each.name for each in path.parent.iterdir()) == ["failed.db", "failed.db-shm", "failed.db-wal"]
        assert {mode(each) for each in path.parent.iterdir()} == {0o600}
        assert mode(path.parent) == mode(path.parent.parent) == 0o700
    with SqliteFailedMessages(path) as store:
        assert store.count() == 1


def test_an_existing_folder_is_left_as_it_is(tmp_path: Path) -> None:
    """
    A folder that others may only read is accepted and not changed.
    """
    tmp_path.chmod(0o755)
    with SqliteFailedMessages(tmp_path / "failed.db") as store:
        store.keep([failed()])
    assert mode(tmp_path) == 0o755
    assert [each.name for each in tmp_path.iterdir()] == ["failed.db"]


def test_the_constructor_touches_nothing(path: Path) -> None:
    """
    Making a store object makes no file; its repr shows the path and nothing else.
    """
    store = SqliteFailedMessages(path)
    assert not path.parent.exists()
    assert repr(store) == f"<SqliteFailedMessages {str(path)!r} closed>"
    with store:
        assert repr(store) == f"<SqliteFailedMessages {str(path)!r} open>"


def test_a_relative_path_counts_from_where_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A later change of the current folder does not move the store.
    """
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    store = SqliteFailedMessages("data/failed.db")
    monkeypatch.chdir(tmp_path / "elsewhere")
    with store:
        assert (tmp_path / "data" / "failed.db").exists()


@pytest.mark.parametrize("bad", ["", "data/", b"failed.db", 7, None, "a\0b", ":memory:", "file:x?mode=memory"])
def test_what_is_no_path_is_refused(bad: object) -> None:
    """
    A path that SQLite would understand in its own way, or not at all, is a typed error.
    """
    with pytest.raises(InvalidSettings, match="path"):
        SqliteFailedMessages(bad)  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize(
    ("setting", "value"),
    [("busy_timeout_seconds", -1), ("busy_timeout_seconds", "5"), ("max_bytes", 1000), ("max_bytes", 1e9)],
)
def test_bad_settings_are_named(path: Path, setting: str, value: object) -> None:
    """
    A setting out of its range is a typed error that names it.
    """
    with pytest.raises(InvalidSettings, match=setting):
        SqliteFailedMessages(path, **{setting: value})  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
def test_a_symbolic_link_is_refused(path: Path, suffix: str) -> None:
    """
    Neither the database nor a companion is followed elsewhere; the link's target is not touched.
    """
    with SqliteFailedMessages(path) as store:
        store.keep([failed()])
    target = path.with_name("target")
    path.rename(target) if not suffix else target.touch(0o600)
    before = target.read_bytes()
    path.with_name(path.name + suffix).symlink_to(target)
    with pytest.raises(StoreInsecure, match="symbolic link"):
        SqliteFailedMessages(path).open()
    assert target.read_bytes() == before


def test_a_dangling_link_is_refused_too(path: Path) -> None:
    """
    A link to nowhere does not make a file there.
    """
    path.parent.mkdir(0o700)
    path.symlink_to(path.with_name("target"))
    with pytest.raises(StoreInsecure, match="symbolic link"):
        SqliteFailedMessages(path).open()
    assert not path.with_name("target").exists()


def test_a_linked_folder_is_refused(tmp_path: Path) -> None:
    """
    The last folder must not be a link; the error names the folder to use instead.
    """
    (tmp_path / "real").mkdir(0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(StoreInsecure, match=f"name the folder that it points to: '{tmp_path}/real'"):
        SqliteFailedMessages(tmp_path / "link" / "failed.db").open()
    assert list((tmp_path / "real").iterdir()) == []


@pytest.mark.parametrize("bits", [0o770, 0o702, 0o1777])
def test_a_folder_that_others_may_write_is_refused(path: Path, bits: int) -> None:
    """
    A folder that group or others may write is refused, sticky or not, and the remedy works.
    """
    path.parent.mkdir()
    path.parent.chmod(bits)
    with pytest.raises(StoreInsecure, match="chmod go-w") as refused:
        SqliteFailedMessages(path).open()
    assert list(path.parent.iterdir()) == []
    deeper = path.parent / "safepulsar" / "failed.db"
    assert repr(str(deeper)) in str(refused.value)
    with SqliteFailedMessages(deeper) as store:
        assert store.keep([failed()]) == [1]


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620])
def test_a_file_that_others_may_open_is_refused(path: Path, suffix: str, bits: int) -> None:
    """
    A file that others may read or write is refused until its mode is put right.
    """
    with SqliteFailedMessages(path) as store:
        store.keep([failed()])
    file = path.with_name(path.name + suffix)
    file.touch(0o600)
    file.chmod(bits)
    with pytest.raises(StoreInsecure, match="chmod 600"):
        SqliteFailedMessages(path).open()
    assert mode(file) == bits
    file.chmod(0o600)
    with SqliteFailedMessages(path) as store:
        assert store.count() == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("which", ["folder", "file", "wal"])
def test_what_belongs_to_another_user_is_refused(path: Path, which: str) -> None:
    """
    A folder or file of another user is refused, and the error names that user.
    """
    with SqliteFailedMessages(path) as store:
        store.keep([failed()])
    wal = path.with_name(path.name + "-wal")
    wal.touch(0o600)
    os.chown({"folder": path.parent, "file": path, "wal": wal}[which], SOMEBODY, SOMEBODY)
    with pytest.raises(StoreInsecure, match=f"belongs to user {SOMEBODY}, not to this one"):
        SqliteFailedMessages(path).open()


def test_a_folder_in_place_of_the_file_is_named(path: Path) -> None:
    """
    A path that is a folder is refused with a file in it as the remedy.
    """
    path.mkdir(parents=True)
    with pytest.raises(StoreUnavailable, match=f"is a folder; name a file in it: '{path}/failed.db'"):
        SqliteFailedMessages(path).open()


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    """
    A path below a file, or one that is a device or a pipe, is refused.
    """
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "failed.db", tmp_path / "file" / "deeper" / "failed.db"):
        with pytest.raises(StoreUnavailable, match=r"not a folder|Not a directory"):
            SqliteFailedMessages(path).open()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StoreUnavailable, match="not a regular file"):
        SqliteFailedMessages(tmp_path / "pipe").open()


def test_an_empty_file_becomes_a_store(path: Path) -> None:
    """
    A file made beforehand, as by `tempfile`, is used.
    """
    path.parent.mkdir(0o700)
    path.touch(0o600)
    with SqliteFailedMessages(path) as store:
        assert store.keep([failed()]) == [1]


def test_a_folder_that_cannot_be_written_says_so() -> None:
    """
    No permission to make the file, or its folder, is a typed error with the remedy.
    """
    with unprivileged() as folder:
        folder.chmod(0o500)
        for path in (folder / "failed.db", folder / "deeper" / "failed.db"):
            with pytest.raises(StoreUnavailable, match="make its folder writable"):
                SqliteFailedMessages(path).open()


@pytest.mark.parametrize(("folder_bits", "file_bits"), [(0o700, 0o400), (0o500, 0o600), (0o500, 0o400)])
def test_a_store_that_became_read_only_says_so_at_once(folder_bits: int, file_bits: int) -> None:
    """
    A store that could be read but not written is refused when it is opened, not at the first failure.
    """
    with unprivileged() as folder:
        path = folder / "failed.db"
        with SqliteFailedMessages(path) as store:
            store.keep([failed()])
        path.chmod(file_bits)
        folder.chmod(folder_bits)
        with pytest.raises(StoreUnavailable, match="writable for this user"):
            SqliteFailedMessages(path).open()
        folder.chmod(0o700)
        path.chmod(0o600)
        with SqliteFailedMessages(path) as store:
            assert store.count() == 1


def test_a_replaced_file_is_noticed(path: Path) -> None:
    """
    After the file was moved away under an open store, the next message goes into a new file, not into the old one.
    """
    with SqliteFailedMessages(path) as store:
        store.keep([failed(b"old")])
        path.rename(path.with_name("moved.db"))
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).rename(path.with_name("moved.db" + suffix))
        assert store.keep([failed(b"new")]) == [1]
        assert [message.message.payload for message in store.find()] == [b"new"]
    with SqliteFailedMessages(path.with_name("moved.db")) as store:
        assert [message.message.payload for message in store.find()] == [b"old"]


def test_a_store_that_nobody_closed_is_closed_with_its_last_user(tmp_path: Path) -> None:
    """
    As in `RetryingSender(url, failed_messages=SqliteFailedMessages(path))`. Python 3.13 warns of connections that aren't.
    """
    store = SqliteFailedMessages(tmp_path / "failed.db").open()
    store.keep([failed()])
    connection = store.database._connection
    assert connection is not None
    del store
    gc.collect()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")
