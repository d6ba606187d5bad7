"""
The process around the senders: its exit, its forks and SIGTERM, so that none of them drops what was accepted.

Order at exit: senders first (they drain and keep the rest), clients last. Both run before the interpreter takes
itself apart, because a native callback that arrives later aborts the process.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import threading
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

from safepulsar.errors import InvalidSettings

if TYPE_CHECKING:
    from types import FrameType

log = logging.getLogger("safepulsar")


class Stage(IntEnum):
    """
    When an owner is closed at exit.
    """

    SENDERS = 0
    CLIENTS = 1


class Owner(Protocol):
    """
    Something that lives with the process and must not be left behind.
    """

    def at_exit(self) -> None:
        """
        Finish. Called once more than needed does no harm; must end by itself.
        """

    def after_fork(self) -> None:
        """
        Become new in a forked child: fresh locks, no threads, native handles leaked and never touched.
        """


def name_of_process() -> str:
    """
    What another process is told of who has something: the machine's name and the number of this process.
    """
    return f"{os.uname().nodename}-{os.getpid()}"


class Process:
    """
    The hooks of this process. One instance, `process`, because exit, fork and signals exist once per process.
    """

    def __init__(self) -> None:
        # Guards _owners and _hooked. Re-entrant, because a signal handler may close a sender in the middle of `watch`.
        self._lock = threading.RLock()
        self._owners: tuple[set[Owner], set[Owner]] = (set(), set())
        self._hooked = False
        self._terminate: tuple[threading.Lock, threading.Thread] | None = None  # the lock wakes the thread
        self._ending: threading.Thread | None = None  # since SIGTERM came: it ends the process once all is closed

    def watch(self, owner: Owner, stage: Stage) -> None:
        """
        Call `owner.at_exit` at exit and `owner.after_fork` in every forked child, until `forget`.

        Keeps the owner alive: what was accepted must not end because nobody holds the sender any more.

        Raises:
            InvalidSettings: this is uWSGI, and its options make it a place where nothing can be sent safely.
        """
        with self._lock:
            if not self._hooked:
                _check_uwsgi()
            self._owners[stage].add(owner)
            if self._hooked:
                return
            self._hooked = True
        atexit.register(self._at_exit)
        util = sys.modules.get("multiprocessing.util")
        if util is not None:
            # A child of multiprocessing leaves by os._exit, which runs these finalizers but no atexit hooks.
            util.Finalize(None, self._at_exit, exitpriority=0)

    def forget(self, owner: Owner, stage: Stage) -> None:
        """
        Undo `watch`.
        """
        with self._lock:
            self._owners[stage].discard(owner)

    def finish(self) -> None:
        """
        Close everything, senders first. A failure of one is logged and keeps no other from closing.
        """
        for owners in self._owners:
            with self._lock:
                remaining = list(owners)
            for owner in remaining:
                try:
                    owner.at_exit()
                except (KeyboardInterrupt, SystemExit):  # it ends the wait for this one, and the others are closed yet
                    log.warning("safepulsar.exit_interrupted")
                except BaseException:
                    log.exception("safepulsar.exit_failed")

    def drain_on_sigterm(self) -> bool:
        """
        Let SIGTERM drain first, where nobody else handles it; False where that cannot be had.

        The handler only wakes a thread: it may interrupt the main thread anywhere, also inside one of our
        locks. The thread closes everything and then ends the process by the same signal, so that whoever waits
        for it sees what it would have seen. A second SIGTERM ends it at once.
        """
        if threading.current_thread() is not threading.main_thread():
            return False  # only the main thread may set a handler
        current = signal.getsignal(signal.SIGTERM)
        if current == self._on_sigterm or self._ending is not None:
            return True
        if current is not signal.SIG_DFL:
            return False  # the application's own, or a server's: it will end the interpreter and its hooks run
        wake = threading.Lock()
        wake.acquire()
        thread = threading.Thread(target=self._finish_and_die, args=(wake,), name="safepulsar-sigterm", daemon=True)
        thread.start()
        self._terminate = wake, thread
        signal.signal(signal.SIGTERM, self._on_sigterm)
        return True

    def _on_sigterm(self, _signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if self._terminate is None:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            wake, self._ending = self._terminate
            self._terminate = None
            wake.release()

    def _at_exit(self) -> None:
        self.finish()
        if self._ending is not None:
            # SIGTERM came before, and the application fell over what is closed now: its exit code would hide the signal.
            self._ending.join()

    def _finish_and_die(self, wake: threading.Lock) -> None:
        with wake:
            self.finish()
        os.kill(os.getpid(), signal.SIGTERM)

    def after_fork_in_child(self) -> None:
        """
        Make the child's copy of everything new. The parent keeps what it had accepted.
        """
        owners = [owner for stage in self._owners for owner in list(stage)]
        # Whoever is used in the child watches again; a second atexit hook then finds nothing left to do.
        ours = signal.getsignal(signal.SIGTERM) == self._on_sigterm
        self.__init__()  # type: ignore[misc]  # the object is shared by reference and must become new in place
        if ours:
            # The thread that the handler would wake stayed in the parent; the next sender sets it again.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for owner in owners:
            try:
                owner.after_fork()
            except Exception:  # the others must not be left with the parent's locks and handles
                log.exception("safepulsar.fork_failed")


def _check_uwsgi() -> None:
    """
    Refuse what would fail silently: uWSGI forks in C, and has no threads of Python, unless it is told otherwise.
    """
    uwsgi = sys.modules.get("uwsgi")  # there inside of it only
    if uwsgi is None:
        return
    options = uwsgi.opt
    if not options.keys() & {"enable-threads", "threads"}:
        raise InvalidSettings("uWSGI", "runs no threads of Python's; start it with --enable-threads")
    if uwsgi.masterpid() == os.getpid() and "py-call-uwsgi-fork-hooks" not in options:
        problem = (
            "forks its workers without telling Python, and what this process opens would be of no use there; start it "
            "with --lazy-apps or with --py-call-uwsgi-fork-hooks, or send nothing while the application is loaded"
        )
        raise InvalidSettings("uWSGI", problem)


process = Process()
if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=process.after_fork_in_child)
