"""
A seal finds every flipped bit of what it covers, and without the key nobody can make one.
"""

from __future__ import annotations

import dataclasses
import traceback
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from safepulsar.broker.client_registry import ClientRegistry
from safepulsar.errors import InvalidInput, InvalidMessage, InvalidSettings, SealBroken, SendFailed
from safepulsar.failed_messages import FailedMessageFilter, InMemoryFailedMessages, SqliteFailedMessages
from safepulsar.integrity import SEAL_PROPERTY, SEALED_PROPERTY, Seal, SealKind, is_sealed, verify
from safepulsar.message import Certainty, FailedMessage, Message
from safepulsar.sender import RetryingSender
from safepulsar.sending.replay import replay
from safepulsar.steps import Draft
from safepulsar.testing import FakeBroker
from tests.subprocesses import run_script

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_TOPIC = "persistent://public/default/orders"
_OLD, _NEW = b"the old secret of 2025", b"the new secret of 2026"
_CHECKSUMS = (SealKind.CRC32C, SealKind.XXH3, SealKind.SHA256)


def _seal(kind: SealKind, properties: tuple[str, ...] = (), *, required: bool = False) -> Seal:
    keys = {"old": _OLD, "new": _NEW} if kind is SealKind.HMAC_SHA256 else None
    return Seal(kind, keys=keys, properties=properties, required=required)


def _message(draft: Draft) -> Message:
    assert draft.value is None or isinstance(draft.value, bytes)
    return Message(
        topic=draft.topic,
        payload=draft.value,
        properties=draft.properties,
        partition_key=draft.partition_key,
        ordering_key=draft.ordering_key,
    )


def _sealed(seal: Seal, payload: bytes | None = b"pay", **named: Any) -> Message:  # noqa: ANN401 - as Draft
    return _message(seal.before_send(Draft(_TOPIC, payload, **named)))


class _Received:
    """
    The same message as a consumer gives it: no key is "", no payload is b"" and known to be none.
    """

    def __init__(self, message: Message) -> None:
        self._message = message

    def data(self) -> bytes:
        return self._message.payload or b""

    def properties(self) -> Mapping[str, str]:
        return self._message.properties or {}

    def partition_key(self) -> str:
        return self._message.partition_key or ""

    def ordering_key(self) -> str:
        return self._message.ordering_key or ""

    def has_null_value(self) -> bool:
        return self._message.payload is None


def _flipped(text: str) -> Iterator[str]:
    """
    The text with each of its bits flipped in turn, as far as it is text then.
    """
    for changed in _flipped_bytes(text.encode()):
        yield changed.decode(errors="surrogateescape")


def _flipped_bytes(whole: bytes) -> Iterator[bytes]:
    for bit in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << (bit % 8)
        yield bytes(changed)


def _damaged(message: Message, sealed: tuple[str, ...]) -> Iterator[Message]:
    """
    The message with each bit of its payload, its keys, its sealed properties and its seal flipped in turn.
    """
    assert message.payload is not None
    assert message.properties is not None
    for payload in _flipped_bytes(message.payload):
        yield dataclasses.replace(message, payload=payload)
    for key in _flipped(message.partition_key or ""):
        yield dataclasses.replace(message, partition_key=key)
    for key in _flipped(message.ordering_key or ""):
        yield dataclasses.replace(message, ordering_key=key)
    for name in (*sealed, SEAL_PROPERTY, SEALED_PROPERTY):
        for value in _flipped(message.properties[name]):
            yield dataclasses.replace(message, properties={**message.properties, name: value})
        for other in _flipped(name):
            others = {each: value for each, value in message.properties.items() if each != name}
            yield dataclasses.replace(message, properties={**others, other: message.properties[name]})


def _is_text(message: Message) -> bool:
    """
    Whether all of it can be in a store or on the wire, which hold UTF-8.
    """
    texts = [message.partition_key or "", message.ordering_key or "", *(message.properties or {}).values()]
    try:
        "".join([*texts, *(message.properties or {})]).encode()
    except UnicodeEncodeError:
        return False
    return True


def _failed(message: Message) -> FailedMessage:
    return FailedMessage(
        message=message,
        certainty=Certainty.NOT_STORED,
        error="DeadlineExceeded",
        accepted_at=1.0,
        first_failed_at=1.0,
        last_failed_at=1.0,
    )


