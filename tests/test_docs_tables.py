"""
What the tables of the docs say is what the code says: settings, errors, events, options, JSON keys, layers, threads.
"""

from __future__ import annotations

import inspect
import json
import re
import time
from dataclasses import MISSING, Field, fields
from typing import TYPE_CHECKING, Any, Final

import pytest
import typer.core
import typer.main

import safepulsar
from safepulsar import errors
from safepulsar.broker.client_registry import ClientRegistry
from safepulsar.broker.outcomes import markdown
from safepulsar.cli.app import app
from safepulsar.cli.listing import line as listed
from safepulsar.cli.send import Summary
from safepulsar.doctor import Finding
from safepulsar.failed_messages import SqliteFailedMessages, to_json
from safepulsar.message import ID_PROPERTY, Attempt, Certainty, FailedMessage, Message
from safepulsar.sender import RetryingSender
from safepulsar.sending.replay import ReplayReport
from tests.docs_pages import ROOT, quoted, rows, section, snippets
from tests.test_layers import _LAYERS, _NOT_YET

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safepulsar.settings import Settings

_DOCS: Final = ROOT / "docs"


# -- settings ----------------------------------------------------------------------------------------------------

_CONFIGURATION: Final = _DOCS / "configuration.md"
_SETTINGS: Final[list[type[Settings]]] = [
    safepulsar.ClientSettings,
    safepulsar.PoolSettings,
    safepulsar.ProducerSettings,
    safepulsar.RetrySettings,
    safepulsar.SenderSettings,
    safepulsar.TopicSettings,
]
# What the cells of the tables may name.
_NAMES: Final = {
    **{name: getattr(safepulsar, name) for name in safepulsar.__all__},
    "safepulsar": safepulsar,
    "time": time,
}


def _default(item: Field[Any]) -> object:
    return item.default if item.default_factory is MISSING else item.default_factory()


def _defaults_in_table(owner: str) -> dict[str, object]:
    """
    What the table below a heading says: the default of each name, MISSING where it is required.
    """
    found: dict[str, object] = {}
    for name, default, meaning in rows(section(_CONFIGURATION, owner)):
        assert meaning, f"{owner}.{name} needs its consequence"
        text = default.strip("`")
        # Our own page: its cells are expressions such as `64 * 1024 * 1024`, because a reader understands those.
        value = MISSING if text == "required" else eval(text, dict(_NAMES))  # noqa: S307
        found[name.strip("`")] = value
    return found


def test_every_kind_of_settings_is_in_the_list() -> None:
    """
    A new kind of settings that is public is documented, or this list shows that it is not.
    """
    public = {name for name in safepulsar.__all__ if name.endswith("Settings") and not name.startswith("Invalid")}
    assert {kind.__name__ for kind in _SETTINGS} == public


@pytest.mark.parametrize("kind", _SETTINGS, ids=lambda kind: kind.__name__)
def test_every_setting_is_documented_with_its_default(kind: type[Settings]) -> None:
    """
    The table of a kind of settings has every setting, no other one, and the true defaults.
    """
    assert _defaults_in_table(kind.__name__) == {item.name: _default(item) for item in fields(kind)}


@pytest.mark.parametrize("kind", [RetryingSender, SqliteFailedMessages, ClientRegistry], ids=lambda kind: kind.__name__)
def test_every_argument_is_documented_with_its_default(kind: type) -> None:
    """
    So has the table of a class that is made with arguments.
    """
    real = {
        name: MISSING if parameter.default is inspect.Parameter.empty else parameter.default
        for name, parameter in inspect.signature(kind).parameters.items()
    }
    assert _defaults_in_table(kind.__name__) == real


# -- errors and events -------------------------------------------------------------------------------------------


def test_the_table_of_codes_is_the_code_s_own() -> None:
    """
    Every code stands in the docs with the verdict that the package really gives.
    """
    page = (_DOCS / "errors.md").read_text(encoding="utf-8")
    assert markdown() in page, "put the output of safepulsar.broker.outcomes.markdown() into docs/errors.md"


def test_the_tree_of_errors_is_the_code_s_own() -> None:
    """
    The page draws the same tree as the module.
    """
    (drawn,) = (each.text for each in snippets(_DOCS / "errors.md") if each.language == "text")
    docstring = inspect.getdoc(errors) or ""
    assert drawn == inspect.cleandoc(docstring[docstring.index("    SafePulsarError") :]) + "\n"


