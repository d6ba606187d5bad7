"""
Whatever a test orders, in whatever order, the fake broker keeps a broker's promises; the history checker judges.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hypothesis import given, settings
from hypothesis import strategies as st

from safepulsar.errors import BrokerError
from safepulsar.message import Certainty, Message
from safepulsar.settings import ClientSettings, ProducerSettings
from safepulsar.testing import FakeBroker
from tests.history import History, Rules, assert_valid
from tests.testing.producers import TOPIC

if TYPE_CHECKING:
    from safepulsar.broker.transport import Slot
    from tests.history.recorder import Readable

BATCH: Final = 3
STEPS: Final = ("send", "send", "send part", "pump", "hold", "release", "release one", "freeze", "thaw", "cut", "kill")
FAULTS: Final = ("start", "fail later", "fail stored")


class Shop:
    """
    One producer on a fake broker, and the history of what it was told.
    """

    def __init__(self, *, deduplication: bool) -> None:
        self.broker = FakeBroker(deduplication=deduplication, threaded=False)
        client = self.broker.connect(ClientSettings(url=self.broker.url))
        self.producer = client.create_producer(
            ProducerSettings(topic=TOPIC, producer_name="shop", batch_max_messages=BATCH)
        )
        self.history = History()
        self._number = 0
        self._waiting: list[tuple[str, Slot]] = []
        self._down = False

    def do(self, step: str) -> None:
        """
        One step, then note what is answered.
        """
        broker = self.broker
        if step.startswith("send"):
            self._send(BATCH if step == "send" else 1)
        elif step == "release one" and broker.held:
            broker.release(1)
        elif step.startswith("fail"):
            broker.fail_next(1, "UnknownError", stored=step == "fail stored")
        elif step == "cut":
            self.history.broken()
            broker.cut()
            self.history.healed()
        elif step == "kill" and not self._down:
            self.history.broken()
            broker.kill()
            self._down = True
        elif step == "start" and self._down:
            broker.start()
            self.history.healed()
            self._down = False
        elif step in ("pump", "hold", "release", "freeze", "thaw"):
            getattr(broker, step)()
        self._note()

    def finish(self) -> None:
        """
        Undo every fault, and let everything be answered.
        """
        self.broker.forget_faults()
        for step in ("start", "thaw", "release"):
            self.do(step)
        self.producer.flush()
        self._note()
        self.history.found(TOPIC, self.broker.messages(TOPIC), identify)

    def _send(self, count: int) -> None:
        # A partial call stays open: the next one joins its batch, so each message here is a call of its own.
        for _ in range(count):
            self._number += 1
            name = str(self._number)
            message = Message(topic=TOPIC, payload=name.encode(), sequence_id=self._number)
            self.history.attempted(name, TOPIC, message, lane="all")
            self.history.accepted(name)
            slot: Slot = {}
            self.producer.send_batch([message], slot.setdefault)
            self._waiting.append((name, slot))

    def _note(self) -> None:
        waiting, self._waiting = self._waiting, []
        for name, slot in waiting:
            answer = self.producer.read(slot)
            if answer is None:
                self._waiting.append((name, slot))
            elif isinstance(answer, BrokerError):
                self.history.failed(name, Certainty.MAYBE_STORED)
            elif answer.ledger_id < 0:
                self.history.duplicate(name)
            else:
                self.history.acked(name, answer)


def identify(message: Readable) -> str:
    """
    The payload names a message.
    """
    return (message.payload or b"").decode()


@settings(deadline=None)
@given(st.booleans(), st.lists(st.sampled_from(STEPS + FAULTS), max_size=40))
def test_no_order_of_faults_breaks_a_promise(deduplication: bool, steps: list[str]) -> None:  # noqa: FBT001 - drawn
    """
    Nothing acknowledged is missing, duplicates are what a broken connection explains, and order holds.
    """
    shop = Shop(deduplication=deduplication)
    for step in steps:
        shop.do(step)
    shop.finish()
    assert_valid(shop.history, Rules(failed_is_kept=False, connection_broken=not deduplication))
