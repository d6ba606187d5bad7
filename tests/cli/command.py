"""
The command in a process of its own, with everything it writes; and on a terminal, as a person sees it.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.waiting import wait_until

if TYPE_CHECKING:
    import signal
    from collections.abc import Iterator, Mapping

    from typing_extensions import Self

_ROOT: Final = Path(__file__).parents[2]
_PROGRAM: Final = (sys.executable, "-m", "safepulsar")
_SECONDS: Final = 60.0


def environment(home: Path, changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """
    Ours, without what would change the command, and with folders of its own.
    """
    ours = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SAFEPULSAR_") and name not in ("NO_COLOR", "FORCE_COLOR", "GITHUB_ACTIONS", "COLUMNS")
    }
    return {
        **ours,
        "PYTHONPATH": str(_ROOT),
        "PYTHONFAULTHANDLER": "1",
        "HOME": str(home),
        "XDG_STATE_HOME": str(home / "state"),
        "TERM": "xterm-256color",
        **(changes or {}),
    }


class Ended:
    """
    What a command wrote, and how it ended.
    """

    def __init__(self, returncode: int, stdout: str, stderr: str) -> None:
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr

    def __str__(self) -> str:
        return f"ended with {self.returncode}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"

    def check(self, returncode: int) -> Self:
        """
        Itself, if it ended so and without a traceback.
        """
        assert self.returncode == returncode, self
        assert "Traceback" not in self.stderr, self
        return self

    def json(self) -> dict[str, Any]:
        """
        The object on the last line of standard output.
        """
        value = json.loads(self.stdout.splitlines()[-1])
        assert isinstance(value, dict)
        return value


class Commands:
    """
    Runs commands with a home of their own.
    """

    def __init__(self, home: Path) -> None:
        self.home = home

    @property
    def default_store(self) -> Path:
        """
        Where failed messages go unless told otherwise.
        """
        return self.home / "state" / "safepulsar" / "failed.db"

    def run(self, *arguments: object, stdin: bytes = b"", changes: Mapping[str, str] | None = None) -> Ended:
        """
        Run one to its end.
        """
        done = subprocess.run(
            [*_PROGRAM, *map(str, arguments)],
            input=stdin,
            capture_output=True,
            env=environment(self.home, changes),
            timeout=_SECONDS,
            check=False,
            cwd=self.home,
        )
        return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())

    def run_shell(self, script: str) -> Ended:
        """
        Run a line of a shell, where pipes and redirections are needed.
        """
        done = subprocess.run(
            ["/bin/sh", "-c", script],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment(self.home),
            timeout=_SECONDS,
            check=False,
            cwd=self.home,
        )
        return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())

    @contextlib.contextmanager
    def start(self, *arguments: object, terminal: bool = False) -> Iterator[Running]:
        """
        Start one with a pipe on its standard input; killed at the end of the `with` block if it still runs.

        With a terminal, that is where its standard error goes.
        """
        ours, theirs = pty.openpty() if terminal else os.pipe()
        process = subprocess.Popen(
            [*_PROGRAM, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=theirs,
            env=environment(self.home, {"COLUMNS": "200"} if terminal else None),
            cwd=self.home,
        )
        os.close(theirs)
        running = Running(process, ours)
        try:
            yield running
        finally:
            process.kill()
            running.finish()
            os.close(ours)


class Running:
    """
    A command under way.
    """

    def __init__(self, process: subprocess.Popen[bytes], stderr: int) -> None:
        self.process = process
        self._stdout = bytearray()
        self._stderr = bytearray()
        assert process.stdout is not None
        self._pumps = [
            threading.Thread(target=_pump, args=streams)
            for streams in ((process.stdout.fileno(), self._stdout), (stderr, self._stderr))
        ]
        for pump in self._pumps:
            pump.start()

    @property
    def stdout(self) -> str:
        """
        What it has written to standard output by now.
        """
        return self._stdout.decode()

    @property
    def stderr(self) -> str:
        """
        What it has written to standard error by now.
        """
        return self._stderr.decode(errors="replace")

    def write(self, data: bytes) -> None:
        """
        Give it something to read on standard input, which stays open.
        """
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        """
        Send it a signal.
        """
        self.process.send_signal(number)

    def wait_for(self, text: str, *, stderr: bool = False) -> None:
        """
        Return once it has written the text.
        """
        wait_until(
            lambda: text in (self.stderr if stderr else self.stdout) or self.process.poll() is not None,
            f"{text!r} written",
            timeout_seconds=30,
        )
        assert text in (self.stderr if stderr else self.stdout), f"{text!r} not in {self.stdout!r} {self.stderr!r}"

    def finish(self) -> Ended:
        """
        Wait for its end.
        """
        returncode = self.process.wait(_SECONDS)
        for pump in self._pumps:
            pump.join(_SECONDS)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        return Ended(returncode, self.stdout, self.stderr)


def _pump(descriptor: int, into: bytearray) -> None:
    # A terminal whose other end is closed answers with an error instead of an end.
    with contextlib.suppress(OSError):
        while piece := os.read(descriptor, 65_536):
            into += piece
