"""
No lock that is held, no open database and no call of the client library ever crosses a fork.

A child that inherits an open SQLite connection can't be saved afterwards: SQLite's own table of locks is copied
too, so a second connection in the child believes that it holds locks which only the parent holds. When the parent
then closes, it deletes the write-ahead log under the child, and with it what the child was told is safe. Therefore
everything is closed *before* the fork, and opened again in both processes on first use.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol

from safepulsar.processes.native_calls import native_calls


class Forkable(Protocol):
    """
    Something that must be quiet while its process forks.
    """

    def before_fork(self) -> None:
        """
        Finish what is going on, and keep others from beginning; must end by itself, and never raise.
        """

    def after_fork_in_parent(self) -> None:
        """
        Go on.
        """

    def after_fork(self) -> None:
        """
        Become new in the child.
        """


class Forks:
    """
    Tells every store, and the calls of the client library, of a fork. One instance, `forks`, because a process forks as a whole.
    """

    def __init__(self) -> None:
        self._watched: weakref.WeakSet[Forkable] = weakref.WeakSet()
        # Guards _watched, and lets one fork happen at a time. Reentrant: a finalizer or signal handler that forks
        # while this thread holds it must not hang.
        self._lock = threading.RLock()

    def watch(self, store: Forkable) -> None:
        """
        Tell `store` of every fork from now on, as long as it lives.
        """
        with self._lock:
            self._watched.add(store)

    def before(self) -> None:
        """
        In the thread that forks, just before.
        """
        self._lock.acquire()
        native_calls.before_fork()  # first: answers may take their time, and the stores are needed meanwhile
        for store in list(self._watched):
            store.before_fork()

    def after_in_parent(self) -> None:
        """
        In the same thread, just after.
        """
        for store in list(self._watched):
            store.after_fork_in_parent()
        native_calls.after_fork_in_parent()
        self._lock.release()

    def after_in_child(self) -> None:
        """
        In the only thread of the child.
        """
        self._lock = threading.RLock()
        native_calls.after_fork()
        for store in list(self._watched):
            store.after_fork()


forks = Forks()
if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(
        before=forks.before,
        after_in_parent=forks.after_in_parent,
        after_in_child=forks.after_in_child,
    )
