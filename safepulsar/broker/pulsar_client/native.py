"""
What a client and its producers need of the native library alike: its codes, the end of a call, keeping it alive.
"""

from __future__ import annotations

import functools
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Final, TypeVar

import _pulsar

from safepulsar.errors import SafePulsarError
from safepulsar.processes.native_calls import native_calls

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_LOOK_SECONDS: Final = 0.001
OK: Final = _pulsar.Result.Ok.value
# Two codes that the library uses and its enumeration doesn't name.
_CODES: Final = {result.value: name for name, result in _pulsar.Result.__members__.items()} | {
    -1: "Retryable",
    46: "Disconnected",
}


def code_of(result: _pulsar.Result) -> str:
    """
    Return Pulsar's name of a result.
    """
    return _CODES.get(result.value, "UnknownError")


def leak(*objects: object) -> None:
    """
    Never destroy these objects: their end would wait for threads that a forked child doesn't have.
    """
    import ctypes  # noqa: PLC0415  # seldom needed, and would be a part of every start

    for each in objects:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(each))


def quietly(make: Callable[[], T]) -> T | None:
    """
    Return what `make` makes of values from outside, or None where the native library does not take them.

    The texts of its errors quote the values. They are dropped here, so that not even the context of a later error
    has them; our own errors pass.
    """
    try:
        return make()
    except SafePulsarError:
        raise
    except Exception:  # noqa: BLE001  # whatever it is, it can quote
        return None


class Answer:
    """
    The native library's answer to one asynchronous call, which gets this object as its callback.

    A Python function on the network thread, where each message's must be in C: rare, and it can't fail or block.
    """

    def __init__(self) -> None:
        # Held until the answer is here. Not a SimpleQueue, whose `get` can wait for ever where its timeout is over at once.
        self._bar = threading.Lock()
        self._bar.acquire()
        self._told: tuple[_pulsar.Result, Any] | None = None

    def __call__(self, result: _pulsar.Result, value: object = None) -> None:
        """
        Take the answer.
        """
        self._told = result, value
        self._bar.release()
        native_calls.end(id(self))

    def wait(self, deadline: float) -> tuple[_pulsar.Result, Any] | None:
        """
        Return `(result, value)`, or None if there is no answer by the deadline. For one thread.
        """
        if self._told is None:
            self._bar.acquire(timeout=max(0.0, deadline - time.monotonic()))
        return self._told


class Closings:
    """
    The native objects that are being closed: each is given a function, and is closed when the library let go of it.

    It is not the call of that function that tells but its end. The library calls it on a thread of its own, and then
    destroys it, for which it needs the interpreter's lock: had the interpreter ended by then, it would be aborted.
    Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # guards _functions; re-entrant, because a signal handler may close, too
        # Not a WeakSet, in whose own code a handler's exception would be lost, and the function never taken out.
        self._functions: list[weakref.ref[Callable[..., object]]] = []

    def add(self) -> Callable[[object], object]:
        """
        Return the function for one more `close_async`.
        """
        function = functools.partial(bool)  # in C, and its end can be watched
        native_calls.begin(id(function))
        self.watch(function)
        return function

    def watch(self, function: Callable[..., object]) -> None:
        """
        Wait for the end of this function, too, which the library has been given. It has begun in `native_calls`.
        """
        call = id(function)
        watched = weakref.ref(function, lambda _: native_calls.end(call))
        with self._lock:
            self._functions = [*self._living(), watched]

    def wait(self, timeout_seconds: float) -> bool:
        """
        Wait until all are closed; False if they were not in time.
        """
        deadline = time.monotonic() + timeout_seconds
        while self._living():
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOOK_SECONDS)
        return True

    def _living(self) -> list[weakref.ref[Callable[..., object]]]:
        return [each for each in self._functions if each() is not None]
