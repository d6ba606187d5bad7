"""
How long `import safepulsar` takes over `import pulsar`, each in a new process, with byte code that is there already.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.case import Case, Goal, Kind, Sample

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.case import Contender, Scene

_ADDED_MS = 30.0


@contextmanager
def both(scene: Scene) -> Iterator[dict[str, Contender]]:
    """
    The two, with a cache of byte code of their own: the environment may forbid to write another.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(scene.folder / "byte-code")

    def run(module: str) -> Sample:
        program = f"import time; b = time.perf_counter(); import {module}; print(1000 * (time.perf_counter() - b))"
        said = subprocess.run(
            [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment
        )
        return Sample(figures={"ms": float(said.stdout)})

    modules = ("pulsar", "safepulsar")
    for module in modules:
        run(module)  # writes the byte code
    yield {f"import {module}": partial(run, module) for module in modules}


CASES = [
    Case(
        name="import",
        title="import safepulsar, over import pulsar",
        subject="imports",
        prepare=both,
        goals=(
            Goal(
                name="added",
                ours="import safepulsar",
                against=("import pulsar",),
                kind=Kind.DIFFERENCE,
                figure="ms",
                at_most=_ADDED_MS,
            ),
        ),
        sizes=(0,),
        needs_broker=False,
    ),
]
