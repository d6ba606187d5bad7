"""
Where the threads of all queues of a sender hand over and settle: one at a time, as only one runs Python anyway.
"""

from __future__ import annotations

from queue import Empty, SimpleQueue
from threading import get_ident
from typing import Final

_PATIENCE_SECONDS: Final = 0.5  # whoever stays longer is passed by: a native call that hangs delays no other topic


class Desk:
    """
    A context manager for one thread at a time, or more where one stays too long: a courtesy, which guards nothing.

    A thread that waits for a lock sleeps. One that waits for the interpreter's lock asks for it every 5 ms, and a native
    call gives that away for each message, so the threads of a thousand topics would do nothing but wake each other.
    """

    def __init__(self) -> None:
        # A token, and not a lock: a lock is given to who waits for it, who may not run yet, and the desk would stand empty.
        self._free = _one_token()
        self._owner = 0
        self._turns = 0

    def __enter__(self) -> None:
        while True:
            free, turns = self._free, self._turns
            try:
                # Where another takes the token in the last moment this can wait past its time, until the next one is put.
                free.get(timeout=_PATIENCE_SECONDS)
            except Empty:
                if free is self._free and turns == self._turns:
                    self._free = _one_token()  # and the other is nobody's any more
                    free.put(None)  # whoever waits for that one comes over
            else:
                if free is self._free:
                    self._turns += 1
                    self._owner = get_ident()
                    return
                free.put(None)

    def __exit__(self, *_: object) -> None:
        if self._owner == get_ident():
            self._owner = 0
            self._free.put(None)


def _one_token() -> SimpleQueue[None]:
    free: SimpleQueue[None] = SimpleQueue()
    free.put(None)
    return free
