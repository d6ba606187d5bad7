"""
A fork neither hangs nor loses anything, with the store in the parent, in the child, or in both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.failed_messages.scripts import payloads, run
from tests.subprocesses import run_script

if TYPE_CHECKING:
    from pathlib import Path


def test_parent_and_child_both_keep_after_a_fork(path: Path) -> None:
    """
    After a fork both processes keep into the same file; closing it in either takes nothing from the other.
    """
    run(
        """
store = SqliteFailedMessages(path).open()
store.keep([failed(b"before")])
ready, go = os.pipe(), os.pipe()

def work():
    store.keep([failed(b"child 1")])
    os.write(ready[1], b"x")
    os.read(go[0], 1)
    store.keep([failed(b"child 2")])
    store.close()
    store.open()
    store.keep([failed(b"child 3")])

pid = child(work)
os.read(ready[0], 1)
store.keep([failed(b"parent")])
store.close()
os.write(go[1], b"x")
wait(pid)
""",
        path,
    )
    assert sorted(payloads(path)) == ["before", "child 1", "child 2", "child 3", "parent"]


def test_control_plain_sqlite_loses_a_commit_of_the_child(tmp_path: Path) -> None:
    """
    Control: a connection that is open while the process forks costs the child a commit, even if it opens its own.
    """
    output = run_script(
        """
        import ctypes, os, sqlite3, sys

        def connect():
            connection = sqlite3.connect(sys.argv[1], isolation_level=None)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            return connection

        parents = connect()
        parents.execute("CREATE TABLE t (x)")
        ready, go = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(parents))
            childs = connect()
            os.write(ready[1], b"x")
            os.read(go[0], 1)
            childs.execute("INSERT INTO t VALUES (1)")
            os._exit(0)
        os.read(ready[0], 1)
        parents.close()
        os.write(go[1], b"x")
        assert os.waitpid(pid, 0)[1] == 0
        print(connect().execute("SELECT count(*) FROM t").fetchone()[0])
        """,
        tmp_path / "plain.db",
    ).check()
    assert output == "0\n"


def test_forks_under_load_neither_hang_nor_lose(path: Path) -> None:
    """
    30 forks while four threads keep: each child keeps its own, writes none of the parent's, and nothing is lost.
    """
    output = run(
        """
store = SqliteFailedMessages(path).open()
stop = threading.Event()
counts = [0] * 4

def keep(name):
    while not stop.is_set():
        store.keep([failed(f"parent {name}".encode())])
        counts[name] += 1

threads = [threading.Thread(target=keep, args=(name,)) for name in range(4)]
for thread in threads:
    thread.start()
for i in range(30):
    wait(child(lambda: store.keep([failed(b"child")])))
stop.set()
for thread in threads:
    thread.join()
store.close()
print(*counts)
""",
        path,
    )
    found = payloads(path)
    assert found.count("child") == 30
    assert [found.count(f"parent {name}") for name in range(4)] == [int(count) for count in output.split()]


def test_a_child_of_a_child_works_too(path: Path) -> None:
    """
    Every generation opens the file anew.
    """
    run(
        """
store = SqliteFailedMessages(path).open()
store.keep([failed(b"1")])

def second():
    store.keep([failed(b"2")])
    wait(child(lambda: store.keep([failed(b"3")])))
    store.keep([failed(b"4")])

wait(child(second))
store.keep([failed(b"5")])
store.close()
""",
        path,
    )
    assert payloads(path) == ["1", "2", "3", "4", "5"]


def test_a_fork_past_python_is_refused(path: Path) -> None:
    """
    In a child that was forked without Python's hooks, an inherited open store refuses to work; the parent's goes on.
    """
    output = run(
        """
import ctypes
store = SqliteFailedMessages(path).open()
store.keep([failed(b"before")])
pid = ctypes.PyDLL(None).fork()
if pid == 0:
    for attempt in range(2):
        try:
            store.keep([failed(b"child")])
        except StoreUnavailable as error:
            print(error, flush=True)
    store.close()
    os._exit(0)
wait(pid)
store.keep([failed(b"after")])
store.close()
""",
        path,
    )
    assert output.count("open the store after the fork") == 2
    assert payloads(path) == ["before", "after"]


def test_a_store_that_was_only_opened_survives_a_fork_past_python(path: Path) -> None:
    """
    A preloading server may open the store and fork in whatever way: it holds nothing until it is used.
    """
    run(
        """
import ctypes
store = SqliteFailedMessages(path).open()
pid = ctypes.PyDLL(None).fork()
if pid == 0:
    store.keep([failed(b"child")])
    os._exit(0)
wait(pid)
store.keep([failed(b"parent")])
store.close()
""",
        path,
    )
    assert payloads(path) == ["child", "parent"]


def test_a_signal_handler_that_forks_does_not_hang(path: Path) -> None:
    """
    A fork from within the store's own call, as a signal handler may do it, ends; the parent's call succeeds.
    """
    output = run(
        """
import signal
store = SqliteFailedMessages(path, busy_timeout_seconds=0)
store.open()
forked = []

class Clock:
    def __call__(self):
        # Stands for a handler that runs in the middle of a transaction: the clock is read inside of it.
        if not forked:
            forked.append(child(lambda: None))
        return 1.0

store.clock = Clock()
store.keep([failed(b"1")])
assert [message.id for message in store.claim("r1", limit=1, lease_seconds=30)] == [1]
wait(*forked)
store.close()
print("ended")
""",
        path,
    )
    assert output == "ended\n"


def test_the_store_in_memory_stays_with_its_parent() -> None:
    """
    A child begins with an empty store in memory, even if another thread was using it, and the parent's is untouched.
    """
    output = run(
        """
store = InMemoryFailedMessages().open()
store.keep([failed(b"parent")])
store._lock.acquire()  # as by another thread

def work():
    assert store.count() == 0
    assert store.keep([failed(b"child")]) == [1]

pid = child(work)
store._lock.release()
wait(pid)
print(*[message.message.payload.decode() for message in store.find()])
"""
    )
    assert output == "parent\n"