@pytest.mark.parametrize("kind", SealKind)
def test_every_flipped_bit_is_found(kind: SealKind) -> None:
    """
    Whichever bit of payload, keys, sealed properties or of the seal itself is flipped, the message is refused.
    """
    seal = _seal(kind, ("tenant",))
    message = _sealed(seal, partition_key="c7", ordering_key="ö", properties={"tenant": "shop", "traceparent": "00-1"})
    seal.verify(message)
    seal.verify(_Received(message))
    count = 0
    for damaged in _damaged(message, ("tenant",)):
        count += 1
        for form in (damaged, _Received(damaged)):
            with pytest.raises(SealBroken):
                seal.verify(form)
    assert count > 8 * (3 + 2 + 2 + 2 * 4 + 15 + 17)


@pytest.mark.parametrize("kind", SealKind)
@pytest.mark.parametrize(
    "change",
    [
        {"payload": b"pa", "partition_key": "yk"},
        {"payload": b""},
        {"payload": None},
        {"partition_key": None},
        {"partition_key": None, "ordering_key": "k"},
        {"ordering_key": "k"},
        {"payload": b"pay\x00"},
    ],
    ids=str,
)
def test_nothing_moves_from_one_part_to_another(kind: SealKind, change: dict[str, Any]) -> None:
    """
    The parts are sealed with their lengths, and none is not empty.
    """
    seal = _seal(kind)
    message = _sealed(seal, partition_key="k")
    with pytest.raises(SealBroken, match="are not those that were sealed"):
        seal.verify(dataclasses.replace(message, **change))


def test_a_property_that_is_sealed_as_missing_may_not_appear() -> None:
    """
    What was not there is sealed, too; what is not sealed may change.
    """
    seal = Seal(properties=["tenant"])
    message = _sealed(seal, properties={"a": "b"})
    assert message.properties is not None
    seal.verify(dataclasses.replace(message, properties={**message.properties, "a": "c", "traceparent": "00"}))
    with pytest.raises(SealBroken):
        seal.verify(dataclasses.replace(message, properties={**message.properties, "tenant": "shop"}))


_texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=5)


@example_settings(deadline=None)
@given(
    kind=st.sampled_from(SealKind),
    payload=st.none() | st.binary(max_size=20),
    partition_key=st.none() | _texts,
    ordering_key=st.none() | _texts,
    properties=st.none() | st.dictionaries(_texts, _texts, max_size=3),
    names=st.lists(_texts, max_size=3),
)
def test_what_was_not_changed_is_verified(
    kind: SealKind,
    payload: bytes | None,
    partition_key: str | None,
    ordering_key: str | None,
    properties: dict[str, str] | None,
    names: list[str],
) -> None:
    """
    Any message at all is sealed and verified, by both ways of verifying.
    """
    seal = _seal(kind, tuple(names))
    message = _sealed(
        seal, payload, partition_key=partition_key, ordering_key=ordering_key, properties=properties
    )  # fmt: skip
    for form in (message, _Received(message)):
        seal.verify(form)
        if kind is not SealKind.HMAC_SHA256:
            verify(form)


def test_keys_rotate() -> None:
    """
    The last key seals and all verify; a seal of a key that was taken away is refused, and so is one without any key.
    """
    before, between, after = (
        Seal(SealKind.HMAC_SHA256, keys=keys) for keys in ({"a": _OLD}, {"a": _OLD, "b": _NEW}, {"b": _NEW})
    )
    sealed_before, sealed_between = _sealed(before), _sealed(between)
    assert (sealed_before.properties or {})[SEAL_PROPERTY].startswith("hmac-sha256:a:")
    assert (sealed_between.properties or {})[SEAL_PROPERTY].startswith("hmac-sha256:b:")
    between.verify(sealed_before)
    between.verify(sealed_between)
    after.verify(sealed_between)
    with pytest.raises(SealBroken, match="with another key id: 'hmac-sha256:a'"):
        after.verify(sealed_before)
    with pytest.raises(SealBroken, match="are not those that were sealed"):
        Seal(SealKind.HMAC_SHA256, keys={"b": _OLD}).verify(sealed_between)
    with pytest.raises(SealBroken, match="another kind"):
        verify(sealed_between)


