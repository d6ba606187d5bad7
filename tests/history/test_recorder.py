"""
A recorder keeps every event of every thread and process, and a kill -9 takes none that was recorded.
"""

from __future__ import annotations

import json
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from safepulsar.message import Certainty, Message, MessageId
from tests.history import Event, History, Rules, What, check
from tests.history.scene import TOPIC, Scene, identify
from tests.subprocesses import Script

if TYPE_CHECKING:
    from pathlib import Path

THREADS, EACH = 8, 500


@pytest.fixture(params=["memory", "file"])
def history(request: pytest.FixtureRequest, tmp_path: Path) -> History:
    """
    A recorder of each kind.
    """
    return History(tmp_path / "history.jsonl" if request.param == "file" else None)


def test_events_of_many_threads_are_all_kept(history: History) -> None:
    """
    Threads that record at once lose nothing, and each one's events stay in order.
    """

    def record(thread: int) -> None:
        for number in range(EACH):
            history.attempted(f"{thread}-{number}", TOPIC, Message(topic=TOPIC, payload=b"x"))
            history.acked(f"{thread}-{number}")

    threads = [threading.Thread(target=record, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    history.close()
    events = list(history.events())
    assert len(events) == THREADS * EACH * 2
    for number in range(THREADS):
        mine = [event.identity for event in events if event.identity.startswith(f"{number}-")]
        assert mine == [f"{number}-{count}" for count in range(EACH) for _ in range(2)]


def test_a_file_holds_what_memory_holds(tmp_path: Path) -> None:
    """
    Every kind of event comes back from the file as it went in, so both kinds of history get the same verdict.
    """
    scene = Scene()
    scene.deliver("a", "b")
    scene.accept("c")
    scene.history.failed("c", Certainty.MAYBE_STORED, 5)
    scene.history.kept("c", 5)
    scene.history.resent("c")
    scene.history.broken()
    scene.history.healed()
    scene.attempt("d")
    scene.history.rejected("d")
    scene.accept("e")
    scene.history.duplicate("e")
    scene.accept("f")
    scene.history.failed("f", Certainty.NOT_STORED, 6)
    scene.history.replayed("f")
    scene.history.ledger(accepted=5, delivered=2, duplicate=1, failed=2)
    scene.history.killed()
    in_memory = list(scene.read().events())
    assert {event.what for event in in_memory} == set(What)
    path = tmp_path / "history.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in in_memory))
    from_file = History(path)
    assert list(from_file.events()) == in_memory
    assert check(from_file).violations == check(scene.history).violations


def test_a_line_cut_short_by_a_kill_is_passed_over(tmp_path: Path) -> None:
    """
    The last line of a killed process may be unfinished; a broken line elsewhere is an error.
    """
    path = tmp_path / "history.jsonl"
    history = History(path)
    history.killed()
    history.close()
    whole = path.read_bytes()
    path.write_bytes(whole + b'["acked", "a"')
    assert list(history.events()) == [Event(What.KILLED, "", {})]
    path.write_bytes(b'["acked", "a"\n' + whole)
    with pytest.raises(json.JSONDecodeError):
        list(history.events())


def test_a_history_may_begin_with_events() -> None:
    """
    Events of one history can be the beginning of another, which leaves the first alone.
    """
    first = History()
    first.killed()
    second = History.of(first.events())
    second.killed()
    assert (len(list(first.events())), len(list(second.events()))) == (1, 2)


@pytest.mark.timeout(60)
def test_what_a_killed_process_recorded_is_there(tmp_path: Path, scene: Scene) -> None:
    """
    Killed (-9) in the middle, a process leaves everything it had recorded, and the next process writes on.
    """
    path = tmp_path / "history.jsonl"
    source = """
        import itertools, sys
        from pathlib import Path
        from safepulsar.message import Message
        from tests.history import History

        history = History(Path(sys.argv[1]))
        for number in itertools.count():
            history.attempted(f"k-{number}", "t", Message(topic="t", payload=b"x"))
            history.accepted(f"k-{number}")
            print("accepted", number)
    """
    with Script(source, path) as script:
        script.wait_for("accepted 100\n")
        script.send_signal(signal.SIGKILL)
        result = script.finish(timeout_seconds=30)
    accepted = result.stdout.count("accepted")
    history = History(path)
    history.killed()
    for message in scene.messages.values():
        identity = (message.properties or {})["id"]
        history.attempted(identity, TOPIC, message)
        history.acked(identity, MessageId(7, "ab".index(identity)))
    history.found(TOPIC, scene.topic, identify)
    history.close()
    report = check(history, Rules(killed=True))
    assert report.ok, str(report)
    assert report.counts.in_flight in (accepted, accepted + 1)
    assert report.counts.delivered == 2
