"""
`safepulsar doctor`: each hazard is seen where it is, and not where it is not.
"""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import pytest

from safepulsar.broker.client_registry import ClientRegistry
from safepulsar.broker_process import free_port
from safepulsar.doctor import Finding, Level, examine
from safepulsar.doctor.handshake import NotPulsar, addresses, greet
from safepulsar.settings import ClientSettings, SenderSettings, TopicSettings, WhenFull
from tests.brokers import LiteBroker, read_topic
from tests.cli.test_replay import filled

if TYPE_CHECKING:
    from pathlib import Path

    from tests.brokers import Broker, RealBroker
    from tests.cli.command import Commands

IDS: Final = [
    "client-library",
    "tls",
    "credentials",
    "queue-full",
    "batching",
    "retries",
    "closing",
    "rate-limit",
    "producer-names",
    "fork",
    "open-files",
    "failed-messages",
    "store-place",
    "broker",
    "topic-lookup",
    "produce-right",
    "deduplication",
    "resending",
    "message-size",
]


def nobody() -> str:
    """
    A URL where nobody listens.
    """
    return f"pulsar://127.0.0.1:{free_port()}"


def found(
    name: str,
    client: str | ClientSettings | None = None,
    *,
    topic: str | None = None,
    probe: bool = True,
    sender: SenderSettings | None = None,
    failed_messages: Path | None = None,
) -> Finding:
    """
    One finding of an examination, by default of an address where nobody listens.
    """
    findings = examine(
        client if isinstance(client, ClientSettings) else ClientSettings(url=client or nobody()),
        topic=topic,
        probe=probe,
        sender=sender,
        failed_messages=failed_messages,
        registry=ClientRegistry(),
        timeout_seconds=2.0,
    )
    assert [finding.id for finding in findings] == IDS
    return next(finding for finding in findings if finding.id == name)


def test_a_broker_is_examined_step_by_step(commands: Commands, broker: Broker) -> None:
    """
    On each kind: reachable, topic, right to send, and whether it deduplicates, which the two do differently.
    """
    ended = commands.run("doctor", "--url", broker.url, "--json").check(0)
    value = ended.json()
    assert list(value) == ["ok", "url", "findings"]
    assert (value["ok"], value["url"]) == (True, broker.url)
    assert [list(finding) for finding in value["findings"]] == [["id", "level", "what", "remedy"]] * len(IDS)
    findings = {finding["id"]: finding for finding in value["findings"]}
    assert list(findings) == IDS
    for name in ("broker", "topic-lookup", "produce-right"):
        assert findings[name]["level"] == "ok", findings[name]
    deduplication = findings["deduplication"]
    assert deduplication["what"].startswith("on" if broker.features.deduplication else "off")
    assert deduplication["level"] == ("ok" if broker.features.deduplication else "warn")
    assert bool(deduplication["remedy"]) is not broker.features.deduplication


def test_sources_are_looked_into(commands: Commands, tmp_path: Path) -> None:
    """
    With `--code` each hazard is one more finding, behind the others.
    """
    (tmp_path / "shop.py").write_text("import pulsar\nclient = pulsar.Client('pulsar://localhost:6650')\n")
    ended = commands.run("doctor", "--url", nobody(), "--code", tmp_path, "--json").check(1)
    findings = [finding["id"] for finding in ended.json()["findings"]]
    assert findings == [*IDS, "code-client-at-import", "code-never-closed"]
    commands.run("doctor", "--url", nobody(), "--code", tmp_path / "nothing").check(2)


def test_nothing_is_sent_to_the_applications_topic(commands: Commands, lite_broker: LiteBroker, topic: str) -> None:
    """
    The probe has a topic of its own, and can be left out.
    """
    ended = commands.run("doctor", "--url", lite_broker.url, "--topic", topic).check(0)
    assert f"a producer may be opened on {topic}" in ended.stdout
    assert "deduplication: off, seen on persistent://public/default/safepulsar-doctor" in ended.stdout
    before = len(read_topic(lite_broker, "persistent://public/default/safepulsar-doctor"))
    ended = commands.run("doctor", "--url", lite_broker.url, "--no-probe").check(0)
    assert "deduplication: not known" in ended.stdout
    assert len(read_topic(lite_broker, "persistent://public/default/safepulsar-doctor")) == before
    assert read_topic(lite_broker, topic) == []


def test_a_broker_that_is_away_is_bad(commands: Commands) -> None:
    """
    Exit code 1, the reason and the remedy; the steps behind it are said to be left out.
    """
    ended = commands.run("doctor", "--url", nobody()).check(1)
    assert "can't be reached: Connection refused" in ended.stdout
    assert "→ start the broker" in ended.stdout
    assert ended.stdout.count("not looked at, because the step before failed") == 3
    assert ended.stderr == ""


def test_a_topic_that_cannot_be_is_bad(pulsar_broker: RealBroker) -> None:
    """
    A namespace that does not exist is found before the application finds it.
    """
    finding = found("topic-lookup", pulsar_broker.url, topic="public/nowhere/orders")
    assert finding.level is Level.BAD
    assert "TopicNotFound" in finding.what


def test_a_broker_that_takes_less_than_the_sender_is_bad(pulsar_broker: RealBroker) -> None:
    """
    The broker says its limit in its greeting.
    """
    assert found("message-size", pulsar_broker.url, probe=False).level is Level.OK
    sender = SenderSettings(max_message_bytes=6 * 1024 * 1024)
    assert found("message-size", pulsar_broker.url, probe=False, sender=sender).level is Level.BAD


