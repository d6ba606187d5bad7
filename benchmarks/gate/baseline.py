"""
What was measured last, and is to be kept: a file in the repository.
"""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.results import ResultsError

PATH = Path(__file__).parents[1] / "baseline.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """
    Ratios and counts.

    Args:
        python: whose counts they are; another one calls and allocates differently.
        machine: whose ratios they are.
        ratios: by `case, size, broker: goal`.
        counts: by name; see `counting`.
    """

    python: str
    machine: dict[str, object]
    ratios: dict[str, float]
    counts: dict[str, float]


def python() -> str:
    """
    Return the version that decides what is counted, such as 3.11.
    """
    return ".".join(platform.python_version_tuple()[:2])


def load(path: Path = PATH) -> Baseline:
    """
    Read it.

    Raises:
        ResultsError: there is none, or it is something else.
    """
    try:
        return Baseline(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ResultsError(f"there is no baseline {path}: make it with `python -m benchmarks check --update`") from None
    except (OSError, ValueError, TypeError) as error:
        raise ResultsError(f"{path} is no baseline: {error}") from error


def save(baseline: Baseline, path: Path = PATH) -> None:
    """
    Write it.
    """
    path.write_text(json.dumps(asdict(baseline), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
