"""
One hazard on trial: scripts of the official client and of safepulsar in processes of their own, on the same topic.
"""

from __future__ import annotations

import json
import signal
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from safepulsar.failed_messages import SqliteFailedMessages
from tests.brokers import read_topic
from tests.subprocesses import run_script

if TYPE_CHECKING:
    from pathlib import Path

    from safepulsar.message import FailedMessage
    from tests.brokers import Broker, Record
    from tests.subprocesses import ScriptResult

ABORTED: Final = -signal.SIGABRT
CRASHED: Final = -signal.SIGSEGV
# A script that is expected to hang sets an alarm, whose signal ends it also inside the client library.
HUNG: Final = -signal.SIGALRM

_TIMEOUT_SECONDS: Final = 45.0

_BOTH: Final = """
import atexit, collections, gc, glob, json, os, signal, sys, threading, time

url, topic, store, broker_pid = sys.argv[1:5]

def tell(**facts):
    # One write, because the official client may log to the same place in the middle of several.
    os.write(1, json.dumps(facts).encode() + b"\\n")

def freeze():
    os.kill(int(broker_pid), signal.SIGSTOP)
    # Until every thread of it stands still, or it might answer once more. Where there is no /proc, for a moment.
    time.sleep(0.01)
    for state in glob.glob(f"/proc/{broker_pid}/task/*/stat"):
        while open(state).read().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.001)

def thaw():
    os.kill(int(broker_pid), signal.SIGCONT)

def interrupt_soon(number=signal.SIGINT, seconds=0.4):
    # From another thread, as a terminal or a supervisor would from outside.
    threading.Timer(seconds, os.kill, (os.getpid(), number)).start()
"""

# The client as its documentation shows it, but with less in its log.
_RAW: Final = """
import pulsar

client = pulsar.Client(url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
"""

_SAFE: Final = """
import safepulsar
from safepulsar import RetryingSender, SenderSettings, TopicSettings, WhenFull

def make_sender(**settings):
    return RetryingSender(url, failed_messages=store, settings=SenderSettings(**settings))
"""


@dataclass(frozen=True, slots=True)
class Trial:
    """
    A broker, a topic and a store of failed messages, and scripts that know them.

    In every script: `url`, `topic`, `tell(**facts)`, `freeze()` and `thaw()` of the broker. In one of the official
    client: `client`, open. In one of safepulsar: `make_sender(**settings)`.

    Attributes:
        via: where scripts find the broker, if not at its own URL.
    """

    broker: Broker
    topic: str
    store: Path
    via: str | None = None

    def plain(self, source: str, *arguments: object, before: str = "") -> ScriptResult:
        """
        Run a script that opens its client itself.

        Args:
            source: the script.
            arguments: in `sys.argv[5:]`.
            before: what several scripts begin with.
        """
        return self._run(before, source, arguments)

    def raw(self, source: str, *arguments: object, before: str = "") -> ScriptResult:
        """
        Run a script of the official client; the arguments are those of `plain`.
        """
        return self._run(_RAW + before, source, arguments)

    def safe(self, source: str, *arguments: object, before: str = "") -> ScriptResult:
        """
        Run a script of safepulsar; the arguments are those of `plain`.
        """
        return self._run(_SAFE + before, source, arguments)

    def records(self, *, until: int = 0) -> list[Record]:
        """
        Everything in the topic.
        """
        return read_topic(self.broker, self.topic, until=until)

    def payloads(self, *, until: int = 0) -> list[bytes]:
        """
        The payloads in the topic, in order.
        """
        return [record.payload for record in self.records(until=until)]

    def kept(self) -> list[FailedMessage]:
        """
        Everything in the store, oldest first.
        """
        with SqliteFailedMessages(self.store) as store:
            return list(store.find())

    def _run(self, beginning: str, source: str, arguments: tuple[object, ...]) -> ScriptResult:
        return run_script(
            _BOTH + beginning + textwrap.dedent(source),
            self.via or self.broker.url,
            self.topic,
            self.store,
            self.broker.pid,
            *arguments,
            timeout_seconds=_TIMEOUT_SECONDS,
        )


def told(result: ScriptResult, returncode: int = 0) -> dict[str, Any]:
    """
    Return what a script told last; it must have ended by itself, with this exit code.
    """
    # The official client writes its log to the same place.
    lines = [line for line in result.check(returncode).splitlines() if line.startswith("{")]
    assert lines, f"it told nothing; {result}"
    facts: dict[str, Any] = json.loads(lines[-1])
    return facts
