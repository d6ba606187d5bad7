"""
Runs a command that ends with the process that started it, however that process ends: by exit, by crash, by `kill -9`.

It is a script of its own: `wrapped` puts it before a command, and in the new process it forks off a watcher and then
becomes the command, which so keeps the process id that `subprocess` reports. The usual ways were tried on paper and left:

- `PR_SET_PDEATHSIG` fires when the *thread* that started the child ends: a broker restarted by a short thread would die.
- `preexec_fn` runs Python between fork and exec, in a copy of a process whose other threads may hold any lock.
- The end of a pipe is not seen while a forked child of the parent still holds a copy of its other end.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_POLL_SECONDS: Final = 0.1


def wrapped(command: Sequence[str]) -> list[str]:
    """
    Return the command line that runs a command and ends it with the process that calls this.

    The caller must be the one that starts it, and the command must name its program by a path.
    """
    # Isolated and without site-packages: it starts in a tenth of the time, and no setting for Python reaches it.
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def run(parent: int, command: list[str]) -> None:
    """
    Become the command, watched by a forked process that kills it once the parent has ended.
    """
    me = os.getpid()
    watched = _handles(parent, me)
    # Asked after the handle was taken: so the handle is the parent's, and not that of a later process with its number.
    if os.getppid() != parent:
        return
    if os.fork() == 0:
        try:
            _kill_when_orphaned(parent, me, watched)
        finally:
            os._exit(0)  # leaves nothing of the copied interpreter to run
    os.execv(command[0], command)  # noqa: S606  # becoming the caller's own command is its purpose


def _handles(*processes: int) -> list[int] | None:
    """
    Return a handle per process that becomes readable when it ends, or None where the system has none.
    """
    if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
        return None
    try:
        return [os.pidfd_open(process) for process in processes]
    except OSError:  # an old kernel, a sandbox that forbids the call, or the parent is gone: polling finds out which
        return None


def _kill_when_orphaned(parent: int, command: int, watched: list[int] | None) -> None:
    if watched is None:
        while _alive(parent) and _alive(command):
            time.sleep(_POLL_SECONDS)
        if _alive(command):
            os.kill(command, signal.SIGKILL)
        return
    ended, _, _ = select.select(watched, [], [])
    if watched[0] in ended:
        signal.pidfd_send_signal(watched[1], signal.SIGKILL)


def _alive(process: int) -> bool:
    """
    Say whether a process is there; one that ended and that nobody has waited for yet still counts.
    """
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    run(int(sys.argv[1]), sys.argv[2:])
