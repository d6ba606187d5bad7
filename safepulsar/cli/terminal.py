"""
What a person reads: on standard error, or as a table on standard output; colours and bars only on a terminal.

What others wrote (topics, keys, payloads, answers of a broker) passes through `visible` first: a control character
in it could change what the terminal shows, or worse.
"""

from __future__ import annotations

import json
import sys
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping

_PIPE_WIDTH: Final = 10_000  # no line of a pipe or file is broken, and no column cut
# Without markup, emojis and highlights: what is printed is what was said.
OUT: Final = Console(
    markup=False,
    emoji=False,
    highlight=False,
    width=None if sys.stdout is not None and sys.stdout.isatty() else _PIPE_WIDTH,  # closed, it is None
)
ERR: Final = Console(stderr=True, markup=False, emoji=False, highlight=False)


class ExitCode(IntEnum):
    """
    How a command ends; scripts depend on these.
    """

    DONE = 0
    ERROR = 1  # something went wrong; nothing was dropped silently
    USAGE = 2  # refused before anything was done: an option, a name, a missing file
    KEPT = 3  # some messages are kept in the store of failed messages


def visible(text: str) -> str:
    """
    The text with everything that is not printable written as Python would escape it.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def say(text: str, *, style: str = "") -> None:
    """
    One or more lines for a person, on standard error; never broken at the width of a terminal.
    """
    lines = "\n".join(visible(line) for line in text.split("\n"))
    ERR.print(Text(lines, style=style), soft_wrap=True)


def complain(text: str) -> None:
    """
    What went wrong, on standard error, after the name of the command as usual.
    """
    say(f"safepulsar: {text}", style="red")


def print_json(value: Mapping[str, object]) -> None:
    """
    One object on one line of standard output, where nothing else may stand beside it.
    """
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def count(number: int, noun: str) -> str:
    """
    A number with its noun: `1 row`, `2,000 rows`.
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
