"""
Keys from files: an encrypted store is read and written by the command as by its application, and seals are checked.

No key is ever shown, taken from the command line, or read from a file that others can read.
"""

from __future__ import annotations

import base64
import json
import os
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest

from safepulsar.cli.keys import store_encryption
from safepulsar.doctor import Level
from safepulsar.doctor.process import examine_store
from safepulsar.errors import InvalidInput
from safepulsar.failed_messages import SqliteFailedMessages
from safepulsar.failed_messages.encryption import PayloadEncryption
from safepulsar.integrity import Seal, SealKind
from safepulsar.steps import Draft
from tests.brokers import LiteBroker, read_topic
from tests.cli.test_failed import failed_message, objects
from tests.subprocesses import run_script

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from safepulsar.message import FailedMessage
    from tests.cli.command import Commands

_KEYS: Final = {"2025": b"5" * 32, "2026": bytes(range(32))}
_NO_BROKER: Final = "pulsar://127.0.0.1:1"


def key_file(path: Path, keys: Mapping[str, bytes] | str, mode: int = 0o600) -> Path:
    """
    A file of keys.
    """
    if not isinstance(keys, str):
        keys = json.dumps({name: base64.b64encode(key).decode() for name, key in keys.items()})
    path.write_text(keys)
    path.chmod(mode)
    return path


def encryption(key_id: str = "2026") -> PayloadEncryption:
    """
    What the application has.
    """
    return PayloadEncryption(key_id, _KEYS.__getitem__)


def sealed(seal: Seal, payload: bytes, *, topic: str = "persistent://public/default/orders") -> FailedMessage:
    """
    One that failed behind a seal.
    """
    failed = failed_message(payload, topic=topic)
    draft = seal.before_send(Draft(topic, payload))
    return replace(failed, message=replace(failed.message, properties=draft.properties))


@pytest.fixture
def keys(folder: Path) -> Path:
    """
    The file of the store's keys.
    """
    return key_file(folder / "keys.json", _KEYS)


@pytest.fixture
def store(folder: Path) -> Path:
    """
    An encrypted store with two messages, each by another key.
    """
    path = folder / "failed.db"
    for key_id, payload in (("2025", b"an old order"), ("2026", b"a new order")):
        with SqliteFailedMessages(path, encryption=encryption(key_id)) as opened:
            opened.keep([failed_message(payload, key="c1")])
    return path


def test_an_encrypted_store_is_read_with_its_keys(commands: Commands, store: Path, keys: Path) -> None:
    """
    Every command that looks at messages takes them, as an option or from the environment; all keys read.
    """
    named: tuple[object, ...] = ("--failed", store, "--store-keys", keys)
    listed = objects(commands.run("failed", "list", *named, "--json").check(0))
    assert [each["size_bytes"] for each in listed] == [12, 11]
    assert "an old order" in commands.run("failed", "show", 1, *named).check(0).stdout
    exported = objects(commands.run("failed", "export", *named).check(0))
    assert [each["payload_text"] for each in exported] == ["an old order", "a new order"]
    assert "2 messages would be sent" in commands.run("failed", "replay", *named, "--dry-run").check(0).stdout
    since = commands.run("doctor", "--since", "1h", *named, "--json").check(1).json()
    assert since["causes"][0]["kept"] == 2
    by_environment = commands.run("failed", "list", "--failed", store, changes={"SAFEPULSAR_STORE_KEYS": str(keys)})
    assert "DeadlineExceeded" in by_environment.check(0).stdout
    purged = commands.run("failed", "purge", "--failed", store, "--yes", "--json")  # which reads no payload
    assert purged.check(0).json()["purged"] == 2


