"""
The broker step by step: a connection, a greeting, the topic, the right to send, deduplication.

Each step is only taken if the one before succeeded; what is left out is said to be.
"""

from __future__ import annotations

import ssl
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from safepulsar.doctor.finding import Finding, Level
from safepulsar.doctor.handshake import NotPulsar, addresses, greet
from safepulsar.errors import (
    AuthenticationFailed,
    AuthorizationFailed,
    BrokerError,
    BrokerUnavailable,
    ProducerBusy,
    SafePulsarError,
    TopicNotFound,
)
from safepulsar.message import Message, MessageId
from safepulsar.settings import ProducerSettings

if TYPE_CHECKING:
    from safepulsar.broker.client_registry import ClientRegistry
    from safepulsar.broker.transport import Slot, TransportClient, TransportProducer
    from safepulsar.settings import ClientSettings

_STEPS: Final = ("broker", "topic-lookup", "produce-right", "deduplication")
_LOOK_SECONDS: Final = 0.005


@dataclass(slots=True)
class Broker:
    """
    What was found.

    Args:
        findings: one for each step.
        max_message_bytes: the broker's limit, None if it did not say.
    """

    findings: list[Finding] = field(default_factory=list)
    max_message_bytes: int | None = None


def examine_broker(
    client: ClientSettings, topic: str, probe_topic: str | None, registry: ClientRegistry, timeout_seconds: float
) -> Broker:
    """
    Take the steps as far as they lead.

    Args:
        client: the cluster.
        topic: a producer is opened there.
        probe_topic: two messages are sent there; None sends none.
        registry: where to take the client from.
        timeout_seconds: for each step.
    """
    broker = Broker()
    if _reach(client, broker, timeout_seconds):
        settings = replace(client, operation_timeout_seconds=max(1, round(timeout_seconds)))
        acquired = registry.acquire(settings)
        try:
            may_send = _open_producer(acquired, topic, broker)
            if may_send and probe_topic is not None:
                # Not on the main thread, where a send would lose what a signal handler raises.
                with ThreadPoolExecutor(1, "safepulsar-doctor") as thread:
                    found = thread.submit(_deduplication, acquired, probe_topic, timeout_seconds)
                    broker.findings.append(found.result())
        finally:
            registry.release(settings)
        if may_send and probe_topic is None:
            broker.findings.append(
                _not_known("deduplication", "shows only by sending two messages, which was not wished")
            )
    for step in _STEPS[len(broker.findings) :]:
        broker.findings.append(_not_known(step, "not looked at, because the step before failed"))
    return broker


def _reach(client: ClientSettings, broker: Broker, timeout_seconds: float) -> bool:
    """
    Connect to every address of the URL and exchange greetings.
    """
    try:
        token = client.token() if callable(client.token) else client.token
    except Exception as error:  # noqa: BLE001 - whatever the application's function raises; its text may hold a secret
        what = f"not looked at: the function that gets the token raised {type(error).__name__}"
        remedy = "call it by itself, and see what it raises (ClientSettings.token)"
        broker.findings.append(Finding(id="broker", level=Level.BAD, what=what, remedy=remedy))
        return False
    told: list[str] = []
    remedy = ""
    reached = 0
    for host, port in addresses(client.url):
        where = f"{host}:{port}"
        try:
            greeting = greet(client, token, host, port, timeout_seconds)
        except (OSError, NotPulsar) as error:
            what, remedy = _unreachable(error)
            told.append(f"{where} {what}")
            continue
        if greeting.refusal:
            told.append(f"{where} answers, and refuses {_credentials(client)}: {ascii(greeting.refusal)[1:-1]}")
            remedy = (
                "check the token (ClientSettings.token, SAFEPULSAR_TOKEN): its key, its role, and that it is not over"
            )
            continue
        reached += 1
        broker.max_message_bytes = greeting.max_message_bytes
        told.append(f"{where} answers: {ascii(greeting.server)[1:-1] or 'a broker without a version'}")
    level = Level.BAD if not reached else Level.WARN if remedy else Level.OK
    broker.findings.append(Finding(id="broker", level=level, what="; ".join(told), remedy=remedy))
    return reached > 0


def _credentials(client: ClientSettings) -> str:
    if client.token is not None:
        return "the token"
    return "the client's certificate" if client.tls_certificate_file is not None else "whoever has no credentials"


