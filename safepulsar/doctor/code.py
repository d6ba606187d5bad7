"""
Looks into source files for the raw client used as its documentation shows, which is where most hazards begin.

By their syntax only: nothing is imported and nothing is run.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from safepulsar.doctor.finding import Finding, Level
from safepulsar.errors import InvalidInput

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

_SKIPPED: Final = frozenset({".git", ".nox", ".tox", ".venv", "__pycache__", "build", "node_modules", "site-packages"})
_MOST_FILES: Final = 20_000
_SENDING: Final = frozenset({"send", "send_async"})
_FIELDS: Final = ("sequence_id", "event_timestamp", "partition_key", "ordering_key")
_PLACES: Final = 5  # that are named of each hazard
_ORDER: Final = {
    "client-at-import": (
        Level.BAD,
        "a client is made at import: a child that is forked afterwards (preload, prefork, multiprocessing) hangs",
        "make a RetryingSender, which opens nothing before its first use and starts afresh in a child",
    ),
    "client-per-call": (
        Level.WARN,
        "a client is made in a function: one for each call costs connections and threads until there are no more",
        "one RetryingSender for the process, whose senders share a client",
    ),
    "producer-per-message": (
        Level.WARN,
        "a producer is made in the function that sends: creating one takes longer than hundreds of messages",
        "RetryingSender.send(topic, …), which keeps one for each topic",
    ),
    "never-closed": (
        Level.BAD,
        "a client is made and never closed: the process aborts at its exit, and what is pending is lost",
        "with RetryingSender(…) as sender",
    ),
    "asyncio": (
        Level.WARN,
        "pulsar.asyncio: a cancelled await is sent all the same, and a loop that closes aborts the process",
        "await sender.submit(…)",
    ),
    "flush-async": (
        Level.BAD,
        "flush_async holds the interpreter's lock while it waits, and can freeze all threads for ever",
        "sender.flush(timeout)",
    ),
    "router": (
        Level.BAD,
        "a message router is called on the client's own thread, freezes all others, and crashes the process if it raises",
        "partition_key=…, by which messages are routed without one",
    ),
    "logger": (
        Level.BAD,
        "a logger of Python's is given to the client, which calls it while the interpreter ends, and aborts",
        "safepulsar.logs.ClientLog, which reads the client's log from its file",
    ),
    "unseen-outcome": (
        Level.BAD,
        "send_async without a look at its result: what failed is lost without a word",
        "handle = sender.submit(…), and handle.result() or a done callback; what fails is kept",
    ),
    "callback": (
        Level.WARN,
        "send_async with a callback: one that raises silences others or aborts, one that blocks or sends hangs the client",
        "sender.submit(…).add_done_callback(…), which runs on a thread of its own",
    ),
    "full-queue": (
        Level.WARN,
        "a producer whose full queue raises nothing: past 1,000 pending messages only callbacks hear of it",
        "sender.submit(…), which waits, raises or keeps, as WhenFull says",
    ),
    "slow-batches": (
        Level.WARN,
        "a producer that batches, and sends that wait: each takes the batching delay longer, 10 ms by default",
        "sender.send(…), which closes a batch when someone waits",
    ),
    "close-without-flush": (
        Level.BAD,
        "send_async, and a close without a flush before it: what still waits fails, and nothing of it is sent",
        "with RetryingSender(…) as sender, which drains before it closes",
    ),
    "nothing": (
        Level.BAD,
        "an id or a time of 0, or an empty key: the client takes it for none, without a word",
        "leave it out; sender.submit(…) refuses it",
    ),
    "mixed-keys": (
        Level.WARN,
        "keys on a producer whose batches mix them: a Key_Shared subscription gives a batch to one consumer as a whole",
        "sender.submit(…, partition_key=…), which sends what has a key one by one",
    ),
    "ids-in-batches": (
        Level.BAD,
        "sequence ids on a producer that batches: deduplication knows a batch by its first id, and loses or doubles the rest",
        "TopicSettings(producer_name=…, exactly_once=True), which counts by itself",
    ),
    "last-sequence-id": (
        Level.WARN,
        "last_sequence_id is counted up from a batch's first id: it can be one that was never sent",
        "TopicSettings(producer_name=…, exactly_once=True), which reads the topic back",
    ),
    "daemon-thread": (
        Level.BAD,
        "a daemon thread where messages are sent: one that sends while the process ends aborts it",
        "sender.submit(…), which may be called in any thread until the end",
    ),
    "tls-name": (
        Level.BAD,
        "TLS without a look at the host name: the client's default gives your token to any server with a certificate",
        "ClientSettings(url=…), which validates it",
    ),
}


@dataclass(frozen=True, slots=True)
class _Seen:
    """
    One hazard at one place.
    """

    hazard: str
    place: str


def examine_code(path: str | os.PathLike[str]) -> list[Finding]:
    """
    Look into a file, or into every Python file below a folder; each hazard that was seen is a finding.

    Raises:
        InvalidInput: there is no such file or folder.
    """
    root = Path(path)
    if not root.exists():
        raise InvalidInput("--code", f"there is nothing at {str(root)!r}")
    seen: list[_Seen] = []
    files = 0
    for file in _files(root):
        files += 1
        seen += _examine(file, file.name if root.is_file() else file.relative_to(root).as_posix())
    findings: list[Finding] = []
    for hazard, (level, what, remedy) in _ORDER.items():
        places = [each.place for each in seen if each.hazard == hazard]
        if places:
            more = f" and {len(places) - _PLACES} more" if len(places) > _PLACES else ""
            where = f"{', '.join(places[:_PLACES])}{more}"
            findings.append(Finding(id=f"code-{hazard}", level=level, what=f"{where}: {what}", remedy=remedy))
    if not findings:
        what = f"no hazardous use of the raw client in {files:,} Python file{'' if files == 1 else 's'}"
        findings.append(Finding(id="code", level=Level.OK, what=what))
    return findings


def _files(root: Path) -> Iterator[Path]:
    if root.is_file():
        yield root
        return
    found = (
        file
        for file in sorted(root.rglob("*.py"))
        if not _SKIPPED & set(file.relative_to(root).parts) and file.is_file() and not file.is_symlink()
    )
    for _, file in zip(range(_MOST_FILES), found, strict=False):
        yield file


def _examine(file: Path, name: str) -> list[_Seen]:
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return []  # of another Python, or no Python at all
    look = _Look(tree)
    if not look.uses_pulsar:
        return []
    return [_Seen(hazard, f"{name}:{line}") for hazard, line in look.hazards()]


class _Look:
    """
    One file that may use the raw client.
    """

    def __init__(self, tree: ast.Module) -> None:
        self._tree = tree
        self._names: dict[str, str] = {}  # here, and in `pulsar`
        self._async: list[int] = []
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name.split(".")[0] == "pulsar":
                        self._names[alias.asname or "pulsar"] = "pulsar"
                        if alias.name == "pulsar.asyncio":
                            self._async.append(node.lineno)
            elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "pulsar":
                for alias in node.names:
                    self._names[alias.asname or alias.name] = f"pulsar.{alias.name}"
                if node.module == "pulsar.asyncio" or any(alias.name == "asyncio" for alias in node.names):
                    self._async.append(node.lineno)
        self.uses_pulsar = bool(self._names)

    def hazards(self) -> Iterator[tuple[str, int]]:
        """
        Each with its line.
        """
        for line in self._async:
            yield "asyncio", line
        calls = [node for node in ast.walk(self._tree) if isinstance(node, ast.Call)]
        methods = {node.func.attr for node in calls if isinstance(node.func, ast.Attribute)}
        inside = self._inside()
        batches = any(_is_true(_argument(call, "batching_enabled")) for call in calls)
        by_key = any(isinstance(node, ast.Attribute) and node.attr == "KeyBased" for node in ast.walk(self._tree))
        for call in calls:
            where = inside.get(call)
            if self._is_client(call):
                yield from self._client(call, where, methods)
            elif _callee(call) == "Thread":
                if _is_true(_argument(call, "daemon")) and methods & _SENDING:
                    yield "daemon-thread", call.lineno
            elif isinstance(call.func, ast.Attribute):
                yield from self._method(call, call.func.attr, where, methods)
                if call.func.attr in _SENDING:
                    yield from _message(call, batches=batches, by_key=by_key)

    def _client(self, call: ast.Call, where: ast.AST | None, methods: set[str]) -> Iterator[tuple[str, int]]:
        if where is None:
            yield "client-at-import", call.lineno
        elif getattr(where, "name", "") not in ("main", "__init__", "__enter__", "open", "setup", "lifespan"):
            yield "client-per-call", call.lineno
        if "close" not in methods:
            yield "never-closed", call.lineno
        logger = _argument(call, "logger")
        if logger is not None and _callee(logger) not in ("ConsoleLogger", "FileLogger"):
            yield "logger", call.lineno
        url = call.args[0] if call.args else _argument(call, "service_url")
        encrypted = isinstance(url, ast.Constant) and str(url.value).startswith("pulsar+ssl://")
        if encrypted and not _is_true(_argument(call, "tls_validate_hostname")):
            yield "tls-name", call.lineno

    def _method(self, call: ast.Call, name: str, where: ast.AST | None, methods: set[str]) -> Iterator[tuple[str, int]]:
        if name == "flush_async":
            yield "flush-async", call.lineno
        elif name == "send_async":
            callback = call.args[1] if len(call.args) > 1 else _argument(call, "callback")
            blind = callback is None or (isinstance(callback, ast.Constant) and callback.value is None)
            empty = isinstance(callback, ast.Lambda) and isinstance(callback.body, ast.Constant)
            yield ("unseen-outcome" if blind or empty else "callback"), call.lineno
            if "close" in methods and not methods & {"flush", "flush_async"}:
                yield "close-without-flush", call.lineno
        elif name == "last_sequence_id":
            yield "last-sequence-id", call.lineno
        elif name == "create_producer":
            if _argument(call, "message_router") is not None:
                yield "router", call.lineno
            if "send_async" in methods and not _is_true(_argument(call, "block_if_queue_full")):
                yield "full-queue", call.lineno
            if "send" in methods and _is_true(_argument(call, "batching_enabled")):
                yield "slow-batches", call.lineno
            if where is not None and getattr(where, "name", "") != "main" and _sends(where):
                yield "producer-per-message", call.lineno

    def _is_client(self, call: ast.Call) -> bool:
        func = call.func
        if isinstance(func, ast.Name):
            return self._names.get(func.id) == "pulsar.Client"
        return (
            isinstance(func, ast.Attribute)
            and func.attr == "Client"
            and isinstance(func.value, ast.Name)
            and self._names.get(func.value.id) == "pulsar"
        )

    def _inside(self) -> dict[ast.AST, ast.AST]:
        """
        The innermost function around each node that is in one.
        """
        found: dict[ast.AST, ast.AST] = {}
        for node in ast.walk(self._tree):  # from the outside in, so that inner ones overwrite
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                found.update(dict.fromkeys(ast.walk(node), node))
        guarded = [
            node
            for node in self._tree.body
            if isinstance(node, ast.If) and isinstance(node.test, ast.Compare) and "__main__" in ast.dump(node.test)
        ]
        (main,) = ast.parse("def main(): pass").body
        for block in guarded:  # not at import
            for node in ast.walk(block):
                found.setdefault(node, main)
        return found


def _message(call: ast.Call, *, batches: bool, by_key: bool) -> Iterator[tuple[str, int]]:
    """
    What is wrong with what one message is sent with.
    """
    given = {name: value for name in _FIELDS if (value := _argument(call, name)) is not None}
    if any(isinstance(value, ast.Constant) and value.value in (0, "") for value in given.values()):
        yield "nothing", call.lineno
    if batches and _is_true(given.get("sequence_id")):
        yield "ids-in-batches", call.lineno
    if batches and not by_key and (_is_true(given.get("partition_key")) or _is_true(given.get("ordering_key"))):
        yield "mixed-keys", call.lineno


def _argument(call: ast.Call, name: str) -> ast.expr | None:
    return next((keyword.value for keyword in call.keywords if keyword.arg == name), None)


def _is_true(value: ast.expr | None) -> bool:
    # What is not written out may be anything, and is given the benefit of the doubt.
    return value is not None and not (isinstance(value, ast.Constant) and not value.value)


def _callee(value: ast.expr) -> str:
    func = value.func if isinstance(value, ast.Call) else value
    return func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else ""


def _sends(where: ast.AST) -> bool:
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _SENDING
        for node in ast.walk(where)
    )
