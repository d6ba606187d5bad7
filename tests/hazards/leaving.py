"""
The program of `test_exits`: accepts messages, writes down what becomes of each, and leaves in the way that it is told.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import gc
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from safepulsar import Fate, Message, RetryingSender, SenderClosed, SenderSettings, SendFailed
from tests.history import History

if TYPE_CHECKING:
    from collections.abc import Callable

    from safepulsar import SendHandle

SOME: Final = 100
MANY: Final = 400
# In the name of what is accepted by a process that leaves without a word.
KILLED: Final = "killed"


class Load:
    """
    Messages of one thread, each written down before and after. In another process, another one.

    Args:
        name: the beginning of their identities.
        arguments: URL, topic, the paths of the store and of the history, and the seconds that closing may take.
        sender: of another load of this process, or of its parent; by default a new one.

    Attributes:
        left_behind: what a way out leaves to the end of the interpreter.
    """

    def __init__(self, name: str, arguments: list[str], sender: RetryingSender | None = None) -> None:
        url, self.topic, store, history, close_seconds = arguments
        self.name = name
        self.arguments = arguments
        self.history = History(Path(history))
        settings = SenderSettings(close_seconds=float(close_seconds))
        self.sender = RetryingSender(url, failed_messages=store, settings=settings) if sender is None else sender
        self.left_behind: object = None
        self._numbers = itertools.count()

    def beside(self, name: str) -> Load:
        """
        Messages of another thread, or of a forked child, by the same sender.
        """
        return Load(f"{self.name}-{name}", self.arguments, self.sender)

    def submit(self, *, told: bool = True) -> tuple[str, SendHandle]:
        """
        Submit one, and have its fate written down.

        Written down as accepted only afterwards, so that an interruption in between leaves no false promise.

        Raises:
            SenderClosed: it was refused.
        """
        number = next(self._numbers)
        identity = f"{self.name}-{number}"
        key = self.name if number % 4 == 0 else None
        message = Message(topic=self.topic, payload=identity.encode(), properties={"id": identity}, partition_key=key)
        self.history.attempted(identity, self.topic, message)
        try:
            handle = self.sender.submit(
                self.topic, message.payload, properties=message.properties, partition_key=message.partition_key
            )
        except SenderClosed:
            self.history.rejected(identity)
            raise
        if told:
            handle.add_done_callback(functools.partial(self.note, identity))
        self.history.accepted(identity)
        return identity, handle

    def note(self, identity: str, handle: SendHandle) -> None:
        """
        Write down a fate.
        """
        try:
            result = handle.result()
        except SendFailed as error:
            self.history.failed(identity, error.certainty, error.failed_message_id)
            return
        if result.fate is Fate.DUPLICATE:
            self.history.duplicate(identity)
        else:
            self.history.acked(identity, result.message_id)

    def many(self, count: int = MANY) -> None:
        """
        Submit so many.
        """
        for _ in range(count):
            self.submit()

    def on_and_on(self) -> None:
        """
        Submit until the sender takes no more.
        """
        try:
            while True:
                self.submit()
        except SenderClosed:
            pass

    def confirmed(self, count: int = SOME) -> None:
        """
        Submit so many, and write down their fates here, as soon as they are known.
        """
        for identity, handle in [self.submit(told=False) for _ in range(count)]:
            self.note(identity, handle)


# -- the ways out ------------------------------------------------------------------------------------------------


def _returns(load: Load) -> None:
    load.many()


def _exits(load: Load, code: int) -> None:
    load.many()
    sys.exit(code)


def _raises(load: Load) -> None:
    load.many()
    raise ValueError("the application's own")


def _is_signalled(load: Load, number: signal.Signals) -> None:
    threading.Timer(0.15, os.kill, (os.getpid(), number)).start()
    load.on_and_on()
    threading.Event().wait(20)  # the signal ends it, when all is delivered


def _exits_in_a_handler(load: Load) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    _is_signalled(load, signal.SIGTERM)


def _leaves_without_a_word(load: Load) -> None:
    load.confirmed()
    load.beside(KILLED).many()
    os._exit(5)


def _raises_at_exit(load: Load) -> None:
    def fail() -> None:
        raise ValueError("the application's own")

    load.many()
    atexit.register(fail)  # before the sender is closed; the other is after


def _exits_in_a_thread(load: Load) -> None:
    def run() -> None:
        threading.main_thread().join()
        load.many()
        sys.exit(7)  # ends its thread, and nothing else

    load.many(4)  # with and without a key: Python 3.12 starts no more threads once the main one has ended
    threading.Thread(target=run).start()


def _leaves_daemons_sending(load: Load) -> None:
    for number in range(3):
        threading.Thread(target=load.beside(str(number)).on_and_on, daemon=True).start()
    load.confirmed()


def _exits_inside_with(load: Load) -> None:
    with load.sender:
        load.many()
        sys.exit(3)


def _exits_after_close(load: Load) -> None:
    load.many()
    load.sender.close()
    sys.exit(3)


def _forks(load: Load, ending: Callable[[Load], None], name: str) -> None:
    load.many(SOME)
    child = os.fork()
    if child == 0:
        ending(load.beside(name))
        return
    load.many(SOME)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def _child_exits(load: Load) -> None:
    load.many(SOME)
    sys.exit(4)


def _child_leaves_without_a_word(load: Load) -> None:
    load.many(SOME)
    os._exit(5)


def _child_of_multiprocessing(name: str, arguments: list[str], sender: RetryingSender | None) -> None:
    Load(name, arguments, sender).many(SOME)
    sys.exit(6)


def _has_a_child(load: Load, method: str) -> None:
    load.many(SOME)
    context = multiprocessing.get_context(method)
    # A forked child gets the sender of its parent, any other makes its own.
    sender = load.sender if method == "fork" else None
    child = context.Process(target=_child_of_multiprocessing, args=(f"{load.name}-child", load.arguments, sender))  # type: ignore[attr-defined]  # every context has it
    child.start()
    load.many(SOME)
    child.join()
    sys.exit(child.exitcode)


def _leaves_coroutines_waiting(load: Load) -> None:
    async def wait_for(handle: SendHandle) -> None:
        await handle

    async def begin() -> list[asyncio.Future[None]]:
        return [asyncio.ensure_future(wait_for(load.submit()[1])) for _ in range(MANY)]

    loop = asyncio.new_event_loop()
    load.left_behind = loop, loop.run_until_complete(begin())


def _lets_the_sender_go(load: Load) -> None:
    load.many()
    del load.sender
    gc.collect()


# Each with the exit code that it must have.
WAYS: Final[dict[str, tuple[Callable[[Load], None], int]]] = {
    "return": (_returns, 0),
    "sys.exit(0)": (functools.partial(_exits, code=0), 0),
    "sys.exit(3)": (functools.partial(_exits, code=3), 3),
    "uncaught exception": (_raises, 1),
    "SIGINT": (functools.partial(_is_signalled, number=signal.SIGINT), -signal.SIGINT),
    "SIGTERM": (functools.partial(_is_signalled, number=signal.SIGTERM), -signal.SIGTERM),
    "sys.exit in a handler": (_exits_in_a_handler, 3),
    "os._exit": (_leaves_without_a_word, 5),
    "exception at exit": (_raises_at_exit, 0),
    "sys.exit in a thread": (_exits_in_a_thread, 0),
    "daemon threads sending": (_leaves_daemons_sending, 0),
    "inside with": (_exits_inside_with, 3),
    "after close": (_exits_after_close, 3),
    "forked child, sys.exit": (functools.partial(_forks, ending=_child_exits, name="child"), 4),
    "forked child, os._exit": (functools.partial(_forks, ending=_child_leaves_without_a_word, name=KILLED), 5),
    "multiprocessing, fork": (functools.partial(_has_a_child, method="fork"), 6),
    "multiprocessing, spawn": (functools.partial(_has_a_child, method="spawn"), 6),
    "multiprocessing, forkserver": (functools.partial(_has_a_child, method="forkserver"), 6),
    "coroutines waiting": (_leaves_coroutines_waiting, 0),
    "sender let go": (_lets_the_sender_go, 0),
}


def main() -> None:
    """
    Leave: `WAY NAME GO URL TOPIC STORE HISTORY CLOSE_SECONDS`. If GO is a path, be ready, and wait until it is there.
    """
    way, name, go, *arguments = sys.argv[1:]
    leave, _ = WAYS[way]
    if way == "exception at exit":
        atexit.register(lambda: 1 / 0)
    load = Load(name, arguments)
    if go:
        load.confirmed(1)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while not Path(go).exists():
            time.sleep(0.01)
    leave(load)
