"""
What `safepulsar doctor --since` prints: causes, the log, and the verdict.
"""

from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from rich.table import Table
from rich.text import Text

from safepulsar.cli.store import opened
from safepulsar.cli.terminal import OUT, ExitCode, count, print_json, visible
from safepulsar.doctor.failures import Cause, FailureReport, examine_failures
from safepulsar.errors import InvalidInput


def print_failures(
    since_seconds: float,
    failed: Path,
    *,
    named: bool,
    store_keys: Path | None,
    seal_keys: Path | None,
    log: Path | None,
    json: bool,
) -> ExitCode:
    """
    Read, print, and say how to end: 0 if nothing failed, 1 if something did.

    Args:
        since_seconds: how far back.
        failed: the store.
        named: whether the user named it; one that nobody named may be missing.
        store_keys: the file with the keys of its payloads.
        seal_keys: the file with the keys of its messages' seals.
        log: of the application.
        json: one object in place of text.

    Raises:
        InvalidInput: there is no such store or log, or the file of keys is refused.
    """
    if log is not None and not log.is_file():
        raise InvalidInput("--log", f"there is no file at {str(log)!r}")
    if named or failed.exists():
        with opened(failed, store_keys, seal_keys) as store:
            report = examine_failures(since_seconds, store, log)
    elif log is not None:
        report = examine_failures(since_seconds, None, log)
    else:
        raise InvalidInput("--failed", f"there is no store at {str(failed)!r}; name one, or a log with --log")
    if json:
        print_json(asdict(report))
    else:
        _print(report)
    return ExitCode.ERROR if report.causes else ExitCode.DONE


def _print(report: FailureReport) -> None:
    if report.causes:
        table = Table(box=None, pad_edge=False)
        for heading in ("messages", "kept", "maybe stored", "code", "from", "first", "last", "most in a minute"):
            table.add_column(heading, justify="right" if heading in ("messages", "kept", "maybe stored") else "left")
        for cause in report.causes:
            table.add_row(
                f"{cause.messages:,}",
                f"{cause.kept:,}",
                f"{cause.maybe_stored:,}",
                Text(visible(cause.code)),
                cause.origin.value,
                _clock(cause.first_at),
                _clock(cause.last_at),
                f"{cause.peak_messages:,} at {_clock(cause.peak_at)}",
            )
        OUT.print(table)
        for cause in report.causes:
            OUT.print(Text(f"\n{visible(cause.code)}: {visible(_topics(cause))}"))
            OUT.print(Text(f"→ {visible(cause.remedy)}"))
        OUT.print()
    if report.log_records:
        levels = ", ".join(f"{number:,} {visible(level)}" for level, number in report.log_levels.items())
        OUT.print(Text(f"log: {count(report.log_records, 'record')} ({levels})"))
        for event, number in report.log_events.items():
            OUT.print(Text(f"  {number:,} times {visible(event)}"))
        if not report.log_levels.keys() & {"DEBUG", "INFO"}:
            OUT.print(
                "  nothing below WARNING is logged: at INFO retries are told, too, and with LogOutcomes each message"
            )
        if report.undated:
            OUT.print(f"  {count(report.undated, 'record')} without a time, taken as if they were of this period")
    OUT.print(Text(visible(report.verdict), style="bold"))
    if report.causes:
        OUT.print(
            "next: the dashboard around these times, then `safepulsar doctor --url URL` for the broker as it is now"
        )


def _topics(cause: Cause) -> str:
    topics = ", ".join(f"{topic} ({number:,})" for topic, number in cause.topics.items())
    after = ", ".join(f"{code} ({number:,})" for code, number in cause.after.items())
    return f"{topics}{f'; attempts before failed with {after}' if after else ''}"


def _clock(moment: float | None) -> str:
    return "?" if moment is None else datetime.fromtimestamp(moment).astimezone().strftime("%d %b %H:%M:%S")
