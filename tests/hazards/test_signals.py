"""
Signals while a message is under way: Ctrl-C, SIGTERM, and handlers that raise.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Final

import pytest

from tests.hazards.trial import told

if TYPE_CHECKING:
    from pathlib import Path

    from tests.hazards.trial import Trial

_HANDLER: Final = """
class Stop(Exception):
    pass

def stop(number, frame):
    raise Stop

signal.signal(signal.SIGUSR1, stop)
"""


@pytest.mark.parametrize("number", ["SIGINT", "SIGUSR1"], ids=["Ctrl-C", "handler"])
def test_control_an_exception_of_a_signal_is_lost(trial: Trial, number: str) -> None:
    """
    Ctrl-C in the official client's `send`, or a handler that raises, comes out as `Interrupted`; what it was is lost.
    """
    facts = told(
        trial.raw(
            f"""
            producer = client.create_producer(topic, batching_enabled=True, batching_max_publish_delay_ms=60_000)
            interrupt_soon(signal.{number})
            try:
                producer.send(b"x")
            except BaseException as error:
                tell(raised=type(error).__name__, context=repr(error.__context__), cause=repr(error.__cause__))
            client.close()
            """,
            before=_HANDLER,
        )
    )
    assert facts == {"raised": "Interrupted", "context": "None", "cause": "None"}


@pytest.mark.parametrize(
    ("number", "raised"), [("SIGINT", "KeyboardInterrupt"), ("SIGUSR1", "Stop")], ids=["Ctrl-C", "handler"]
)
def test_an_exception_of_a_signal_gets_out(own_trial: Trial, number: str, raised: str) -> None:
    """
    Ctrl-C in a send is a KeyboardInterrupt, a handler's exception is itself, and the message is accounted for.
    """
    facts = told(
        own_trial.safe(
            f"""
            sender = make_sender()
            sender.send(topic, b"first")
            freeze()
            interrupt_soon(signal.{number})
            try:
                sender.send(topic, b"interrupted")
            except BaseException as error:
                raised = type(error).__name__
            thaw()
            counts = sender.close().counts
            tell(raised=raised, accepted=counts.accepted, delivered=counts.delivered)
            """,
            before=_HANDLER,
        )
    )
    assert facts == {"raised": raised, "accepted": 2, "delivered": 2}
    assert own_trial.payloads(until=2) == [b"first", b"interrupted"]


@pytest.mark.parametrize(
    "call",
    ["sender.submit(topic, b'x')", "sender.send(topic, b'x')", "sender.flush()"],
    ids=["submit", "send", "flush"],
)
def test_a_handler_may_raise_anywhere(trial: Trial, call: str) -> None:
    """
    Handlers that raise in the middle of thousands of calls, wherever they are, leave every message accounted for.
    """
    facts = told(
        trial.safe(
            f"""
            import random
            signal.signal(signal.SIGALRM, stop)
            sender = make_sender(max_in_flight_messages=20)  # so that some calls are waiting for room
            sender.send(topic, b"first")
            stopped = 0
            began = time.monotonic()
            while stopped < 500 and time.monotonic() < began + 10:
                try:
                    try:
                        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 1e-3))
                        sender.submit(topic, b"x")
                        {call}
                    finally:
                        signal.setitimer(signal.ITIMER_REAL, 0)
                except Stop:
                    stopped += 1
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            report = sender.close()
            counts = report.counts
            tell(stopped=stopped, delivered=counts.delivered, lost=counts.accepted - counts.delivered,
                 drained=report.drained, clean=report.clean)
            """,
            before=_HANDLER,
        )
    )
    assert facts["stopped"] > 50
    assert facts == {**facts, "lost": 0, "drained": True, "clean": True}
    assert len(trial.payloads(until=facts["delivered"])) == facts["delivered"]


def test_a_close_may_be_interrupted(trial: Trial) -> None:
    """
    A close that a handler's exception interrupts, at any place and again and again, is finished by the next one.
    """
    facts = told(
        trial.safe(
            """
            import random
            signal.signal(signal.SIGALRM, stop)
            reports, stopped, slowest = [], 0, 0.0
            for number in range(150):
                sender = make_sender()
                for _ in range(20):
                    sender.submit(topic, b"x")
                sender.flush()
                for _ in range(3):
                    try:
                        try:
                            signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 1e-2))
                            sender.close()
                        finally:
                            signal.setitimer(signal.ITIMER_REAL, 0)
                    except Stop:
                        stopped += 1
                began = time.monotonic()
                reports.append(sender.close())
                slowest = max(slowest, time.monotonic() - began)
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            tell(stopped=stopped, delivered=[report.counts.delivered for report in reports].count(20),
                 clean=[report.clean for report in reports].count(True), slowest=slowest)
            """,
            before=_HANDLER,
        )
    )
    assert facts["stopped"] > 20
    assert (facts["delivered"], facts["clean"]) == (150, 150)
    assert facts["slowest"] < 3.0  # it waits for nothing that an interrupted one left behind


@pytest.mark.parametrize("ending", ["", "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))"], ids=["none", "own"])
def test_control_sigterm_loses_what_is_under_way(trial: Trial, tmp_path: Path, ending: str) -> None:
    """
    SIGTERM under load: the official client loses much of what `send_async` had taken, also with a handler that exits.
    """
    taken = tmp_path / "taken"
    result = trial.raw(
        f"""
        {ending}
        taken = os.open(sys.argv[5], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        producer = client.create_producer(
            topic, max_pending_messages=0,
            batching_enabled=True, batching_max_messages=1_000_000, batching_max_publish_delay_ms=1000,
        )
        def send(number):
            producer.send_async(b"%d" % number, lambda result, message_id: None)
            os.write(taken, b"%d\\n" % number)
        interrupt_soon(signal.SIGTERM, 0.2)
        number = 0
        while True:
            send(number)
            number += 1
        """,
        taken,
    )
    # With a handler of its own the program mostly aborts at its exit, or SystemExit has become another exception.
    assert not result.hung, str(result)
    if not ending:
        assert result.returncode == -signal.SIGTERM
    wanted = len(taken.read_bytes().split())
    assert len(trial.payloads()) < wanted


@pytest.mark.parametrize(
    ("ending", "returncode"),
    [("", -signal.SIGTERM), ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))", 3)],
    ids=["none", "own"],
)
def test_sigterm_drains(trial: Trial, tmp_path: Path, ending: str, returncode: int) -> None:
    """
    SIGTERM under load ends the program as ever, or as its own handler says, with all that it had submitted delivered.
    """
    taken = tmp_path / "taken"
    trial.safe(
        f"""
        {ending}
        taken = os.open(sys.argv[5], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        sender = make_sender()
        interrupt_soon(signal.SIGTERM, 0.5)
        number = 0
        try:
            while True:
                sender.submit(topic, b"%d" % number)
                os.write(taken, b"%d\\n" % number)
                number += 1
        except safepulsar.SenderClosed:
            threading.Event().wait(30)  # the signal ends the program when all is delivered
        """,
        taken,
    ).check(returncode)
    wanted = set(taken.read_bytes().split())
    found = trial.payloads(until=len(wanted))
    assert wanted <= set(found)
    # The call that the signal interrupted may have submitted one that was not written down.
    assert len(found) == len(set(found)) <= len(wanted) + 1
    assert trial.kept() == []
