"""
The store's file and folder belong to this user alone: made so, checked before each opening, and never repaired.

Not repaired, because a file that others could read or replace may have been read or replaced already.

What is looked at is the file, SQLite's companions beside it, and the folder that holds them: whoever may write
there can put another file in their place. A sticky folder such as `/tmp` is no exception, because anyone may create
the companions there before SQLite does, and SQLite would take what it finds in them for its own.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from safepulsar.errors import InvalidSettings, StoreError, StoreFull, StoreInsecure, StoreUnavailable

# The rollback journal only exists while a new file becomes a database, but would be believed at any time.
COMPANIONS = ("-wal", "-shm", "-journal")
_OWNER_MAY = stat.S_IRUSR | stat.S_IWUSR
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_ALMOST_FULL_BYTES = 256 * 1024


def checked_path(path: str | os.PathLike[str]) -> Path:
    """
    An absolute path. No I/O.

    Raises:
        InvalidSettings: not the path of a file.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise InvalidSettings("path", f"must be the path of a file, not {type(path).__name__}")
    text = os.fspath(path)
    if not isinstance(text, str) or not text or "\0" in text or text.endswith(("/", os.sep)):
        raise InvalidSettings("path", f"must name a file, such as 'data/failed.db', not {text!r:.80}")
    if text.startswith((":memory:", "file:")):
        raise InvalidSettings("path", "must be a plain path; for memory use InMemoryFailedMessages")
    # Absolute from now on: a daemon changes its folder. Not resolved: a symbolic link is to be refused, not followed.
    return Path(os.path.abspath(text))  # noqa: PTH100 - resolve() follows


def prepare(path: Path) -> None:
    """
    Make folder (0700) and file (0600) where they are missing, and check them where they are not.

    The file is never opened here if it exists: closing it would drop the locks that SQLite holds on it in this
    process.

    Raises:
        StoreInsecure: others could read or replace it.
        StoreUnavailable: it cannot be made, or is something else.
        StoreFull: there is no space to make it.
    """
    try:
        _make_folder(path.parent)
        _check_folder(path.parent)
        if not os.path.lexists(path):
            _make_file(path)
        _check_file(path)
        for suffix in COMPANIONS:
            companion = path.with_name(path.name + suffix)
            if os.path.lexists(companion):
                _check_file(companion)
    except OSError as error:
        raise explain(path, error) from error


def explain(path: Path, error: OSError) -> StoreError:
    """
    The typed error for one of the operating system's.
    """
    if error.errno in _NO_SPACE:
        return full(path)
    what = f"failed messages cannot be kept in {str(path)!r}: {os.strerror(error.errno or 0)}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreUnavailable(f"{what}; make its folder writable for this user, or name another path")
    if error.errno in (errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP):
        return StoreUnavailable(f"{what}; name a path whose folders are folders")
    return StoreUnavailable(f"{what}; check the file system, or name another path")


def full(path: Path) -> StoreFull:
    """
    The error for a full disk or quota.
    """
    return StoreFull(
        f"no space left for failed messages in {str(path)!r}: free disk space or quota and send again; "
        "what was kept before is safe"
    )


def out_of_space(path: Path) -> bool:
    """
    Whether the file system of `path` is so full that an unspecific error of SQLite means just that.
    """
    try:
        space = os.statvfs(path.parent)
    except OSError:
        return False  # the error at hand tells more than this one would
    no_files_left = space.f_files > 0 and space.f_favail == 0  # 0 of 0 where files are not counted
    return space.f_bavail * space.f_frsize < _ALMOST_FULL_BYTES or no_files_left


def _make_folder(folder: Path) -> None:
    missing = [parent for parent in (folder, *folder.parents) if not os.path.lexists(parent)]
    for parent in reversed(missing):
        try:
            parent.mkdir(mode=0o700)
        except FileExistsError:
            continue  # another process made it at the same moment; it is checked like any other
        parent.chmod(0o700)  # whatever the umask left of it


def _make_file(path: Path) -> None:
    # Made under another name and then linked, so that a second opener never sees it before its mode is right,
    # and nobody's locks hang on the descriptor that is closed here.
    import tempfile  # noqa: PLC0415  # seldom needed, and some milliseconds of every start

    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name[:100]}-", dir=path.parent)
    try:
        try:
            os.fchmod(descriptor, 0o600)  # whatever the umask left of it
        finally:
            os.close(descriptor)
        os.link(temporary, path)
    except FileExistsError:
        return  # another process made it at the same moment; it is checked like any other
    finally:
        Path(temporary).unlink()


def _check_folder(folder: Path) -> None:
    found = os.lstat(folder)
    if stat.S_ISLNK(found.st_mode):
        raise StoreInsecure(
            f"the folder {str(folder)!r} of the failed messages is a symbolic link, which can be turned elsewhere; "
            f"name the folder that it points to: {os.path.realpath(folder)!r}"
        )
    if not stat.S_ISDIR(found.st_mode):
        raise StoreUnavailable(f"{str(folder)!r} is not a folder; name a path inside a folder")
    me = os.geteuid()
    if found.st_uid not in (me, 0):
        raise StoreInsecure(
            f"the folder {str(folder)!r} of the failed messages belongs to user {found.st_uid}, not to this one "
            f"({me}), who could replace them; name a folder of your own, or run as user {found.st_uid}"
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StoreInsecure(
            f"others may write into the folder {str(folder)!r} (mode {stat.S_IMODE(found.st_mode):04o}) and so replace "
            f"the failed messages; run chmod go-w on it, or name a path one folder deeper, which is then made for this "
            f"user alone: {str(folder / 'safepulsar' / 'failed.db')!r}"
        )


def _check_file(path: Path) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return  # a companion that SQLite removed meanwhile; the database itself is looked for again by SQLite
    if stat.S_ISLNK(found.st_mode):
        raise StoreInsecure(
            f"{str(path)!r} is a symbolic link, which can be turned elsewhere; "
            f"name the file that it points to: {os.path.realpath(path)!r}"
        )
    if stat.S_ISDIR(found.st_mode):
        raise StoreUnavailable(f"{str(path)!r} is a folder; name a file in it: {str(path / 'failed.db')!r}")
    if not stat.S_ISREG(found.st_mode):
        raise StoreUnavailable(f"{str(path)!r} is not a regular file; name another path")
    me = os.geteuid()
    if found.st_uid != me:
        raise StoreInsecure(
            f"{str(path)!r} belongs to user {found.st_uid}, not to this one ({me}), who could change it; "
            f"run as user {found.st_uid}, or name another path"
        )
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise StoreInsecure(
            f"others may open {str(path)!r} (mode {stat.S_IMODE(found.st_mode):04o}), which holds payloads; "
            "run chmod 600 on it if nobody should have read it, or name another path"
        )
    # Before SQLite sees it: it would go on as a reader, and leave companions behind that can't be written either.
    if found.st_mode & _OWNER_MAY != _OWNER_MAY:
        raise StoreUnavailable(
            f"{str(path)!r} is not writable for this user: run chmod 600 on it, or name another path"
        )