@pytest.mark.parametrize(
    "command", [("failed", "list"), ("failed", "show", "1"), ("failed", "export"), ("doctor", "--since", "1h")]
)
def test_without_keys_the_option_is_named_and_nothing_is_taken_for_damaged(
    commands: Commands, store: Path, command: tuple[str, ...]
) -> None:
    """
    It is an error, with the remedy; only what reads no payload works as ever.
    """
    ended = commands.run(*command, "--failed", store).check(1)
    assert "is encrypted" in ended.stderr
    assert "--store-keys" in ended.stderr
    assert "damaged" not in ended.stderr
    assert commands.run("failed", "purge", "--failed", store, "--dry-run", "--json").check(0).json()["purged"] == 2


def test_a_key_that_is_missing_is_told_by_its_id(commands: Commands, store: Path, folder: Path) -> None:
    """
    With the other one nothing is taken for damaged; a wrong one of the same id makes the row count as damaged.
    """
    one = key_file(folder / "one.json", {"2026": _KEYS["2026"]})
    ended = commands.run("failed", "list", "--failed", store, "--store-keys", one).check(1)
    assert "there is no key '2025'" in ended.stderr
    wrong = key_file(folder / "wrong.json", {**_KEYS, "2025": b"6" * 32})
    ended = commands.run("failed", "list", "--failed", store, "--store-keys", wrong, "--json").check(0)
    assert [each["id"] for each in objects(ended)] == [2]
    assert "1 row of" in ended.stderr


def test_the_doctor_sees_whether_the_keys_fit(store: Path, folder: Path) -> None:
    """
    Right ones, none, one that is missing, and a wrong one.
    """
    found = [
        examine_store(store, store_encryption(None if keys is None else key_file(folder / "keys.json", keys)))
        for keys in (_KEYS, None, {"2026": _KEYS["2026"]}, {**_KEYS, "2025": b"6" * 32})
    ]
    assert [each.level for each in found] == [Level.WARN, Level.WARN, Level.BAD, Level.BAD]
    assert "there is no key '2025'" in found[2].what
    assert "1 of the failed messages" in found[3].what
    assert "--id 1" in found[3].remedy


def test_what_send_keeps_is_encrypted_and_replay_sends_it(
    commands: Commands, folder: Path, keys: Path, lite_broker: LiteBroker, topic: str
) -> None:
    """
    By the last key of the file; no payload stands in the store's files, and the topic gets what was in the input.
    """
    store = folder / "kept" / "failed.db"
    rows = b'{"canary": 1}\n{"canary": 2}\n'
    named: tuple[object, ...] = ("--failed", store, "--store-keys", keys)
    ended = commands.run("send", topic, "-", *named, "--url", _NO_BROKER, "--deadline", "0.3", "--json", stdin=rows)
    assert ended.check(3).json()["failed"] == 2
    assert f"--store-keys {keys}" in ended.stderr  # the hints are commands that work
    assert not any(b"canary" in file.read_bytes() for file in store.parent.iterdir())
    with SqliteFailedMessages(store, encryption=encryption()) as opened:
        assert [each.message.payload for each in opened.find()] == [b'{"canary": 1}', b'{"canary": 2}']
    report = commands.run("failed", "replay", *named, "--url", lite_broker.url, "--json").check(0).json()
    assert report["delivered"] == 2
    assert sorted(message.payload for message in read_topic(lite_broker, topic)) == rows.splitlines()


_SECRET: Final = base64.b64encode(b"a secret of thirty-two bytes, so").decode()
_bad_files: dict[str, tuple[str, str]] = {
    "not JSON": (_SECRET, "is not JSON"),
    "no object": (json.dumps([_SECRET]), "must hold a JSON object"),
    "empty": ("{}", "must hold a JSON object"),
    "the same id twice": (f'{{"a": "{_SECRET}", "a": "{_SECRET}"}}', "key 2 has the id of one before it"),
    "no text": ('{"a": 7}', "key 1 is not base64"),
    "no base64": (f'{{"a": "{_SECRET[:-2]}?"}}', "key 1 is not base64"),
    "too short": (f'{{"a": "{_SECRET}", "b": "{_SECRET[:24]}"}}', "key 2 has 18 bytes, and needs 32"),
    "no id": (f'{{"": "{_SECRET}"}}', "key 1 has an id that"),
    "the key as its id": (f'{{"{_SECRET * 9}": "{_SECRET}"}}', "key 1 has an id that"),
    "much too big": (f'{{"a": "{_SECRET}"}}' + " " * 70_000, "is over 65,536 bytes"),
}


