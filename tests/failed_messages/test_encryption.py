"""
With a key the file holds no readable payload, each is bound to its place, and every flipped bit is found; likewise seals.
"""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from safepulsar.errors import InvalidInput, StoreCorrupted, StoreUnavailable
from safepulsar.failed_messages import FailedAgain, FailedMessageFilter, SqliteFailedMessages, codec
from safepulsar.failed_messages.encryption import PayloadEncryption
from safepulsar.failed_messages.stored_payload import StoredPayloads
from safepulsar.integrity import Seal, SealKind
from safepulsar.message import Certainty, MessageId
from safepulsar.steps import Draft
from tests.failed_messages.samples import BARE, FULL, attempt, failed, meddle
from tests.subprocesses import run_script

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from safepulsar.message import FailedMessage
    from tests.failed_messages.samples import ManualClock

_KEYS = {"2025": b"5" * 32, "2026": b"6" * 32}
_OLD = PayloadEncryption("2025", _KEYS.__getitem__)
_NEW = PayloadEncryption("2026", _KEYS.__getitem__)
_MARK = b"\x00safepulsar\x00"


def _rows(path: Path) -> dict[int, bytes | None]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute("SELECT id, payload FROM failed_messages"))


def _put(path: Path, number: int, payload: bytes) -> None:
    """
    Write a payload into a row as somebody does who knows how the checksum is made.
    """
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        columns = connection.execute(
            f"SELECT {', '.join(codec.COLUMNS)} FROM failed_messages WHERE id = ?",  # noqa: S608 - made of constants
            (number,),
        ).fetchone()
        checksum = codec.with_id(codec.checksum_of(columns, payload), number)
        connection.execute(
            "UPDATE failed_messages SET payload = ?, checksum = ? WHERE id = ?", (payload, checksum, number)
        )


@pytest.fixture
def encrypted(path: Path, clock: ManualClock) -> Iterator[SqliteFailedMessages]:
    """
    An open store that encrypts.
    """
    with SqliteFailedMessages(path, encryption=_NEW, clock=clock) as store:
        yield store


def test_messages_come_back_and_the_file_has_no_payload(encrypted: SqliteFailedMessages, path: Path) -> None:
    """
    All ways of reading give the message that was kept; in the file there is nothing of its payload.
    """
    canary = failed(b"canary " * 100, key="k")
    first, second, third, fourth = encrypted.keep([canary, FULL, BARE, failed(b"")])
    assert encrypted.get(first) == replace(canary, id=first)
    assert encrypted.get(second).message == FULL.message
    assert encrypted.get(third).message.payload is None
    assert encrypted.get(fourth).message.payload == b""
    assert [each.message.payload for each in encrypted.find()] == [canary.message.payload, bytes(range(256)), None, b""]
    claimed = encrypted.claim("me", limit=10, lease_seconds=60)
    assert [each.message.payload for each in claimed] == [canary.message.payload, bytes(range(256)), None, b""]
    for file in path.parent.iterdir():
        assert b"canary" not in file.read_bytes()
    assert b"6" * 32 not in path.read_bytes()


def test_a_replay_marks_what_it_cannot_read_in_plain(
    encrypted: SqliteFailedMessages, path: Path, clock: ManualClock
) -> None:
    """
    Attempts, certainties and leases change in the file, the payload stays as it is and is read as before.
    """
    (first, second) = encrypted.keep([failed(b"a"), failed(b"b")])
    before = _rows(path)
    assert [each.id for each in encrypted.claim("me", limit=2, lease_seconds=60)] == [first, second]
    again = FailedAgain(id=first, attempts=(attempt(),), certainty=Certainty.MAYBE_STORED, error="Timeout")
    assert encrypted.failed_again("me", [again]) == [first]
    clock.now += 61
    (taken, _) = encrypted.claim("another", limit=2, lease_seconds=60)
    assert (taken.message.payload, taken.certainty, taken.attempts) == (b"a", Certainty.MAYBE_STORED, (attempt(),))
    assert encrypted.get(second).certainty is Certainty.MAYBE_STORED
    assert _rows(path) == before
    assert encrypted.delivered("another", {first: MessageId(1, 2)}) == [first]


def test_the_same_payload_is_never_stored_alike(encrypted: SqliteFailedMessages, path: Path) -> None:
    """
    Nobody sees that two messages say the same.
    """
    encrypted.keep([failed(b"the same")] * 50)
    assert len(set(_rows(path).values())) == 50


