"""
Settings that don't fit together, and machines that don't keep what they are given, are told with their remedy.
"""

from __future__ import annotations

import shutil
from collections import namedtuple
from typing import TYPE_CHECKING

import pytest

from safepulsar.doctor import Finding, Level, machine
from safepulsar.doctor.machine import examine_credentials, examine_files, examine_names, examine_place
from safepulsar.doctor.timing import examine_closing, examine_rate, examine_resending, examine_retries
from safepulsar.settings import ClientSettings, RetrySettings, SenderSettings, TopicSettings

if TYPE_CHECKING:
    from pathlib import Path

OK, WARN, BAD = Level.OK, Level.WARN, Level.BAD
Usage = namedtuple("Usage", "total used free")  # noqa: PYI024 - as shutil's own


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    No gunicorn around the tests.
    """
    for name in ("GUNICORN_CMD_ARGS", "WEB_CONCURRENCY"):
        monkeypatch.delenv(name, raising=False)


def check(finding: Finding, level: Level, *words: str) -> None:
    """
    It says so, with a remedy if there is something to do.
    """
    assert finding.level is level, finding
    assert all(word in f"{finding.what} {finding.remedy}" for word in words), finding
    assert bool(finding.remedy) is (level is not OK), finding


@pytest.mark.parametrize(
    ("sender", "level", "word"),
    [
        (SenderSettings(), OK, "3 retries"),
        (SenderSettings(deadline_seconds=0.5), WARN, "never happen"),
        (SenderSettings(retry=RetrySettings(max_retries=0), deadline_seconds=0.5), OK, "0 retries"),
    ],
)
def test_retries_that_do_not_fit_are_told(sender: SenderSettings, level: Level, word: str) -> None:
    """
    The deadline beats the retries.
    """
    check(examine_retries(sender), level, word)


@pytest.mark.parametrize(
    ("arguments", "deadline", "level"),
    [
        ("--workers 2", 10, OK),
        ("--workers 2", 30, BAD),
        ("--timeout 5", 10, BAD),
        ("-t 0", 1000, OK),
        ("--timeout=60", 30, OK),
    ],
)
def test_a_send_that_outlives_its_request_is_bad(
    monkeypatch: pytest.MonkeyPatch, arguments: str, deadline: float, level: Level
) -> None:
    """
    Gunicorn kills a worker that answers too late, and with it what was in flight.
    """
    monkeypatch.setenv("GUNICORN_CMD_ARGS", arguments)
    assert examine_retries(SenderSettings(deadline_seconds=deadline)).level is level


@pytest.mark.parametrize(
    ("sender", "level"),
    [
        (SenderSettings(), OK),
        (SenderSettings(close_seconds=30), WARN),
        (SenderSettings(drain_on_sigterm=False), WARN),
    ],
)
def test_an_end_without_time_is_told(sender: SenderSettings, level: Level) -> None:
    """
    Containers are killed after thirty seconds.
    """
    check(examine_closing(sender), level)


@pytest.mark.parametrize(
    ("sender", "level"),
    [
        (SenderSettings(), OK),
        (SenderSettings(messages_per_second=1000), OK),
        (SenderSettings(messages_per_second=10), WARN),
        (SenderSettings(bytes_per_second=1000), WARN),
    ],
)
def test_a_rate_below_the_deadline_is_told(sender: SenderSettings, level: Level) -> None:
    """
    What waits longer for the rate than its deadline fails.
    """
    check(examine_rate(sender), level)


@pytest.mark.parametrize(("again", "deduplicates", "level"), [(False, WARN, OK), (True, WARN, WARN), (True, OK, OK)])
def test_sending_again_without_deduplication_is_told(again: bool, deduplicates: Level, level: Level) -> None:  # noqa: FBT001
    """
    It makes duplicates.
    """
    broker = Finding(id="deduplication", level=deduplicates, what="seen")
    check(examine_resending(RetrySettings(resend_maybe_stored=again), broker), level)


@pytest.mark.parametrize(
    ("name", "value", "level"),
    [
        ("WEB_CONCURRENCY", "4", BAD),
        ("GUNICORN_CMD_ARGS", "-w 3", BAD),
        ("WEB_CONCURRENCY", "1", OK),
        ("NOTHING", "", OK),
    ],
)
def test_one_name_for_many_workers_is_bad(monkeypatch: pytest.MonkeyPatch, name: str, value: str, level: Level) -> None:
    """
    All but one of them would get ProducerBusy.
    """
    monkeypatch.setenv(name, value)
    named = SenderSettings(topics={"orders": TopicSettings(producer_name="orders")})
    check(examine_names(named), level)
    check(examine_names(SenderSettings()), OK)


def test_files_of_credentials_are_looked_at(tmp_path: Path) -> None:
    """
    Missing, open to others, and as they should be.
    """
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    client = ClientSettings(
        url="pulsar+ssl://example.org:6651", tls_certificate_file=str(certificate), tls_private_key_file=str(key)
    )
    check(examine_credentials(client), BAD, "tls_certificate_file", "tls_private_key_file")
    certificate.touch()
    key.touch(mode=0o644)
    check(examine_credentials(client), WARN, "chmod 600")
    key.chmod(0o600)
    check(examine_credentials(client), OK)


def test_tokens_are_never_quoted() -> None:
    """
    Whatever is said of them.
    """
    for url in ("pulsar+ssl://example.org", "pulsar://localhost"):
        finding = examine_credentials(ClientSettings(url=url, token="s3cret"))  # noqa: S106 - that is the test
        assert "s3cret" not in repr(finding)
        assert finding.level is (OK if "ssl" in url else WARN)


def test_a_disk_that_keeps_nothing_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """
    A network's, a container's own, a full one; and a folder that is not there yet.
    """
    path = tmp_path / "not" / "there" / "failed.db"
    check(examine_place(None), OK)
    for kind, level in (("ext4", OK), ("nfs4", BAD), ("overlay", WARN), ("tmpfs", WARN), ("", OK)):
        monkeypatch.setattr(machine, "_filesystem", lambda _, kind=kind: kind)
        check(examine_place(path), level)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1, 1, 1000))
    check(examine_place(path), BAD, "1,000 bytes")


def test_the_file_system_is_found(tmp_path: Path) -> None:
    """
    As this machine has it: the mount point that is nearest.
    """
    from pathlib import Path  # noqa: PLC0415 - at run time only here

    assert machine._filesystem(Path("/proc")) == "proc"
    assert machine._filesystem(tmp_path)


def test_few_open_files_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    With the command that raises the limit.
    """
    import resource  # noqa: PLC0415 - not on Windows

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    check(examine_files(), WARN, "ulimit -n 4096")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (4096, 4096))
    check(examine_files(), OK)
