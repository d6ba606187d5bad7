"""
What this machine means for safety: where the store of failed messages would be, credentials in files, open files.
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from safepulsar.doctor.finding import Finding, Level

if TYPE_CHECKING:
    from safepulsar.settings import ClientSettings, SenderSettings

_FREE_BYTES: Final = 256 * 1024 * 1024
# What SQLite's locks are not sure to hold on, and what is gone with the machine or the container.
_NETWORK: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "glusterfs", "ceph"})
_VOLATILE: Final = frozenset({"tmpfs", "ramfs", "overlay"})
_FILES_AT_LEAST: Final = 1024


def examine_place(path: str | os.PathLike[str] | None) -> Finding:
    """
    Whether the store's disk keeps what it is given.
    """
    if path is None:
        return _place(Level.OK, "no store of failed messages was named, so no disk is concerned")
    folder = Path(path).absolute().parent
    while not folder.exists():
        folder = folder.parent
    kind = _filesystem(folder)
    if kind in _NETWORK:
        return _place(
            Level.BAD,
            f"{str(folder)!r} is on a network's file system ({kind}), whose locks SQLite can't rely on",
            "name a path on a disk of this machine, one for each host",
        )
    free = shutil.disk_usage(folder).free
    if free < _FREE_BYTES:
        remedy = "free some, or name a path on another disk: what fails when it is full is not kept"
        return _place(Level.BAD, f"only {free:,} bytes are free where {str(folder)!r} is", remedy)
    if kind in _VOLATILE:
        return _place(
            Level.WARN,
            f"{str(folder)!r} is on {kind}: what is kept there is gone with the "
            f"{'container' if kind == 'overlay' else 'machine'}",
            "name a path on a volume that stays",
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        return _place(
            Level.BAD, f"{str(folder)!r} can't be written by this user", "name another path, or give the right"
        )
    return _place(Level.OK, f"{str(folder)!r} is on {kind or 'a disk'}, with {free / 1e9:,.0f} GB free")


def examine_credentials(client: ClientSettings) -> Finding:
    """
    Whether the files of keys and certificates are there, and the keys for this user alone.
    """
    missing = [
        name
        for name in ("tls_trust_certs_file", "tls_certificate_file", "tls_private_key_file")
        if (path := getattr(client, name)) is not None and not os.access(path, os.R_OK)
    ]
    if missing:
        what = f"can't be read: {', '.join(f'{name} ({getattr(client, name)!r})' for name in missing)}"
        return _credentials(Level.BAD, what, "correct the path, or give this user the right to read the file")
    key = client.tls_private_key_file
    if key is not None and Path(key).stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return _credentials(Level.WARN, f"others may read the private key {key!r}", f"chmod 600 {key!r}")
    if client.token is not None and not client.tls:
        return _credentials(
            Level.WARN, "a token goes over a connection without TLS", "use pulsar+ssl://, or keep it on this machine"
        )
    if isinstance(client.token, str):
        return _credentials(
            Level.OK,
            "one token for the life of the process; if yours expire, give a callable, which is asked at each connect",
        )
    return _credentials(Level.OK, "nothing is missing, and nothing lies open")


def examine_files() -> Finding:
    """
    Whether the process may have as many connections as it could need.
    """
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:
        return Finding(id="open-files", level=Level.OK, what="this system has no such limit")
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= limit < _FILES_AT_LEAST:
        return Finding(
            id="open-files",
            level=Level.WARN,
            what=f"the process may have {limit:,} files and connections at once",
            remedy=f"ulimit -n {min(65_536, most) if most > 0 else 65_536:d}, or LimitNOFILE= of its systemd unit",
        )
    return Finding(id="open-files", level=Level.OK, what=f"up to {limit:,} files and connections at once")


def examine_names(sender: SenderSettings) -> Finding:
    """
    Whether several processes would claim the same producer name, which one at a time may have.
    """
    named = [name for name, settings in sender.topics.items() if settings.producer_name is not None]
    if sender.topic_defaults.producer_name is not None:
        named.append("all others")
    workers = _workers()
    if named and workers > 1:
        return Finding(
            id="producer-names",
            level=Level.BAD,
            what=f"{workers} workers would share one producer name (topics: {', '.join(named)}): all but one get ProducerBusy",
            remedy="give each process a name of its own, or leave producer_name out",
        )
    what = "one process at a time may have each producer name that is set" if named else "no producer names are set"
    return Finding(id="producer-names", level=Level.OK, what=what)


def _workers() -> int:
    arguments = os.environ.get("GUNICORN_CMD_ARGS", "").replace("=", " ").split()
    for name in ("--workers", "-w"):
        if name in arguments[:-1]:
            text = arguments[arguments.index(name) + 1]
            return int(text) if text.isdigit() else 1
    text = os.environ.get("WEB_CONCURRENCY", "")
    return int(text) if text.isdigit() else 1


def _filesystem(folder: Path) -> str:
    """
    The kind of file system that a folder is on, as Linux tells it; empty elsewhere.
    """
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    found = [
        (len(point), kind)
        for _, point, kind, *_ in map(str.split, mounts)
        if folder.resolve().is_relative_to(point.replace("\\040", " "))
    ]
    return max(found, default=(0, ""), key=lambda each: each[0])[1]


def _place(level: Level, what: str, remedy: str = "") -> Finding:
    return Finding(id="store-place", level=level, what=what, remedy=remedy)


def _credentials(level: Level, what: str, remedy: str = "") -> Finding:
    return Finding(id="credentials", level=level, what=what, remedy=remedy)
