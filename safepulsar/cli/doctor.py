"""
`safepulsar doctor`: what the doctor says, for a person or a script.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.table import Table
from rich.text import Text

from safepulsar.cli.failures import print_failures
from safepulsar.cli.keys import store_encryption
from safepulsar.cli.options import (
    DEFAULT_URL,
    Failed,
    Json,
    SealKeys,
    StoreKeys,
    Url,
    age,
    client_settings,
    failed_path,
)
from safepulsar.cli.terminal import OUT, ExitCode, count, print_json, visible
from safepulsar.doctor import PROBE_TOPIC, Finding, Level, examine
from safepulsar.errors import InvalidInput

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
    store_keys: StoreKeys = None,
    seal_keys: SealKeys = None,
    code: Annotated[
        Path | None,
        typer.Option(
            help="Sources in which uses of the raw client are looked for: a file or a folder.", metavar="PATH"
        ),
    ] = None,
    since: Annotated[
        float | None,
        typer.Option(
            parser=age,
            help="Say where the failures of so long come from (90s, 15m, 2h, 7d), by the store and the log; the broker is "
            "not asked.",
            metavar="AGE",
        ),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(help="With --since: the application's log, as JSON lines or as text.", metavar="FILE"),
    ] = None,
    json: Json = False,
) -> None:
    """
    Check a broker, settings and this machine, and name each hazard with its remedy.

    Exit code 0: nothing is bad (there may be warnings). 1: something is; with --since, something failed.

    With --json one object: ok (true or false), url, and findings, a list of objects with id, level (ok, warn or bad),
    what and remedy (empty if there is nothing to do).
    """
    if since is not None:
        raise typer.Exit(
            print_failures(
                since,
                failed_path(failed),
                named=failed is not None,
                store_keys=store_keys,
                seal_keys=seal_keys,
                log=log,
                json=json,
            )
        )
    if log is not None:
        raise InvalidInput("--log", "goes with --since")
    findings = examine(
        client_settings(url, debug=context.obj.debug),
        topic=topic,
        probe=probe,
        failed_messages=failed_path(failed),
        encryption=store_encryption(store_keys),
        code=code,
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
