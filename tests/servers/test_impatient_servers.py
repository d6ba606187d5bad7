"""
Servers whose own signal handlers raise in the middle of our exit, as gunicorn's do: nothing is dropped for that.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from safepulsar import SqliteFailedMessages
from tests.brokers import LiteBroker
from tests.subprocesses import Script

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(60)


@pytest.mark.broker
@pytest.mark.parametrize("error", ["SystemExit(0)", "KeyboardInterrupt", "RuntimeError('stop')"])
def test_a_handler_that_raises_while_the_sender_drains_drops_nothing(error: str, tmp_path: Path) -> None:
    """
    The wait for the broker ends with it, and what was accepted is kept.
    """
    store = tmp_path / "store" / "failed.db"
    source = f"""
        import os, signal, sys, threading, time
        from safepulsar import RetryingSender, SenderClosed, SenderSettings

        def leave(*_):
            raise {error}

        def tell_when_closing():
            try:
                while True:
                    sender.submit("orders", b"more", deadline_seconds=90)
                    time.sleep(0.01)
            except SenderClosed:
                os.write(1, b"drains\\n")

        signal.signal(signal.SIGTERM, leave)
        settings = SenderSettings(close_seconds=60)
        sender = RetryingSender(sys.argv[1], failed_messages=sys.argv[2], settings=settings).open()
        sender.send("orders", b"before")
        frozen = threading.Event()
        signal.signal(signal.SIGUSR1, lambda *_: frozen.set())
        print("sent")
        frozen.wait()
        for number in range(3):
            sender.submit("orders", b"%d" % number, deadline_seconds=90)
        threading.Thread(target=tell_when_closing, daemon=True).start()
        """
    with LiteBroker(tmp_path / "broker") as broker, Script(source, broker.url, store) as script:
        script.wait_for("sent")
        broker.freeze()
        script.send_signal(signal.SIGUSR1)
        script.wait_for("drains")
        script.send_signal(signal.SIGTERM)
        result = script.finish(timeout_seconds=30)  # half of what draining may take
    assert not result.hung, result
    assert result.returncode == 0, result
    with SqliteFailedMessages(store) as kept:
        payloads = [each.message.payload for each in kept.find()]
    assert payloads[:3] == [b"0", b"1", b"2"], result
    assert set(payloads[3:]) <= {b"more"}
