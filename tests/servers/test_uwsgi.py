"""
What uWSGI must be told, and what is said where it was not: a typed error with the option, and no message lost in silence.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import pytest

from safepulsar.broker_process import LOOPBACK, free_port
from tests.servers.server import FLASK, HAS_UWSGI, UWSGI
from tests.subprocesses import Script, run_script

if TYPE_CHECKING:
    from pathlib import Path

    from tests.brokers import LiteBroker
    from tests.subprocesses import ScriptResult

END_SECONDS: Final = 30.0

pytestmark = pytest.mark.timeout(60)

needs_uwsgi = pytest.mark.skipif(not HAS_UWSGI, reason="uWSGI is not installed; it has to be built: pip install uwsgi")


def _start(broker: LiteBroker, topic: str, folder: Path, *arguments: str) -> ScriptResult:
    """
    Run uWSGI with an application that sends while it is loaded, and return how that ends.
    """
    command = (
        *(UWSGI.arguments[0], "--master", "--http-socket", f"{LOOPBACK}:{free_port()}", "--processes", "2"),
        *("--need-app", "--home", sys.prefix, *arguments, f"--module={FLASK}:app"),
    )
    environment = {
        "SAFEPULSAR_URL": broker.url,
        "SAFEPULSAR_FAILED_MESSAGES": str(folder / "store" / "failed.db"),
        "TEST_TOPIC": topic,
        "TEST_SEND_AT_IMPORT": "yes",
    }
    with Script(UWSGI.script, *command, environment=environment) as script:
        return script.finish(timeout_seconds=END_SECONDS)


@needs_uwsgi
def test_without_threads_of_python_nothing_is_accepted(lite_broker: LiteBroker, topic: str, tmp_path: Path) -> None:
    """
    Without `--enable-threads` no thread of ours would ever run; the application does not start.
    """
    result = _start(lite_broker, topic, tmp_path)
    assert not result.hung, result
    assert "InvalidSettings: uWSGI: runs no threads of Python's; start it with --enable-threads" in result.stderr


@needs_uwsgi
def test_a_fork_that_python_is_not_told_of_is_refused(lite_broker: LiteBroker, topic: str, tmp_path: Path) -> None:
    """
    It forks in C. What its master opened would be of no use in the workers, and they would not know.
    """
    result = _start(lite_broker, topic, tmp_path, "--enable-threads")
    assert not result.hung, result
    assert "InvalidSettings: uWSGI: forks its workers without telling Python" in result.stderr
    assert "--lazy-apps or with --py-call-uwsgi-fork-hooks" in result.stderr


@pytest.mark.parametrize(
    ("options", "master", "complaint"),
    [
        ({}, False, "--enable-threads"),
        ({"enable-threads": True}, False, ""),
        ({"threads": b"4"}, False, ""),
        ({"enable-threads": True}, True, "--lazy-apps"),
        ({"enable-threads": True, "py-call-osafterfork": True}, True, "--py-call-uwsgi-fork-hooks"),
        ({"enable-threads": True, "py-call-uwsgi-fork-hooks": True}, True, ""),
        ({"enable-threads": True, "lazy-apps": True}, False, ""),
    ],
)
def test_its_options_are_checked_at_the_first_use(options: dict[str, object], master: bool, complaint: str) -> None:  # noqa: FBT001
    """
    Inside of uWSGI, whose module stands for it here, a sender can be made in any case; using it is refused, each time.
    """
    source = """
        import json, os, sys, types
        sys.modules["uwsgi"] = types.SimpleNamespace(
            opt=eval(sys.argv[1]), masterpid=lambda: os.getpid() if sys.argv[2] == "True" else os.getppid()
        )
        from safepulsar import ClientRegistry, InvalidSettings, RetryingSender
        from safepulsar.testing import FakeBroker
        broker = FakeBroker()
        sender = RetryingSender(broker.url, registry=ClientRegistry(broker.connect))
        for _ in range(2):
            try:
                sender.send("orders", b"x")
                print("sent")
            except InvalidSettings as error:
                print(error)
        sender.close()
    """
    lines = run_script(source, repr(options), master, timeout_seconds=END_SECONDS).check().splitlines()
    if complaint:
        assert [complaint in line for line in lines] == [True, True]
    else:
        assert lines == ["sent", "sent"]
