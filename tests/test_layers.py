"""
The picture of the layers is true: imports go down only, in no circle, and only one place knows the official client.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

_PACKAGE = Path(__file__).parents[1] / "safepulsar"
_MAX_LINES = 400

# From the bottom up. A package stands for all of its modules.
_LAYERS = {
    "words": ["errors", "message", "settings"],
    "pure steps": [
        "at_fork",
        "checks",
        "detachment",
        "integrity",
        "logs",
        "observing",
        "request_context",
        "request_headers",
        "serialization",
        "steps",
        "topics",
    ],
    "process": ["processes"],
    "broker": ["broker"],
    "books": ["books", "failed_messages", "receiving"],
    "exactly once": ["exactly_once", "outbox"],
    "delivery": ["delivery"],
    "sending": ["sending"],
    "use": ["async_sender", "durable_source", "health", "sender"],
    "edges": [
        "__init__",
        "__main__",
        "adapters",
        "broker_process",
        "cli",
        "doctor",
        "local_broker",
        "metrics",
        "testing",
        "tracing",
    ],
}
_NOT_YET: set[str] = set()
_LAYER_OF = {name: layer for layer, names in _LAYERS.items() for name in names}
_RANK_OF = {layer: rank for rank, layer in enumerate(_LAYERS)}

_MAY_IMPORT_PULSAR = {"local_broker", "cli", "doctor", "testing"}
# certifi comes with the official client, which trusts its authorities.
_CORE_DEPENDENCIES = {"pulsar", "_pulsar", "certifi", "tenacity", "typing_extensions"}
# Below the edges: modules of their own, or functions that look for them when they are needed.
_EXTRAS = {
    "safepulsar.failed_messages.encryption": {"cryptography"},
    "safepulsar.integrity": {"crc32c", "xxhash"},
    "safepulsar.serialization.avro": {"fastavro"},
    "safepulsar.serialization.json_text": {"msgspec", "orjson"},
    "safepulsar.serialization.models": {"pydantic", "pydantic_core"},
    "safepulsar.serialization.protobuf": {"google"},
    "safepulsar.serialization.structs": {"msgspec"},
}


class _Import(NamedTuple):
    """
    One import that happens at run time.
    """

    module: str
    line: int


def _module_name(path: Path) -> str:
    parts = ["safepulsar", *path.relative_to(_PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


_PATHS = {_module_name(path): path for path in sorted(_PACKAGE.rglob("*.py"))}


def _name_in_table(module: str) -> str:
    """
    `settings` of `safepulsar.settings.client`, and `__init__` of `safepulsar` itself.
    """
    return module.split(".")[1] if "." in module else "__init__"


def _is_for_types_only(node: ast.If) -> bool:
    test = node.test
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _statements(node: ast.AST) -> Iterator[ast.stmt]:
    """
    All statements below, also in functions, but not those that only a type checker reads.
    """
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and _is_for_types_only(child):
            for each in child.orelse:
                yield each
                yield from _statements(each)
            continue
        if isinstance(child, ast.stmt):
            yield child
        yield from _statements(child)


def _imports(module: str, tree: ast.Module) -> Iterator[_Import]:
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield _Import(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".") if _PATHS[module].name == "__init__.py" else module.split(".")[:-1]
            base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
            origin = base if node.level else node.module or ""
            for alias in node.names:
                submodule = f"{origin}.{alias.name}"
                yield _Import(submodule if submodule in _PATHS else origin, node.lineno)


_IMPORTS = {
    module: list(_imports(module, ast.parse(path.read_text(encoding="utf-8")))) for module, path in _PATHS.items()
}
_modules = pytest.mark.parametrize("module", _PATHS)


@_modules
def test_every_module_has_a_layer(module: str) -> None:
    """
    A new module says where it belongs before anything else.
    """
    name = _name_in_table(module)
    assert name in _LAYER_OF, (
        f"{_PATHS[module]} is in no layer: put {name!r} into the table of this test and of docs/design.md, as low as its "
        "imports allow"
    )


def test_the_table_has_no_module_that_is_gone() -> None:
    """
    What is in the table exists.
    """
    gone = {name for name in _LAYER_OF if name not in set(map(_name_in_table, _PATHS)) | {"__init__"}}
    assert gone <= _NOT_YET, f"in the table, but not in the package: {sorted(gone - _NOT_YET)}"


@_modules
def test_imports_go_down_only(module: str) -> None:
    """
    At run time a module imports from its own layer and from those below, never from above.
    """
    layer = _LAYER_OF.get(_name_in_table(module), "edges")
    wrong = [
        f"{_PATHS[module]}:{line} ({layer}) imports {imported} ({_LAYER_OF[_name_in_table(imported)]})"
        for imported, line in _IMPORTS[module]
        if imported.split(".")[0] == "safepulsar"
        and _name_in_table(imported) in _LAYER_OF
        and _RANK_OF[_LAYER_OF[_name_in_table(imported)]] > _RANK_OF[layer]
    ]
    assert not wrong, f"imports go down only; move the module, or pass the thing in: {wrong}"


def test_no_imports_in_a_circle() -> None:
    """
    However a module is reached first, nothing that it needs needs it: there is no circle of imports at run time.
    """
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"imports in a circle: {' -> '.join((*path[path.index(module) :], module))}"
        if module in done:
            return
        for imported, _ in _IMPORTS[module]:
            if imported in _PATHS:
                visit(imported, (*path, module))
        done.add(module)

    for module in _PATHS:
        visit(module, ())


@_modules
def test_only_one_place_knows_the_official_client(module: str) -> None:
    """
    Units, results and hazards of the official client stay in `broker.pulsar_client`; only edges that need it raw see it too.
    """
    if _name_in_table(module) in _MAY_IMPORT_PULSAR or module.startswith("safepulsar.broker.pulsar_client"):
        return
    wrong = [
        f"{_PATHS[module]}:{line}" for name, line in _IMPORTS[module] if name.split(".")[0] in {"pulsar", "_pulsar"}
    ]
    assert not wrong, f"import what `safepulsar.broker.pulsar_client` makes of it instead: {wrong}"


@_modules
def test_the_core_needs_no_extra(module: str) -> None:
    """
    Below the edges nothing is imported but the standard library, the three core dependencies, and known extras.
    """
    if _LAYER_OF.get(_name_in_table(module)) == "edges" and module != "safepulsar":
        return
    allowed = sys.stdlib_module_names | _CORE_DEPENDENCIES | {"safepulsar"} | _EXTRAS.get(module, set())
    wrong = [
        f"{_PATHS[module]}:{line} imports {name}"
        for name, line in _IMPORTS[module]
        if name.split(".")[0] not in allowed
    ]
    assert not wrong


@_modules
def test_no_module_is_long(module: str) -> None:
    """
    One module, one noun or step: whatever grows beyond the ceiling is two.
    """
    lines = len(_PATHS[module].read_text(encoding="utf-8").splitlines())
    assert lines <= _MAX_LINES, f"{_PATHS[module]} has {lines} lines; find the two nouns in it and part them"


@pytest.mark.parametrize(
    ("source", "imported"),
    [
        ("import safepulsar.errors", ["safepulsar.errors"]),
        ("from safepulsar import errors", ["safepulsar.errors"]),
        ("from safepulsar import RetryingSender", ["safepulsar"]),
        ("from safepulsar.errors import QueueFull", ["safepulsar.errors"]),
        ("from . import errors", ["safepulsar.errors"]),
        ("from .errors import QueueFull", ["safepulsar.errors"]),
        ("def f():\n    import rich", ["rich"]),
        ("try:\n    import rich\nexcept ImportError:\n    rich = None", ["rich"]),
        ("if TYPE_CHECKING:\n    import rich\nelse:\n    import typer", ["typer"]),
        ("if typing.TYPE_CHECKING:\n    import rich", []),
        ("class C:\n    if x:\n        from rich.table import Table", ["rich.table"]),
    ],
)
def test_every_kind_of_import_is_seen(source: str, imported: list[str]) -> None:
    """
    Imports in functions, branches and packages count; those for a type checker don't.
    """
    assert [each.module for each in _imports("safepulsar.steps", ast.parse(source))] == imported
