"""
The process around the senders: however it ends or forks, owners are finished once and in order, and it ends as it should.
"""

from __future__ import annotations

import signal
import textwrap

import pytest

from tests.subprocesses import Script, run_script

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals and forks of Unix")

_TIMEOUT_SECONDS = 30.0

# Owners that say what happens to them, and nothing else.
_OWNERS = textwrap.dedent(
    """
    import os, signal, sys, threading, time
    from safepulsar.processes.process import Stage, process

    def say(*words):
        # One write, so that lines of two processes don't mix.
        os.write(1, (" ".join(map(str, words)) + "\\n").encode())

    class Owner:
        def __init__(self, name, stage, at_exit=lambda: None):
            self.name, self.stage, self._at_exit = name, stage, at_exit
            process.watch(self, stage)

        def at_exit(self):
            say("exit", self.name)
            self._at_exit()
            process.forget(self, self.stage)  # as senders and clients do once they are closed

        def after_fork(self):
            say("forked", self.name)

    """
)


def _script(source: str) -> str:
    return _OWNERS + textwrap.dedent(source)


@pytest.mark.parametrize(
    ("ending", "returncode"),
    [
        ("", 0),
        ("sys.exit(5)", 5),
        ("raise ValueError('oh')", 1),
        ("raise KeyboardInterrupt", -signal.SIGINT),
        ("threading.Thread(target=lambda: time.sleep(0.1)).start()", 0),
    ],
    ids=["end", "sys.exit", "exception", "Ctrl-C", "other thread last"],
)
def test_senders_end_before_clients_however_the_interpreter_ends(ending: str, returncode: int) -> None:
    """
    At every orderly end each owner is finished once, all senders first, and the exit code is the application's.
    """
    result = run_script(
        _script(
            f"""
            Owner("client", Stage.CLIENTS)
            Owner("sender", Stage.SENDERS)
            Owner("another client", Stage.CLIENTS)
            {ending}
            """
        ),
        timeout_seconds=_TIMEOUT_SECONDS,
    )
    lines = result.check(returncode).splitlines()
    assert lines[0] == "exit sender"
    assert sorted(lines[1:]) == ["exit another client", "exit client"]


def test_an_owner_that_fails_keeps_no_other_from_finishing() -> None:
    """
    An exception at exit is logged, and those after it are still finished.
    """
    result = run_script(
        _script(
            """
            def fail():
                raise ValueError("could not")

            Owner("sender", Stage.SENDERS, fail)
            Owner("client", Stage.CLIENTS)
            """
        ),
        timeout_seconds=_TIMEOUT_SECONDS,
    )
    assert result.check() == "exit sender\nexit client\n"
    assert "safepulsar.exit_failed" in result.stderr
    assert "ValueError: could not" in result.stderr


def test_an_impatient_ctrl_c_at_exit_skips_only_what_it_interrupts() -> None:
    """
    Ctrl-C while a sender drains at exit ends that wait; the clients are closed all the same, or the process would abort.
    """
    result = run_script(
        _script(
            """
            Owner("sender", Stage.SENDERS, lambda: (os.kill(os.getpid(), signal.SIGINT), time.sleep(20)))
            Owner("client", Stage.CLIENTS)
            """
        ),
        timeout_seconds=_TIMEOUT_SECONDS,
    )
    assert not result.hung, result
    assert result.stdout == "exit sender\nexit client\n", result


def test_who_is_forgotten_is_left_alone() -> None:
    """
    An owner that closed by itself is not finished at exit, and may go.
    """
    result = run_script(
        _script(
            """
            import weakref
            owner = Owner("sender", Stage.SENDERS)
            weakref.finalize(owner, say, "gone")
            process.forget(owner, Stage.SENDERS)
            process.forget(owner, Stage.SENDERS)
            del owner
            say("end")
            """
        ),
        timeout_seconds=_TIMEOUT_SECONDS,
    )
    assert result.check() == "gone\nend\n"


