"""
The client library's calls that are not answered yet: a process forks between them, never in the middle of one.

Two things were found where a child is forked while the library answers, with pulsar-client 3.13.0 and Python 3.11:

- The library's thread makes a state of the interpreter for each callback, before it has the interpreter's lock. A child
  that is forked just then waits for ever inside of `os.fork`, for a lock that nobody has any more. One fork in 200 beside
  a producer at full load. With Python 3.12 and 3.13 none of 800 did.
- The library makes some of its constants at the first use, as C++ does (`Url::parse`). A child that is forked just then
  waits for ever where it connects. Three of 504 programs that fork right after their first message had such a child.
"""

from __future__ import annotations

import signal
import threading
import time
from typing import Final

# How long a fork waits for answers at most: a broker that is away must not hold up a server that starts its workers.
_LONGEST_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 0.001
_BEHIND_SECONDS: Final = 0.05  # when the hooks are surely over


class NativeCalls:
    """
    What is under way inside the client library. One instance, `native_calls`, because a process forks as a whole.

    Nobody takes a lock here: the thread that forks may have interrupted another call of its own.
    """

    def __init__(self) -> None:
        # Both are changed by single operations, which are atomic.
        self._under_way: set[int] = set()
        self._late: set[int] = set()  # that a fork has waited for in vain; the next ones don't
        self._answered = True  # since then
        self._used = False
        self._forking = False
        self._forked = threading.Event()  # not while the process forks
        self._interrupted = False

    def begin(self, call: int) -> None:
        """
        A call begins that will be answered on a thread of the library. Waits while the process forks.

        Args:
            call: the `id` of an object that lives until the answer.
        """
        self._used = True
        self._late.discard(call)  # of an object that is gone and was never answered
        self._under_way.add(call)
        if self._forking:  # looked at behind the line above, so that one of the two sees the other
            # Not for ever: a signal handler that closes a sender may have interrupted the thread that is about to fork.
            until = time.monotonic() + _LONGEST_SECONDS
            while self._forking and time.monotonic() < until:
                self._under_way.discard(call)
                self._forked.wait(_LONGEST_SECONDS)
                self._under_way.add(call)

    def end(self, call: int) -> None:
        """
        It is answered, or nobody waits for it any more. Once more does no harm.
        """
        self._under_way.discard(call)
        self._late.discard(call)
        self._answered = True

    # -- the fork ----------------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """
        Let nothing begin, and wait until nothing is under way, a second at most. Never raises.

        What it has waited for in vain the next fork does not wait for, nor for anything until there is an answer again.
        """
        if not self._used:
            return
        self._forked.clear()
        self._forking = True
        until = time.monotonic() + (_LONGEST_SECONDS if self._answered else 0.0)
        quiet = 0
        try:
            # Twice in a row: the library's thread has a few steps left after an answer.
            while quiet < 2:  # noqa: PLR2004
                quiet = 0 if self._under_way - self._late else quiet + 1
                if time.monotonic() > until:
                    self._late |= self._under_way
                    self._answered = False
                    break
                time.sleep(_LOOK_SECONDS)
        except KeyboardInterrupt:
            self._interrupted = True  # what is raised while a process forks is printed and forgotten

    def after_fork_in_parent(self) -> None:
        """
        Go on.
        """
        self._forking = False
        self._forked.set()
        if self._interrupted:
            self._interrupted = False
            main = threading.main_thread().ident or 0
            threading.Timer(_BEHIND_SECONDS, signal.pthread_kill, (main, signal.SIGINT)).start()

    def after_fork(self) -> None:
        """
        In a child: the calls are the parent's.
        """
        self.__init__()  # type: ignore[misc]  # it is shared by reference and becomes new in place


native_calls = NativeCalls()