def test_every_flipped_bit_of_a_stored_payload_is_found(path: Path) -> None:
    """
    Also by somebody who makes the row's checksum anew: that one message is corrupted, and the others are read.
    """
    with SqliteFailedMessages(path, encryption=_NEW) as store:
        number, other = store.keep([failed(b"pay"), failed(b"other")])
    whole = _rows(path)[number]
    assert whole is not None
    for bit in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << (bit % 8)
        _put(path, number, bytes(changed))
        with SqliteFailedMessages(path, encryption=_NEW) as store:
            with pytest.raises(
                (StoreCorrupted, StoreUnavailable)
            ):  # the latter if the mark or the key id is another one
                store.get(number)
            assert store.get(other).message.payload == b"other"


def test_a_payload_is_bound_to_its_id_and_its_topic(path: Path) -> None:
    """
    What is moved to another row, or to another topic, is refused, whatever the checksum says.
    """
    with SqliteFailedMessages(path, encryption=_NEW) as store:
        first, second = store.keep([failed(b"cheap"), failed(b"dear")])
    payload = _rows(path)[first]
    assert payload is not None
    _put(path, second, payload)
    meddle(path, "UPDATE failed_messages SET topic = 'persistent://public/default/others' WHERE id = ?", first)
    _put(path, first, payload)
    with SqliteFailedMessages(path, encryption=_NEW) as store:
        for number in (first, second):
            with pytest.raises(StoreCorrupted, match=f"failed message {number} "):
                store.get(number)
        assert list(store.find()) == []
        assert store.claim("me", limit=9, lease_seconds=60) == []
        assert store.corrupted_ids() == (first, second)


@pytest.mark.parametrize("payload", [b"plain", _MARK + b"\x00plain", None])
def test_nobody_without_the_key_puts_a_message_into_the_store(path: Path, payload: bytes | None) -> None:
    """
    What is not encrypted is not taken for something that was kept, and the error says how older messages are replayed.
    """
    with SqliteFailedMessages(path) as store:
        store.keep([failed(payload)])
    with SqliteFailedMessages(path, encryption=_NEW) as store:
        for read in (lambda: store.get(1), lambda: store.claim("me", limit=1, lease_seconds=60)):
            with pytest.raises(StoreUnavailable, match="message 1 is not encrypted; replay what was kept before"):
                read()


def test_keys_rotate(path: Path) -> None:
    """
    What was kept with an older key is read as long as it is answered for.
    """
    with SqliteFailedMessages(path, encryption=_OLD) as store:
        store.keep([failed(b"old")])
    with SqliteFailedMessages(path, encryption=_NEW) as store:
        store.keep([failed(b"new")])
        assert [each.message.payload for each in store.find()] == [b"old", b"new"]
        assert store.count(FailedMessageFilter()) == 2


@pytest.mark.parametrize(
    ("encryption", "told"),
    [
        (None, "the payload of message 1 is encrypted; open the store with its PayloadEncryption"),
        (PayloadEncryption("2026", dict[str, bytes]().__getitem__), "there is no key '2026' for the payloads of the store: key() raised KeyError"),
        (PayloadEncryption("2026", lambda _: b"short"), "must return 32 bytes"),
        (PayloadEncryption("2026", lambda _: "x" * 32), "must return 32 bytes"),  # type: ignore[arg-type,return-value]
    ],
)  # fmt: skip
def test_without_the_key_nothing_is_read_and_nothing_is_taken_for_damaged(
    path: Path, encryption: PayloadEncryption | None, told: str
) -> None:
    """
    A missing key is told as what it is: with it everything is there again. Nothing is ever kept unencrypted instead.
    """
    with SqliteFailedMessages(path, encryption=_NEW) as store:
        store.keep([failed(b"order")])
    with SqliteFailedMessages(path, encryption=encryption) as store:
        for read in (
            lambda: store.get(1),
            lambda: list(store.find()),
            lambda: store.claim("me", limit=1, lease_seconds=60),
        ):
            with pytest.raises(StoreUnavailable, match=r"key|encrypted") as caught:
                read()
            assert told in str(caught.value)
        assert store.corrupted_ids() == ()
        if encryption is not None:
            with pytest.raises(StoreUnavailable):
                store.keep([failed(b"canary")])
        assert store.count() == 1
    with SqliteFailedMessages(path, encryption=_NEW) as store:
        assert store.get(1).message.payload == b"order"


