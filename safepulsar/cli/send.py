"""
`safepulsar send`: every row of a file becomes a message, and every row is accounted for.
"""

import csv
import shlex
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from safepulsar.cli.lines import Lines
from safepulsar.cli.options import DEFAULT_URL, Failed, Json, Url, client_settings, failed_path
from safepulsar.cli.progress import progress_bar
from safepulsar.cli.rows import BadRow, Row
from safepulsar.cli.sending import Sending
from safepulsar.cli.source import Source
from safepulsar.cli.stop import Stopped, StopSignals, close_on_signal
from safepulsar.cli.terminal import OUT, ExitCode, complain, count, print_json, say, visible
from safepulsar.errors import InvalidInput, StoreError
from safepulsar.ledger import Counts
from safepulsar.sender import RetryingSender
from safepulsar.settings import RetrySettings, SenderSettings
from safepulsar.topics import TopicNames

# The deadline alone ends the tries: it is what the user gave.
_ALWAYS_AGAIN: Final = RetrySettings(max_retries=1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """
    What `--json` prints; scripts depend on the names.

    Args:
        read: rows accepted for sending: the sum of the next three, unless the store failed as well.
        delivered: in the topic.
        duplicate: in the topic since before, says the broker.
        failed: kept in the store.
        seconds: for all of it.
    """

    read: int
    delivered: int
    duplicate: int
    failed: int
    seconds: float


def send(
    context: typer.Context,
    topic: Annotated[str, typer.Argument(help="orders, tenant/namespace/orders or persistent://…", metavar="TOPIC")],
    file: Annotated[
        str,
        typer.Argument(help="A .csv with a header, a .jsonl, or - for JSON lines on standard input.", metavar="FILE"),
    ],
    *,
    url: Url = DEFAULT_URL,
    key_field: Annotated[
        str | None,
        typer.Option(help="This column or top-level field is the partition key of its row.", metavar="F"),
    ] = None,
    ordered: Annotated[
        bool, typer.Option("--ordered", help="The key is the ordering key, too: one lane per key, in the file's order.")
    ] = False,
    failed: Failed = None,
    deadline: Annotated[
        float,
        typer.Option(
            help="Each row is tried for so many seconds, and then kept in the store.", metavar="SECONDS", min=0.001
        ),
    ] = 10.0,
    json: Json = False,
) -> None:
    """
    Send every row of FILE to TOPIC as one message.

    A row of a CSV becomes a JSON object of texts; a JSON line is sent as it stands. A row that can't be read is named
    and not sent, and the others go on. A row that the broker does not confirm in time is kept in the store of failed
    messages, from where `safepulsar failed replay` sends it. Ctrl-C stops in order; again, at once.

    Exit code 0: all rows are in the topic. 3: some are kept in the store. 1: an error, such as a broken row.
    2: nothing was tried.

    With --json the last line on standard output is an object with the numbers read, delivered, duplicate, failed
    and seconds.
    """
    TopicNames().full(topic)
    if ordered and key_field is None:
        raise InvalidInput("--ordered", "needs --key-field, the column or field whose values are the lanes")
    settings = SenderSettings(deadline_seconds=deadline, retry=_ALWAYS_AGAIN, drain_on_sigterm=False)
    client = client_settings(url, debug=context.obj.debug)
    store = failed_path(failed)
    began = time.monotonic()
    summary = Summary(read=0, delivered=0, duplicate=0, failed=0, seconds=0.0)
    ends = ExitCode.ERROR
    with StopSignals() as stop, Source(file, stop) as source:
        csv.field_size_limit(settings.max_message_bytes)
        # From here on there is a summary to print: the file could be opened, so it is not usage any more.
        try:
            rows = source.read_rows(Lines(source.read, settings.max_message_bytes), key_field)
            sender = RetryingSender(client, failed_messages=store, settings=settings).open()
        except InvalidInput as error:
            complain(f"{file}: {error}; nothing was sent")
        except (StoreError, OSError) as error:
            complain(f"{error}; nothing was sent")
        except Stopped:
            complain("stopped before the first row; nothing was sent")
        else:
            sending = Sending(sender, topic, ordered=ordered, tell=say)
            counts = _run(sending, rows, sender, source, stop)
            ends = _verdict(sending, counts)
            summary = _summary(counts, time.monotonic() - began)
            _explain(sending, counts, store, url)
            if not json:
                _print_summary(topic, summary, sending.bad)
    if json:
        print_json(asdict(summary))
    raise typer.Exit(ends)


def _run(
    sending: Sending, rows: Iterator[Row | BadRow], sender: RetryingSender, source: Source, stop: StopSignals
) -> Counts:
    """
    Send, wait for every fate, close, and return the books; a signal cuts the sending and the waiting short.
    """
    with (
        sender,
        close_on_signal(sender, stop),
        progress_bar(
            sending.topic,
            total=source.size_bytes,
            done=lambda: source.read_bytes,
            numbers=lambda: _numbers(sender.stats().counts),
        ),
    ):
        sending.run(rows, stop)
        sender.flush()
    sending.settle()
    return sender.close().counts


def _numbers(counts: Counts) -> str:
    kept = f", {counts.failed:,} kept" if counts.failed else ""
    return f"{counts.accepted:,} read, {counts.delivered + counts.duplicate:,} delivered{kept}"


def _summary(counts: Counts, seconds: float) -> Summary:
    return Summary(
        read=counts.accepted,
        delivered=counts.delivered,
        duplicate=counts.duplicate,
        failed=counts.failed - counts.not_kept,
        seconds=round(seconds, 3),
    )


def _verdict(sending: Sending, counts: Counts) -> ExitCode:
    if sending.bad or sending.stopped or counts.not_kept or counts.in_flight:
        return ExitCode.ERROR
    return ExitCode.KEPT if counts.failed else ExitCode.DONE


def _explain(sending: Sending, counts: Counts, store: Path, url: str) -> None:
    """
    Say what did not go as wished, and what to do.
    """
    kept = counts.failed - counts.not_kept
    reasons = ", ".join(f"{number:,} {code}" for code, number in sending.errors.most_common())
    place = shlex.quote(str(store))
    if sending.bad:
        complain(f"{count(sending.bad, 'row')} could not be sent; named above")
    if kept:
        say(
            f"{count(kept, 'row')} kept in {store} ({reasons})\n"
            f"  find the cause:  safepulsar doctor --url {shlex.quote(url)}\n"
            f"  look at them:    safepulsar failed list --failed {place}\n"
            f"  send them:       safepulsar failed replay --failed {place} --url {shlex.quote(url)}"
        )
    if counts.not_kept:
        first = ", ".join(sending.not_kept_rows)
        complain(
            f"{count(counts.not_kept, 'row')} neither confirmed nor kept in {store} ({reasons}): {first}"
            f"{', …' if counts.not_kept > len(sending.not_kept_rows) else ''}; send them again"
        )
    if counts.in_flight:
        complain(f"the fate of {count(counts.in_flight, 'row')} is not known: {store} does not answer")
    if sending.stopped:
        where = f"after {sending.last}" if sending.last else "before the first row"
        complain(f"stopped {where}, because {sending.stopped}; the rows behind it were not sent")


def _print_summary(topic: str, summary: Summary, bad: int) -> None:
    parts = [f"{count(summary.read, 'row')} read", f"{summary.delivered:,} delivered"]
    parts += [f"{summary.duplicate:,} there before"] if summary.duplicate else []
    parts += [f"{summary.failed:,} kept"] if summary.failed else []
    parts += [f"{bad:,} not sent"] if bad else []
    rate = summary.read / summary.seconds if summary.seconds else 0
    OUT.print(f"{visible(topic)}: {', '.join(parts)} in {summary.seconds:.1f} s ({rate:,.0f} rows/s)", soft_wrap=True)
