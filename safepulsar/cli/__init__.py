"""
The command `safepulsar`: a broker to try things on, sending files, failed messages, and a doctor.

Needs typer and rich, which the extra `cli` brings. Without them the command says so; the package itself never
imports this one.
"""

from __future__ import annotations

import sys


def main() -> None:
    """
    Run the command that the arguments name, and end the process with its exit code.
    """
    try:
        import rich  # noqa: F401, PLC0415 - optional, and said to be missing below
        import typer  # noqa: F401, PLC0415
    except ImportError:
        sys.exit("safepulsar: the command line needs typer and rich: pip install 'safepulsar[cli]'")
    from safepulsar.cli.app import run  # noqa: PLC0415 - it needs them

    sys.exit(run())
