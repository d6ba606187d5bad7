"""
`safepulsar doctor`: what the doctor says, for a person or a script.
"""

from dataclasses import asdict
from typing import Annotated, Final

import typer
from rich.table import Table
from rich.text import Text

from safepulsar.cli.options import DEFAULT_URL, Failed, Json, Url, client_settings, failed_path
from safepulsar.cli.terminal import OUT, ExitCode, count, print_json, visible
from safepulsar.doctor import PROBE_TOPIC, Finding, Level, examine

_SIGNS: Final = {Level.OK: ("✓", "green"), Level.WARN: ("!", "yellow"), Level.BAD: ("✗", "red")}


def doctor(
    context: typer.Context,
    *,
    url: Url = DEFAULT_URL,
    topic: Annotated[
        str | None,
        typer.Option(
            help="Where the application sends to. A producer is opened there, and nothing sent.",
            metavar="TOPIC",
            show_default=PROBE_TOPIC,
        ),
    ] = None,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe/--no-probe",
            help=f"Send two small messages to the topic {PROBE_TOPIC} of the same namespace: only so the broker shows "
            "whether it deduplicates.",
        ),
    ] = True,
    failed: Failed = None,
    json: Json = False,
) -> None:
    """
    Check a broker, settings and this machine, and name each hazard with its remedy.

    Exit code 0: nothing is bad (there may be warnings). 1: something is.

    With --json one object: ok (true or false), url, and findings, a list of objects with id, level (ok, warn or bad),
    what and remedy (empty if there is nothing to do).
    """
    findings = examine(
        client_settings(url, debug=context.obj.debug), topic=topic, probe=probe, failed_messages=failed_path(failed)
    )
    bad = sum(finding.level is Level.BAD for finding in findings)
    if json:
        print_json({"ok": not bad, "url": url, "findings": [asdict(finding) for finding in findings]})
    else:
        _print(findings)
        warnings = sum(finding.level is Level.WARN for finding in findings)
        OUT.print(f"\n{count(len(findings), 'check')}: {bad} bad, {count(warnings, 'warning')}")
    raise typer.Exit(ExitCode.ERROR if bad else ExitCode.DONE)


def _print(findings: list[Finding]) -> None:
    table = Table.grid(padding=(0, 1))
    for finding in findings:
        sign, style = _SIGNS[finding.level]
        text = Text.assemble((f"{finding.id}: ", "bold"), visible(finding.what))
        if finding.remedy:
            text.append(f"\n→ {visible(finding.remedy)}")
        if OUT.is_terminal:
            table.add_row(Text(sign, style), text)
        else:  # where a table would fill every line with blanks
            OUT.print(f"{sign} {text.plain}")
    OUT.print(table)