@pytest.mark.parametrize("kind", _CHECKSUMS)
def test_whoever_has_no_key_cannot_seal(kind: SealKind) -> None:
    """
    A receiver that asks for an HMAC takes no checksum, which anybody could make.
    """
    with pytest.raises(SealBroken, match="another kind"):
        _seal(SealKind.HMAC_SHA256).verify(_sealed(_seal(kind)))


def test_a_receiver_says_which_properties_must_be_sealed() -> None:
    """
    A seal that leaves out what the receiver relies on is refused.
    """
    with pytest.raises(SealBroken, match="does not seal all the properties that it must"):
        Seal(properties=["tenant"]).verify(_sealed(Seal(), properties={"tenant": "shop"}))
    Seal().verify(_sealed(Seal(properties=["tenant"]), properties={"tenant": "shop"}))


def test_a_message_without_a_seal_is_refused() -> None:
    """
    Who verifies wants a seal; `is_sealed` tells where there is none.
    """
    plain = Message(topic=_TOPIC, payload=b"pay")
    assert not is_sealed(plain)
    assert is_sealed(_sealed(Seal()))
    for check in (verify, Seal().verify):
        with pytest.raises(SealBroken, match="has no seal"):
            check(plain)


def test_an_error_quotes_nothing_of_the_message() -> None:
    """
    What is wrong is told without the payload, the keys and the secrets.
    """
    seal = Seal(SealKind.HMAC_SHA256, keys={"k": b"canary canary canary"}, properties=["canary"])
    message = _sealed(seal, b"canary", partition_key="canary", properties={"canary": "canary"})
    changed = dataclasses.replace(message, payload=b"other")
    with pytest.raises(SealBroken) as caught:
        seal.verify(changed)
    assert "canary" not in "".join(traceback.format_exception(caught.value))
    assert "canary" not in repr(seal)


@pytest.mark.parametrize(
    ("named", "field"),
    [
        ({"kind": "crc32c"}, "kind"),
        ({"kind": SealKind.HMAC_SHA256}, "keys"),
        ({"kind": SealKind.HMAC_SHA256, "keys": {}}, "keys"),
        ({"kind": SealKind.HMAC_SHA256, "keys": {"a": b"short"}}, "keys"),
        ({"kind": SealKind.HMAC_SHA256, "keys": {"a": "x" * 20}}, "keys"),
        ({"kind": SealKind.HMAC_SHA256, "keys": {"a:b": b"x" * 20}}, "keys"),
        ({"kind": SealKind.HMAC_SHA256, "keys": {"": b"x" * 20}}, "keys"),
        ({"kind": SealKind.SHA256, "keys": {"a": b"x" * 20}}, "keys"),
        ({"properties": "tenant"}, "properties"),
        ({"properties": [""]}, "properties"),
        ({"properties": [SEAL_PROPERTY]}, "properties"),
    ],
    ids=str,
)
def test_a_seal_that_cannot_be_is_refused_at_once(named: dict[str, Any], field: str) -> None:
    """
    Missing and weak keys are found when the seal is made.
    """
    with pytest.raises(InvalidInput) as caught:
        Seal(**named)
    assert isinstance(caught.value, (InvalidSettings, InvalidMessage))
    assert caught.value.field == field
    assert "xxxx" not in str(caught.value)


def test_what_is_not_bytes_yet_is_sealed_as_it_will_be_sent() -> None:
    """
    A seal does not need a serializer before it.
    """
    broker = FakeBroker()
    seal = Seal()
    with RetryingSender(broker.url, registry=ClientRegistry(broker.connect), steps=[seal]) as sender:
        sender.send("orders", {"a": 1}, partition_key="k")
        sender.send("orders", None)
    sent = broker.messages("orders")
    assert [each.payload for each in sent] == [b'{"a":1}', None]
    for each in sent:
        verify(
            Message(topic=_TOPIC, payload=each.payload, properties=each.properties, partition_key=each.partition_key)
        )


