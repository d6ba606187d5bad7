"""
How the messages of one `send_many` are taken, many at once or one by one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from safepulsar.books.handle import SendHandle, now
from safepulsar.errors import QueueFull
from safepulsar.sending.bulk import Intake
from safepulsar.sending.intake import prepare, prepare_payloads
from safepulsar.testing import FakeBroker
from tests.senders import sender_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safepulsar import RetryingSender


@pytest.fixture
def broker() -> FakeBroker:
    """
    A broker in memory.
    """
    return FakeBroker()


@pytest.fixture
def sender(broker: FakeBroker) -> Iterator[RetryingSender]:
    """
    With room for two messages.
    """
    with sender_of(broker, max_in_flight_messages=2) as sender:
        yield sender


def _handles(sender: RetryingSender, count: int) -> list[SendHandle]:
    return prepare_payloads(sender._started(), "orders", [b"%d" % number for number in range(count)], 30.0)


def test_the_time_of_those_who_wait_for_room_begins_when_they_have_it(sender: RetryingSender) -> None:
    """
    A deadline is counted from a message's own acceptance, also where it was prepared together with others.
    """
    began = now()
    handles = _handles(sender, 3)
    for handle in handles:
        handle._accepted_at -= 20.0
        handle._deadline -= 20.0
    accepted: list[SendHandle] = []
    Intake(sender._started(), prepare, lambda _: None).accept(handles.copy(), accepted)
    assert accepted == handles
    for handle in handles:
        assert handle._accepted_at >= began
        assert handle._deadline - handle._accepted_at == pytest.approx(30.0)


def test_what_was_accepted_before_a_refusal_is_known(sender: RetryingSender) -> None:
    """
    Those before it are accepted, it and those behind it are not.
    """
    handles = _handles(sender, 5)

    def accept(handle: SendHandle) -> None:
        if handle is handles[3]:
            raise QueueFull("no room")

    ready, accepted = handles.copy(), []  # type: tuple[list[SendHandle], list[SendHandle]]
    with pytest.raises(QueueFull):
        Intake(sender._started(), prepare, accept).accept(ready, accepted)
    assert accepted == handles[:3]
    assert ready == []


def test_interrupted_before_they_are_counted_none_is_accepted(
    broker: FakeBroker, sender: RetryingSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Ctrl-C where the lock is held leaves the books balanced and the sender in order.
    """
    sender.send("orders", b"first")
    handles = _handles(sender, 2)

    def interrupt(**_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(handles[0]._queue, "rouse_locked", interrupt)
        with pytest.raises(KeyboardInterrupt):
            sender.send_many("orders", [b"x", b"y"])
    counts = sender.stats().counts
    assert (counts.accepted, counts.in_flight, counts.balanced) == (1, 0, True)
    assert sender.send_many("orders", [b"x", b"y"]).delivered == 2
    assert broker.payloads("orders") == [b"first", b"x", b"y"]