@pytest.mark.parametrize(("text", "told"), _bad_files.values(), ids=list(_bad_files))
def test_a_file_that_holds_no_keys_is_refused_and_not_quoted(folder: Path, text: str, told: str) -> None:
    """
    With the option, the file and the place in it.
    """
    file = key_file(folder / "bad.json", text)
    with pytest.raises(InvalidInput, match=re.escape(told)) as caught:
        store_encryption(file)
    assert str(caught.value).startswith(f"--store-keys: {str(file)!r}")
    assert _SECRET[:20] not in str(caught.value)


@pytest.mark.parametrize("name", ["not JSON", "the key as its id"])
def test_debugging_quotes_nothing_of_a_bad_file(commands: Commands, store: Path, folder: Path, name: str) -> None:
    """
    It is refused before anything is done, and no traceback has what it holds.
    """
    file = key_file(folder / "bad.json", _bad_files[name][0])
    ended = commands.run("--debug", "failed", "list", "--failed", store, "--store-keys", file)
    assert ended.returncode == 2
    assert "Traceback" in ended.stderr
    assert _SECRET[:20] not in ended.stdout + ended.stderr


def test_a_file_that_others_can_read_is_refused(commands: Commands, store: Path, folder: Path) -> None:
    """
    As the store's own; a link is followed, because it is what it leads to that is looked at.
    """
    arguments = ("failed", "list", "--failed", store, "--store-keys")
    for mode in (0o640, 0o604, 0o620, 0o610):
        ended = commands.run(*arguments, key_file(folder / "open.json", _KEYS, mode)).check(2)
        assert f"mode {mode:04o}" in ended.stderr
        assert "chmod 600" in ended.stderr
    link = folder / "link.json"
    link.symlink_to(key_file(folder / "keys.json", _KEYS, 0o400))
    commands.run(*arguments, link).check(0)
    (folder / "keys.json").chmod(0o444)
    commands.run(*arguments, link).check(2)
    assert "is not a plain file" in commands.run(*arguments, folder).check(2).stderr
    os.mkfifo(folder / "pipe", 0o600)
    assert "is not a plain file" in commands.run(*arguments, folder / "pipe").check(2).stderr
    assert "No such file" in commands.run(*arguments, folder / "missing.json").check(2).stderr


def test_a_file_of_somebody_else_is_refused(commands: Commands, store: Path, folder: Path) -> None:
    """
    Who could change the keys without a word.
    """
    file, owner = "/etc/passwd", 0
    if os.geteuid() == 0:  # who alone may give a file away
        file, owner = str(key_file(folder / "keys.json", _KEYS)), 12345
        os.chown(file, owner, -1)
    ended = commands.run("failed", "list", "--failed", store, "--store-keys", file).check(2)
    assert f"belongs to user {owner}" in ended.stderr


def test_debugging_shows_no_key(commands: Commands, store: Path, keys: Path) -> None:
    """
    Neither log nor traceback has one.
    """
    ended = commands.run("--debug", "failed", "export", "--failed", store, "--store-keys", keys).check(0)
    for key in _KEYS.values():
        for form in (key.hex(), base64.b64encode(key).decode(), repr(key)):
            assert form not in ended.stdout + ended.stderr


