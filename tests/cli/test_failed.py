"""
`safepulsar failed`: looking at what failed, taking it out, and nothing that could fool a terminal.
"""

from __future__ import annotations

import base64
import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest

from safepulsar.failed_messages import FailedMessageFilter, SqliteFailedMessages
from safepulsar.message import Attempt, Certainty, FailedMessage, Message, MessageId

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.command import Commands, Ended

_ORDERS: Final = "persistent://public/default/orders"


def failed_message(
    payload: bytes | None, *, topic: str = _ORDERS, key: str | None = None, properties: dict[str, str] | None = None
) -> FailedMessage:
    """
    One that failed a moment ago and is surely not stored.
    """
    now = time.time()
    return FailedMessage(
        message=Message(topic=topic, payload=payload, partition_key=key, properties=properties),
        certainty=Certainty.NOT_STORED,
        error="DeadlineExceeded",
        accepted_at=now,
        first_failed_at=now,
        last_failed_at=now,
    )


@pytest.fixture
def store(folder: Path) -> Path:
    """
    A store with three messages, of two topics, keys, errors and ages.
    """
    path = folder / "failed.db"
    attempt = Attempt(started_at=1.0, elapsed_seconds=0.25, code="ConnectError", maybe_stored=False, delay_seconds=0.1)
    with SqliteFailedMessages(path) as opened:
        opened.keep(
            [
                replace(failed_message(b'{"id":1}', key="c1"), attempts=(attempt, attempt)),
                replace(
                    failed_message(b"\xff\x00", topic=f"{_ORDERS}2", key="c2"),
                    error="Timeout",
                    certainty=Certainty.MAYBE_STORED,
                ),
                replace(failed_message(None, properties={"trace": "x"}), first_failed_at=time.time() - 7200),
            ]
        )
    return path


def objects(ended: Ended) -> list[dict[str, Any]]:
    """
    The JSON lines that were written.
    """
    return [json.loads(line) for line in ended.stdout.splitlines()]


def test_list_is_a_table_for_a_person_and_lines_for_a_script(commands: Commands, store: Path) -> None:
    """
    The columns of the table, and exactly the keys that are documented.
    """
    lines = commands.run("failed", "list", "--failed", store).check(0).stdout.splitlines()
    assert lines[0].split() == ["id", "failed", "topic", "key", "certainty", "error", "attempts", "bytes"]
    assert lines[2].split()[0] == "1"
    assert lines[2].split()[3:] == ["orders", "c1", "NOT_STORED", "DeadlineExceeded", "2", "8"]
    first, second, third = objects(commands.run("failed", "list", "--failed", store, "--json").check(0))
    assert abs(first.pop("first_failed_at") - time.time()) < 60
    assert first == {
        "id": 1,
        "topic": _ORDERS,
        "key": "c1",
        "certainty": "NOT_STORED",
        "error": "DeadlineExceeded",
        "attempts": 2,
        "size_bytes": 8,
    }
    assert (second["id"], second["key"], second["certainty"]) == (2, "c2", "MAYBE_STORED")
    assert (third["id"], third["key"], third["size_bytes"]) == (3, None, 0)


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ((), [1, 2, 3]),
        (("--topic", "orders"), [1, 3]),
        (("--topic", f"{_ORDERS}2"), [2]),
        (("--key", "c1"), [1]),
        (("--error", "Timeout"), [2]),
        (("--older-than", "90s"), [3]),
        (("--older-than", "119m"), [3]),
        (("--older-than", "1.5h"), [3]),
        (("--older-than", "1d"), []),
        (("--certainty", "not_stored"), [1, 3]),
        (("--id", "3", "--id", "1"), [1, 3]),
        (("--topic", "orders", "--key", "c1", "--limit", "1"), [1]),
        (("--limit", "2"), [1, 2]),
    ],
)
def test_filters_hold_all_together(commands: Commands, store: Path, options: tuple[str, ...], ids: list[int]) -> None:
    """
    Each option narrows what is meant.
    """
    ended = commands.run("failed", "list", "--failed", store, "--json", *options).check(0)
    assert [one["id"] for one in objects(ended)] == ids


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("list", "--older-than", "soon"), "write a number with s, m, h or d"),
        (("list", "--topic", "a b"), "topic: 'a b'"),
        (("list", "--limit", "0"), "--limit"),
        (("show",), "ID"),
        (("show", "one"), "ID"),
        (("purge",), "--yes: is needed to delete 3 messages for good"),
        (("export", "--output", "failed.db"), "'failed.db' can't be made: File exists"),
        (("replay", "--rate", "0"), "--rate"),
        (("replay", "--url", "localhost"), "--url: must begin with 'pulsar://'"),
    ],
)
def test_usage_is_told(commands: Commands, store: Path, arguments: tuple[str, ...], told: str) -> None:
    """
    Exit code 2, and nothing was done.
    """
    ended = commands.run("failed", *arguments, "--failed", store).check(2)
    assert told in ended.stderr
    assert ended.stderr.count("\n") == 1
    with SqliteFailedMessages(store) as opened:
        assert opened.count() == 3


