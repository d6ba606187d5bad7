"""
Forks after the client was used, as gunicorn with preload, Celery's prefork and multiprocessing make them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tests.hazards.trial import HUNG, told

if TYPE_CHECKING:
    from tests.hazards.trial import Trial

# How long a child of the official client may take for what takes milliseconds before it counts as hung.
_ALARM: Final = "signal.alarm(2)"

_RAW_CHILD: Final = """
producer = client.create_producer(topic)
producer.send(b"parent before")
{before}
child = os.fork()
if child == 0:
    {alarm}
    {body}
    os._exit(0)
tell(child=os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
os._exit(0)
"""

_SAFE_CHILD: Final = """
sender = make_sender()
sender.send(topic, b"parent before")
{before}
child = os.fork()
if child == 0:
    {body}
    sys.exit(3)
tell(child=os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize(
    "body",
    [
        "producer.send(b'child')",
        "client.close()",
        "del producer, client",
        "sys.exit(3)",
    ],
    ids=["send", "close", "let go", "sys.exit"],
)
def test_control_a_forked_child_hangs(trial: Trial, body: str) -> None:
    """
    A child that has the official client from its parent hangs: when it sends, closes it, drops it, or just ends.
    """
    facts = told(trial.raw(_RAW_CHILD.format(before="", alarm=_ALARM, body=body)))
    assert facts == {"child": HUNG}


def test_control_a_forked_child_is_never_called_back(trial: Trial) -> None:
    """
    A child's `send_async` on the official client's inherited producer is taken, and nobody hears of it again.
    """
    body = """
    answered = threading.Event()
    producer.send_async(b"child", lambda result, message_id: answered.set())
    os._exit(0 if answered.wait(1) else 7)
    """
    facts = told(trial.raw(_RAW_CHILD.format(before="", alarm=_ALARM, body=body)))
    assert facts == {"child": 7}
    assert trial.payloads(until=1) == [b"parent before"]


def test_fork_with_preload(trial: Trial) -> None:
    """
    A sender that the parent used works in its child, and goes on working in the parent.
    """
    child = _SAFE_CHILD.format(before="", body="sender.send(topic, b'child')")
    trial.safe("sender.send(topic, b'parent after')", before=child).check()
    assert trial.payloads(until=3) == [b"parent before", b"child", b"parent after"]


def test_fork_under_load(trial: Trial) -> None:
    """
    Children forked while other threads of the parent send all work, and nothing of theirs or of the parent's is lost.
    """
    facts = told(
        trial.safe(
            """
            sender = make_sender(max_in_flight_messages=1000)
            stop = threading.Event()
            accepted = [0] * 3
            def load(thread):
                while not stop.is_set():
                    sender.submit(topic, b"parent %d %d" % (thread, accepted[thread]))
                    accepted[thread] += 1
            threads = [threading.Thread(target=load, args=(thread,)) for thread in range(3)]
            for thread in threads:
                thread.start()
            codes = []
            for number in range(6):
                child = os.fork()
                if child == 0:
                    for each in range(50):
                        sender.submit(topic, b"child %d %d" % (number, each))
                    sys.exit(3)
                codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            stop.set()
            for thread in threads:
                thread.join()
            report = sender.close()
            tell(codes=codes, accepted=accepted, delivered=report.counts.delivered)
            """
        )
    )
    assert facts["codes"] == [3] * 6
    assert facts["delivered"] == sum(facts["accepted"])
    expected = [b"child %d %d" % (number, each) for number in range(6) for each in range(50)]
    expected += [b"parent %d %d" % (thread, each) for thread in range(3) for each in range(facts["accepted"][thread])]
    assert sorted(trial.payloads(until=len(expected))) == sorted(expected)
    assert trial.kept() == []


def test_forks_while_answers_come(trial: Trial) -> None:
    """
    A child that is forked while the client library answers gets out of `os.fork`, each of hundreds.

    Before Python 3.12 one in 200 does not, where the library's thread is just making its state for a callback.
    """
    facts = told(
        trial.safe(
            """
            sender = make_sender(topic_defaults=TopicSettings(batch_max_messages=1), max_in_flight_messages=200)
            stop = threading.Event()
            def load(key):
                while not stop.is_set():
                    sender.submit(topic, b"x", partition_key=key)
            threads = [threading.Thread(target=load, args=(str(number),)) for number in range(2)]
            for thread in threads:
                thread.start()
            codes = collections.Counter()
            for number in range(300):
                child = os.fork()
                if child == 0:
                    os._exit(3)
                signal.alarm(10)  # ends the parent, too, where the child does not get out
                codes[os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])] += 1
                signal.alarm(0)
            stop.set()
            for thread in threads:
                thread.join()
            counts = sender.close().counts
            tell(codes=codes, lost=counts.accepted - counts.delivered)
            """
        )
    )
    assert facts == {"codes": {"3": 300}, "lost": 0}


def test_forks_while_the_first_connection_is_made(trial: Trial) -> None:
    """
    A child that is forked right after the first message connects, too: the client library makes constants then.
    """
    for _ in range(4):
        facts = told(
            trial.safe(
                """
                sender = make_sender()
                children = []
                for number in range(4):
                    handle = sender.submit(topic, b"parent")
                    child = os.fork()
                    if child == 0:
                        signal.alarm(30)
                        sender.send(topic, b"child")
                        sys.exit(3)
                    children.append(child)
                codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
                handle.result()
                tell(codes=codes)
                """
            )
        )
        assert facts == {"codes": [3] * 4}


@pytest.mark.parametrize(
    ("before", "body"),
    [
        ("", "pass"),
        ("sender.close()", "pass"),
        ("", "del sender; gc.collect()"),
        ("", "sender.close()"),
        ("", "sender.submit(topic, b'child')"),
    ],
    ids=["untouched", "closed before", "let go", "closed in the child", "sending"],
)
def test_forked_child_leaves_with_its_own_code(trial: Trial, before: str, body: str) -> None:
    """
    A child that inherited a sender ends by `sys.exit` with its own code, whatever it does with it, and delivers first.
    """
    facts = told(trial.safe(_SAFE_CHILD.format(before=before, body=body)))
    assert facts == {"child": 3}
    expected = [b"parent before", *([b"child"] if "submit" in body else [])]
    assert trial.payloads(until=len(expected)) == expected


def test_child_cannot_ask_for_what_is_the_parents(own_trial: Trial) -> None:
    """
    A message that the parent submitted is the parent's: its child is told so, and the parent learns its fate.
    """
    facts = told(
        own_trial.safe(
            """
            sender = make_sender()
            sender.send(topic, b"first")
            freeze()
            handle = sender.submit(topic, b"the parent's")
            child = os.fork()
            if child == 0:
                try:
                    handle.result()
                except safepulsar.ForkedProcess:
                    sys.exit(3)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            thaw()
            tell(child=code, fate=handle.result().fate.value)
            """
        )
    )
    assert facts == {"child": 3, "fate": "DELIVERED"}
    assert own_trial.payloads(until=2) == [b"first", b"the parent's"]
