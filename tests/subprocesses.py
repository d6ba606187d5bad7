"""
Scripts in processes of their own, under a hard time limit: where hazards may hang, abort, fork and exit.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from typing_extensions import Self

_ROOT: Final = Path(__file__).parents[1]
_STACKS_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptResult:
    """
    What became of a script.

    Attributes:
        returncode: its exit code, or minus the signal that ended it; of a hung script, too, which was killed.
        hung: it, or a process that it forked, still ran when the time was over. Then `stderr` ends with its stacks.
        stdout: all that it wrote, up to its end.
        stderr: likewise.
        seconds: from its start to its end.
    """

    returncode: int
    hung: bool
    stdout: str
    stderr: str
    seconds: float

    def __str__(self) -> str:
        fate = "HUNG and was killed" if self.hung else f"ended with {self.returncode}"
        return f"the script {fate} after {self.seconds:.1f} s\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"

    def check(self, returncode: int = 0) -> str:
        """
        Return what it wrote to standard output.

        Raises:
            AssertionError: it hung or ended otherwise; the text has all that it wrote.
        """
        if self.hung or self.returncode != returncode:
            raise AssertionError(f"expected exit code {returncode}; {self}")
        return self.stdout


class Script:
    """
    A Python script that runs in a process group of its own. In a `with` block; at its end the group is killed.

    It can import the project. Its standard output is not buffered, so that `wait_for` sees each line at once.

    Args:
        source: its text; common indentation is taken off.
        arguments: become `sys.argv[1:]`.
        environment: added to ours.
    """

    def __init__(self, source: str, *arguments: object, environment: Mapping[str, str] | None = None) -> None:
        self._source = textwrap.dedent(source)
        self._arguments = [str(argument) for argument in arguments]
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(_ROOT),
            "PYTHONUNBUFFERED": "1",
            "PYTHONFAULTHANDLER": "1",  # so that a crash, and our SIGABRT to a hung one, tell where it stood
            **(environment or {}),
        }
        self._at_end = contextlib.ExitStack()
        self._output = threading.Condition()  # guards the three below, and is notified when they change
        self._stdout = bytearray()
        self._stderr = bytearray()
        self._open_streams = 2

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            folder = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="safepulsar-script-")))
            # A file, and not `-c`: its lines stand in tracebacks, and multiprocessing can import it again.
            file = folder / "script.py"
            file.write_text(self._source, encoding="utf-8")
            self._started = time.monotonic()
            self._process = subprocess.Popen(
                [sys.executable, str(file), *self._arguments],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            undo.enter_context(self._process)
            self._pumps = [
                threading.Thread(target=self._pump, args=streams, name="script-output")
                for streams in ((self._process.stdout, self._stdout), (self._process.stderr, self._stderr))
            ]
            for pump in self._pumps:
                pump.start()
            undo.callback(self._kill_group)
            self._at_end = undo.pop_all()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._at_end.close()

    @property
    def pid(self) -> int:
        """
        The process id of the script itself.
        """
        return self._process.pid

    def wait_for(self, text: str, *, timeout_seconds: float = 30.0) -> None:
        """
        Return once the script has written the text to standard output.

        Raises:
            AssertionError: it has not in the time allowed, or it ended without.
        """
        wanted = text.encode()
        with self._output:
            self._output.wait_for(lambda: wanted in self._stdout or self._open_streams == 0, timeout_seconds)
            found = wanted in self._stdout
        if not found:
            raise AssertionError(f"the script has not written {text!r}; {self.finish(timeout_seconds=1)}")

    def send_signal(self, number: signal.Signals) -> None:
        """
        Send a signal to the script itself, and to nothing that it forked.
        """
        self._process.send_signal(number)

    def finish(self, *, timeout_seconds: float) -> ScriptResult:
        """
        Wait for the end of the script and of all that it forked and that still holds its output.

        What has not ended after the time allowed is killed, and the result says that it hung.
        """
        deadline = time.monotonic() + timeout_seconds
        hung = False
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            hung = True
            self._process.send_signal(signal.SIGABRT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STACKS_SECONDS)
        with self._output:
            # They are at their end when every process of the script has let go of them.
            seconds = max(0.0, deadline - time.monotonic())
            hung = not self._output.wait_for(lambda: self._open_streams == 0, seconds) or hung
        self._kill_group()
        return ScriptResult(
            returncode=self._process.wait(),
            hung=hung,
            stdout=self._stdout.decode(errors="replace"),
            stderr=self._stderr.decode(errors="replace"),
            seconds=time.monotonic() - self._started,
        )

    def _pump(self, stream: IO[bytes], into: bytearray) -> None:
        while chunk := os.read(stream.fileno(), 65_536):
            with self._output:
                into += chunk
                self._output.notify_all()
        with self._output:
            self._open_streams -= 1
            self._output.notify_all()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pump in self._pumps:
            pump.join()


def run_script(
    source: str,
    *arguments: object,
    timeout_seconds: float = 60.0,
    environment: Mapping[str, str] | None = None,
) -> ScriptResult:
    """
    Run a script to its end, or kill it, with all that it forked, when the time is over; see `Script`.

    A hang is a result and no error: `result.hung` where it is expected, `result.check()` where it is not.
    """
    with Script(source, *arguments, environment=environment) as script:
        return script.finish(timeout_seconds=timeout_seconds)
