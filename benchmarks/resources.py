"""
What a process takes: its resident memory.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_STATM = Path("/proc/self/statm")


def resident_mb() -> float:
    """
    Return the memory of this process that is in RAM now, in MB (a million bytes).
    """
    if _STATM.exists():
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    said = subprocess.run(["/bin/ps", "-o", "rss=", "-p", str(os.getpid())], check=True, capture_output=True, text=True)
    return int(said.stdout) * 1024 / 1e6