def test_a_frozen_broker_does_not_answer(tmp_path: Path) -> None:
    """
    A connection alone is no broker; the look ends in time.
    """
    with LiteBroker(tmp_path / "broker") as broker:
        broker.freeze()
        finding = found("broker", broker.url)
    assert (finding.level, finding.what.endswith("does not answer")) == (Level.BAD, True)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"", "closes the connection"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "speaks HTTP, as Pulsar's admin port does"),
        (b"\0" * 100, "does not speak"),
        (b"\0\0\0\x06\0\0\0\x02\x08\x05", "does not answer a greeting with one"),
        (b"\0\0\0\x06\0\0\0\x02\x08\x03", "does not speak"),
        (b"\0\0\0\x06\0\0\0\x02\x08\xff", "does not speak"),
        (b"\0\0\0\xff\0\0\0\xf0\x08", "breaks off"),
    ],
)
def test_any_other_answer_is_told(answer: bytes, told: str) -> None:
    """
    Whatever comes back, it ends in a reason.
    """
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        def answer_one() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(answer)

        thread = threading.Thread(target=answer_one)
        thread.start()
        stack.callback(thread.join)
        with pytest.raises(NotPulsar, match=told):
            greet(ClientSettings(url="pulsar://x"), None, "127.0.0.1", listener.getsockname()[1], 2.0)


def test_several_addresses_are_all_tried(lite_broker: LiteBroker) -> None:
    """
    One that is away is a warning as long as another answers.
    """
    finding = found("broker", f"{nobody()},{lite_broker.url.removeprefix('pulsar://')}", probe=False)
    assert finding.level is Level.WARN
    assert "Connection refused" in finding.what
    assert addresses("pulsar+ssl://a,[::1]:7,[fe80::1],b:8/") == [("a", 6651), ("::1", 7), ("fe80::1", 6651), ("b", 8)]


@pytest.mark.parametrize(
    ("url", "settings", "level"),
    [
        ("pulsar://127.0.0.1:1", {}, Level.OK),
        ("pulsar://broker.invalid:1", {}, Level.WARN),
        ("pulsar+ssl://127.0.0.1:1", {}, Level.OK),
        ("pulsar+ssl://127.0.0.1:1", {"tls_validate_hostname": False}, Level.BAD),
        ("pulsar+ssl://127.0.0.1:1", {"tls_allow_insecure_connection": True}, Level.BAD),
    ],
)
def test_tls_that_proves_nothing_is_bad(url: str, settings: dict[str, bool], level: Level) -> None:
    """
    No TLS to another machine is a warning; TLS that anybody passes is worse, because it looks safe.
    """
    finding = found("tls", ClientSettings(url=url, **settings))  # type: ignore[arg-type]  # of those, only bools
    assert finding.level is level
    assert bool(finding.remedy) is (level is not Level.OK)


def test_a_port_without_tls_is_told(lite_broker: LiteBroker) -> None:
    """
    And by its own kind of error: it is not the broker that is away.
    """
    finding = found("broker", lite_broker.url.replace("pulsar://", "pulsar+ssl://"))
    assert finding.level is Level.BAD
    assert "TLS" in finding.what
    assert issubclass(ssl.SSLCertVerificationError, ssl.SSLError)


@pytest.mark.parametrize(
    ("name", "sender", "level"),
    [
        ("queue-full", SenderSettings(), Level.OK),
        ("queue-full", SenderSettings(when_full=WhenFull.RAISE), Level.WARN),
        ("queue-full", SenderSettings(when_full=WhenFull.KEEP), Level.WARN),
        ("batching", SenderSettings(), Level.OK),
        ("batching", SenderSettings(topic_defaults=TopicSettings(mix_keys=True)), Level.WARN),
        ("batching", SenderSettings(topics={"orders": TopicSettings(mix_keys=True)}), Level.WARN),
    ],
)
def test_settings_with_a_risk_are_told(name: str, sender: SenderSettings, level: Level) -> None:
    """
    The application's own settings can be examined, from its own code.
    """
    assert found(name, sender=sender).level is level


def test_gunicorn_that_preloads_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """
    In its variable and in its file.
    """
    monkeypatch.chdir(tmp_path)
    assert found("fork").level is Level.OK
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--workers 4 --preload")
    assert found("fork").level is Level.WARN
    monkeypatch.delenv("GUNICORN_CMD_ARGS")
    (tmp_path / "gunicorn.conf.py").write_text("workers = 4\npreload_app = True\n")
    assert "gunicorn.conf.py" in found("fork").what


def test_the_store_is_looked_at_and_not_made(tmp_path: Path) -> None:
    """
    Not named, not there, waiting messages, and one that cannot be used.
    """
    folder = tmp_path / "stores"
    folder.mkdir(mode=0o700)
    assert found("failed-messages").level is Level.WARN
    assert found("failed-messages", failed_messages=folder / "f.db").level is Level.OK
    assert list(folder.iterdir()) == []
    filled(folder / "f.db", "persistent://public/default/orders", 0)
    assert "is sound and empty" in found("failed-messages", failed_messages=folder / "f.db").what
    filled(folder / "f.db", "persistent://public/default/orders", 2)
    finding = found("failed-messages", failed_messages=folder / "f.db")
    assert (finding.level, finding.what[:23]) == (Level.WARN, "2 failed messages wait ")
    (folder / "f.db").chmod(0o666)
    assert found("failed-messages", failed_messages=folder / "f.db").level is Level.BAD