def test_the_missing_extra_is_named(store: Path, keys: Path) -> None:
    """
    Without `cryptography` the command says what to install.
    """
    result = run_script(
        """
        import sys
        sys.modules["cryptography"] = None
        from safepulsar.cli.app import run
        sys.exit(run(["failed", "list", "--failed", sys.argv[1], "--store-keys", sys.argv[2]]))
        """,
        store,
        keys,
        timeout_seconds=30,
    )
    assert 'pip install "safepulsar[encryption]"' in str(result)


_SEAL_KEYS: Final = {"k1": b"a secret of many bytes", "k2": b"another secret of many bytes"}


def _spoiled(failed: FailedMessage) -> FailedMessage:
    payload = bytearray(failed.message.payload or b"")
    payload[0] ^= 1
    return replace(failed, message=replace(failed.message, payload=bytes(payload)))


@pytest.mark.parametrize("kind", SealKind)
def test_a_broken_seal_is_found_before_a_replay(
    commands: Commands, folder: Path, lite_broker: LiteBroker, topic: str, kind: SealKind
) -> None:
    """
    Of every kind, and beside messages of the other kinds and of none; what is broken is named, and stays.
    """
    path = folder / "failed.db"
    hmac_sealed = kind is SealKind.HMAC_SHA256
    seal = Seal(kind, keys=_SEAL_KEYS if hmac_sealed else None)
    other = Seal(SealKind.SHA256) if hmac_sealed else Seal(SealKind.HMAC_SHA256, keys=_SEAL_KEYS)
    with SqliteFailedMessages(path) as opened:
        opened.keep(
            [
                sealed(seal, b"good", topic=topic),
                _spoiled(sealed(seal, b"bad", topic=topic)),
                sealed(other, b"of another kind", topic=topic),
                failed_message(b"without", topic=topic),
            ]
        )
    named: list[Any] = ["--failed", path]
    named += ["--seal-keys", key_file(folder / "seal.json", _SEAL_KEYS)]
    ended = commands.run("failed", "list", *named, "--json").check(0)
    assert [each["id"] for each in objects(ended)] == [1, 3, 4]
    assert "--id 2" in ended.stderr
    commands.run("failed", "show", 2, *named).check(1)
    ended = commands.run("failed", "replay", *named, "--url", lite_broker.url, "--json").check(3)
    assert ended.json()["delivered"] == 3
    arrived = {message.payload for message in read_topic(lite_broker, topic)}
    assert arrived == {b"good", b"of another kind", b"without"}
    with SqliteFailedMessages(path) as opened:
        assert [each.id for each in opened.find()] == [2]


def test_without_its_keys_an_hmac_is_not_checked_and_that_is_said(commands: Commands, folder: Path) -> None:
    """
    Checksums need no keys, and are; a message is not given up because the command can't check it.
    """
    path = folder / "failed.db"
    keyed = Seal(SealKind.HMAC_SHA256, keys=_SEAL_KEYS)
    with SqliteFailedMessages(path) as opened:
        opened.keep([_spoiled(sealed(keyed, b"x")), _spoiled(sealed(Seal(), b"y")), sealed(Seal(), b"z")])
    ended = commands.run("failed", "list", "--failed", path, "--json").check(0)
    assert [each["id"] for each in objects(ended)] == [1, 3]
    assert "not checked: seals by HMAC-SHA-256 need --seal-keys" in ended.stderr
    short = key_file(folder / "short.json", {"k1": b"short"})
    ended = commands.run("failed", "list", "--failed", path, "--seal-keys", short).check(2)
    assert "key 1 has 5 bytes, and needs 16 at least" in ended.stderr


def test_keys_are_never_an_argument(commands: Commands) -> None:
    """
    Other users of the machine see a command line: no option takes a key itself.
    """
    for command in (("send",), ("failed", "list"), ("failed", "replay"), ("doctor",)):
        text = commands.run(*command, "--help", changes={"COLUMNS": "400"}).check(0).stdout
        assert "SAFEPULSAR_STORE_KEYS" in text
        assert "--store-keys" in text
