"""
`safepulsar doctor --since`: where failures come from, for a person and for a script.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safepulsar.failed_messages import SqliteFailedMessages
from tests.doctor.test_failures import failed

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.command import Commands


def test_the_command_tells_it(commands: Commands, tmp_path: Path) -> None:
    """
    For a person and for a script; exit code 1 if something failed, 0 if not, 2 for what is not there.
    """
    path = tmp_path / "private" / "failed.db"
    with SqliteFailedMessages(path) as store:
        store.keep([failed("or\u00e9ders", "ConnectError", 10) for _ in range(3)])
    log = tmp_path / "app.log"
    log.write_text("2020-01-01 00:00:00 WARNING safepulsar.failed\n")
    ended = commands.run("doctor", "--since", "1h", "--failed", path, "--log", log).check(1)
    assert "3 of 3 failures come from the network" in ended.stdout
    assert "→ check that the broker runs" in ended.stdout
    value = commands.run("doctor", "--since", "1h", "--failed", path, "--json").check(1).json()
    assert value["causes"][0]["code"] == "ConnectError"
    assert value["causes"][0]["origin"] == "network"
    assert commands.run("doctor", "--since", "1s", "--failed", path).check(0).stdout == "nothing failed\n"
    for wrong in (
        ["--since", "1h", "--failed", tmp_path / "no.db"],
        ["--since", "1h", "--log", tmp_path / "no.log"],
        ["--since", "yesterday"],
        ["--log", log],
        ["--since", "1h"],
    ):
        commands.run("doctor", *wrong).check(2)