def test_a_signal_handler_may_forget_and_watch() -> None:
    """
    A handler that closes a sender does not deadlock, wherever it interrupts its own thread.
    """
    result = run_script(
        _script(
            """
            owner = Owner("sender", Stage.SENDERS)
            signal.signal(signal.SIGUSR1, lambda *_: process.forget(owner, Stage.SENDERS))
            with process._lock:
                signal.raise_signal(signal.SIGUSR1)
            say("end")
            """
        ),
        timeout_seconds=10,
    )
    assert result.check() == "end\n"


def test_who_is_watched_stays() -> None:
    """
    An owner that nobody else holds is still there at exit: what it accepted must not go with the last reference.
    """
    result = run_script(
        _script(
            """
            import gc
            Owner("sender", Stage.SENDERS)
            gc.collect()
            say("end")
            """
        ),
        timeout_seconds=_TIMEOUT_SECONDS,
    )
    assert result.check() == "end\nexit sender\n"


# -- SIGTERM -----------------------------------------------------------------------------------------------------

_WAIT = """
say("ready")
while True:
    time.sleep(0.01)
"""


def test_sigterm_drains_and_then_ends_the_process_as_ever() -> None:
    """
    On SIGTERM senders and then clients are finished, and whoever waits for the process sees that SIGTERM ended it.
    """
    with Script(
        _script(
            f"""
            Owner("client", Stage.CLIENTS)
            Owner("sender", Stage.SENDERS, lambda: time.sleep(0.2))
            say(process.drain_on_sigterm(), process.drain_on_sigterm())
            say(sum(thread.name == "safepulsar-sigterm" for thread in threading.enumerate()))
            {textwrap.indent(_WAIT, " " * 12).strip()}
            """
        )
    ) as script:
        script.wait_for("ready")
        script.send_signal(signal.SIGTERM)
        result = script.finish(timeout_seconds=_TIMEOUT_SECONDS)
    assert result.check(-signal.SIGTERM) == "True True\n1\nready\nexit sender\nexit client\n"


def test_sigterm_drains_while_the_main_thread_holds_a_lock_that_draining_needs() -> None:
    """
    The handler waits for nothing, so whatever it interrupts goes on and lets go of its locks.
    """
    with Script(
        _script(
            """
            lock = threading.Lock()
            Owner("sender", Stage.SENDERS, lambda: lock.acquire())
            process.drain_on_sigterm()
            with lock:
                say("ready")
                while process._terminate is not None:
                    time.sleep(0.01)
                say("signalled")
                time.sleep(0.1)
                say("let go")
            while True:
                time.sleep(0.01)
            """
        )
    ) as script:
        script.wait_for("ready")
        script.send_signal(signal.SIGTERM)
        result = script.finish(timeout_seconds=_TIMEOUT_SECONDS)
    lines = result.check(-signal.SIGTERM).splitlines()
    assert sorted(lines[1:]) == ["exit sender", "let go", "signalled"]


def test_a_second_sigterm_ends_the_process_at_once() -> None:
    """
    Whoever cannot wait for the draining sends the signal again.
    """
    with Script(
        _script(
            f"""
            Owner("sender", Stage.SENDERS, lambda: time.sleep(60))
            process.drain_on_sigterm()
            {textwrap.indent(_WAIT, " " * 12).strip()}
            """
        )
    ) as script:
        script.wait_for("ready")
        script.send_signal(signal.SIGTERM)
        script.wait_for("exit sender")
        script.send_signal(signal.SIGTERM)
        result = script.finish(timeout_seconds=_TIMEOUT_SECONDS)
    result.check(-signal.SIGTERM)


@pytest.mark.parametrize("ending", ["raise SystemExit(3)", "raise RuntimeError('the sender is closed')"])
def test_sigterm_ends_the_process_also_if_the_main_thread_ends_meanwhile(ending: str) -> None:
    """
    When the application falls over the closed sender while it drains, the process still ends by SIGTERM, drained.
    """
    with Script(
        _script(
            f"""
            draining, drained = threading.Event(), threading.Event()

            def drain():
                # As a sender does: whoever comes second waits for the first.
                if draining.is_set():
                    drained.wait()
                    return
                draining.set()
                time.sleep(0.5)
                say("drained")
                drained.set()

            Owner("sender", Stage.SENDERS, drain)
            Owner("client", Stage.CLIENTS, lambda: time.sleep(0.1))
            process.drain_on_sigterm()
            say("ready")
            draining.wait()
            {ending}
            """
        )
    ) as script:
        script.wait_for("ready")
        script.send_signal(signal.SIGTERM)
        result = script.finish(timeout_seconds=_TIMEOUT_SECONDS)
    lines = result.check(-signal.SIGTERM).splitlines()
    assert lines.index("drained") < lines.index("exit client")


