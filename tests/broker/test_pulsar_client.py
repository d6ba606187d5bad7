"""
The official client behind our seam: what it must not do any more, shown on brokers and on bare sockets.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import ssl
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pulsar
import pytest

from safepulsar.broker.pulsar_client import connect
from safepulsar.errors import BrokerError, BrokerUnavailable, InvalidSettings, MessageRefused, ProducerBusy
from safepulsar.message import Message, MessageId
from safepulsar.settings import BROKER_MAX_MESSAGE_BYTES, ClientSettings, Compression, ProducerSettings
from tests.brokers import LiteBroker, RealBroker, read_topic
from tests.subprocesses import run_script
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safepulsar.broker.transport import Slot, TransportClient, TransportProducer
    from tests.brokers import Broker

pytestmark = pytest.mark.timeout(60)

_TOKEN = "secret-token"  # noqa: S105  # of nothing
_FILE = "file:///etc/hostname"
_KEYS = Path(__file__).parents[1] / "keys"  # made for these tests, and trusted by nobody else


@pytest.fixture
def client(broker: Broker) -> Iterator[TransportClient]:
    """
    A client of the shared broker.
    """
    client = connect(ClientSettings(url=broker.url))
    yield client
    client.close()


class _Listener:
    """
    A socket that takes one connection and reads what comes first.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._tls = tls
        self.port = self._listener.getsockname()[1]
        self.received = b""
        self._thread = threading.Thread(target=self._run, name="listener")
        self._thread.start()

    def _run(self) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(10)
        with contextlib.suppress(OSError), contextlib.ExitStack() as closing:
            closing.enter_context(connection)
            if self._tls is not None:
                connection = closing.enter_context(self._tls.wrap_socket(connection, server_side=True))
            self.received = connection.recv(10_000)

    def close(self) -> None:
        """
        Wait for the connection's end, and close.
        """
        self._thread.join()
        self._listener.close()


def _create_in_vain(settings: ClientSettings) -> BrokerError:
    client = connect(settings)
    try:
        with pytest.raises(BrokerError) as caught:
            client.create_producer(ProducerSettings(topic="persistent://public/default/vain"))
        return caught.value
    finally:
        client.close()


# -- settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["tls_trust_certs_file", "tls_certificate_file", "tls_private_key_file"])
def test_a_file_that_cannot_be_read_is_refused_at_once(given: str, tmp_path: Path) -> None:
    """
    The error names the setting and the reason, where the client library would fail later with a connection error.
    """
    files = {name: str(_KEYS / "other.example.crt") for name in ("tls_certificate_file", "tls_private_key_file")}
    files[given] = str(tmp_path / "missing.pem")
    with pytest.raises(InvalidSettings, match=f"ClientSettings.{given}: .*No such file"):
        connect(ClientSettings(url="pulsar+ssl://localhost", **files))  # type: ignore[arg-type]


