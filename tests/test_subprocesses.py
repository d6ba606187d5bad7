"""
Scripts in processes of their own: their fate is told, and nothing of them is left.
"""

from __future__ import annotations

import os
import signal

import pytest

from tests.subprocesses import Script, run_script


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_script_is_told_by_its_end() -> None:
    """
    Exit code, arguments and both outputs of a script are in its result.
    """
    result = run_script("import sys; print(sys.argv[1:]); print('oh', file=sys.stderr); sys.exit(7)", "a", 2)
    assert (result.returncode, result.hung) == (7, False)
    assert (result.stdout, result.stderr) == ("['a', '2']\n", "oh\n")
    assert result.check(7) == result.stdout


def test_another_end_than_expected_fails_with_the_output() -> None:
    """
    A script that ends otherwise than expected fails the test, with all that it said.
    """
    result = run_script("print('so far'); raise SystemExit('the reason')")
    with pytest.raises(AssertionError, match=r"(?s)expected exit code 0; .*ended with 1 .*so far.*the reason"):
        result.check()


def test_a_signal_is_told() -> None:
    """
    A script that a signal ended has minus its number as exit code.
    """
    assert run_script("import os; os.abort()").check(-signal.SIGABRT) == ""


def test_a_hung_script_is_killed_and_tells_where_it_stood() -> None:
    """
    A script that does not end in time is killed, and its stacks are in the result.
    """
    source = """
    import signal
    def hangs_here():
        signal.pause()
    print("so far")
    hangs_here()
    """
    with Script(source) as script:
        script.wait_for("so far")
        result = script.finish(timeout_seconds=0.1)
        assert result.hung
        assert "in hangs_here" in result.stderr
        with pytest.raises(AssertionError, match=r"(?s)HUNG and was killed.*so far"):
            result.check()
    assert _is_gone(script.pid)


def test_what_a_script_forked_is_part_of_it() -> None:
    """
    A forked child that outlives its parent makes the script hang, though the script itself has ended well.
    """
    source = """
    import os, signal
    child = os.fork()
    if child == 0:
        signal.pause()
    """
    result = run_script(source, timeout_seconds=1)
    assert result.hung
    assert result.returncode == 0


def test_a_running_script_can_be_waited_for_and_signalled() -> None:
    """
    A line of a running script is seen at once, and a signal reaches it.
    """
    source = """
    import signal
    signal.signal(signal.SIGTERM, lambda *_: exit(3))
    print("ready")
    signal.pause()
    """
    with Script(source) as script:
        script.wait_for("ready")
        script.send_signal(signal.SIGTERM)
        script.finish(timeout_seconds=10).check(3)


def test_waiting_for_a_line_that_never_comes_fails_with_the_output() -> None:
    """
    A script that ends without the line fails the wait at once, with all that it said.
    """
    with (
        Script("print('another'); raise SystemExit(4)") as script,
        pytest.raises(AssertionError, match=r"(?s)not written 'ready'; .*ended with 4 .*another"),
    ):
        script.wait_for("ready")