def test_every_event_of_the_log_is_explained() -> None:
    """
    Whatever a user finds in the log is in Troubleshooting, and nothing that can't be found.
    """
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "safepulsar").rglob("*.py")]
    logged = {
        name for source in sources for name in re.findall(r"log\.\w+\([^\"]{0,120}\"(safepulsar\.[a-z_]+)\"", source)
    }
    explained = {
        name for row in rows(section(_DOCS / "troubleshooting.md", "What the log says")) for name in quoted(row[0])
    }
    assert explained == logged


# -- the command line --------------------------------------------------------------------------------------------

_COMMAND_LINE: Final = _DOCS / "command-line.md"


def _commands() -> Iterator[tuple[str, str, set[str]]]:
    """
    Yield the heading, the name and the options of each command.
    """
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    for name, command in group.commands.items():
        inner = command.commands if isinstance(command, typer.core.TyperGroup) else {name: command}
        for each, leaf in inner.items():
            options = {
                option
                for parameter in leaf.params
                for option in (*parameter.opts, *parameter.secondary_opts)
                if option.startswith("--") and option != "--help"
            }
            yield name, each, options


@pytest.mark.parametrize(
    ("heading", "command", "options"), list(_commands()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_option_is_documented(heading: str, command: str, options: set[str]) -> None:
    """
    A command's section names each of its options, and none that no command has.
    """
    lines = section(_COMMAND_LINE, heading)
    named = {match for line in lines for text in quoted(line) for match in re.findall(r"--[a-z-]+", text)}
    assert command in " ".join(lines) or command == heading
    assert options <= named
    every = {option for _, _, some in _commands() for option in some}
    assert named <= every


def _failed_message() -> FailedMessage:
    attempt = Attempt(started_at=1.0, elapsed_seconds=0.5, code="Timeout", maybe_stored=True)
    return FailedMessage(
        message=Message(topic="persistent://public/default/orders", payload=b"x"),
        certainty=Certainty.MAYBE_STORED,
        error="Timeout",
        attempts=(attempt,),
        accepted_at=1.0,
        first_failed_at=1.0,
        last_failed_at=1.0,
        id=1,
    )


@pytest.mark.parametrize(
    ("heading", "keys"),
    [
        ("send", [item.name for item in fields(Summary)]),
        ("list", list(listed(_failed_message()))),
        ("replay", [*(item.name for item in fields(ReplayReport)), "dry_run"]),
        ("export", [*to_json(_failed_message()), *(item.name for item in fields(Attempt))]),
        ("purge", ["purged", "dry_run"]),
        ("doctor", ["ok", "url", "findings", *(item.name for item in fields(Finding))]),
    ],
)
def test_every_json_key_is_documented(heading: str, keys: list[str]) -> None:
    """
    What scripts depend on stands in the section of its command, in its text or in an example.
    """
    lines = section(_COMMAND_LINE, heading)
    named = {text for line in lines for text in quoted(line)} | _keys_of_examples(heading)
    assert set(keys) <= named


def _keys_of_examples(heading: str) -> set[str]:
    examples = re.findall(r"^#> (\{.*\})$", "".join(each.text for each in snippets(_COMMAND_LINE)), re.MULTILINE)
    found = [set(json.loads(example.replace("…", "0"))) for example in examples]
    marks = {"list": "size_bytes", "replay": "skipped", "send": "read", "purge": "purged"}
    return set().union(*(keys for keys in found if marks.get(heading) in keys))


# -- design -------------------------------------------------------------------------------------------------------


def test_the_table_of_layers_is_the_tests_own() -> None:
    """
    The picture shows the layers that imports are checked by, from the top down.
    """
    drawn = {layer: sorted(quoted(modules)) for layer, modules in rows(section(_DOCS / "design.md", "Layers"))}
    assert drawn == {layer: sorted(set(names) - _NOT_YET) for layer, names in _LAYERS.items()}
    assert list(drawn) == list(reversed(_LAYERS))


def test_every_name_of_a_thread_is_explained() -> None:
    """
    Whoever looks at the threads of a process finds ours in the picture.
    """
    parts = ("", "books", "broker/producer_pool", "delivery", "exactly_once", "outbox", "processes", "sending")
    paths = [path for part in parts for path in (ROOT / "safepulsar" / part).glob("*.py")]
    sources = [path.read_text(encoding="utf-8") for path in paths]
    started = {name for source in sources for name in re.findall(r"\"(safepulsar-[a-z]+)[^\"]*\"", source)}
    assert "safepulsar-send" in started
    started.discard(ID_PROPERTY)  # no thread
    explained = {
        name.split()[0].removesuffix("-N")
        for row in rows(section(_DOCS / "design.md", "Threads"))
        for name in quoted(row[0])
    }
    assert started <= explained
