"""
Runs every snippet of one page, in its order, as a reader would: `python -m tests.docs_runner PAGE URL FOLDER`.

- The page's `python` blocks share one namespace, the current folder is FOLDER, empty before.
- A block of `sh` with a `safepulsar` command is run line by line; other blocks of `sh` (installing, `make`) are not.
  A line fails unless it ends with 0, or with N where it ends in `# exit code N`. `safepulsar broker`, which does not
  end by itself, is stopped as soon as it has said where it is.
- `localhost:6650`, where the pages have their broker, becomes the broker at URL; so does the command's own default.
- Lines `#> …` say what is printed: where a block has some, they are all of its output. `…` in them stands for anything.
- A function `test_…` without arguments is called, as pytest would do it. If some have arguments, pytest runs the page.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.docs_pages import ROOT, Snippet, name_of, snippets

_BROKER: Final = "localhost:6650"
_SHELL: Final = "/bin/sh"
_COMMAND_SECONDS: Final = 30.0
_COMMAND: Final = re.compile(r"(?:^|\| *)safepulsar ", re.MULTILINE)
_ENDS: Final = re.compile(r"# exit code (\d+)$")
_SAYS: Final = re.compile(r"^ *#> ?(.*)$", re.MULTILINE)


class SnippetFailed(Exception):
    """
    A snippet does not do what its page says.
    """


def main() -> None:
    """
    Run the page that the arguments name.

    Raises:
        SnippetFailed: see there.
    """
    page, url, folder = ROOT / sys.argv[1], sys.argv[2], Path(sys.argv[3])
    os.chdir(folder)
    folder.chmod(0o775)  # as a folder of work usually is, where others of the same group may write
    environment = _environment(folder, url)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for snippet in snippets(page):
        where = f"{name_of(page)}:{snippet.line}"
        text = snippet.text.replace(_BROKER, url.removeprefix("pulsar://"))
        if snippet.language == "python":
            _check(where, snippet, _run_python(where, text, snippet.line, namespace))
        elif snippet.language == "sh" and _COMMAND.search(text):
            _check(where, snippet, _run_shell(where, text, environment))
    if any(name.startswith("test_") and _takes_fixtures(value) for name, value in namespace.items()):
        _run_pytest(page, url, environment)


def _run_python(where: str, text: str, line: int, namespace: dict[str, object]) -> str:
    before = dict(namespace)
    output = io.StringIO()
    # The blank lines make a traceback show the line of the page.
    code = compile("\n" * (line - 1) + text, where, "exec")
    with contextlib.redirect_stdout(output):
        exec(code, namespace)  # noqa: S102 - that is what this is for
        for name, value in namespace.items():
            new = name.startswith("test_") and value is not before.get(name)
            if new and callable(value) and not _takes_fixtures(value):
                value()
    return output.getvalue()


def _takes_fixtures(value: object) -> bool:
    return inspect.isfunction(value) and bool(inspect.signature(value).parameters)


def _run_pytest(page: Path, url: str, environment: dict[str, str]) -> None:
    """
    Run the page's `python` blocks as one file of tests, each line of which has its number in the page.
    """
    lines: list[str] = []
    for snippet in snippets(page):
        if snippet.language == "python":
            lines += [""] * (snippet.line - 1 - len(lines))
            lines += snippet.text.replace(_BROKER, url.removeprefix("pulsar://")).splitlines()
    Path("test_page.py").write_text("\n".join(lines), encoding="utf-8")
    arguments = ["-q", "-p", "safepulsar.testing.plugin", "-p", "no:cacheprovider", "test_page.py"]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if ended.returncode:
        msg = f"{name_of(page)}: pytest ended with {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
        raise SnippetFailed(msg)


def _run_shell(where: str, text: str, environment: dict[str, str]) -> str:
    lines = text.replace("\\\n", " ").splitlines()
    return "".join(_run_command(where, line, environment) for line in lines if line and not line.startswith("#"))


def _run_command(where: str, line: str, environment: dict[str, str]) -> str:
    if line.startswith("safepulsar broker"):
        _run_broker(where, line, environment)
        return ""
    ends = _ENDS.search(line)
    ended = subprocess.run(
        [_SHELL, "-c", line],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_COMMAND_SECONDS,
        check=False,
    )
    if ended.returncode != (int(ends[1]) if ends else 0):
        msg = f"{where}: `{line}` ended with {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
        raise SnippetFailed(msg)
    return ended.stdout


def _run_broker(where: str, line: str, environment: dict[str, str]) -> None:
    with subprocess.Popen(
        [_SHELL, "-c", f"exec {line}"], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as broker:
        assert broker.stdout is not None  # it is a pipe; for the type checker
        said = broker.stdout.readline()
        broker.send_signal(signal.SIGTERM)
        ends = broker.wait(_COMMAND_SECONDS)
    if not said.startswith("pulsar://") or ends != 0:
        msg = f"{where}: `{line}` said {said!r} and ended with {ends}"
        raise SnippetFailed(msg)


def _check(where: str, snippet: Snippet, output: str) -> None:
    expected = _SAYS.findall(snippet.text)
    if not expected:
        return
    pattern = "\n".join(".*".join(map(re.escape, line.split("…"))) for line in expected)
    if not re.fullmatch(pattern, output.rstrip("\n")):
        msg = f"{where}: the page says\n" + "\n".join(expected) + f"\nand what comes is\n{output}"
        raise SnippetFailed(msg)


def _environment(folder: Path, url: str) -> dict[str, str]:
    programs = folder / ".bin"
    programs.mkdir()
    program = programs / "safepulsar"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m safepulsar "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    ours = {name: value for name, value in os.environ.items() if not name.startswith("SAFEPULSAR_")}
    return {
        **ours,
        "PATH": f"{programs}{os.pathsep}{ours['PATH']}",
        "HOME": str(folder),
        "XDG_STATE_HOME": str(folder / ".state"),
        "SAFEPULSAR_URL": url,
    }


if __name__ == "__main__":
    main()
