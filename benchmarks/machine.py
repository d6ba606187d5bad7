"""
What a run took place on, so that results are not compared across machines by mistake.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from pathlib import Path

_PACKAGES = ("pulsar-client", "pulsar-lite", "safepulsar", "crc32c", "prometheus-client", "opentelemetry-api")


def describe() -> dict[str, object]:
    """
    Return the machine and the versions of what takes part; no names of hosts or users.
    """
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "switch_interval_ms": 1000 * sys.getswitchinterval(),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": {name: version for name in _PACKAGES if (version := _version(name)) is not None},
    }


def same_machine(one: dict[str, object], other: dict[str, object]) -> bool:
    """
    Whether figures of the two may stand side by side.
    """
    return all(one.get(key) == other.get(key) for key in ("cpu", "cores", "python"))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
