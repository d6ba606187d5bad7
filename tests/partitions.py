"""
What the log says about partitions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest


def changes_of_partitions(caplog: pytest.LogCaptureFixture) -> list[tuple[str, int, int]]:
    """
    Of each topic that was told to have another number of partitions: its name, how many it had, how many it has.
    """
    found: list[dict[str, Any]] = [
        vars(record) for record in caplog.records if record.message == "safepulsar.partitions_changed"
    ]
    return [(fields["topic"], fields["before"], fields["now"]) for fields in found]