@pytest.mark.parametrize("command", [("list",), ("show", "1"), ("export",), ("purge", "--yes"), ("replay",)])
def test_a_store_that_is_not_there_is_not_made(commands: Commands, folder: Path, command: tuple[str, ...]) -> None:
    """
    A typing error in the path must not look like an empty store: exit code 2.
    """
    ended = commands.run("failed", *command, "--failed", "other.db").check(2)
    assert "there is no store of failed messages at" in ended.stderr
    assert list(folder.iterdir()) == []


def test_a_file_that_is_no_store_is_told(commands: Commands, folder: Path) -> None:
    """
    Exit code 1, one line, and the file stays as it was.
    """
    file = folder / "notes.txt"
    file.write_text("not a database, but long enough to be taken for one" * 100)
    file.chmod(0o600)
    ended = commands.run("failed", "list", "--failed", file).check(1)
    assert ended.stderr.startswith("safepulsar: ")
    assert ended.stderr.count("\n") == 1
    assert file.read_text().startswith("not a database")


def test_show_tells_everything_about_one(commands: Commands, store: Path) -> None:
    """
    What it is, what was tried, what is known, and its payload: text, bytes, or none.
    """
    first, second, third = (commands.run("failed", "show", n, "--failed", store).check(0).stdout for n in (1, 2, 3))
    for text in (_ORDERS, "KEPT", "DeadlineExceeded", "surely not in the topic", "c1", "ConnectError", '{"id":1}'):
        assert text in first
    assert "may be in the topic" in second
    assert "payload, 2 bytes, not text:\nff 00" in second
    assert "tombstone" in third
    assert "trace = x" in third


def test_show_and_export_write_all_of_it_as_json(commands: Commands, store: Path) -> None:
    """
    The same object, to which `show` adds the state; payloads come back byte for byte.
    """
    exported = objects(commands.run("failed", "export", "--failed", store).check(0))
    assert [base64.b64decode(one["payload"] or "") for one in exported] == [b'{"id":1}', b"\xff\x00", b""]
    assert [one["payload_text"] for one in exported] == ['{"id":1}', None, None]
    assert [one["code"] for one in exported[0]["attempts"]] == ["ConnectError", "ConnectError"]
    shown = commands.run("failed", "show", 2, "--failed", store, "--json").check(0).json()
    assert shown == {"state": "KEPT", **exported[1]}


def test_export_to_a_file_is_for_this_user_only(commands: Commands, folder: Path, store: Path) -> None:
    """
    Mode 0600; what was exported is still kept.
    """
    ended = commands.run("failed", "export", "--failed", store, "--output", "out.jsonl", "--key", "c1").check(0)
    assert ended.stdout == ""
    assert "1 message exported; still kept" in ended.stderr
    assert (folder / "out.jsonl").stat().st_mode & 0o777 == 0o600
    assert json.loads((folder / "out.jsonl").read_text())["id"] == 1
    assert len(objects(commands.run("failed", "list", "--failed", store, "--json"))) == 3


