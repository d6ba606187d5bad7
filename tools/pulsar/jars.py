"""
The jars of Apache Pulsar: fetched once from Maven Central into a folder outside the project, whole or not at all.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

VERSION: Final = "4.0.0"
_POM: Final = Path(__file__).with_name("pom.xml")
_MIN_JAVA: Final = 17
_FETCH_SECONDS: Final = 900
_OUTPUT_LINES_SHOWN: Final = 15


class PulsarUnavailableError(Exception):
    """
    A real Apache Pulsar can't run on this machine; the text says what is missing.
    """


def java() -> str:
    """
    Return the path of a Java that is new enough: JAVA_HOME's, or the one on PATH.

    Raises:
        PulsarUnavailableError: there is none, or it is too old.
    """
    home = os.environ.get("JAVA_HOME")
    program = shutil.which(str(Path(home, "bin", "java")) if home else "java")
    if program is None:
        raise PulsarUnavailableError(
            f"Apache Pulsar needs Java {_MIN_JAVA} or newer, and there is no java "
            + (f"in JAVA_HOME={home}" if home else "on PATH")
        )
    # It says its version on standard error, as `openjdk version "17.0.15" …`; up to 8 it was "1.8.0".
    said = subprocess.run([program, "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(\d+)', said)
    if found is None or int(found[1]) < _MIN_JAVA:
        first_line = (said.splitlines() or ["nothing"])[0]
        raise PulsarUnavailableError(f"Apache Pulsar needs Java {_MIN_JAVA} or newer; {program} says: {first_line}")
    return program


def folder() -> Path:
    """
    Return where the jars are kept: SAFEPULSAR_PULSAR_JARS, or a folder of the user's cache.
    """
    named = os.environ.get("SAFEPULSAR_PULSAR_JARS")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(cache, "safepulsar", f"pulsar-{VERSION}")


def ensure() -> Path:
    """
    Return the folder with the jars, fetching them first where they are missing: 225 MB, about a minute.

    Several processes may ask at once: one fetches, the others wait. The folder gets its name when it is complete.

    Raises:
        PulsarUnavailableError: there is no Maven, or it could not fetch them.
    """
    target = folder()
    if target.is_dir():
        return target
    maven = _maven()
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():  # another process may have fetched them while this one waited
            with tempfile.TemporaryDirectory(prefix=f"{target.name}.", dir=target.parent) as scratch:
                complete = Path(scratch, "jars")
                _fetch(maven, complete)
                complete.rename(target)
    return target


def _maven() -> str:
    program = shutil.which("mvn")
    if program is None:
        raise PulsarUnavailableError(f"fetching Apache Pulsar {VERSION} needs Maven, and there is no mvn on PATH")
    return program


def _fetch(maven: str, target: Path) -> None:
    # A minute of silence would look like a hang.
    print(f"fetching Apache Pulsar {VERSION} into {folder()} (once, about a minute) …", file=sys.stderr, flush=True)
    command = [maven, "-q", "-B", "-f", str(_POM), "dependency:copy-dependencies"]
    command += ["-DincludeScope=runtime", f"-DoutputDirectory={target}"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_FETCH_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise PulsarUnavailableError(f"Maven has not fetched Apache Pulsar within {_FETCH_SECONDS} s") from exc
    if done.returncode != 0 or not target.is_dir():
        said = "\n    ".join((done.stdout + done.stderr).splitlines()[-_OUTPUT_LINES_SHOWN:])
        raise PulsarUnavailableError(f"Maven could not fetch Apache Pulsar; it said:\n    {said}")