def test_a_wrong_key_reads_nothing(path: Path) -> None:
    """
    Another key of the same id is as good as none.
    """
    with SqliteFailedMessages(path, encryption=_NEW) as store:
        store.keep([failed(b"order")])
    wrong = PayloadEncryption("2026", lambda _: b"7" * 32)
    with SqliteFailedMessages(path, encryption=wrong) as store, pytest.raises(StoreCorrupted):
        store.get(1)


@pytest.mark.parametrize("payload", [_MARK, _MARK + b"\x00", _MARK + b"\x01" + b"x" * 40, _MARK + b"\x01"])
def test_a_payload_that_looks_encrypted_is_read_as_it_was(path: Path, payload: bytes) -> None:
    """
    Nobody who chooses payloads can make one that a store takes for something else.
    """
    for file, encryption in ((path, None), (path.with_name("encrypted.db"), _NEW)):
        with SqliteFailedMessages(file, encryption=encryption) as store:
            (number,) = store.keep([failed(payload)])
            assert store.get(number).message.payload == payload


def _sealed(seal: Seal, payload: bytes) -> FailedMessage:
    kept = failed(payload, key="k")
    draft = seal.before_send(Draft(kept.message.topic, payload, partition_key="k"))
    return replace(kept, message=replace(kept.message, properties=draft.properties))


@pytest.mark.parametrize("encryption", [None, _NEW], ids=["plain", "encrypted"])
def test_a_broken_seal_is_found_when_the_store_is_read(path: Path, encryption: PayloadEncryption | None) -> None:
    """
    What was changed between sealing and keeping, or by who makes checksums anew, is corrupted; the rest is read.
    """
    seal = Seal(SealKind.HMAC_SHA256, keys={"k": b"a secret of many bytes"})
    good = _sealed(seal, b"good")
    bad = _sealed(seal, b"good")
    bad = replace(bad, message=replace(bad.message, payload=b"goof"))
    with SqliteFailedMessages(path, encryption=encryption, seal=seal) as store:
        first, second, third = store.keep([good, bad, failed(b"without a seal")])
        assert store.get(first).message == good.message
        with pytest.raises(StoreCorrupted, match=f"failed message {second} "):
            store.get(second)
        assert [each.id for each in store.find()] == [first, third]
        assert [each.id for each in store.claim("me", limit=9, lease_seconds=60)] == [first, third]
        assert store.corrupted_ids() == (second,)


@pytest.mark.parametrize(
    ("key_id", "key", "field"),
    [
        ("", _KEYS.__getitem__, "key_id"),
        ("x" * 256, _KEYS.__getitem__, "key_id"),
        (7, _KEYS.__getitem__, "key_id"),
        ("a", b"6" * 32, "key"),
    ],
)
def test_what_is_no_key_is_refused_at_once(key_id: str, key: object, field: str) -> None:
    """
    A key that was given itself, where a function of the id belongs, is found at the start, and not shown.
    """
    with pytest.raises(InvalidInput) as caught:
        PayloadEncryption(key_id, key)  # type: ignore[arg-type]
    assert caught.value.field == field
    assert "666" not in str(caught.value)


def test_a_repr_tells_no_secret() -> None:
    """
    The id of the key is all that is shown.
    """
    assert repr(_NEW) == "<PayloadEncryption with key '2026'>"


@pytest.mark.parametrize("stored", [b"", b"\x00", b"\x05ab", b"\x01\xff" + b"x" * 40, b"\x042026" + b"x" * 11])
def test_a_stored_payload_that_is_cut_off_is_damaged(stored: bytes) -> None:
    """
    Whatever is left of it, it is damage, and no other error.
    """
    payloads = StoredPayloads(_NEW, None)
    with pytest.raises(codec.RowDamaged):
        payloads.reveal(replace(failed(_MARK + b"\x01" + stored), id=1))


def test_a_missing_package_is_named_with_its_extra() -> None:
    """
    What is not installed is an ImportError that says what to install.
    """
    result = run_script(
        """
        import sys
        sys.modules["cryptography"] = None
        import safepulsar
        try:
            import safepulsar.failed_messages.encryption
        except ImportError as error:
            print(error)
        """,
        timeout_seconds=30,
    )
    assert 'pip install "safepulsar[encryption]"' in result.check()
