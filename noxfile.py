"""
The tests on every supported Python: `make nox`, or one of them by `make nox ARGS='-s tests-3.12'`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import nox

PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
FULL = "3.11"

nox.options.reuse_venv = "yes"
# A Python that is missing is an error: neither skipped, nor downloaded from somewhere.
nox.options.error_on_missing_interpreters = True
nox.options.download_python = "never"


def add_pyenv_to_path() -> None:
    """
    Put pyenv's interpreters before its shims, which refuse every version but the chosen one.
    """
    pyenv = shutil.which("pyenv")
    if pyenv is None:
        return
    root = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=True).stdout.strip()
    # The newest patch release first; names such as `3.13t` or `pypy3.10-7.3` are no plain releases.
    releases = [path for path in Path(root, "versions").iterdir() if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]
    releases.sort(key=lambda path: [int(part) for part in path.name.split(".")], reverse=True)
    found = [str(path / "bin") for path in releases]
    os.environ["PATH"] = os.pathsep.join([*found, os.environ["PATH"]])


add_pyenv_to_path()


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """
    Run the tests, the slow ones on one Python only.
    """
    session.install("--quiet", "--editable", ".[all,dev]")
    chosen = [] if session.python == FULL else ["-m", "not slow"]
    session.run("python", "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal", *chosen, *session.posargs)