def test_a_handler_of_the_application_stays() -> None:
    """
    Where the application, or a server that runs it, handles SIGTERM itself, nothing is changed.
    """
    result = run_script(
        _script(
            """
            mine = lambda *_: say("mine")
            signal.signal(signal.SIGTERM, mine)
            say(process.drain_on_sigterm(), signal.getsignal(signal.SIGTERM) is mine)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            say(process.drain_on_sigterm(), signal.getsignal(signal.SIGTERM) is signal.SIG_IGN)
            """
        ),
        timeout_seconds=_TIMEOUT_SECONDS,
    )
    assert result.check() == "False True\nFalse True\n"


def test_only_the_main_thread_can_set_a_handler() -> None:
    """
    A sender that is opened in another thread says that SIGTERM will not drain, and changes nothing.
    """
    result = run_script(
        _script(
            """
            thread = threading.Thread(target=lambda: say(process.drain_on_sigterm()))
            thread.start()
            thread.join()
            say(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
            """
        ),
        timeout_seconds=_TIMEOUT_SECONDS,
    )
    assert result.check() == "False\nTrue\n"


# -- forks -------------------------------------------------------------------------------------------------------


def test_a_forked_child_starts_afresh() -> None:
    """
    In the child every owner is told, none of the parent's is finished at exit, and SIGTERM is as it was at first.
    """
    result = run_script(
        _script(
            """
            import warnings
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks with threads, which is the point
            Owner("client", Stage.CLIENTS)
            Owner("sender", Stage.SENDERS)
            process.drain_on_sigterm()
            child = os.fork()
            if child == 0:
                say("child", signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
                Owner("sender of the child", Stage.SENDERS)
                say("child", process.drain_on_sigterm())
                sys.exit(4)
            _, status = os.waitpid(child, 0)
            say("parent", os.waitstatus_to_exitcode(status), signal.getsignal(signal.SIGTERM) == process._on_sigterm)
            os._exit(0)
            """
        ),
        timeout_seconds=_TIMEOUT_SECONDS,
    )
    lines = result.check().splitlines()
    assert sorted(lines[:2]) == ["forked client", "forked sender"]
    assert lines[2:] == ["child True", "child True", "exit sender of the child", "parent 4 True"]


def test_a_forked_child_drains_on_its_own_sigterm() -> None:
    """
    SIGTERM drains the child if the child has a sender, and leaves the parent alone.
    """
    result = run_script(
        _script(
            """
            import warnings
            warnings.simplefilter("ignore", DeprecationWarning)
            Owner("sender", Stage.SENDERS)
            process.drain_on_sigterm()
            child = os.fork()
            if child == 0:
                Owner("sender of the child", Stage.SENDERS)
                process.drain_on_sigterm()
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(60)
            _, status = os.waitpid(child, 0)
            say("parent", os.waitstatus_to_exitcode(status))
            """
        ),
        timeout_seconds=_TIMEOUT_SECONDS,
    )
    lines = result.check().splitlines()
    assert lines == ["forked sender", "exit sender of the child", f"parent {-signal.SIGTERM}", "exit sender"]


