"""
`safepulsar send`: what stands in the topic afterwards, what scripts read, and how each ending is told.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Final

import pytest

from tests.brokers import read_topic

if TYPE_CHECKING:
    from pathlib import Path

    from tests.brokers import Broker, LiteBroker
    from tests.cli.command import Commands, Ended

_KEYS: Final = {"read": int, "delivered": int, "duplicate": int, "failed": int, "seconds": float}


def summary(ended: Ended) -> tuple[int, int, int, int]:
    """
    The integers of `--json`, after a look at its keys and types.
    """
    value = ended.json()
    assert {name: type(number) for name, number in value.items()} == _KEYS
    return value["read"], value["delivered"], value["duplicate"], value["failed"]


def test_a_csv_arrives_row_by_row_with_its_keys(commands: Commands, folder: Path, broker: Broker, topic: str) -> None:
    """
    The bytes, the partition key and the order of every row, on a broker of each kind; exit code 0.
    """
    (folder / "orders.csv").write_bytes(b"\xef\xbb\xbfid,customer\r\n" + "1,Ä\r\n2,b\r\n3,Ä\r\n".encode())
    ended = commands.run("send", topic, "orders.csv", "--url", broker.url, "--key-field", "customer", "--json").check(0)
    assert summary(ended) == (3, 3, 0, 0)
    assert ended.stderr == ""
    assert [(record.payload, record.partition_key, record.ordering_key) for record in read_topic(broker, topic)] == [
        ('{"id":"1","customer":"Ä"}'.encode(), "Ä", ""),
        (b'{"id":"2","customer":"b"}', "b", ""),
        ('{"id":"3","customer":"Ä"}'.encode(), "Ä", ""),
    ]


def test_json_lines_arrive_verbatim(commands: Commands, folder: Path, lite_broker: LiteBroker, topic: str) -> None:
    """
    Blanks and escapes as they stand; a last line without an end is a line.
    """
    lines = [b' {"a" : 1} ', b'{"a":"\\u00e4\xc3\xa4"}', b"[1,2]"]
    (folder / "rows.jsonl").write_bytes(b"\n\n".join(lines))
    ended = commands.run("send", topic, folder / "rows.jsonl", "--url", lite_broker.url, "--json").check(0)
    assert summary(ended) == (3, 3, 0, 0)
    assert [record.payload for record in read_topic(lite_broker, topic)] == lines


def test_with_ordered_the_key_is_the_ordering_key_too(commands: Commands, lite_broker: LiteBroker, topic: str) -> None:
    """
    Standard input, a number as key, and both keys on the message.
    """
    arguments = ("send", topic, "-", "--url", lite_broker.url, "--key-field", "k", "--ordered", "--json")
    ended = commands.run(*arguments, stdin=b'{"k":7}\n{"k":"x"}\n').check(0)
    assert summary(ended) == (2, 2, 0, 0)
    assert [(record.partition_key, record.ordering_key) for record in read_topic(lite_broker, topic)] == [
        ("7", "7"),
        ("x", "x"),
    ]


def test_many_rows_arrive_once_each_and_in_order_per_key(
    commands: Commands, lite_broker: LiteBroker, topic: str
) -> None:
    """
    More rows than may be in flight at once: all of them, in the file's order per key.
    """
    count = 25_000
    rows = b"".join(b'{"n":%d,"k":"%d"}\n' % (n, n % 7) for n in range(count))
    arguments = ("send", topic, "-", "--url", lite_broker.url, "--key-field", "k", "--json")
    assert summary(commands.run(*arguments, stdin=rows).check(0)) == (count, count, 0, 0)
    # pulsar-lite gives a reader some messages twice, under the same id; what is stored is one entry for each id.
    stored = {record.position: record for record in read_topic(lite_broker, topic, until=count)}
    records = [stored[position] for position in sorted(stored)]
    assert len(records) == count
    for key in range(7):
        numbers = [json.loads(record.payload)["n"] for record in records if record.partition_key == str(key)]
        assert numbers == list(range(key, count, 7))


def test_without_json_a_person_reads_one_line(commands: Commands, lite_broker: LiteBroker, topic: str) -> None:
    """
    Counts and speed on standard output, nothing on standard error where all is well and no terminal is there.
    """
    ended = commands.run("send", topic, "-", "--url", lite_broker.url, stdin=b"1\n2\n").check(0)
    assert ended.stdout.startswith(f"{topic}: 2 rows read, 2 delivered in ")
    assert ended.stdout.count("\n") == 1
    assert ended.stderr == ""


def test_the_url_comes_from_the_environment(commands: Commands, lite_broker: LiteBroker, topic: str) -> None:
    """
    SAFEPULSAR_URL names the broker where --url does not.
    """
    ended = commands.run("send", topic, "-", "--json", stdin=b"1\n", changes={"SAFEPULSAR_URL": lite_broker.url})
    assert summary(ended.check(0)) == (1, 1, 0, 0)


def test_nothing_to_send_is_no_error(commands: Commands, lite_broker: LiteBroker, topic: str) -> None:
    """
    An empty input is read to its end: exit code 0.
    """
    assert summary(commands.run("send", topic, "-", "--url", lite_broker.url, "--json").check(0)) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (
            "rows.jsonl",
            b'{"k":1}\n{"k":\n{"j":1}\n{"k":"\\u0001"}\n{"k":5}',
            [
                "line 2: is not JSON: Expecting value",
                "line 3: has no field 'k'",
                "line 4: partition_key: holds the control",
            ],
        ),
        (
            "rows.csv",
            b"k,v\n1,2\n3\n\xff,4\n5,6\n",
            ["row 3: has 1 column, the header has 2", "row 4: is not UTF-8 in 'k'"],
        ),
    ],
    ids=["jsonl", "csv"],
)
def test_broken_rows_are_named_and_the_rest_is_sent(
    commands: Commands,
    folder: Path,
    lite_broker: LiteBroker,
    topic: str,
    name: str,
    content: bytes,
    told: list[str],
) -> None:
    """
    Each with its number on standard error, nothing sent for it, everything else accounted for; exit code 1.
    """
    (folder / name).write_bytes(content)
    ended = commands.run("send", topic, name, "--url", lite_broker.url, "--key-field", "k", "--json").check(1)
    assert summary(ended) == (2, 2, 0, 0)
    assert [record.partition_key for record in read_topic(lite_broker, topic)] == ["1", "5"]
    for text in told:
        assert f"{text}" in ended.stderr
    assert ended.stderr.count("; not sent\n") == len(told)


def test_a_row_over_the_limit_is_named(commands: Commands, lite_broker: LiteBroker, topic: str) -> None:
    """
    A message that no broker would take is refused before it is sent, whatever its size; the others go on.
    """
    rows = b'"' + b"x" * (5 * 1024 * 1024 - 16 * 1024) + b'"\n' + b'"' + b"y" * 20_000_000 + b'"\n"small"\n'
    ended = commands.run("send", topic, "-", "--url", lite_broker.url, "--json", stdin=rows).check(1)
    assert summary(ended) == (1, 1, 0, 0)
    assert "line 1: " in ended.stderr
    assert "line 2: " in ended.stderr


def test_a_csv_without_the_keys_column_is_refused_whole(
    commands: Commands, folder: Path, lite_broker: LiteBroker, topic: str
) -> None:
    """
    Nothing is sent; the row and the columns that there are are named. Exit code 1, with a summary of zeros.
    """
    (folder / "orders.csv").write_bytes(b"id,customer\n1,2\n")
    ended = commands.run("send", topic, "orders.csv", "--url", lite_broker.url, "--key-field", "client", "--json")
    assert summary(ended.check(1)) == (0, 0, 0, 0)
    assert "row 1: has no column 'client' for the key; its columns are 'id', 'customer'" in ended.stderr
    assert read_topic(lite_broker, topic) == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("bad topic", "-"), "topic: 'bad topic'"),
        (("a/../b", "-"), "topic: 'a/../b'"),
        (("orders-partition-3", "-"), "names one partition"),
        (("orders", "-", "--url", "http://localhost:8080"), "--url: must begin with 'pulsar://'"),
        (("orders", "-", "--url", "pulsar://me:secret@localhost"), "--url: "),
        (("orders", "missing.csv"), "'missing.csv' can't be read: No such file or directory"),
        (("orders", "rows.txt"), "'rows.txt' must end in .csv or .jsonl"),
        (("orders", "folder.csv"), "'folder.csv' is a folder"),
        (("orders", "-", "--ordered"), "--ordered: needs --key-field"),
        (("orders", "-", "--deadline", "0"), "--deadline"),
        (("orders", "-", "--nope"), "--nope"),
        (("orders",), "FILE"),
    ],
)
def test_usage_is_told_and_nothing_is_tried(
    commands: Commands, folder: Path, arguments: tuple[str, ...], told: str
) -> None:
    """
    Exit code 2, the reason on standard error, nothing on standard output, no store made, and never a secret.
    """
    (folder / "folder.csv").mkdir()
    (folder / "rows.txt").touch()
    ended = commands.run("send", *arguments, "--json").check(2)
    assert told in ended.stderr
    assert "secret" not in ended.stderr
    assert ended.stdout == ""
    assert not commands.default_store.exists()


def test_standard_input_that_is_closed_is_usage(commands: Commands) -> None:
    """
    Started without a standard input, `-` is refused.
    """
    script = f"exec {sys.executable} -m safepulsar send orders - <&-"
    ended = commands.run_shell(script).check(2)
    assert "standard input is closed" in ended.stderr


def test_a_store_that_will_not_do_is_told_before_anything_is_sent(
    commands: Commands, folder: Path, lite_broker: LiteBroker, topic: str
) -> None:
    """
    A folder in the store's place: one line, exit code 1, a summary of zeros, and nothing sent.
    """
    ended = commands.run("send", topic, "-", "--url", lite_broker.url, "--failed", folder, "--json", stdin=b"1\n")
    assert summary(ended.check(1)) == (0, 0, 0, 0)
    assert "is a folder; name a file in it" in ended.stderr
    assert read_topic(lite_broker, topic) == []


def test_debug_shows_where_an_error_came_from(commands: Commands) -> None:
    """
    A traceback is for those who ask for it.
    """
    ended = commands.run("--debug", "send", "orders", "missing.csv")
    assert ended.returncode == 2
    assert "Traceback" in ended.stderr
