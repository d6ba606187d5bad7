"""
A sender from an application's configuration, and what is wrong with one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from safepulsar.adapters.configuration import Configuration
from safepulsar.errors import InvalidSettings
from safepulsar.request_headers import RequestContextSettings
from safepulsar.settings import ClientSettings, SenderSettings, WhenFull
from tests.subprocesses import run_script

_URL = "pulsar://localhost:6650"


def test_a_url_is_enough() -> None:
    """
    Everything else has its default; names of others are none of ours.
    """
    found = Configuration.read({"SAFEPULSAR_URL": _URL, "SECRET_KEY": "s", "SAFEPULSAR": "x"})
    assert found == Configuration(client=ClientSettings(url=_URL))
    assert found.failed_messages is None


def test_every_setting_has_its_place() -> None:
    """
    In parts, as mappings of plain values or as settings.
    """
    values = {
        "SAFEPULSAR_URL": "pulsar+ssl://broker:6651",
        "SAFEPULSAR_TOKEN": "secret",
        "SAFEPULSAR_TLS_TRUST_CERTS_FILE": "ca.pem",
        "SAFEPULSAR_FAILED_MESSAGES": Path("failed/orders.db"),
        "SAFEPULSAR_CLIENT": {"io_threads": 2},
        "SAFEPULSAR_SENDER": {"deadline_seconds": 3.0, "when_full": "RAISE"},
        "SAFEPULSAR_REQUEST": {"baggage": ["shop"]},
    }
    found = Configuration.read(values)
    assert found.client == ClientSettings(
        url="pulsar+ssl://broker:6651",
        token="secret",  # noqa: S106
        tls_trust_certs_file="ca.pem",
        io_threads=2,
    )
    assert found.sender == SenderSettings(deadline_seconds=3.0, when_full=WhenFull.RAISE)
    assert found.request == RequestContextSettings(baggage=("shop",))
    assert found.failed_messages == "failed/orders.db"
    same = {
        **{name: values[name] for name in ("SAFEPULSAR_FAILED_MESSAGES",)},
        "SAFEPULSAR_CLIENT": found.client,
        "SAFEPULSAR_SENDER": found.sender,
        "SAFEPULSAR_REQUEST": found.request,
    }
    assert Configuration.read(same) == found
    assert "secret" not in repr(found)


@pytest.mark.parametrize(
    ("values", "field", "problem"),
    [
        ({}, "SAFEPULSAR_URL", "is missing: set it to the broker"),
        ({"SAFEPULSAR_URL": None}, "SAFEPULSAR_URL", "is missing"),
        ({"SAFEPULSAR_URL": ""}, "SAFEPULSAR_URL", "is missing"),
        ({"SAFEPULSAR_URL": "http://x"}, "ClientSettings.url", "must begin with 'pulsar://'"),
        (
            {"SAFEPULSAR_URL": _URL, "SAFEPULSAR_DEADLINE": 1},
            "SAFEPULSAR_DEADLINE",
            "other settings go into CLIENT, SEN",
        ),
        (
            {"SAFEPULSAR_URL": _URL, "SAFEPULSAR_CLIENT": ClientSettings(url=_URL)},
            "SAFEPULSAR_CLIENT",
            "says url already",
        ),
        ({"SAFEPULSAR_CLIENT": _URL}, "SAFEPULSAR_CLIENT", "must be a mapping or ClientSettings, not str"),
        ({"SAFEPULSAR_URL": _URL, "SAFEPULSAR_SENDER": 1}, "SAFEPULSAR_SENDER", "must be a mapping or SenderSettings"),
        (
            {"SAFEPULSAR_URL": _URL, "SAFEPULSAR_SENDER": {"deadline": 1}},
            "SenderSettings.deadline",
            "did you mean 'deadline_seconds'?",
        ),
        ({"SAFEPULSAR_URL": _URL, "SAFEPULSAR_REQUEST": []}, "SAFEPULSAR_REQUEST", "must be a mapping or RequestCon"),
        (
            {"SAFEPULSAR_URL": _URL, "SAFEPULSAR_FAILED_MESSAGES": 7},
            "SAFEPULSAR_FAILED_MESSAGES",
            "must be a path, not 7",
        ),
    ],
)
def test_bad_configuration_is_refused(values: dict[str, Any], field: str, problem: str) -> None:
    """
    A typed error names the entry and the remedy.
    """
    with pytest.raises(InvalidSettings) as caught:
        Configuration.read(values)
    assert caught.value.field == field
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("module", "hidden", "remedy"),
    [
        ("flask", "flask", 'safepulsar.adapters.flask needs Flask: pip install "safepulsar[flask]"'),
        ("fastapi", "fastapi", 'pip install "safepulsar[fastapi]"'),
        ("fastapi", "pydantic_settings", 'pip install "safepulsar[fastapi]"'),
        ("celery", "celery", 'safepulsar.adapters.celery needs Celery: pip install "safepulsar[celery]"'),
    ],
)
def test_a_missing_framework_names_its_extra(module: str, hidden: str, remedy: str) -> None:
    """
    An ImportError says what to install.
    """
    source = f"""
        import sys
        sys.modules[{hidden!r}] = None
        try:
            import safepulsar.adapters.{module}
        except ImportError as error:
            print(error)
    """
    assert remedy in run_script(source).check()


def test_the_others_need_no_framework() -> None:
    """
    Plain ASGI and threads work without any extra, and `import safepulsar` imports none.
    """
    source = """
        import sys
        import safepulsar
        assert "asyncio" not in sys.modules
        import safepulsar.adapters.asgi, safepulsar.adapters.threads
        for name in ("flask", "werkzeug", "fastapi", "starlette", "pydantic", "celery"):
            assert name not in sys.modules, name
    """
    run_script(source).check()


def test_what_belongs_to_the_command_is_no_mistake() -> None:
    """
    An environment may have variables for both.
    """
    others = {"SAFEPULSAR_DEBUG": "1", "SAFEPULSAR_SEAL_KEYS": "seals.json", "SAFEPULSAR_STORE_KEYS": "keys.json"}
    read = Configuration.read({"SAFEPULSAR_URL": "pulsar://localhost:6650", **others})
    assert read.client.url == "pulsar://localhost:6650"
