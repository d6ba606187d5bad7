"""
Whether a process lives is only said where it is sure.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from safepulsar.processes import live_process
from safepulsar.processes.live_process import lives, this_process
from tests.subprocesses import Script

if TYPE_CHECKING:
    from pathlib import Path

_SAY_WHO_AND_WAIT = """
import threading
from safepulsar.processes.live_process import this_process
print(this_process(), flush=True)
print("there", flush=True)
threading.Event().wait()
"""


def test_this_process_is_not_gone() -> None:
    """
    Who asks about itself lives.
    """
    me = this_process()
    assert me is not None
    assert me.split("/")[1] == str(os.getpid())
    assert lives(me) is True


def test_a_killed_process_is_gone() -> None:
    """
    Another one lives until it is killed, and is gone also while nobody has waited for it.
    """
    with Script(_SAY_WHO_AND_WAIT) as script:
        script.wait_for("there")
        output = script._stdout.decode()
        other = output.splitlines()[0]
        assert lives(other) is True
        script.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, script.pid, os.WEXITED | os.WNOWAIT)  # dead, and a zombie still
        assert lives(other) is False
        script.finish(timeout_seconds=20)
    assert lives(other) is False


def test_another_process_with_the_same_number_is_not_the_same() -> None:
    """
    A process number that was given out again names another process: the first one is gone.
    """
    where, number, start = (this_process() or "").split("/")
    assert lives(f"{where}/{number}/{int(start) - 1}") is False


@pytest.mark.parametrize("what", ["machine", "container", "text", "nothing"])
def test_what_cannot_be_known_is_not_said(what: str) -> None:
    """
    Of a process of another machine or container, and of one without a name, nobody can say whether it lives.
    """
    where, _, start = (this_process() or "").split("/")
    boot, container = where.split(" ")
    process = {
        "machine": f"0{boot} {container}/999999999/{start}",
        "container": f"{boot} pid:[1]/999999999/{start}",
        "text": "nonsense",
        "nothing": None,
    }[what]
    assert lives(process) is None


def test_a_system_without_such_files_knows_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Where there is no /proc, no process has a name, and of none can be said whether it lives.
    """
    me = this_process()
    monkeypatch.setattr(live_process, "_SYSTEM", tmp_path)
    assert this_process() is None
    assert lives(me) is None
