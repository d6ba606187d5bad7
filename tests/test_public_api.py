"""
What applications import: exactly these names, all explained, and cheap to have.
"""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
from enum import Enum
from pathlib import Path

import pytest

import safepulsar
from safepulsar import errors, settings
from tests.subprocesses import run_script

# Whoever changes this changes what applications rely on: CHANGELOG.md says so, and the version follows.
_NAMES = [
    "AccessMode",
    "Attempt",
    "AuthenticationFailed",
    "AuthorizationFailed",
    "BrokerError",
    "BrokerUnavailable",
    "Certainty",
    "ClientRegistry",
    "ClientSettings",
    "CloseReport",
    "Compression",
    "Counts",
    "CreationBackoff",
    "DeadlineExceeded",
    "Draft",
    "DurableSource",
    "Durability",
    "FailedMessage",
    "FailedMessageFilter",
    "FailedMessageState",
    "FailedMessageStore",
    "Fate",
    "ForkedProcess",
    "InMemoryFailedMessages",
    "IncompatibleSchema",
    "InvalidInput",
    "InvalidMessage",
    "InvalidSettings",
    "InvalidTopic",
    "Lane",
    "LaneNotPaused",
    "LanePaused",
    "LanePolicy",
    "LaneState",
    "LogLevel",
    "Message",
    "MessageId",
    "MessageRefused",
    "MessageTooBig",
    "NoCurrentSender",
    "NoRunningLoop",
    "NoSuchFailedMessage",
    "PoolClosed",
    "PoolSettings",
    "PoolStats",
    "ProducerBusy",
    "ProducerFenced",
    "ProducerGone",
    "ProducerNameInUse",
    "ProducerPool",
    "ProducerSettings",
    "QueueFull",
    "QuotaExceeded",
    "ReplayReport",
    "RetryingSender",
    "RetrySettings",
    "SafePulsarError",
    "Schema",
    "SchemaKind",
    "Seal",
    "SealBroken",
    "SealKind",
    "SendCancelled",
    "SendFailed",
    "SendHandle",
    "SendReport",
    "SendResult",
    "SendTimeout",
    "SenderClosed",
    "SenderSettings",
    "SenderStats",
    "SequenceAllocator",
    "SequenceLane",
    "SqliteFailedMessages",
    "Step",
    "StepFailed",
    "StoreCorrupted",
    "StoreError",
    "StoreFull",
    "StoreInsecure",
    "StoreOfAnotherProducer",
    "StoreTooNew",
    "StoreUnavailable",
    "TopicNotFound",
    "TopicSettings",
    "TopicTerminated",
    "WhenFull",
    "replay",
]
_STORES = (safepulsar.InMemoryFailedMessages, safepulsar.SqliteFailedMessages)  # explained by what they implement
_OBJECTS = [pytest.param(getattr(safepulsar, name), id=name) for name in _NAMES]


def test_these_names_are_public() -> None:
    """
    `safepulsar` offers these names, no fewer and no more.
    """
    assert sorted(safepulsar.__all__) == sorted(_NAMES)


def test_the_package_itself_holds_imports_and_the_list_of_names_only() -> None:
    """
    `safepulsar/__init__.py` has no code but imports, a sorted `__all__` of what it imports, and the version's look-up.
    """
    tree = ast.parse(Path(safepulsar.__file__).read_text(encoding="utf-8"))
    docstring, *rest = tree.body
    assert isinstance(docstring, ast.Expr)
    imports = [node for node in rest if isinstance(node, ast.ImportFrom)]
    assert all((node.module or "").startswith("safepulsar.") for node in imports)
    names, version = rest[len(imports) :]
    assert isinstance(names, ast.Assign)
    assert isinstance(version, ast.FunctionDef)
    assert version.name == "__getattr__"
    listed = ast.literal_eval(names.value)
    assert listed == sorted(listed)
    assert listed == sorted(alias.asname or alias.name for node in imports for alias in node.names)


def test_every_error_and_setting_is_public() -> None:
    """
    Whatever can be raised can be caught by a public name, and whatever is configured has one.
    """
    made = {
        name
        for module in (errors, settings)
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, (errors.SafePulsarError, settings.Settings, Enum))
    }
    assert made - {"Settings", "Enum"} <= set(_NAMES)


@pytest.mark.parametrize("thing", _OBJECTS)
def test_everything_public_is_explained(thing: object) -> None:
    """
    Each public class and function, and each public method and property, has a docstring of its own.
    """
    assert inspect.isclass(thing) or inspect.isfunction(thing)
    assert _is_explained(thing), thing
    if inspect.isclass(thing):
        promised = vars(safepulsar.FailedMessageStore) if thing in _STORES else {}
        silent = [
            name
            for name, value in vars(thing).items()
            if not name.startswith("_")
            and (inspect.isfunction(value) or isinstance(value, (property, staticmethod, classmethod)))
            and not _is_explained(value)
            and not _is_explained(promised.get(name))
        ]
        assert not silent


def _is_explained(thing: object) -> bool:
    text = vars(thing).get("__doc__") if inspect.isclass(thing) else getattr(thing, "__doc__", None)
    return isinstance(text, str) and len(text.split()) >= 3 and text.strip()[0].isupper()


def test_all_names_can_be_imported_at_once() -> None:
    """
    `from safepulsar import *` works and brings nothing else.
    """
    namespace: dict[str, object] = {}
    exec("from safepulsar import *", namespace)  # noqa: S102 - our own text
    namespace.pop("__builtins__")
    assert sorted(namespace) == sorted(_NAMES)


def test_the_version_is_that_of_the_installed_package() -> None:
    """
    `safepulsar.__version__` is what the package's metadata say.
    """
    try:
        version = importlib.metadata.version("safepulsar")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package is not installed, only on the path")
    assert safepulsar.__version__ == version


def test_an_unknown_name_is_an_attribute_error() -> None:
    """
    The look-up of the version answers for nothing else.
    """
    with pytest.raises(AttributeError, match="module 'safepulsar' has no attribute 'Sender'"):
        safepulsar.Sender  # noqa: B018 - looking it up is the test
    assert not hasattr(safepulsar, "__path_to_nowhere__")


def test_the_package_is_typed() -> None:
    """
    Type checkers of applications read our annotations.
    """
    assert Path(safepulsar.__file__).with_name("py.typed").exists()


def test_importing_costs_no_extras() -> None:
    """
    `import safepulsar` needs no extra, imports no event loop or TLS that the official client doesn't, and does nothing.
    """
    result = run_script(
        """
        import signal, sys, threading
        import pulsar
        before = set(sys.modules)
        import safepulsar
        heavy = {"typer", "rich", "click", "pulsar_lite", "flask", "fastapi", "asyncio", "ssl", "tempfile", "difflib",
                 "msgspec", "orjson", "pydantic", "fastavro", "google.protobuf", "crc32c", "xxhash", "cryptography",
                 "uuid", "decimal", "importlib.metadata", "multiprocessing", "subprocess", "http", "urllib.request"}
        print(sorted(heavy & (set(sys.modules) - before)))
        print(threading.active_count(), signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
        """,
        timeout_seconds=30,
    )
    assert result.check() == "[]\n1 True\n"