def test_a_certificate_for_another_host_is_refused() -> None:
    """
    By default a server whose certificate is trusted but names another host gets nothing; without the check it does.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_KEYS / "other.example.crt", _KEYS / "other.example.key")
    received = {}
    for validate in (True, False):
        listener = _Listener(context)
        _create_in_vain(
            ClientSettings(
                url=f"pulsar+ssl://127.0.0.1:{listener.port}",
                tls_trust_certs_file=str(_KEYS / "other.example.crt"),
                tls_validate_hostname=validate,
                operation_timeout_seconds=1,
                token=_TOKEN,
            )
        )
        listener.close()
        received[validate] = listener.received
    assert received[True] == b""
    assert _TOKEN.encode() in received[False]


def test_a_token_is_sent_as_it_is() -> None:
    """
    A token that looks like the name of a file or a variable is no name to the client library.
    """
    listener = _Listener()
    url = f"pulsar://127.0.0.1:{listener.port}"
    _create_in_vain(ClientSettings(url=url, token=_FILE, operation_timeout_seconds=1))
    listener.close()
    assert _FILE.encode() in listener.received


def test_a_token_callable_is_asked_at_the_connect() -> None:
    """
    What it returns is sent, and it is not called before it is needed.
    """
    asked = threading.Event()

    def token() -> str:
        asked.set()
        return "token-of-now"

    listener = _Listener()
    settings = ClientSettings(url=f"pulsar://127.0.0.1:{listener.port}", token=token, operation_timeout_seconds=1)
    client = connect(settings)
    assert not asked.is_set()
    client.close()
    _create_in_vain(settings)
    listener.close()
    assert b"token-of-now" in listener.received


def test_a_token_callable_that_fails_is_a_typed_error_without_its_text(lite_broker: LiteBroker) -> None:
    """
    The error says what kind of failure it was; neither it nor the client library's log has the failure's own text.
    """
    result = run_script(
        """
        import sys
        from safepulsar.errors import AuthenticationFailed
        from safepulsar.broker.pulsar_client import connect
        from safepulsar.settings import ClientSettings, LogLevel, ProducerSettings

        def fails():
            raise LookupError("secret")

        for token in (fails, lambda: 42, lambda: ""):
            client = connect(ClientSettings(url=sys.argv[1], token=token, log_level=LogLevel.DEBUG))
            try:
                client.create_producer(ProducerSettings(topic="persistent://public/default/vain"))
            except AuthenticationFailed as error:
                print(error)
            client.close()
        """,
        lite_broker.url,
        timeout_seconds=30,
    )
    lines = [line.partition("ClientSettings ")[2] for line in result.check().splitlines()]
    assert lines == ["raised LookupError", "returned int, not a token", "returned empty text, not a token"]
    assert "secret" not in result.stderr
    assert "raised LookupError" in result.stderr


def test_a_representation_has_no_secret(lite_broker: LiteBroker) -> None:
    """
    A client shows its URL and its state.
    """
    client = connect(ClientSettings(url=lite_broker.url, token=_TOKEN))
    assert repr(client) == f"<PulsarClient {lite_broker.url} open>"
    client.close()
    assert repr(client) == f"<PulsarClient {lite_broker.url} closed>"


# -- the library's log -------------------------------------------------------------------------------------------

_LOGS = """
    import logging, os, sys
    from safepulsar.broker.pulsar_client import connect
    from safepulsar.settings import ClientSettings, LogLevel, ProducerSettings

    url, log_file, close_stderr = sys.argv[1:]
    if close_stderr == "yes":
        os.close(2)
        logging.basicConfig(stream=sys.stdout, format="%(message)s %(remedy)s")
    client = connect(ClientSettings(url=url, log_level=LogLevel.INFO, log_file=log_file or None))
    client.create_producer(ProducerSettings(topic="persistent://public/default/logs")).close()
    client.close()
    """


def test_the_librarys_log_goes_to_standard_error(lite_broker: LiteBroker) -> None:
    """
    Standard output is the program's.
    """
    result = run_script(_LOGS, lite_broker.url, "", "no", timeout_seconds=30)
    assert result.check() == ""
    assert "Created producer" in result.stderr


def test_the_librarys_log_goes_to_a_file_that_only_its_owner_reads(lite_broker: LiteBroker, tmp_path: Path) -> None:
    """
    With a log file nothing goes anywhere else.
    """
    path = tmp_path / "pulsar.log"
    result = run_script(_LOGS, lite_broker.url, path, "no", timeout_seconds=30)
    assert result.check() == ""
    assert result.stderr == ""
    assert "Created producer" in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_without_standard_error_there_is_no_log_and_that_is_said(lite_broker: LiteBroker) -> None:
    """
    The client works, the program's output has nothing of the library's, and our log names the remedy.
    """
    result = run_script(_LOGS, lite_broker.url, "", "yes", timeout_seconds=30)
    assert result.check() == "safepulsar.client_log_off ClientSettings.log_file\n"


def test_a_log_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """
    The error names the setting and the reason.
    """
    with pytest.raises(InvalidSettings, match=r"ClientSettings.log_file: .*No such file"):
        connect(ClientSettings(url="pulsar://localhost", log_file=str(tmp_path / "missing" / "pulsar.log")))


# -- opening producers -------------------------------------------------------------------------------------------


def test_opening_on_a_frozen_broker_ends_in_time_and_leaves_nothing(own_broker: Broker, topic: str) -> None:
    """
    It fails after the operation timeout and not after several, and a producer that comes later is closed.
    """
    client = connect(ClientSettings(url=own_broker.url, operation_timeout_seconds=1))
    client.create_producer(ProducerSettings(topic=topic)).close()
    settings = ProducerSettings(topic=f"{topic}-late", producer_name="the-only-one")
    own_broker.freeze()
    started = time.monotonic()
    with pytest.raises(BrokerUnavailable) as caught:
        client.create_producer(settings)
    assert time.monotonic() - started < 2.5
    assert caught.value.code == "Timeout"
    assert not caught.value.maybe_stored
    own_broker.thaw()
    producer = _create_when_possible(client, settings)
    if isinstance(own_broker, RealBroker):
        wait_until(lambda: own_broker.admin.producer_count(settings.topic) == 1, "one producer on the topic")
    producer.close()
    client.close()


def _create_when_possible(client: TransportClient, settings: ProducerSettings) -> TransportProducer:
    created: list[TransportProducer] = []

    def create() -> bool:
        with contextlib.suppress(BrokerUnavailable, ProducerBusy):  # until the broker has closed the late one
            created.append(client.create_producer(settings))
        return bool(created)

    wait_until(create, "the producer opens", timeout_seconds=30)
    return created[0]


def test_closing_a_client_ends_an_opening(tmp_path: Path, topic: str) -> None:
    """
    On a frozen broker `close` does not wait for the producer that is being opened, whose call fails typed.

    The raw client returns a producer then, whose use crashes the process.
    """
    with LiteBroker(tmp_path / "broker") as broker, ThreadPoolExecutor(1) as threads:
        client = connect(ClientSettings(url=broker.url, operation_timeout_seconds=30))
        client.create_producer(ProducerSettings(topic=topic)).close()
        broker.freeze()
        opening = threads.submit(client.create_producer, ProducerSettings(topic=f"{topic}-2"))
        assert wait([opening], timeout=0.2).not_done
        started = time.monotonic()
        client.close()
        assert isinstance(opening.exception(5), BrokerError)
        assert time.monotonic() - started < 5
        broker.thaw()


def test_an_opening_can_be_interrupted(tmp_path: Path, topic: str) -> None:
    """
    A signal handler's own exception comes through at once, where the raw client would replace it by `Interrupted`.
    """

    class Interrupt(Exception):
        pass

    def handle(_number: int, _frame: object) -> NoReturn:
        raise Interrupt

    with LiteBroker(tmp_path / "broker") as broker:
        client = connect(ClientSettings(url=broker.url, operation_timeout_seconds=30))
        client.create_producer(ProducerSettings(topic=topic)).close()
        broker.freeze()
        before = signal.signal(signal.SIGALRM, handle)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(Interrupt):
                client.create_producer(ProducerSettings(topic=topic))
        finally:
            signal.signal(signal.SIGALRM, before)
        broker.thaw()
        client.create_producer(ProducerSettings(topic=topic)).close()
        client.close()


def test_closing_after_the_producers_takes_no_time_on_a_frozen_broker(own_broker: Broker, topic: str) -> None:
    """
    Neither a producer's `close` nor, after it, the client's waits for the operation timeout.
    """
    client = connect(ClientSettings(url=own_broker.url, operation_timeout_seconds=30))
    producer = client.create_producer(ProducerSettings(topic=topic))
    own_broker.freeze()
    started = time.monotonic()
    producer.close()
    producer.close()
    assert time.monotonic() - started < 0.5
    client.close()
    client.close()
    assert time.monotonic() - started < 3


def test_what_the_settings_ask_for_and_cannot_be_had_is_refused(client: TransportClient, topic: str) -> None:
    """
    A key file that cannot be read is named.
    """
    missing = ("/nowhere/public.pem", "/nowhere/private.pem")
    with pytest.raises(InvalidSettings, match=r"ProducerSettings\.crypto_key_files.*No such file"):
        client.create_producer(ProducerSettings(topic=topic, encryption_key="key", crypto_key_files=missing))


# -- sending -----------------------------------------------------------------------------------------------------


def test_an_error_quotes_no_value_and_a_batch_with_one_bad_message_leaves_nothing(
    client: TransportClient, broker: Broker, topic: str
) -> None:
    """
    A message that can't be built refuses its whole call; not even the error's context has its values.
    """
    producer = client.create_producer(ProducerSettings(topic=topic, batch_max_messages=3))
    good = Message(topic=topic, payload=b"good")
    for bad in (
        Message(topic=topic, payload=b"x", properties={"name": "secret\ud800"}),
        Message(topic=topic, payload=b"x", partition_key="secret\ud800"),
        Message(topic=topic, payload="secret\ud800"),  # type: ignore[arg-type]
        Message(topic=topic, payload=b"x", sequence_id=2**80),
    ):
        slot: Slot = {}
        with pytest.raises(MessageRefused) as caught:
            producer.send_batch([good, bad], slot.setdefault)
        assert slot == {}
        assert not caught.value.maybe_stored
        assert "secret" not in str(caught.value)
        assert caught.value.__context__ is None
        assert caught.value.__cause__ is None
    _send(client, ProducerSettings(topic=topic), b"last")
    producer.close()
    assert [record.payload for record in read_topic(broker, topic, until=1)] == [b"last"]


def _send(client: TransportClient, settings: ProducerSettings, *payloads: bytes) -> MessageId:
    producer = client.create_producer(settings)
    slot: Slot = {}
    producer.send_batch([Message(topic=settings.topic, payload=payload) for payload in payloads], slot.setdefault)
    with ThreadPoolExecutor(1) as threads:
        threads.submit(producer.flush).result(30)
    wait_until(lambda: bool(slot), "the answer")
    answer = producer.read(slot)
    assert isinstance(answer, MessageId)
    producer.close()
    return answer


@pytest.mark.parametrize("compression", Compression)
def test_every_compression_is_read_back(
    client: TransportClient, broker: Broker, topic: str, compression: Compression
) -> None:
    """
    A batch arrives as it was sent, however it was compressed.
    """
    payloads = [b"%d" % i * 100 for i in range(10)]
    _send(client, ProducerSettings(topic=topic, compression=compression), *payloads)
    assert [record.payload for record in read_topic(broker, topic, until=10)] == payloads


def test_a_message_over_the_limit_travels_in_chunks(pulsar_broker: RealBroker, topic: str) -> None:
    """
    With chunking a message may be larger than the broker's limit, and has one fate.
    """
    payload = b"x" * (2 * BROKER_MAX_MESSAGE_BYTES)
    client = connect(ClientSettings(url=pulsar_broker.url))
    _send(client, ProducerSettings(topic=topic, batch_max_messages=1, chunking=True), payload)
    client.close()
    [record] = read_topic(pulsar_broker, topic, until=1)
    assert record.payload == payload


def test_an_encrypted_batch_is_read_with_the_key(client: TransportClient, broker: Broker, topic: str) -> None:
    """
    The whole batch arrives for whoever has the private key.
    """
    files = (str(_KEYS / "encryption.public.pem"), str(_KEYS / "encryption.private.pem"))
    settings = ProducerSettings(topic=topic, encryption_key="orders", crypto_key_files=files)
    _send(client, settings, b"first", b"second")
    raw = pulsar.Client(broker.url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
    key = pulsar.CryptoKeyReader(*files)
    reader = raw.create_reader(topic, pulsar.MessageId.earliest, crypto_key_reader=key)
    assert [reader.read_next(10_000).data() for _ in range(2)] == [b"first", b"second"]
    raw.close()
