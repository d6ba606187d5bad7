"""
A real Apache Pulsar that asks for tokens: who may come in, what each may do, and what becomes of the messages.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import secrets
import time
from typing import TYPE_CHECKING

import pytest

from safepulsar import (
    AuthorizationFailed,
    Certainty,
    ClientSettings,
    Fate,
    InMemoryFailedMessages,
    RetryingSender,
    SenderSettings,
    SendFailed,
    TopicSettings,
)
from safepulsar.doctor import Level, examine
from tests.brokers import RealBroker
from tests.waiting import wait_until
from tools.pulsar import jars

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.broker, pytest.mark.real_broker, pytest.mark.timeout(240)]

_KEY = secrets.token_bytes(32)
_PREFIX = "org.apache.pulsar"
_SHORT_SECONDS = 2


def token_of(role: str, *, key: bytes = _KEY, seconds: float = 3600) -> str:
    """
    A JSON Web Token for a role, as an identity provider would make it.
    """
    claims = {"sub": role, "exp": int(time.time() + seconds)}
    parts = [_base64(json.dumps(each).encode()) for each in ({"alg": "HS256", "typ": "JWT"}, claims)]
    signed = ".".join(parts)
    return f"{signed}.{_base64(hmac.digest(key, signed.encode(), 'sha256'))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@pytest.fixture(scope="module")
def guarded_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealBroker]:
    """
    Lets in who has a token of the key; `shop` may produce and consume, `writer` produce only, `guest` nothing.
    """
    admin = token_of("admin")
    settings = {
        "authenticationEnabled": "true",
        "authorizationEnabled": "true",
        "authenticationProviders": f"{_PREFIX}.broker.authentication.AuthenticationProviderToken",
        "authenticationRefreshCheckSeconds": "1",
        "tokenSecretKey": f"data:;base64,{base64.b64encode(_KEY).decode()}",
        "superUserRoles": "admin",
        "brokerClientAuthenticationPlugin": f"{_PREFIX}.client.impl.auth.AuthenticationToken",
        "brokerClientAuthenticationParameters": f"token:{admin}",
    }
    try:
        broker = RealBroker(tmp_path_factory.mktemp("guarded-pulsar"), settings, token=admin)
    except jars.PulsarUnavailableError as exc:
        if os.environ.get("SAFEPULSAR_REQUIRE_REAL_BROKER") == "1":
            pytest.fail(f"SAFEPULSAR_REQUIRE_REAL_BROKER=1, but: {exc}")
        pytest.skip(str(exc))
    try:
        broker.start()
        broker.admin.allow("public/default", "shop", "produce", "consume")
        broker.admin.allow("public/default", "writer", "produce")
        yield broker
    finally:
        broker.kill()


def test_who_has_a_token_sends(guarded_broker: RealBroker, topic: str) -> None:
    """
    A token, or a function that gets one; neither is in any repr.
    """
    token = token_of("shop")
    for given in (token, lambda: token):
        settings = ClientSettings(url=guarded_broker.url, token=given)
        with RetryingSender(settings) as sender:
            assert sender.send(topic, b"x").fate is Fate.DELIVERED
            assert token not in repr(sender) + repr(settings) + repr(sender.stats())
        findings = {finding.id: finding for finding in examine(settings, topic=topic, probe=False)}
        assert findings["broker"].level is findings["produce-right"].level is Level.OK
        assert token not in f"{findings}"


@pytest.mark.parametrize("wrong", ["none", "of another key", "over"])
def test_who_has_none_does_not_come_in(guarded_broker: RealBroker, topic: str, wrong: str) -> None:
    """
    Without a token, with one of another key, or one that is over: surely not stored, and kept.

    The client library tries on until its time is over, as if the broker were away. The error names both, and the doctor
    knows which it is; neither shows the token.
    """
    token = {
        "none": None,
        "of another key": token_of("shop", key=b"another key, as long as the first"),
        "over": token_of("shop", seconds=-60),
    }[wrong]
    store = InMemoryFailedMessages()
    client = ClientSettings(url=guarded_broker.url, token=token)
    with RetryingSender(client, failed_messages=store) as sender:
        with pytest.raises(SendFailed, match="refuses the credentials") as caught:
            sender.send(topic, b"x", deadline_seconds=2.0)
        assert caught.value.certainty is Certainty.NOT_STORED
        assert store.count() == 1
    findings = {finding.id: finding for finding in examine(client, topic=topic, probe=False)}
    assert findings["broker"].level is Level.BAD
    what = "refuses whoever has no credentials" if token is None else "refuses the token"
    assert what in findings["broker"].what
    assert "check the token" in findings["broker"].remedy
    assert token is None or token not in f"{caught.value!r} {caught.value} {findings}"


def test_a_function_that_gets_no_token_is_found(guarded_broker: RealBroker, topic: str) -> None:
    """
    The doctor names what it raised, and not its text, which may hold a secret.
    """

    def token() -> str:
        raise PermissionError("vault: s3cret")

    client = ClientSettings(url=guarded_broker.url, token=token)
    findings = {finding.id: finding for finding in examine(client, topic=topic, probe=False)}
    assert findings["broker"].level is Level.BAD
    assert "raised PermissionError" in findings["broker"].what
    assert "s3cret" not in f"{findings}"


def test_who_may_not_produce_is_refused_at_once(guarded_broker: RealBroker, topic: str) -> None:
    """
    The broker knows the role, which may not: another error than for one that it does not know.
    """
    with RetryingSender(ClientSettings(url=guarded_broker.url, token=token_of("guest"))) as sender:
        with pytest.raises(SendFailed) as caught:
            sender.send(topic, b"x")
        assert caught.value.certainty is Certainty.NOT_STORED
        assert isinstance(caught.value.__cause__, AuthorizationFailed)


def test_a_token_that_runs_out_is_asked_for_again(guarded_broker: RealBroker, topic: str) -> None:
    """
    The broker asks for a new one in the middle of a connection, and the function is called; nothing is lost.
    """
    asked: list[float] = []

    def token() -> str:
        asked.append(time.monotonic())
        return token_of("shop", seconds=_SHORT_SECONDS)

    with RetryingSender(ClientSettings(url=guarded_broker.url, token=token)) as sender:
        handles = [sender.submit(topic, b"first")]

        def asked_again() -> bool:
            handles.append(sender.submit(topic, b"x"))
            return len(asked) > 2

        wait_until(asked_again, "two more tokens", timeout_seconds=60.0)
        assert {handle.result().fate for handle in handles} == {Fate.DELIVERED}


def test_exactly_once_needs_the_right_to_consume(guarded_broker: RealBroker, topic: str) -> None:
    """
    What is in doubt could not be read back without it: the first message is refused, which says so, and none is sent.
    """
    once = TopicSettings(producer_name="writer", exactly_once=True)
    settings = SenderSettings(topics={topic: once}, drain_on_sigterm=False)
    with RetryingSender(ClientSettings(url=guarded_broker.url, token=token_of("writer")), settings=settings) as sender:
        with pytest.raises(
            SendFailed, match="no right to consume from the topic, which reading it back needs"
        ) as caught:
            sender.send(topic, b"x")
        assert caught.value.certainty is Certainty.NOT_STORED
        assert isinstance(caught.value.__cause__, AuthorizationFailed)
    with RetryingSender(ClientSettings(url=guarded_broker.url, token=token_of("writer"))) as sender:
        assert sender.send(topic, b"x").fate is Fate.DELIVERED
