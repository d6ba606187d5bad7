"""
Failed messages as lines of a table, for a person, or as one object each, for a script.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich import box
from rich.table import Table

from safepulsar.cli.description import moment
from safepulsar.cli.terminal import OUT, visible

if TYPE_CHECKING:
    from collections.abc import Iterable

    from safepulsar.message import FailedMessage

_KEY_SHOWN: Final = 40
_HERE: Final = "persistent://public/default/"


def line(message: FailedMessage) -> dict[str, object]:
    """
    What a list says of one; scripts depend on the names.
    """
    return {
        "id": message.id,
        "first_failed_at": message.first_failed_at,
        "topic": message.message.topic,
        "key": message.message.lane_key,
        "certainty": message.certainty.value,
        "error": message.error,
        "attempts": len(message.attempts),
        "size_bytes": len(message.message.payload or b""),
    }


def _short(text: str) -> str:
    return text if len(text) <= _KEY_SHOWN else f"{text[:_KEY_SHOWN]}…"


def print_table(messages: Iterable[FailedMessage]) -> int:
    """
    Print them on standard output, and return how many there were.
    """
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for title, right in (
        ("id", True),
        ("failed", False),
        ("topic", False),
        ("key", False),
        ("certainty", False),
        ("error", False),
        ("attempts", True),
        ("bytes", True),
    ):
        table.add_column(
            title, justify="right" if right else "left", overflow="fold", no_wrap=title not in ("topic", "key")
        )
    for message in messages:
        values = line(message)
        table.add_row(
            str(message.id),
            moment(message.first_failed_at),
            visible(message.message.topic.removeprefix(_HERE)),
            _short(visible(message.message.lane_key or "")),
            message.certainty.value,
            visible(message.error),
            str(values["attempts"]),
            f"{values['size_bytes']:,}",
        )
    if table.row_count:
        OUT.print(table)
    return table.row_count
