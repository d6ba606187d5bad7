"""
A wrapped command ends with the process that started it, and not before.
"""

from __future__ import annotations

import errno
import signal
import socket
import textwrap

import pytest

from tests.subprocesses import run_script
from tests.waiting import wait_until

# The command listens on a port until it is ended: whoever can connect knows that it lives, and needs no process table.
_START = """
import errno, os, signal, socket, subprocess, sys, textwrap, threading

from safepulsar.processes import end_with_parent

LISTEN = '''
import socket
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    listener.accept()[0].close()
'''

def listens(port):
    with socket.socket() as connection:
        connection.settimeout(1)
        return connection.connect_ex(("127.0.0.1", port)) != errno.ECONNREFUSED

def start(wrapper=None):
    command = end_with_parent.wrapped([sys.executable, "-S", "-c", LISTEN])
    if wrapper is not None:
        command = [*command[:3], "-c", wrapper, *command[3:]]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    port = int(process.stdout.readline())
    print(port, flush=True)
    return process, port
"""


def _listens(port: int) -> bool:
    with socket.socket() as connection:
        connection.settimeout(1)
        return connection.connect_ex(("127.0.0.1", port)) != errno.ECONNREFUSED


@pytest.mark.parametrize(
    ("way_out", "returncode"),
    [
        ("sys.exit(0)", 0),
        ("os._exit(0)", 0),
        ("os.abort()", -signal.SIGABRT),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("os.kill(process.pid, signal.SIGSTOP); os._exit(0)", 0),
    ],
)
def test_the_command_ends_with_its_parent(way_out: str, returncode: int) -> None:
    """
    However the parent ends, and even when the command is stopped, the command ends too.
    """
    port = int(run_script(_START + f"process, _ = start(); {way_out}").check(returncode))
    wait_until(lambda: not _listens(port), "the command's end")


def test_a_forked_child_of_the_parent_does_not_keep_the_command() -> None:
    """
    The command ends with the process that started it, also while a forked copy of that process goes on.
    """
    source = """
    _, port = start()
    if os.fork() == 0:
        while listens(port):
            pass
        print("ended", flush=True)
    os._exit(0)
    """
    assert run_script(_START + textwrap.dedent(source)).check().splitlines()[1:] == ["ended"]


def test_the_command_outlives_the_thread_that_started_it() -> None:
    """
    The end of the thread that started the command is not the end of the process.
    """
    source = """
    started = []
    thread = threading.Thread(target=lambda: started.append(start()))
    thread.start()
    thread.join()
    process, port = started[0]
    assert listens(port)
    assert process.poll() is None
    os._exit(0)
    """
    run_script(_START + textwrap.dedent(source)).check()


def test_the_command_ends_where_processes_have_no_handles() -> None:
    """
    Where the system can't say when a process ends, it is asked again and again.
    """
    source = """
    WITHOUT_HANDLES = '''
    import os, runpy, sys
    if hasattr(os, "pidfd_open"):
        del os.pidfd_open
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
    '''
    start(textwrap.dedent(WITHOUT_HANDLES))
    os._exit(0)
    """
    port = int(run_script(_START + textwrap.dedent(source)).check())
    wait_until(lambda: not _listens(port), "the command's end")


def test_the_process_id_is_the_commands() -> None:
    """
    The process that `subprocess` reports becomes the command, so its signals and exit code are the command's.
    """
    source = """
    process, port = start()
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == -signal.SIGTERM
    os._exit(0)
    """
    port = int(run_script(_START + textwrap.dedent(source)).check())
    assert not _listens(port)


def test_a_command_whose_parent_is_gone_does_not_start() -> None:
    """
    Where the parent ended before the command began, nothing is started.
    """
    source = """
    command = end_with_parent.wrapped([sys.executable, "-c", "print('started')"])
    command[4] = "1"  # as if another process had been the parent
    assert subprocess.run(command, stdout=subprocess.PIPE).stdout == b""
    """
    run_script(_START + textwrap.dedent(source)).check()