def test_show_of_one_that_is_delivered_says_where_it_is(commands: Commands, store: Path) -> None:
    """
    Its payload is gone, its fate is not; one that never was is an error.
    """
    with SqliteFailedMessages(store) as opened:
        opened.confirm(1, MessageId(7, 8))
    ended = commands.run("failed", "show", 1, "--failed", store).check(0)
    assert f"failed message 1 is in {_ORDERS}: acknowledged late" in ended.stdout
    assert "as message id 7:8:-1:-1" in ended.stdout
    value = commands.run("failed", "show", 1, "--failed", store, "--json").check(0).json()
    assert abs(value.pop("delivered_at") - time.time()) < 60
    assert value == {"state": "DELIVERED", "id": 1, "topic": _ORDERS, "message_id": "7:8:-1:-1"}
    assert "there is no failed message 99" in commands.run("failed", "show", 99, "--failed", store).check(1).stderr


def test_purge_deletes_what_it_says_and_only_that(commands: Commands, store: Path) -> None:
    """
    First without doing it, then for good.
    """
    ended = commands.run("failed", "purge", "--failed", store, "--key", "c1", "--dry-run", "--json").check(0)
    assert ended.json() == {"purged": 1, "dry_run": True}
    ended = commands.run("failed", "purge", "--failed", store, "--key", "c1", "--yes").check(0)
    assert ended.stdout == "1 message purged\n"
    ended = commands.run("failed", "purge", "--failed", store, "--key", "c1", "--yes", "--json").check(0)
    assert ended.json() == {"purged": 0, "dry_run": False}
    with SqliteFailedMessages(store) as opened:
        assert opened.count() == 2


def test_nothing_that_others_wrote_reaches_the_terminal_as_it_is(commands: Commands, folder: Path) -> None:
    """
    Escape sequences and direction marks in keys, properties, errors and payloads are written out.
    """
    path = folder / "evil.db"
    evil = "\x1b[2J\x07\u202e\x9b31m"
    with SqliteFailedMessages(path) as opened:
        opened.keep(
            [replace(failed_message(evil.encode(), key=evil, properties={evil: evil}), error=evil, trace_id=evil)]
        )
    for command in (("list",), ("show", "1"), ("list", "--json"), ("show", "1", "--json"), ("export",)):
        ended = commands.run("failed", *command, "--failed", path).check(0)
        assert not set(evil) - set("[2J31m") & set(ended.stdout + ended.stderr)
    assert "\\x1b[2J\\x07\\u202e\\x9b31m" in commands.run("failed", "show", 1, "--failed", path).stdout


def test_a_damaged_row_is_told_with_the_way_to_give_it_up(commands: Commands, store: Path) -> None:
    """
    The others are listed, and the command that is named works.
    """
    import sqlite3  # noqa: PLC0415 - only to damage a store

    connection = sqlite3.connect(store)
    (table,) = connection.execute(
        "SELECT name FROM sqlite_master WHERE type='table' AND sql LIKE '%payload%'"
    ).fetchone()
    connection.execute(f"UPDATE {table} SET payload = x'00' WHERE id = 2")  # noqa: S608 - a name of the store's own
    connection.commit()
    connection.close()
    ended = commands.run("failed", "list", "--failed", store, "--json").check(0)
    assert [one["id"] for one in objects(ended)] == [1, 3]
    assert "1 row of" in ended.stderr
    purge = ended.stderr.split("to give them up: safepulsar ")[1].split()
    commands.run(*purge, "--yes").check(0)
    assert commands.run("failed", "list", "--failed", store).check(0).stderr == ""
    with SqliteFailedMessages(store) as opened:
        assert opened.count(FailedMessageFilter()) == 2
