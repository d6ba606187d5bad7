"""
One client per settings and process, made once, closed after its last user, left alone in a forked child.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NoReturn

import pytest

from safepulsar.broker.client_registry import ClientRegistry
from safepulsar.errors import BrokerError, InvalidSettings
from safepulsar.settings import ClientSettings
from tests.subprocesses import run_script
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safepulsar.broker.transport import Stored, TransportProducer
    from safepulsar.message import MessageId
    from safepulsar.settings import ProducerSettings
    from tests.brokers import Broker

pytestmark = pytest.mark.timeout(60)

_ONE, _TWO = ClientSettings(url="pulsar://one"), ClientSettings(url="pulsar://two")


class _Client:
    """
    A client that counts.
    """

    def __init__(self, settings: ClientSettings) -> None:
        self.settings = settings
        self.closed = 0
        self.leaked = 0

    def create_producer(self, settings: ProducerSettings) -> TransportProducer:
        raise NotImplementedError

    def last_message_ids(self, topic: str, *, timeout_seconds: float) -> dict[int, MessageId | None]:
        raise NotImplementedError

    def read_back(
        self, topic: str, partition: int, after: MessageId | None, *, timeout_seconds: float
    ) -> Iterator[Stored]:
        raise NotImplementedError

    def close(self) -> None:
        self.closed += 1

    def leak(self) -> None:
        self.leaked += 1


class _Connect:
    """
    Makes clients, and can be made to hang or fail.
    """

    def __init__(self) -> None:
        self.made: list[_Client] = []
        self.calls = 0
        self.hanging: dict[str, threading.Event] = {}
        self.failing = False

    def __call__(self, settings: ClientSettings) -> _Client:
        self.calls += 1
        if settings.url in self.hanging:
            self.hanging[settings.url].wait(30)
        if self.failing:
            raise BrokerError("InvalidConfiguration")
        client = _Client(settings)
        self.made.append(client)
        return client


@pytest.fixture
def connect() -> _Connect:
    """
    What makes the clients.
    """
    return _Connect()


@pytest.fixture
def registry(connect: _Connect) -> ClientRegistry:
    """
    A registry of the test's own.
    """
    return ClientRegistry(connect)


def test_there_is_one_registry_in_a_process() -> None:
    """
    `shared` is always the same, and holds no client before one is asked for.
    """
    assert ClientRegistry.shared() is ClientRegistry.shared()
    assert ClientRegistry.shared().clients() == {}


def test_nothing_is_made_before_the_first_use(registry: ClientRegistry, connect: _Connect) -> None:
    """
    Making a registry connects to nothing.
    """
    assert connect.calls == 0
    assert registry.clients() == {}


def test_equal_settings_share_a_client(registry: ClientRegistry, connect: _Connect) -> None:
    """
    It is the value of the settings that counts, and all of it.
    """
    one = registry.acquire(ClientSettings(url="pulsar://one"))
    assert registry.acquire(ClientSettings(url="pulsar://one")) is one
    assert registry.acquire(ClientSettings(url="pulsar://one", io_threads=2)) is not one
    assert len(connect.made) == 2


def test_64_threads_make_one_client(registry: ClientRegistry, connect: _Connect) -> None:
    """
    However many threads ask at the same time, the client is made once.
    """
    connect.hanging[_ONE.url] = threading.Event()
    with ThreadPoolExecutor(64) as threads:
        clients = [threads.submit(registry.acquire, _ONE) for _ in range(64)]
        wait_until(lambda: connect.calls == 1, "one thread makes it")
        connect.hanging[_ONE.url].set()
        assert len({id(client.result()) for client in clients}) == 1
    assert connect.calls == 1
    assert registry.clients() == {_ONE: 64}


def test_a_client_that_hangs_delays_no_other(registry: ClientRegistry, connect: _Connect) -> None:
    """
    While one client is being made, others are made and given.
    """
    connect.hanging[_ONE.url] = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        hanging = threads.submit(registry.acquire, _ONE)
        wait_until(lambda: connect.calls == 1, "the first is being made")
        registry.acquire(_TWO)
        assert not hanging.done()
        connect.hanging[_ONE.url].set()
        hanging.result()


def test_the_last_user_closes_the_client(registry: ClientRegistry, connect: _Connect) -> None:
    """
    With two users it stays open until both have released it, and the next one gets another.
    """
    registry.acquire(_ONE)
    registry.acquire(_ONE)
    registry.release(_ONE)
    assert connect.made[0].closed == 0
    registry.release(_ONE)
    assert connect.made[0].closed == 1
    assert registry.clients() == {}
    assert registry.acquire(_ONE) is connect.made[1]


def test_a_release_too_many_does_nothing(registry: ClientRegistry, connect: _Connect) -> None:
    """
    What is not there is not closed again.
    """
    registry.release(_ONE)
    registry.acquire(_ONE)
    registry.release(_ONE)
    registry.release(_ONE)
    assert connect.made[0].closed == 1


def test_a_failure_is_not_remembered(registry: ClientRegistry, connect: _Connect) -> None:
    """
    A client that could not be made leaves nothing behind; the next one who asks tries again.
    """
    connect.failing = True
    with pytest.raises(BrokerError):
        registry.acquire(_ONE)
    assert registry.clients() == {}
    connect.failing = False
    registry.acquire(_ONE)
    assert registry.clients() == {_ONE: 1}


def test_at_exit_every_client_closes(registry: ClientRegistry, connect: _Connect) -> None:
    """
    All are closed, whoever still has them; their release afterwards does nothing.
    """
    registry.acquire(_ONE)
    registry.acquire(_TWO)
    registry.at_exit()
    registry.at_exit()
    registry.release(_ONE)
    assert [client.closed for client in connect.made] == [1, 1]


def test_a_forked_child_makes_its_own(registry: ClientRegistry, connect: _Connect) -> None:
    """
    After a fork what was inherited is leaked and never closed, and its release does nothing.
    """
    registry.acquire(_ONE)
    registry.after_fork()
    registry.release(_ONE)
    assert registry.clients() == {}
    assert registry.acquire(_ONE) is connect.made[1]
    registry.at_exit()
    assert (connect.made[0].leaked, connect.made[0].closed) == (1, 0)
    assert (connect.made[1].leaked, connect.made[1].closed) == (0, 1)


def test_a_token_callable_is_compared_as_itself(registry: ClientRegistry) -> None:
    """
    The same function shares a client, another one that does the same does not.
    """

    def token() -> str:
        return "secret"

    first = registry.acquire(ClientSettings(url="pulsar://localhost", token=token))
    assert registry.acquire(ClientSettings(url="pulsar://localhost", token=token)) is first
    other = ClientSettings(url="pulsar://localhost", token=lambda: "secret")
    assert registry.acquire(other) is not first
    assert "secret" not in repr(registry)


def test_a_token_callable_that_cannot_be_a_key_is_refused(registry: ClientRegistry) -> None:
    """
    The error names the setting and the remedy.
    """

    class Token:
        __hash__ = None  # type: ignore[assignment]  # as a class with __eq__ alone has it

        def __call__(self) -> NoReturn:
            raise NotImplementedError

    with pytest.raises(InvalidSettings, match=r"ClientSettings\.token.*function"):
        registry.acquire(ClientSettings(url="pulsar://localhost", token=Token()))


def test_a_process_that_forgets_its_client_exits_cleanly(broker: Broker, topic: str) -> None:
    """
    With a client and a producer open and messages under way, the process ends with its own code and does not hang.
    """
    result = run_script(
        """
        import sys
        from safepulsar.broker.client_registry import ClientRegistry
        from safepulsar.message import Message
        from safepulsar.settings import ClientSettings, ProducerSettings

        url, topic = sys.argv[1:]
        client = ClientRegistry.shared().acquire(ClientSettings(url=url))
        producer = client.create_producer(ProducerSettings(topic=topic, batch_max_messages=100))
        slots = [{} for _ in range(50)]
        for slot in slots:
            producer.send_batch([Message(topic=topic, payload=b"x")] * 100, slot.setdefault)
        sys.exit(7)
        """,
        broker.url,
        topic,
        timeout_seconds=30,
    )
    result.check(7)


def test_a_forked_child_sends_by_a_client_of_its_own(broker: Broker, topic: str) -> None:
    """
    Both processes send and end cleanly: the child by another client, the parent by the one that it had.
    """
    result = run_script(
        """
        import os, sys, threading, time
        from safepulsar.broker.client_registry import ClientRegistry
        from safepulsar.message import Message, MessageId
        from safepulsar.settings import ClientSettings, ProducerSettings

        url, topic = sys.argv[1:]
        settings = ClientSettings(url=url)
        registry = ClientRegistry.shared()

        def send(producer):
            slot = {}
            def work():
                producer.send_batch([Message(topic=topic, payload=b"x")], slot.setdefault)
                while not slot:
                    producer.flush()
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            return isinstance(producer.read(slot), MessageId)

        inherited = registry.acquire(settings)
        producer = inherited.create_producer(ProducerSettings(topic=topic, batch_max_messages=1))
        assert send(producer)
        closed = inherited.create_producer(ProducerSettings(topic=topic, batch_max_messages=1))
        closed.close()
        pid = os.fork()
        if pid == 0:
            producer.leak()
            client = registry.acquire(settings)
            assert client is not inherited
            assert send(client.create_producer(ProducerSettings(topic=topic, batch_max_messages=1)))
            sys.exit(3)
        print("child", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        print("parent", send(producer))
        """,
        broker.url,
        topic,
        timeout_seconds=30,
    )
    assert result.check() == "child 3\nparent True\n"
