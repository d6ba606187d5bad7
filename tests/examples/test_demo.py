"""
`make demo` as somebody sees it: its table, its exit code, and how it is stopped.
"""

from __future__ import annotations

import re
import signal
import socket
from pathlib import Path
from typing import Final

import pytest
from rich.console import Console

from examples.demo import out_of_order, show
from tests.subprocesses import Script

_ROOT: Final = Path(__file__).parents[2]
_RUN: Final = """
    import runpy, sys
    sys.argv[0] = "demo"
    runpy.run_module("examples.demo", run_name="__main__", alter_sys=True)
"""
_SECONDS: Final = 80.0

pytestmark = [pytest.mark.timeout(100)]


def table(printed: str) -> dict[str, int]:
    """
    The numbers of the table.
    """
    return {label.strip(): int(number) for label, number in re.findall(r"│ ([a-z ]+?) +│ +(\d+) │", printed)}


@pytest.mark.broker
def test_every_order_is_accounted_for(tmp_path: Path) -> None:
    """
    The broker is killed after a third, and nothing is lost, duplicated or out of order; nothing stays behind.
    """
    with Script(_RUN, "--orders", 900, environment={"TMPDIR": str(tmp_path)}) as script:
        result = script.finish(timeout_seconds=_SECONDS)
    printed = result.check()
    assert not result.stderr, result
    found = table(printed)
    assert found.pop("kept and replayed") >= 0  # what a slow machine takes longer for than the deadline
    assert found == {
        "accepted": 900, "delivered": 900, "lost": 0, "duplicated": 0, "out of order per customer": 0,
    }  # fmt: skip
    killed = re.search(r"the broker is killed \(-9\) after (\d+) accepted orders\nthe broker is back", printed)
    assert killed is not None
    assert 300 <= int(killed[1]) < 900
    assert "what to try next:\n  .venv/bin/python -m examples.10_shop_fastapi\n" in printed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.broker
def test_the_broker_may_be_left_alone() -> None:
    """
    `--no-kill` does that.
    """
    with Script(_RUN, "--orders", 50, "--no-kill") as script:
        printed = script.finish(timeout_seconds=_SECONDS).check()
    assert table(printed)["delivered"] == 50
    assert "killed" not in printed


@pytest.mark.broker
@pytest.mark.parametrize("moment", ["8 clients\n", "the broker is killed"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_is_stopped_at_any_moment(number: signal.Signals, moment: str, tmp_path: Path) -> None:
    """
    Ctrl-C ends the shop and its broker, too; a short line says so, and the exit code is that of a shell.
    """
    with Script(_RUN, environment={"TMPDIR": str(tmp_path)}) as script:
        script.wait_for(moment)
        script.send_signal(number)
        result = script.finish(timeout_seconds=30)
    printed = result.check(130)
    assert printed.endswith("stopped; the shop and its broker are ended\n")
    assert not result.stderr, result
    for host, port in re.findall(r"//(127\.0\.0\.1):(\d+)", printed):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)), timeout=5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("topic", "wrong"),
    [
        ([1, 2, 3], {"lost": 0, "duplicated": 0, "out of order per customer": 0}),
        ([1, 3], {"lost": 1, "duplicated": 0, "out of order per customer": 0}),
        ([1, 2, 2, 3, 1], {"lost": 0, "duplicated": 2, "out of order per customer": 0}),
        ([2, 1, 3], {"lost": 0, "duplicated": 0, "out of order per customer": 1}),
    ],
)
def test_the_table_says_what_the_topic_holds(
    topic: list[int], wrong: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    """
    Whatever the shop says, and the exit code with it.
    """
    found = [{"number": number, "customer": "c7"} for number in topic]
    counts = {"delivered": 3, "replayed": 0}
    assert show([1, 2, 3], counts, found, Console()) == (1 if any(wrong.values()) else 0)
    assert table(capsys.readouterr().out).items() >= wrong.items()


def test_order_is_a_matter_of_each_customer() -> None:
    """
    Customers may stand in any order among each other.
    """
    found = [{"number": number, "customer": f"c{number % 2}"} for number in (3, 2, 5, 4, 1)]
    assert out_of_order(found) == 1
