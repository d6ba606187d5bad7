"""
A broker in memory, for tests: it behaves as a real one does towards a producer, and every fault comes when you say so.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from safepulsar.broker.outcomes import Phase
from safepulsar.errors import InvalidInput
from safepulsar.settings import BROKER_MAX_MESSAGE_BYTES
from safepulsar.testing.client import FakeClient
from safepulsar.testing.faults import Fault
from safepulsar.testing.network import Network
from safepulsar.topics import TopicNames

if TYPE_CHECKING:
    from collections.abc import Callable

    from safepulsar.broker_process import BrokerState
    from safepulsar.settings import ClientSettings
    from safepulsar.testing.counts import BrokerCounts
    from safepulsar.testing.topic_log import StoredMessage


class FakeBroker:
    """
    A Pulsar broker in memory, reached by `connect` in place of the network.

        broker = FakeBroker()
        with RetryingSender(broker.url, registry=ClientRegistry(broker.connect)) as sender:
            sender.send("orders", b"...")
        assert broker.payloads("orders") == [b"..."]

    Topics are logs of stored messages; batches are stored and answered as units; `deduplication`, access modes,
    broken connections and what the official client does then (it sends again, in order, what was not
    acknowledged) are as on a real broker. What makes a difference to a test:

    - `hold`: messages are stored, their acknowledgements wait until `release` lets them go, one by one or all.
    - `freeze`: nothing is stored and nothing is answered until `thaw`.
    - `kill`: connections break; what was acknowledged stays; `start` lets the clients come back.
    - `cut`: connections break and come back at once, so what was held is sent again.
    - `fail_next`: the next so many creations, sends or answers fail with a code of your choice.

    All of it happens at once or waits for you: the fake never sleeps and reads no clock, except for the operation
    timeout of a client that creates a producer on a frozen broker. Thread-safe.

    Args:
        deduplication: drop a sequence id at or below the highest of its topic and producer name, and acknowledge
            it with the message id (-1, -1).
        threaded: True makes callbacks on a thread of the client, at any moment, like the official client. False
            makes them only while `flush` or `pump` is called, on the caller's thread: the same order every time.
        early_answers: with `threaded=False`, every answer that is not held comes before `send_batch` returns.
        max_message_bytes: a batch over it fails with `MessageTooBig`.
    """

    url: Final = "pulsar://fake:6650"

    def __init__(
        self,
        *,
        deduplication: bool = False,
        threaded: bool = True,
        early_answers: bool = False,
        max_message_bytes: int = BROKER_MAX_MESSAGE_BYTES,
    ) -> None:
        if early_answers and threaded:
            raise InvalidInput("early_answers", "needs threaded=False, or another thread may be earlier still")
        self._names = TopicNames()
        self._network = Network(
            deduplication=deduplication,
            max_message_bytes=max_message_bytes,
            threaded=threaded,
            early_answers=early_answers,
        )

    def __repr__(self) -> str:
        with self._network.changed:
            stored = sum(len(log.messages) for log in self._network.logs.values())
            facts = [
                f"{stored} messages in {len(self._network.logs)} topics",
                f"{self._network.counts.clients_open} clients",
                f"{self._network.counts.producers_open} producers",
            ]
            if self._network.held:
                facts.append(f"{len(self._network.held)} answers held")
            if self._network.faults.left():
                facts.append(f"{self._network.faults.left()} faults to come")
            return f"<FakeBroker {self.state.value}, {', '.join(facts)}>"

    def connect(self, settings: ClientSettings) -> FakeClient:
        """
        Make a client: the `safepulsar.broker.transport.Connect` of this broker. The settings' URL is of no account.
        """
        return FakeClient(self._network, settings)

    # -- what is there ---------------------------------------------------------------------------------------

    @property
    def state(self) -> BrokerState:
        """
        Running, frozen as a whole, or stopped.
        """
        return self._network.state

    @property
    def counts(self) -> BrokerCounts:
        """
        What happened so far, as a copy.
        """
        with self._network.changed:
            return replace(self._network.counts)

    @property
    def held(self) -> int:
        """
        How many answers wait for `release`.
        """
        return len(self._network.held)

    def topics(self) -> list[str]:
        """
        The full names of all topics that a producer was opened for, in that order.
        """
        with self._network.changed:
            return list(self._network.logs)

    def messages(self, topic: str) -> list[StoredMessage]:
        """
        Everything that `topic`, named in short or in full, holds, in order. A topic that nobody opened is empty.
        """
        full = self._names.full(topic)
        with self._network.changed:
            log = self._network.logs.get(full)
            return [] if log is None else list(log.messages)

    def payloads(self, topic: str) -> list[bytes | None]:
        """
        The payloads of `messages(topic)`.
        """
        return [message.payload for message in self.messages(topic)]

    def wait_until(self, fact: Callable[[], object], *, timeout_seconds: float = 10.0) -> None:
        """
        Wait until `fact()` is true, asked again after each change of the broker, and at no other time.

        Nothing changes while `fact` runs, so it may look at several things; it must not wait for anything.

        Raises:
            AssertionError: it is still false after the time allowed.
        """
        with self._network.changed:
            if not self._network.changed.wait_for(fact, timeout_seconds):
                raise AssertionError(f"waited {timeout_seconds:g} s in vain; {self!r}")

    # -- the moment of each answer ---------------------------------------------------------------------------

    def pump(self) -> int:
        """
        Make the callbacks that are due, on this thread, and return how many batches were answered.

        For `threaded=False`; otherwise the clients' threads are about to do so anyway.
        """
        with self._network.changed:
            lines = list(self._network.lines)
        answered = 0
        for line in lines:
            while self._network.deliver_next(line):
                answered += 1
        return answered

    def hold(self, topic: str | None = None) -> None:
        """
        From now on store messages but keep the answers back, of one topic or of all.
        """
        self._network.hold(None if topic is None else self._names.full(topic))

    def release(self, count: int | None = None, topic: str | None = None) -> None:
        """
        Let held answers go, oldest first.

        Args:
            count: so many, and go on holding. None: all, and hold no more.
            topic: only of this one.

        Raises:
            ValueError: fewer than `count` are held.
        """
        self._network.release(count, None if topic is None else self._names.full(topic))

    # -- faults ----------------------------------------------------------------------------------------------

    def fail_next(
        self,
        count: int,
        code: str,
        *,
        phase: Phase = Phase.LATER,
        topic: str | None = None,
        stored: bool = False,
    ) -> None:
        """
        Let the next `count` calls fail. What failed so is answered so, also if the connection breaks meanwhile.

        After `AlreadyClosed`, `ProducerFenced` or `TopicTerminated` from the network the producer is dead, as with
        the official client: all that is pending fails in the same way, and so does what it is given later.

        Args:
            count: of creations, of calls of `send_batch`, or of batches that arrive at the broker.
            code: Pulsar's name of the result, e.g. `ProducerFenced`.
            phase: CREATE fails `create_producer`; INLINE makes `send_batch` raise, and nothing is sent; LATER answers from
                the network, in the place of the acknowledgement.
            topic: only calls for this one count.
            stored: with LATER, the batch is in the topic all the same.

        Raises:
            InvalidInput: a count below 1, or an option of another phase.
        """
        if count < 1:
            raise InvalidInput("count", f"must be at least 1, not {count}")
        if stored and phase is not Phase.LATER:
            raise InvalidInput("stored", f"only what fails later can be stored, not {phase.name}")
        full = None if topic is None else self._names.full(topic)
        with self._network.changed:
            self._network.faults.order(Fault(code=code, phase=phase, topic=full, stored=stored, left=count))

    def fail_next_reads(self, count: int, code: str) -> None:
        """
        Let the next `count` calls of `last_message_ids` or `read_back` fail.

        Args:
            count: of calls, for any topic.
            code: Pulsar's name of the result, e.g. `AuthorizationError`.

        Raises:
            InvalidInput: a count below 1.
        """
        if count < 1:
            raise InvalidInput("count", f"must be at least 1, not {count}")
        with self._network.changed:
            self._network.read_faults.extend([code] * count)

    def forget_faults(self) -> None:
        """
        Take back what `fail_next` and `fail_next_reads` ordered and nothing has used up.
        """
        with self._network.changed:
            self._network.faults.clear()
            self._network.read_faults.clear()

    def freeze(self, topic: str | None = None) -> None:
        """
        Store nothing, answer nothing, create nothing, of one topic or at all; connections stay.

        Does nothing while the broker is stopped.
        """
        self._network.freeze(None if topic is None else self._names.full(topic))

    def thaw(self, topic: str | None = None) -> None:
        """
        Go on after `freeze`: what was sent meanwhile is stored, also of producers that were closed in the meantime.

        Not so what went over a connection that broke meanwhile: its client sends again what still waits for an answer.

        Args:
            topic: only this one; None thaws everything.
        """
        self._network.thaw(None if topic is None else self._names.full(topic))

    def kill(self) -> None:
        """
        End, as by a crash: connections break, and with them every acknowledgement that no callback has heard yet.

        What is stored stays, acknowledged or not; holds and ordered faults stay as well.
        """
        self._network.kill()

    def start(self) -> None:
        """
        Start again after `kill`; clients connect and send again, in order, what was not acknowledged.

        Does nothing while the broker runs.
        """
        self._network.start()

    def restart(self) -> None:
        """
        Kill it and start it again.
        """
        self.kill()
        self.start()

    def cut(self) -> None:
        """
        Break every connection; clients come back at once, or, if the broker is frozen, when it thaws.
        """
        self._network.cut()
