"""
`python -m safepulsar`: the same as the command `safepulsar`.
"""

from __future__ import annotations

from safepulsar.cli import main

if __name__ == "__main__":
    main()
