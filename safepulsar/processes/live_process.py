"""
Which process holds a thing, said so that another process on the same machine can tell whether it lives.

A lease alone makes whoever comes after a kill -9 wait until it runs out, and lets somebody else in while a process that
was held up for long still lives. Where the system can tell (Linux, in the same container), it is asked.
"""

from __future__ import annotations

from pathlib import Path

_SYSTEM = Path("/proc")
_STATE, _THREADS, _START = 0, 17, 19  # places in /proc/PID/stat behind the name, which may hold anything
_DEAD = ("Z", "X", "x")


def this_process() -> str | None:
    """
    This process, unlike any other since the machine was started; None where the system has no name for it.
    """
    where = _where()
    stat = None if where is None else _stat("self")
    if stat is None:
        return None
    # Its number as /proc sees it, which is another one than os.getpid() where /proc is another container's.
    number = (_SYSTEM / "self").readlink().name
    return f"{where}/{number}/{stat[_START]}"


def lives(process: str | None) -> bool | None:
    """
    Whether it runs; None if that can't be known.
    """
    if process is None:
        return None
    where, _, rest = process.partition("/")
    number, _, start = rest.partition("/")
    if not number.isdecimal() or where != _where():
        return None
    stat = _stat(number)
    if stat is None:
        # Hidden, or gone? Whoever can see itself can see all processes of its user, and a store is of one user.
        return None if (_SYSTEM / number).exists() else False
    return stat[_START] == start and (stat[_STATE] not in _DEAD or int(stat[_THREADS]) > 1)


def _where() -> str | None:
    """
    The machine since its start, and the container: process numbers mean the same only within both.
    """
    try:
        boot = (_SYSTEM / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        container = (_SYSTEM / "self/ns/pid").readlink().name
    except (OSError, ValueError):
        return None
    return f"{boot} {container}"


def _stat(process: str) -> list[str] | None:
    try:
        text = (_SYSTEM / process / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return fields if len(fields) > _START else None