def test_a_handler_that_the_application_set_later_survives_a_fork() -> None:
    """
    A server that sets its own SIGTERM handler after ours finds it in its children, too.
    """
    result = run_script(
        _script(
            """
            import warnings
            warnings.simplefilter("ignore", DeprecationWarning)
            Owner("sender", Stage.SENDERS)
            process.drain_on_sigterm()
            mine = lambda *_: say("mine")
            signal.signal(signal.SIGTERM, mine)
            child = os.fork()
            if child == 0:
                say("child", signal.getsignal(signal.SIGTERM) is mine)
                os._exit(0)
            os.waitpid(child, 0)
            os._exit(0)
            """
        ),
        timeout_seconds=_TIMEOUT_SECONDS,
    )
    assert result.check() == "forked sender\nchild True\n"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_child_of_multiprocessing_finishes_its_owners(method: str) -> None:
    """
    A worker process, which leaves without the interpreter's exit hooks, finishes what it opened, and only that.
    """
    result = run_script(
        _script(
            f"""
            import multiprocessing, warnings
            warnings.simplefilter("ignore", DeprecationWarning)

            def work():
                Owner("client of the child", Stage.CLIENTS)
                Owner("sender of the child", Stage.SENDERS)

            if __name__ == "__main__":
                Owner("sender of the parent", Stage.SENDERS)
                child = multiprocessing.get_context("{method}").Process(target=work)
                child.start()
                child.join()
                say("parent", child.exitcode)
            """
        ),
        timeout_seconds=_TIMEOUT_SECONDS,
    )
    lines = [line for line in result.check().splitlines() if not line.startswith("forked")]
    assert lines == ["exit sender of the child", "exit client of the child", "parent 0", "exit sender of the parent"]


def test_a_terminated_child_of_multiprocessing_drains() -> None:
    """
    `Process.terminate` and a pool's end are SIGTERM: the worker drains before it goes.
    """
    result = run_script(
        _script(
            """
            import multiprocessing, warnings
            warnings.simplefilter("ignore", DeprecationWarning)

            def work(ready):
                Owner("sender of the child", Stage.SENDERS)
                process.drain_on_sigterm()
                ready.set()
                time.sleep(60)

            if __name__ == "__main__":
                context = multiprocessing.get_context("fork")
                ready = context.Event()
                child = context.Process(target=work, args=(ready,))
                child.start()
                ready.wait()
                child.terminate()
                child.join()
                say("parent", child.exitcode)
            """
        ),
        timeout_seconds=_TIMEOUT_SECONDS,
    )
    assert result.check() == f"exit sender of the child\nparent {-signal.SIGTERM}\n"


# -- a whole sender at exit ----------------------------------------------------------------------------------------


def test_a_sender_needs_no_new_thread_at_exit() -> None:
    """
    At exit, when Python 3.12 starts no thread, what was in flight is kept and callbacks run on threads there already.
    """
    result = run_script(
        _script(
            """
            import atexit, logging
            from safepulsar.broker.client_registry import ClientRegistry
            from safepulsar.failed_messages import EVERYTHING, InMemoryFailedMessages
            from safepulsar.sender import RetryingSender
            from safepulsar.settings import SenderSettings
            from safepulsar.testing import FakeBroker

            logging.basicConfig()
            broker, store = FakeBroker(), InMemoryFailedMessages()
            settings = SenderSettings(close_seconds=0.2, deadline_seconds=60)
            sender = RetryingSender(
                broker.url, failed_messages=store, settings=settings, registry=ClientRegistry(broker.connect)
            )
            sender.send("orders", "the first")
            broker.hold()
            handles = [sender.submit("orders", "x") for _ in range(5)]
            handles[0].add_done_callback(lambda handle: say("callback"))
            while len(broker.payloads("orders")) < 6:
                time.sleep(0.01)

            def forbid():
                def start(thread):
                    raise RuntimeError(f"can't create new thread at interpreter shutdown: {thread.name}")
                threading.Thread.start = start

            class Last:
                def at_exit(self):
                    counts = sender.close().counts
                    say("kept", counts.failed, counts.not_kept, counts.in_flight, store.count(EVERYTHING))

                def after_fork(self):
                    pass

            process.watch(Last(), Stage.CLIENTS)
            atexit.register(forbid)  # runs first
            """
        ),
        timeout_seconds=_TIMEOUT_SECONDS,
    )
    assert sorted(result.check().splitlines()) == ["callback", "kept 5 0 0 5"], result
