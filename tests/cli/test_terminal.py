"""
What a person sees: colours and bars on a terminal and nowhere else, help, versions, completion; and without the extra.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from safepulsar.cli.terminal import visible
from tests.cli.command import Commands, environment
from tests.subprocesses import run_script

if TYPE_CHECKING:
    from pathlib import Path

    from tests.brokers import LiteBroker


def test_a_bar_is_shown_on_a_terminal_and_taken_away(commands: Commands, lite_broker: LiteBroker, topic: str) -> None:
    """
    Counts while it runs, above it the rows that are refused, and at the end the cursor is back.
    """
    with commands.start("send", topic, "-", "--url", lite_broker.url, "--json", terminal=True) as running:
        running.write(b"1\n2\n{\n")
        running.wait_for("2 read, 2 delivered", stderr=True)
        assert "━" in running.stderr
        assert "line 3: is not JSON" in running.stderr
        running.process.stdin.close()  # type: ignore[union-attr]  # it is a pipe
        ended = running.finish().check(1)
    assert ended.stderr.rindex("\x1b[?25h") > ended.stderr.rindex("\x1b[?25l")
    assert ended.stdout.startswith('{"read": 2,')


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("send", "--help"),
        ("failed", "--help"),
        ("failed", "replay", "-h"),
        ("doctor", "-h"),
        ("broker", "-h"),
    ],
)
def test_help_tells_what_there_is(commands: Commands, arguments: tuple[str, ...]) -> None:
    """
    For every command, on standard output, without colours where there is no terminal.
    """
    ended = commands.run(*arguments).check(0)
    assert "Usage: safepulsar" in ended.stdout
    assert "\x1b" not in ended.stdout
    assert ended.stderr == ""


def test_the_version_names_the_client_library_too(commands: Commands) -> None:
    """
    What a report of a problem needs.
    """
    ended = commands.run("--version").check(0)
    assert ended.stdout.startswith("safepulsar ")
    assert "pulsar-client 3.13" in ended.stdout
    assert f"Python {sys.version.split()[0]}" in ended.stdout


def test_a_shell_can_complete_commands(commands: Commands) -> None:
    """
    As bash asks for it.
    """
    changes = {"_SAFEPULSAR_COMPLETE": "complete_bash", "COMP_WORDS": "safepulsar failed re", "COMP_CWORD": "2"}
    assert commands.run(changes=changes).stdout.split() == ["replay"]


def test_a_reader_that_has_enough_ends_it_quietly(commands: Commands, folder: Path) -> None:
    """
    `… | head`: no traceback, no complaint of the interpreter.
    """
    from tests.cli.test_replay import filled  # noqa: PLC0415 - needs no broker here

    filled(folder / "f.db", "persistent://public/default/orders", 3_000)
    ended = commands.run_shell(f"{sys.executable} -m safepulsar failed export --failed f.db | head -1")
    assert ended.stdout.startswith('{"id": 1,')
    assert ended.stdout.count("\n") == 1
    assert ended.stderr == ""


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_it_says_what_to_install(missing: str) -> None:
    """
    Exit code 1, and a line that can be copied.
    """
    script = f"""
        import sys
        sys.modules["{missing}"] = None
        from safepulsar.cli import main
        main()
        """
    ended = run_script(script)
    assert ended.returncode == 1, ended
    assert ended.stderr == "safepulsar: the command line needs typer and rich: pip install 'safepulsar[cli]'\n"


def test_without_the_local_broker_it_says_what_to_install(folder: Path) -> None:
    """
    Likewise for the extra that brings the broker.
    """
    script = """
        import importlib.util, sys
        find, importlib.util.find_spec = importlib.util.find_spec, lambda name, *more: None if name == "pulsar_lite" else find(name, *more)
        sys.argv = ["safepulsar", "broker"]
        from safepulsar.cli import main
        main()
        """
    ended = run_script(script, environment=environment(folder))
    assert ended.returncode == 1, ended
    assert "pip install 'safepulsar[local]'" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_only_what_is_printable_is_shown_as_it_is() -> None:
    """
    Letters of every script, yes; whatever moves a cursor or turns a direction, no.
    """
    assert visible("Grüße 漢字 🙂") == "Grüße 漢字 🙂"
    assert visible("a\x1b[0m\u202eb\x00\ud800\n") == "a\\x1b[0m\\u202eb\\x00\\ud800\\n"
