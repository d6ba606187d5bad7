"""
Seals: a message says, in a property, what its payload, keys and chosen properties were when it was sent.

    seal = Seal(SealKind.HMAC_SHA256, keys={"2026-11": secret}, properties=["tenant"])
    sender = RetryingSender(url, steps=[serializers, seal])
    seal.verify(consumer.receive())                  # raises SealBroken

A checksum (CRC32C, XXH3, SHA-256) finds what went wrong by accident, and anybody can check it: `verify(message)`. Whoever
changes a message on purpose can make a checksum anew; an HMAC only who has the key.

`resend`, and with it `replay`, checks the seal of what the sender's own `Seal` has sealed.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from enum import Enum
from hashlib import sha256
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from safepulsar.checks import RESERVED_PREFIX, check_key
from safepulsar.errors import InvalidSettings, SealBroken
from safepulsar.message import Message
from safepulsar.serialization import is_tombstone, to_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from safepulsar.steps import Draft

    # Of what stands before the payload, and of the payload: the seal as text.
    _Digest: TypeAlias = Callable[[bytes, bytes], str]

SEAL_PROPERTY: Final = f"{RESERVED_PREFIX}seal"
SEALED_PROPERTY: Final = f"{RESERVED_PREFIX}sealed"
_LEAST_KEY_BYTES: Final = 16
_SMALL_BYTES: Final = 4096


class SealKind(str, Enum):
    """
    How a seal is made. Two need the extra `seal`; XXH3 is the fastest for large payloads.
    """

    CRC32C = "crc32c"
    XXH3 = "xxh3"
    SHA256 = "sha256"
    HMAC_SHA256 = "hmac-sha256"


class SealedMessage(Protocol):
    """
    What is read of a received message. `pulsar.Message` and `safepulsar.receiving.ReceivedMessage` have it.

    A method `has_null_value()`, where there is one, tells a tombstone from an empty payload; both are sealed as what they are.
    """

    def data(self) -> bytes:
        """
        Return the payload.
        """
        ...

    def properties(self) -> Mapping[str, str]:
        """
        Return the properties.
        """
        ...

    def partition_key(self) -> str:
        """
        Return the partition key, "" if there is none.
        """
        ...

    def ordering_key(self) -> str:
        """
        Return the ordering key, "" if there is none.
        """
        ...


class Seal:
    """
    A step that seals messages, and what checks them. Frozen, shared by threads.

    It seals what the steps before it made. A later step may add properties, and must not change what is sealed.

    Args:
        kind: see `SealKind`.
        keys: for an HMAC: secrets of at least 16 bytes by their ids. The last one seals, all verify: to rotate, add a
            key for receivers first, then for senders, and take the old one away when nothing sealed with it is left.
        properties: names of properties that are sealed, too; one that a message lacks is sealed as missing.
        required: whether a failed message without a seal counts as broken, in the store and before it is sent again.
            Without this it passes, as one that was kept before there was a seal; and so does one from which somebody who
            can write the store's file has taken it away. `verify` always wants a seal.

    Raises:
        InvalidSettings: no keys for an HMAC, or for a checksum; a key that is too short; a name that is none; `required`
            is neither True nor False.
        ImportError: the kind needs `pip install "safepulsar[seal]"`.
    """

    def __init__(
        self,
        kind: SealKind = SealKind.CRC32C,
        *,
        keys: Mapping[str, bytes] | None = None,
        properties: Iterable[str] = (),
        required: bool = False,
    ) -> None:
        if not isinstance(kind, SealKind):
            raise InvalidSettings("kind", f"must be a SealKind, not {type(kind).__name__}")
        if not isinstance(required, bool):
            raise InvalidSettings("required", f"must be True or False, not {type(required).__name__}")
        self._required = required
        self._keyed = kind is SealKind.HMAC_SHA256
        self._digests = _digests(kind, keys)
        # The last one, which seals.
        self._digest = next(reversed(self._digests.values()))
        self._names = _names(properties)
        self._sealed = json.dumps(self._names) if self._names else None

    def __repr__(self) -> str:
        """
        Say what it checks; no keys.
        """
        return f"<Seal {', '.join(self._digests)}>"

    def before_send(self, draft: Draft) -> Draft:
        """
        Seal a message; what is not bytes yet becomes bytes as the sender would make them.

        Raises:
            InvalidMessage: it can't become bytes.
        """
        payload = draft.value
        if type(payload) is not bytes and payload is not None:
            payload = draft.value = to_bytes(payload)
        properties = draft.properties
        if properties is None:
            properties = draft.properties = {}
        if self._sealed is not None:
            properties[SEALED_PROPERTY] = self._sealed
        if self._sealed is None and payload is not None and draft.partition_key is draft.ordering_key is None:
            head = b"%d:-:-:" % len(payload)  # what `_head` would say, in a third of the time
        else:
            head = _head(payload, draft.partition_key, draft.ordering_key, properties, self._sealed, self._names)
        properties[SEAL_PROPERTY] = self._digest(head, payload or b"")
        return draft

    def before_resend(self, message: Message) -> None:
        """
        Check a message of the store of failed messages before it is sent again; one without a seal as `required` says.

        Raises:
            SealBroken: it is not what was sealed.
        """
        if self._required or is_sealed(message):
            if self._keyed:
                self.verify(message)
            else:
                verify(message)  # it may have been sealed when the sender had another kind of checksum

    def verify(self, message: SealedMessage | Message) -> None:
        """
        Check a received message, or one from the store of failed messages.

        Raises:
            SealBroken: it is not what was sealed, it has no seal, or one of another kind or with a key of another id.
        """
        _verify(message, self._digests, set(self._names))


class AnySeal(Seal):
    """
    What checks messages of the store of failed messages where nobody says how their application seals: the command line.

    A checksum of any kind is checked; an HMAC, too, if there are keys. What can't be checked passes, and is said.

    Args:
        keys: see `Seal`; None checks no HMAC.

    Attributes:
        unchecked: why seals of some messages were not checked.

    Raises:
        InvalidSettings: see `Seal`.
    """

    def __init__(self, keys: Mapping[str, bytes] | None = None) -> None:
        super().__init__(SealKind.SHA256 if keys is None else SealKind.HMAC_SHA256, keys=keys)
        self.unchecked: set[str] = set()

    def before_resend(self, message: Message) -> None:
        """
        Check a message; one without a seal passes.

        Raises:
            SealBroken: it is not what was sealed.
        """
        if not is_sealed(message):
            return
        by_hmac = _properties(message)[SEAL_PROPERTY].startswith(f"{SealKind.HMAC_SHA256.value}:")
        if by_hmac and self._keyed:
            self.verify(message)
        elif by_hmac:
            self.unchecked.add("seals by HMAC-SHA-256 need --seal-keys")
        else:
            try:
                verify(message)
            except ImportError as error:
                self.unchecked.add(str(error))


def verify(message: SealedMessage | Message) -> None:
    """
    Check a message that is sealed by a checksum of any kind. An HMAC needs its keys: `Seal.verify`.

    Raises:
        SealBroken: it is not what was sealed, it has no seal, or one that needs keys.
        ImportError: its kind needs `pip install "safepulsar[seal]"`.
    """
    kind = _properties(message).get(SEAL_PROPERTY, "").partition(":")[0]
    known = [each for each in (SealKind.CRC32C, SealKind.XXH3, SealKind.SHA256) if each.value == kind]
    _verify(message, _digests(known[0], None) if known else {}, set())


def is_sealed(message: SealedMessage | Message) -> bool:
    """
    Whether a message has a seal, good or broken.
    """
    return SEAL_PROPERTY in _properties(message)


def _verify(message: SealedMessage | Message, digests: Mapping[str, _Digest], needed: set[str]) -> None:
    properties = _properties(message)
    seal = properties.get(SEAL_PROPERTY)
    if seal is None:
        raise _broken(f"has no seal: the property {SEAL_PROPERTY!r} is missing")
    prefix = seal.rpartition(":")[0]
    digest = digests.get(f"{prefix}:")
    if digest is None:
        raise _broken(f"has a seal of another kind or with another key id: {prefix[:80]!a}")
    sealed = properties.get(SEALED_PROPERTY)
    names = _parsed(sealed)
    if not needed <= set(names):
        raise _broken("does not seal all the properties that it must")
    if isinstance(message, Message):
        payload, partition_key, ordering_key = message.payload, message.partition_key, message.ordering_key
    else:
        payload = None if is_tombstone(message) else message.data()
        partition_key, ordering_key = message.partition_key() or None, message.ordering_key() or None
    head = _head(payload, partition_key, ordering_key, properties, sealed, names)
    if not hmac.compare_digest(digest(head, payload or b"").encode(), seal.encode(errors="replace")):
        raise _broken("its payload, keys or sealed properties are not those that were sealed")


def _broken(problem: str) -> SealBroken:
    return SealBroken("message", problem)


def _properties(message: SealedMessage | Message) -> Mapping[str, str]:
    return (message.properties or {}) if isinstance(message, Message) else message.properties()


def _head(
    payload: bytes | None,
    partition_key: str | None,
    ordering_key: str | None,
    properties: Mapping[str, str],
    sealed: str | None,
    names: Iterable[str],
) -> bytes:
    """
    Everything but the payload. Each part has its length before it, so that nothing can move from one to the next.
    """
    head = f"{-1 if payload is None else len(payload)}:{_part(partition_key)}{_part(ordering_key)}"
    if sealed is not None:
        head += _part(sealed)
        for name in names:
            head += _part(properties.get(name))
    return head.encode(errors="surrogatepass")


def _part(text: str | None) -> str:
    return "-:" if text is None else f"{len(text)}:{text}"


def _parsed(sealed: str | None) -> tuple[str, ...]:
    if sealed is None:
        return ()
    try:
        names = json.loads(sealed)
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _broken(f"the property {SEALED_PROPERTY!r} is damaged")
    return tuple(names)


def _names(properties: Iterable[str]) -> tuple[str, ...]:
    if isinstance(properties, str):
        raise InvalidSettings("properties", "must be a list of names, not text")
    names = tuple(properties)
    for name in names:
        check_key("properties", name)
        if name in (SEAL_PROPERTY, SEALED_PROPERTY):
            raise InvalidSettings("properties", f"{name!r} cannot seal itself")
    return names


def _digests(kind: SealKind, keys: Mapping[str, bytes] | None) -> dict[str, _Digest]:
    """
    What makes the digests, by the beginning of the seals that it makes.
    """
    if kind is SealKind.HMAC_SHA256:
        return {
            f"{kind.value}:{name}:": _hmac_with(f"{kind.value}:{name}:", key)
            for name, key in _checked_keys(keys).items()
        }
    if keys is not None:
        raise InvalidSettings("keys", f"{kind.value} has none; SealKind.HMAC_SHA256 has")
    return {f"{kind.value}:": _sha256 if kind is SealKind.SHA256 else _crc32c() if kind is SealKind.CRC32C else _xxh3()}


def _checked_keys(keys: Mapping[str, bytes] | None) -> Mapping[str, bytes]:
    if not isinstance(keys, Mapping) or not keys:
        raise InvalidSettings("keys", "must be a mapping of key ids to secrets, with one at least")
    for name, key in keys.items():
        check_key("keys", name)
        if ":" in name:
            raise InvalidSettings("keys", "an id must not hold a colon")
        if not isinstance(key, bytes) or len(key) < _LEAST_KEY_BYTES:
            raise InvalidSettings("keys", f"the secret of {name!r} must be bytes, at least {_LEAST_KEY_BYTES}")
    return keys


def _crc32c() -> _Digest:
    try:
        from crc32c import crc32c  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise ImportError('CRC32C needs crc32c: pip install "safepulsar[seal]"') from error

    def digest(head: bytes, payload: bytes) -> str:
        # One call less, for a payload that is copied in less time than a call takes.
        crc = crc32c(head + payload) if len(payload) < _SMALL_BYTES else crc32c(payload, crc32c(head))
        return f"crc32c:{crc.to_bytes(4, 'big').hex()}"  # as `{crc:08x}`, in half the time

    return digest


def _xxh3() -> _Digest:
    try:
        from xxhash import xxh3_64_hexdigest, xxh3_64_intdigest  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise ImportError('XXH3 needs xxhash: pip install "safepulsar[seal]"') from error

    def digest(head: bytes, payload: bytes) -> str:
        return "xxh3:" + xxh3_64_hexdigest(payload, xxh3_64_intdigest(head))

    return digest


def _sha256(head: bytes, payload: bytes) -> str:
    digest = sha256(head)
    digest.update(payload)
    return f"sha256:{digest.hexdigest()}"


def _hmac_with(prefix: str, key: bytes) -> _Digest:
    keyed = hmac.new(key, digestmod=sha256)

    def digest(head: bytes, payload: bytes) -> str:
        one = keyed.copy()  # twice as fast as one that is made anew
        one.update(head)
        one.update(payload)
        return f"{prefix}{one.hexdigest()}"

    return digest