def _unreachable(error: OSError | NotPulsar) -> tuple[str, str]:
    """
    What is wrong, and what to do.
    """
    if isinstance(error, NotPulsar):
        return str(error), "use the broker's own port, usually 6650, or 6651 with pulsar+ssl://"
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"has a certificate that does not pass: {error.verify_message}",
            "name its CA in tls_trust_certs_file (SAFEPULSAR_TLS_TRUST_CERTS_FILE), and use a host name that it is for",
        )
    if isinstance(error, ssl.SSLError):
        return f"does not agree on TLS: {error.reason}", "use pulsar:// where the broker has no TLS, or its TLS port"
    if isinstance(error, TimeoutError):
        return (
            "does not answer",
            "check host and network, that no firewall is between, and that the broker is not overloaded or frozen",
        )
    return f"can't be reached: {error.strerror or error}", "start the broker, or check host and port of the URL"


def _open_producer(client: TransportClient, topic: str, broker: Broker) -> bool:
    """
    Look the topic up and open a producer, in one step as the client library does it, and tell them apart.
    """
    try:
        producer = client.create_producer(ProducerSettings(topic=topic, batch_max_messages=1))
    except SafePulsarError as error:
        broker.findings += _refusal(topic, error)
        return False
    producer.close()
    broker.findings.append(Finding(id="topic-lookup", level=Level.OK, what=f"a broker serves {topic}"))
    broker.findings.append(Finding(id="produce-right", level=Level.OK, what=f"a producer may be opened on {topic}"))
    return True


def _refusal(topic: str, error: SafePulsarError) -> list[Finding]:
    found = Finding(id="topic-lookup", level=Level.OK, what=f"a broker serves {topic}")
    level = Level.BAD
    if isinstance(error, AuthorizationFailed):
        remedy = "grant the role the right to produce: pulsar-admin namespaces grant-permission … --actions produce"
    elif isinstance(error, ProducerBusy):
        level, remedy = (
            Level.WARN,
            "another producer holds the topic exclusively; find it with pulsar-admin topics stats",
        )
    elif isinstance(error, (AuthenticationFailed, BrokerUnavailable, TopicNotFound)):
        if isinstance(error, AuthenticationFailed):
            remedy = "check the token (ClientSettings.token, SAFEPULSAR_TOKEN)"
        elif isinstance(error, TopicNotFound):
            remedy = "create the topic or its namespace, or allow the broker to create topics"
        else:
            remedy = "check that the address which the broker advertises can be reached from here (advertisedAddress)"
        return [Finding(id="topic-lookup", level=Level.BAD, what=str(error), remedy=remedy)]
    else:
        remedy = "look the code up in docs/errors.md"
    return [found, Finding(id="produce-right", level=level, what=str(error), remedy=remedy)]


def _deduplication(client: TransportClient, topic: str, timeout_seconds: float) -> Finding:
    """
    Send one sequence id twice; a broker that deduplicates acknowledges the second as known.
    """
    settings = ProducerSettings(
        topic=topic, producer_name=f"safepulsar-doctor-{uuid.uuid4().hex}", batch_max_messages=1
    )
    try:
        producer = client.create_producer(settings)
        try:
            _send(producer, timeout_seconds)
            second = _send(producer, timeout_seconds)
        finally:
            producer.close()
    except SafePulsarError as error:
        return _not_known("deduplication", f"could not be tried: {error}")
    if second.ledger_id == second.entry_id == -1:
        return Finding(
            id="deduplication",
            level=Level.OK,
            what=f"on, seen on {topic}: what is sent again with its producer name and sequence id is stored once",
        )
    return Finding(
        id="deduplication",
        level=Level.WARN,
        what=f"off, seen on {topic}: what is sent again after a timeout may be stored twice",
        remedy="pulsar-admin namespaces set-deduplication … --enable, with a producer name and sequence ids; or make "
        "consumers indifferent to duplicates",
    )


def _send(producer: TransportProducer, timeout_seconds: float) -> MessageId:
    slot: Slot = {}
    message = Message(topic=producer.settings.topic, payload=b"safepulsar doctor", sequence_id=1)
    producer.send_batch([message], slot.setdefault)
    deadline = time.monotonic() + timeout_seconds
    while not slot:
        if time.monotonic() > deadline:
            raise BrokerError("Timeout", "no answer to a message", topic=producer.settings.topic)
        time.sleep(_LOOK_SECONDS)
    answer = producer.read(slot)
    if not isinstance(answer, MessageId):
        raise answer or BrokerError("UnknownError", topic=producer.settings.topic)
    return answer


def _not_known(step: str, why: str) -> Finding:
    return Finding(id=step, level=Level.WARN, what=f"not known: {why}")
