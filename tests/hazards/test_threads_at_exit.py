"""
Threads that still send when the interpreter ends.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import pytest

from tests.hazards.trial import ABORTED

if TYPE_CHECKING:
    from pathlib import Path

    from tests.hazards.trial import Trial


@pytest.mark.parametrize("at_exit", ["", "atexit.register(client.close)"], ids=["left open", "closed at exit"])
def test_control_a_daemon_thread_that_sends_at_exit_aborts(trial: Trial, at_exit: str) -> None:
    """
    A daemon thread in the official client's `send_async` at exit aborts the program, even if the client was closed.
    """
    trial.raw(
        f"""
        producer = client.create_producer(topic, max_pending_messages=0)
        {at_exit}
        begun = threading.Event()
        def load():
            while True:
                producer.send_async(b"x" * 100, lambda result, message_id: begun.set())
        threading.Thread(target=load, daemon=True).start()
        begun.wait()
        """
    ).check(ABORTED)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 lets such threads be, mostly")
def test_control_a_daemon_thread_that_waits_at_exit_aborts(trial: Trial) -> None:
    """
    Daemon threads that wait in the official client's `send` at exit abort the program.
    """
    trial.raw(
        """
        producer = client.create_producer(topic, batching_enabled=True, batching_max_publish_delay_ms=60_000)
        for _ in range(20):
            threading.Thread(target=producer.send, args=(b"x",), daemon=True).start()
        time.sleep(0.3)  # until they wait, which nothing tells
        """
    ).check(ABORTED)


# Each writes down what was taken, by one system call, so that nothing is forgotten however the interpreter ends.
_LOAD: Final = """
taken = os.open(sys.argv[5], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
sender = make_sender()
begun = threading.Semaphore(0)

def load(thread):
    number = 0
    while True:
        payload = b"%d-%d" % (thread, number)
        {send}
        os.write(taken, payload + b"\\n")
        number += 1
        begun.release()

for thread in range({threads}):
    threading.Thread(target=load, args=(thread,), daemon=True).start()
for _ in range(200):
    begun.acquire()
"""


@pytest.mark.parametrize(
    ("send", "threads"),
    [("sender.submit(topic, payload)", 2), ("sender.send(topic, payload)", 20)],
    ids=["submit", "send"],
)
def test_daemon_threads_that_send_at_exit(trial: Trial, tmp_path: Path, send: str, threads: int) -> None:
    """
    With daemon threads in the middle of sending the program ends with its own code, and what they sent is delivered.
    """
    taken = tmp_path / "taken"
    result = trial.safe(_LOAD.format(send=send, threads=threads), taken)
    result.check()
    wanted = set(taken.read_bytes().split())
    found = trial.payloads(until=len(wanted))
    assert wanted <= set(found), "what a call had taken is missing"
    assert len(found) == len(set(found))
    assert trial.kept() == []


def test_control_a_thread_that_outlives_the_main_one_aborts(trial: Trial) -> None:
    """
    The official client aborts at the end of an ordinary thread, too, for which the interpreter had waited.
    """
    trial.raw(
        """
        producer = client.create_producer(topic, max_pending_messages=0)
        def load():
            for number in range(10_000):
                producer.send_async(b"x" * 100, lambda result, message_id: None)
        threading.Thread(target=load).start()
        """
    ).check(ABORTED)


def test_a_thread_that_outlives_the_main_one_delivers(trial: Trial) -> None:
    """
    What an ordinary thread submits after the main one has ended is delivered.
    """
    trial.safe(
        """
        sender = make_sender()
        sender.send(topic, b"first")  # Python 3.12 starts no more threads once the main one has ended
        def load():
            threading.main_thread().join()
            for number in range(10_000):
                sender.submit(topic, b"%d" % number)
        threading.Thread(target=load).start()
        """
    ).check()
    assert trial.payloads(until=10_001) == [b"first", *(b"%d" % number for number in range(10_000))]