def test_a_broken_message_is_not_replayed(caplog: pytest.LogCaptureFixture) -> None:
    """
    What was changed in the store stays there, and is told of; the others go on.
    """
    broker, store, seal = FakeBroker(), InMemoryFailedMessages(), _seal(SealKind.HMAC_SHA256)
    registry = ClientRegistry(broker.connect)
    with RetryingSender(broker.url, failed_messages=store, registry=registry, steps=[seal]) as sender:
        for payload in (b"canary", b"good"):
            broker.fail_next(1, "TopicTerminated")
            with pytest.raises(SendFailed):
                sender.send("orders", payload)
        bad, good = store.find()
        assert bad.id is not None
        store.purge(FailedMessageFilter(ids=(bad.id,)))
        changed = dataclasses.replace(bad.message, payload=b"Canary")
        (changed_id,) = store.keep([dataclasses.replace(bad, message=changed, id=None)])
        report = replay(store, sender)
        assert (report.delivered, report.skipped) == (1, 1)
        assert [each.id for each in store.find()] == [changed_id]
        with pytest.raises(SealBroken):
            sender.resend(store.get(changed_id))
        assert good.message.payload == broker.payloads("orders")[0]
        assert sender.stats().counts.balanced
    (told,) = [record for record in caplog.records if record.message == "safepulsar.not_replayed"]
    assert vars(told)["failed_message_id"] == changed_id
    assert "anary" not in str(vars(told))


@pytest.mark.parametrize("kind", SealKind)
def test_every_flipped_bit_is_found_in_the_store_and_before_a_replay(kind: SealKind, tmp_path: Path) -> None:
    """
    Also where somebody has written the row's own checksum anew, or has taken the seal away: none is read, none is sent.
    """
    seal = _seal(kind, ("tenant",), required=True)
    message = _sealed(seal, partition_key="c7", ordering_key="ö", properties={"tenant": "shop"})
    damaged = [each for each in _damaged(message, ("tenant",)) if _is_text(each)]
    assert len(damaged) > 400
    path = tmp_path / "private" / "failed.db"
    with SqliteFailedMessages(path) as store:
        good, *bad = store.keep([_failed(each) for each in (message, *damaged)])
    with SqliteFailedMessages(path, seal=seal) as store:
        assert [each.id for each in store.find()] == [good]
        assert store.corrupted_ids() == tuple(bad)
    broker, memory = FakeBroker(), InMemoryFailedMessages()
    with RetryingSender(
        broker.url, failed_messages=memory, registry=ClientRegistry(broker.connect), steps=[seal]
    ) as sender:
        for each in damaged:
            with pytest.raises(SealBroken):
                sender.resend(_failed(each))
        sender.resend(_failed(message)).result()
    assert broker.payloads("orders") == [message.payload]


def test_a_message_without_a_seal_passes_unless_one_is_required() -> None:
    """
    What was kept before there was a seal can be replayed; who wants it otherwise says so.
    """
    plain = Message(topic=_TOPIC, payload=b"plain")
    for kind in SealKind:
        _seal(kind).before_resend(plain)
        with pytest.raises(SealBroken, match="has no seal"):
            _seal(kind, required=True).before_resend(plain)
    with pytest.raises(InvalidSettings, match="required"):
        Seal(required="yes")  # type: ignore[arg-type]  # that is the test


@pytest.mark.parametrize("kind", _CHECKSUMS)
def test_a_replay_takes_every_good_checksum(kind: SealKind) -> None:
    """
    A sender whose kind of checksum was changed still sends what was kept before, and what has no seal.
    """
    seal = Seal(SealKind.CRC32C)
    seal.before_resend(_sealed(_seal(kind)))
    seal.before_resend(Message(topic=_TOPIC, payload=b"plain"))
    with pytest.raises(SealBroken):
        seal.before_resend(dataclasses.replace(_sealed(_seal(kind)), payload=b"paz"))


@pytest.mark.parametrize(("module", "kind"), [("crc32c", SealKind.CRC32C), ("xxhash", SealKind.XXH3)])
def test_a_missing_package_is_named_with_its_extra(module: str, kind: SealKind) -> None:
    """
    What is not installed is an ImportError that says what to install; SHA-256 needs nothing.
    """
    result = run_script(
        f"""
        import sys
        sys.modules[{module!r}] = None
        from safepulsar import Seal, SealKind
        Seal(SealKind.SHA256)
        try:
            Seal(SealKind.{kind.name})
        except ImportError as error:
            print(error)
        """,
        timeout_seconds=30,
    )
    assert 'pip install "safepulsar[seal]"' in result.check()
