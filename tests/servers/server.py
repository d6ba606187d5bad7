"""
Web servers as processes: started by their own commands, asked until they answer, signalled, and waited for.
"""

from __future__ import annotations

import http.client
import os
import signal
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from safepulsar.broker_process import LOOPBACK, free_port
from tests.subprocesses import Script
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from typing_extensions import Self

    from tests.subprocesses import ScriptResult

FLASK: Final = "tests.servers.flask_application"
FASTAPI: Final = "tests.servers.fastapi_application"
_RAW: Final = "tests.servers.raw_application"
WORKERS: Final = 2
START_SECONDS: Final = 40.0

_UWSGI: Final = Path(sys.executable).with_name("uwsgi")
HAS_UWSGI: Final = _UWSGI.exists()  # it has to be built, and is not for every machine
_PYTHON: Final = (
    "if __name__ == '__main__':\n    from {} import {} as run\n    run()\n"  # children that spawn import it, too
)
_EXEC: Final = "import os, sys\nos.execv(sys.argv[1], sys.argv[1:])\n"
_ABORTS: Final = ("Fatal Python error", "terminate called", "Aborted", "Segmentation", "safepulsar.exit_failed")
_ERRORS: Final = ("Traceback", "ERROR", "CRITICAL", "safepulsar.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """
    A server and how it is run. Every one of them has two workers, but the one that reloads.

    Attributes:
        name: of the tests.
        script: starts it; its arguments are those of the server's own command.
        arguments: `{port}` stands for the port.
        application: the module with `app`.
        paths: of the application, every way to send that is safe when the server is stopped in order.
        recycling: more arguments, that end a worker after so many requests, named by `{requests}`.
        abrupt: signals that make it end without a word to the application: then only what was waited for is safe.
        talks: signals that make it write errors of its own.
        workers: how many processes serve.
        environment: added to ours.
    """

    name: str
    script: str
    arguments: tuple[str, ...]
    application: str
    paths: tuple[str, ...]
    recycling: tuple[str, ...] = ()
    abrupt: frozenset[signal.Signals] = frozenset()
    talks: frozenset[signal.Signals] = frozenset()
    workers: int = WORKERS
    environment: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


def _gunicorn(name: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Kind:
    return Kind(
        name=name,
        script=_PYTHON.format("gunicorn.app.wsgiapp", "run"),
        arguments=(
            *("--bind", f"{LOOPBACK}:{{port}}", "--workers", str(WORKERS), "--log-level", "warning"),
            *("--graceful-timeout", "8", "--no-control-socket", *arguments, f"{FLASK}:app"),
        ),
        application=FLASK,
        paths=("/send", "/submit", "/after"),
        recycling=("--max-requests", "{requests}"),
        # Its handler raises SystemExit wherever the worker is, which it logs as an error of the request.
        talks=frozenset({signal.SIGINT}),
        environment=environment or {},
    )


def _uvicorn(name: str, *arguments: str, workers: int = WORKERS) -> Kind:
    return Kind(
        name=name,
        script=_PYTHON.format("uvicorn.main", "main"),
        arguments=(
            *("--host", LOOPBACK, "--port", "{port}", "--log-level", "warning", "--timeout-graceful-shutdown", "15"),
            *(*arguments, f"{FASTAPI}:app"),
        ),
        application=FASTAPI,
        paths=("/send", "/thread", "/submit", "/after"),
        recycling=("--limit-max-requests", "{requests}"),
        workers=workers,
    )


def _uwsgi(name: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Kind:
    return Kind(
        name=name,
        script=_EXEC,
        arguments=(
            *(str(_UWSGI), "--master", "--http-socket", f"{LOOPBACK}:{{port}}", "--processes", str(WORKERS)),
            *("--enable-threads", "--threads", "4", "--need-app", "--disable-logging", "--home", sys.prefix),
            # Left alone it takes SIGTERM for a reload, and with --die-on-term it ends without the hooks of the exit.
            *("--hook-master-start", "unix_signal:15 gracefully_kill_them_all", "--worker-reload-mercy", "15"),
            *(*arguments, f"--module={FLASK}:app"),
        ),
        application=FLASK,
        paths=("/send", "/submit", "/after"),
        recycling=("--max-requests", "{requests}"),
        abrupt=frozenset({signal.SIGINT}),
        talks=frozenset({signal.SIGINT}),
        environment=environment or {},
    )


GUNICORN_SYNC: Final = _gunicorn("gunicorn-sync", "--worker-class", "sync")
GUNICORN_GTHREAD: Final = _gunicorn("gunicorn-gthread", "--worker-class", "gthread", "--threads", "4")
GUNICORN_PRELOAD: Final = _gunicorn(
    *("gunicorn-preload", "--worker-class", "gthread", "--threads", "4", "--preload"),
    environment={"TEST_SEND_AT_IMPORT": "yes"},
)
RAW: Final = replace(
    GUNICORN_GTHREAD,
    name="raw",
    application=_RAW,
    arguments=(*GUNICORN_GTHREAD.arguments[:-1], f"{_RAW}:app"),
    paths=("/submit",),
)
UVICORN_WORKERS: Final = _uvicorn("uvicorn-workers", "--workers", str(WORKERS))
UVICORN_RELOAD: Final = _uvicorn("uvicorn-reload", "--reload", "--reload-dir", "{folder}", workers=1)
HYPERCORN: Final = Kind(
    name="hypercorn",
    script=_PYTHON.format("hypercorn.__main__", "main"),
    arguments=(
        *("--bind", f"{LOOPBACK}:{{port}}", "--workers", str(WORKERS), "--log-level", "warning"),
        *("--graceful-timeout", "15", f"{FASTAPI}:app"),
    ),
    application=FASTAPI,
    paths=("/send", "/thread", "/submit", "/after"),
    recycling=("--max-requests", "{requests}"),
)
UWSGI: Final = _uwsgi("uwsgi", "--lazy-apps")
UWSGI_PRELOAD: Final = _uwsgi("uwsgi-preload", "--py-call-uwsgi-fork-hooks", environment={"TEST_SEND_AT_IMPORT": "yes"})
ALL: Final = (
    *(GUNICORN_SYNC, GUNICORN_GTHREAD, GUNICORN_PRELOAD, UVICORN_WORKERS, UVICORN_RELOAD, HYPERCORN),
    *((UWSGI, UWSGI_PRELOAD) if HAS_UWSGI else ()),
)


class Server:
    """
    A server that runs. In a `with` block, which it begins once every worker has answered; killed at its end.

    Args:
        kind: which one.
        url: of the broker.
        topic: where its application sends to.
        folder: for its store of failed messages, and for what it watches.
        extra: more arguments of the command.
        settings: more variables of the environment.
    """

    def __init__(
        self,
        kind: Kind,
        url: str,
        topic: str,
        folder: Path,
        *,
        extra: tuple[str, ...] = (),
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.kind = kind
        self.port = free_port()
        self.store = folder / "store" / "failed.db"
        self._script = Script(
            kind.script,
            *(
                each.format(port=self.port, folder=folder)
                for each in (*kind.arguments[:-1], *extra, kind.arguments[-1])
            ),
            environment={
                "SAFEPULSAR_URL": url,
                "SAFEPULSAR_FAILED_MESSAGES": str(self.store),
                "TEST_TOPIC": topic,
                **kind.environment,
                **(settings or {}),
            },
        )

    def __enter__(self) -> Self:
        self._script.__enter__()
        try:
            wait_until(self.answers, f"{self.kind} to answer", timeout_seconds=START_SECONDS)
        except BaseException as error:
            result = self._script.finish(timeout_seconds=0)
            self._script.__exit__(None, None, None)
            raise AssertionError(str(result)) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._script.__exit__(kind, error, traceback)

    @property
    def pid(self) -> int:
        """
        Of its main process.
        """
        return self._script.pid

    def answers(self) -> bool:
        """
        Whether it answers.
        """
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=5)
        try:
            connection.request("GET", "/health/live")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def signal(self, number: signal.Signals) -> None:
        """
        Signal its main process, as a service manager does, or for Ctrl-C all of its processes, as a terminal does.
        """
        if number is signal.SIGINT:
            os.killpg(self.pid, number)
        else:
            self._script.send_signal(number)

    def finish(self, timeout_seconds: float) -> ScriptResult:
        """
        Wait for its end, and for that of every process that it made.
        """
        return self._script.finish(timeout_seconds=timeout_seconds)


def complaints(result: ScriptResult, *, strict: bool = True) -> list[str]:
    """
    The lines of a server's output that no server should write when it ends in order.

    Args:
        result: of the server.
        strict: False allows errors of the server's own, but no abort and no complaint of ours.
    """
    unwanted = (*_ABORTS, *_ERRORS) if strict else _ABORTS
    lines = [*result.stdout.splitlines(), *result.stderr.splitlines()]
    return [line for line in lines if any(each in line for each in unwanted)]
