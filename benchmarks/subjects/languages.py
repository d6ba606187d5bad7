"""
The clients of other languages as outer references: what the same broker takes from Java and from Go.

Only where their toolchains are found. Java's client is compiled against the jars of the real broker; Go's comes by the
module proxy.
"""

from __future__ import annotations

import shutil
import subprocess
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import ours, raw
from benchmarks.case import Case, Goal, NotHereError, Sample
from benchmarks.measuring import for_seconds, timed
from tools.pulsar import jars

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.case import Contender, Scene

_HERE = Path(__file__).parents[1]
_BUILD_SECONDS = 600
_OURS, _MANY, _RAW = "safepulsar submit", "safepulsar send_many", "raw send_async, batched"
_SEND, _RAW_SEND = "safepulsar send", "raw send, unbatched"
_THREADS = 8
_WARM_UP = 3
_OURS_AMONG_ITS_LOG = "bench "


class _Program:
    """
    A client in another language, as a process that sends when it is told to.
    """

    def __init__(self, command: list[str]) -> None:
        self._name = command[0]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            self._line()  # it is ready
        except AssertionError:
            self.close()
            raise

    def send(self, count: int) -> Sample:
        """
        Let it send so many.
        """
        assert self._process.stdin is not None  # noqa: S101 - for the type checker
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        return Sample(figures={"rate": count / float(self._line())})

    def close(self) -> None:
        """
        End it.
        """
        self._process.kill()
        self._process.communicate()

    def _line(self) -> str:
        assert self._process.stdout is not None  # noqa: S101 - for the type checker
        for line in self._process.stdout:
            if line.startswith(_OURS_AMONG_ITS_LOG):
                return line.removeprefix(_OURS_AMONG_ITS_LOG).strip()
        raise AssertionError(f"{self._name} ended before its work was done: {self._process.wait()}")


def java(folder: Path) -> list[str]:
    """
    Compile the Java client, and return the command that runs it, without its arguments.

    Raises:
        NotHereError: there is no Java compiler, or there are no jars.
    """
    compiler, found = shutil.which("javac"), jars.folder()
    if compiler is None or not found.is_dir():
        raise NotHereError(f"Java needs javac on PATH, and the jars of the real broker in {found}")
    path = f"{found}/*"
    if not (folder / "Bench.class").exists():
        _build([compiler, "-cp", path, "-d", str(folder), str(_HERE / "java" / "Bench.java")], folder)
    return [jars.java(), "-cp", f"{folder}:{path}", "Bench"]


def go(folder: Path) -> list[str]:
    """
    Build the Go client, and return the command that runs it, without its arguments.

    Raises:
        NotHereError: there is no Go, or its modules can't be had.
    """
    compiler = shutil.which("go")
    if compiler is None:
        raise NotHereError("Go needs go on PATH")
    program = folder / "bench"
    if not program.exists():
        _build([compiler, "build", "-o", str(program), "."], _HERE / "go")
    return [str(program)]


def _build(command: list[str], folder: Path) -> None:
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False)
    if ran.returncode:
        raise NotHereError(f"{' '.join(command[:2])} ended with {ran.returncode}: {ran.stderr[-1000:].strip()}")


@contextmanager
def _programs(scene: Scene, *arguments: str) -> Iterator[dict[str, _Program]]:
    programs: dict[str, _Program] = {}
    missing: list[str] = []
    with ExitStack() as opened:
        for name, build in (("Java", java), ("Go", go)):
            try:
                command = build(scene.folder)
            except NotHereError as error:
                missing.append(str(error))
            else:
                program = _Program([*command, scene.url, scene.topic(name), str(scene.size_bytes), *arguments])
                opened.callback(program.close)
                programs[name] = program
                program.send(_WARM_UP * scene.effort.messages)  # until Java's compiler knows the way
        if not programs:
            raise NotHereError("; ".join(missing))
        yield programs


@contextmanager
def asynchronous(scene: Scene) -> Iterator[dict[str, Contender]]:
    """
    One thread each, batching on, every answer waited for.
    """
    count, payload = scene.effort.messages, scene.payload
    with (
        _programs(scene, "async") as programs,
        raw.client(scene.url) as client,
        ours.sender(scene) as sender,
        raw.producer(client, scene.topic("raw")) as to,
    ):
        topic = scene.topic("ours")
        contenders: dict[str, Contender] = {
            f"{name} sendAsync, batched": partial(program.send, count) for name, program in programs.items()
        }
        contenders[_RAW] = lambda: raw.send_async(to, payload, count)
        contenders[_OURS] = lambda: ours.submit(sender, count, partial(sender.submit, topic, payload))
        contenders[_MANY] = lambda: timed(count, partial(sender.send_many, topic, [payload] * count))
        yield contenders


@contextmanager
def synchronous(scene: Scene) -> Iterator[dict[str, Contender]]:
    """
    Eight threads each, unbatched.
    """
    count = max(_THREADS, scene.effort.messages // 10)
    with (
        _programs(scene, "sync", str(_THREADS)) as programs,
        raw.sync_sends(scene) as theirs,
        ours.sender(scene) as sender,
    ):
        contenders: dict[str, Contender] = {
            f"{name} send, unbatched": partial(program.send, count) for name, program in programs.items()
        }
        calls: dict[str, Callable[[], object]] = {
            _RAW_SEND: theirs["raw, unbatched"],
            _SEND: partial(sender.send, scene.topic("ours"), scene.payload),
        }
        for name, call in calls.items():
            contenders[name] = partial(for_seconds, scene.effort.seconds, _THREADS, call)
        yield contenders


CASES = [
    Case(
        name="languages-async",
        title="Java and Go, asynchronous, 1 thread",
        subject="languages",
        prepare=asynchronous,
        goals=(
            Goal(name="send_many, to Java", ours=_MANY, against=("Java",)),
            Goal(name="send_many, to Go", ours=_MANY, against=("Go",)),
            Goal(name="submit, to Java", ours=_OURS, against=("Java",)),
            Goal(name="submit, to Go", ours=_OURS, against=("Go",)),
        ),
    ),
    Case(
        name="languages-sync",
        title="Java and Go, synchronous, 8 threads",
        subject="languages",
        prepare=synchronous,
        goals=(
            Goal(name="send, to Java", ours=_SEND, against=("Java",)),
            Goal(name="send, to Go", ours=_SEND, against=("Go",)),
        ),
        sizes=(100,),
    ),
]
