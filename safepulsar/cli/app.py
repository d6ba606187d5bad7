"""
The commands together, and how they end: an expected error is one line on standard error, never a traceback.
"""

import importlib.metadata
import io
import platform
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from safepulsar.cli.broker import broker
from safepulsar.cli.doctor import doctor
from safepulsar.cli.failed import failed
from safepulsar.cli.invocation import Invocation
from safepulsar.cli.send import send
from safepulsar.cli.terminal import OUT, ExitCode, complain, say
from safepulsar.cli.top import top
from safepulsar.errors import InvalidInput, SafePulsarError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(send)
app.add_typer(failed, name="failed")
app.command()(doctor)
app.command()(top)
app.command()(broker)


def run(arguments: Sequence[str] | None = None) -> int:
    """
    Run the command that the arguments name, by default those of the process, and return its exit code.
    """
    invocation = Invocation()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that knows fewer letters is no reason to fail; standard error does the same by itself.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        # Not standalone, because typer's own way to tell of an option breaks its text at the width of a terminal.
        ends = app(arguments, prog_name="safepulsar", obj=invocation, standalone_mode=False)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else ExitCode.ERROR
    except InvalidInput as error:
        _complain(invocation, str(error))
        return ExitCode.USAGE
    except (SafePulsarError, ImportError, OSError) as error:
        _complain(invocation, str(error))
    except typer.Abort:
        say("aborted; nothing was done")
    except Exception as error:  # noqa: BLE001 - whatever it is, a user gets a line, and a traceback for asking
        usage = getattr(error, "format_message", None)  # of typer's errors, whose class is not the same in all versions
        if usage is None:
            _complain(invocation, f"internal error: {type(error).__name__}: {error} (safepulsar --debug … shows where)")
            return ExitCode.ERROR
        if problem := usage():  # without one, the help was printed
            complain(f"{problem} (-h shows what there is)")
        return ExitCode.USAGE
    else:
        return ends if isinstance(ends, int) else ExitCode.DONE
    return ExitCode.ERROR


def _complain(invocation: Invocation, problem: str) -> None:
    if invocation.debug:
        traceback.print_exc()
    complain(problem)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it so
    if wanted:
        versions = [f"{name} {_version(name)}" for name in ("safepulsar", "pulsar-client")]
        OUT.print(", ".join([*versions, f"Python {platform.python_version()}"]))
        raise typer.Exit


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


@app.callback()
def main(
    context: typer.Context,
    *,
    debug: Annotated[
        bool,
        typer.Option("--debug", envvar="SAFEPULSAR_DEBUG", help="Show logs, and where an error came from."),
    ] = False,
    version: Annotated[  # noqa: ARG001 - its callback has done it by now
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the versions, and end.")
    ] = False,
) -> None:
    """
    Send messages to Apache Pulsar and always know what became of them.
    """
    context.obj.debug = debug
    context.obj.start_log()
