"""
`safepulsar send`: every row of a file becomes a message, and every row is accounted for.
"""

import csv
import shlex
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from safepulsar.books.ledger import Counts
from safepulsar.cli.keys import store_encryption
from safepulsar.cli.lines import Lines
from safepulsar.cli.options import DEFAULT_URL, Failed, Json, StoreKeys, Url, client_settings, failed_path
from safepulsar.cli.progress import progress_bar
from safepulsar.cli.rows import BadRow, Row
from safepulsar.cli.sending import Sending
from safepulsar.cli.source import Source
from safepulsar.cli.stop import Stopped, StopSignals, close_on_signal
from safepulsar.cli.target import MAX_ROW_BYTES, Opened, Target
from safepulsar.cli.terminal import OUT, ExitCode, complain, count, print_json, say, visible
from safepulsar.errors import BrokerError, DeadlineExceeded, InvalidInput, SafePulsarError
from safepulsar.topics import TopicNames


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
    mix_keys: Annotated[
        bool,
        typer.Option(
            "--mix-keys",
            help="Rows of different keys share batches: several times as fast. Breaks the order of Key_Shared subscriptions.",
        ),
    ] = False,
    durable: Annotated[
        bool,
        typer.Option(
            "--durable",
            help="May be killed at any moment and run again: each row ends in the topic once. Needs --producer-name.",
        ),
    ] = False,
    producer_name: Annotated[
        str | None,
        typer.Option(help="With --durable: a name for this input, used for nothing else.", metavar="NAME"),
    ] = None,
    failed: Failed = None,
    store_keys: StoreKeys = None,
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

    With --durable, FILE itself keeps the rows, and --failed has how far they are in the topic: run the same command again
    as often as it takes. A row that is not confirmed stops all behind it. The right to read the topic is needed, too.

    Exit code 0: all rows are in the topic. 3: some are kept in the store. 1: an error, such as a broken row.
    2: nothing was tried.

    With --json the last line on standard output is an object with the numbers read, delivered, duplicate, failed
    and seconds.
    """
    TopicNames().full(topic)
    if ordered and key_field is None:
        raise InvalidInput("--ordered", "needs --key-field, the column or field whose values are the lanes")
    if durable != (producer_name is not None):
        raise InvalidInput("--durable", "and --producer-name are given together: the name stands for this input")
    client = client_settings(url, debug=context.obj.debug)
    store = failed_path(failed)
    encryption = store_encryption(store_keys)
    target = Target(topic, ordered=ordered, mix_keys=mix_keys, deadline_seconds=deadline)
    began = time.monotonic()
    summary = Summary(read=0, delivered=0, duplicate=0, failed=0, seconds=0.0)
    ends = ExitCode.ERROR
    with StopSignals() as stop, Source(file, stop) as source:
        csv.field_size_limit(MAX_ROW_BYTES)
        # From here on there is a summary to print: the file could be opened, so it is not usage any more.
        try:
            rows = source.read_rows(Lines(source.read, MAX_ROW_BYTES), key_field)
            if producer_name is None:
                opened = target.sender(client, store, encryption)
            else:
                opened, rows = target.durable(client, store, producer_name, rows)
        except InvalidInput as error:
            complain(f"{file}: {error}; nothing was sent")
        except (SafePulsarError, OSError) as error:
            complain(f"{error}; nothing was sent{_way_on(error, url)}")
        except Stopped:
            complain("stopped before the first row; nothing was sent")
        else:
            sending = Sending(opened.submit, topic, tell=say)
            counts = _run(sending, rows, opened, source, stop)
            ends = _verdict(sending, counts, durable=durable)
            summary = _summary(sending, counts, time.monotonic() - began, durable=durable)
            _explain(sending, counts, None if durable else _named(store, store_keys), url)
            if not json:
                _print_summary(topic, summary, sending.bad)
    if json:
        print_json(asdict(summary))
    raise typer.Exit(ends)


def _way_on(error: Exception, url: str) -> str:
    if not isinstance(error, (BrokerError, DeadlineExceeded)):
        return ""
    doctor = f"safepulsar doctor --url {shlex.quote(url)}"
    return f"\n  find the cause:  {doctor}\n  go on:           the same command again"


def _run(sending: Sending, rows: Iterator[Row | BadRow], opened: Opened, source: Source, stop: StopSignals) -> Counts:
    """
    Send, wait for every fate, close, and return the books; a signal cuts the sending and the waiting short.
    """
    sender = opened.sender
    with (
        opened,
        sender,
        close_on_signal(sender, stop),
        progress_bar(
            sending.topic,
            total=source.size_bytes,
            done=lambda: source.read_bytes,
            numbers=lambda: _numbers(sender.stats().counts, sending.stored),
        ),
    ):
        sending.run(rows, stop)
        sender.flush()
    sending.settle()
    return sender.close().counts


def _numbers(counts: Counts, stored: int) -> str:
    kept = f", {counts.failed:,} failed" if counts.failed else ""
    there = f", {stored:,} there before" if stored else ""
    return f"{counts.accepted + stored:,} read, {counts.delivered + counts.duplicate:,} delivered{there}{kept}"


def _summary(sending: Sending, counts: Counts, seconds: float, *, durable: bool) -> Summary:
    # With --durable a row that is not confirmed counts as not read: the next run begins with it.
    return Summary(
        read=counts.accepted + sending.stored - (counts.failed if durable else 0),
        delivered=counts.delivered,
        duplicate=counts.duplicate + sending.stored,
        failed=0 if durable else counts.failed - counts.not_kept,
        seconds=round(seconds, 3),
    )


def _verdict(sending: Sending, counts: Counts, *, durable: bool) -> ExitCode:
    if durable and counts.failed:
        return ExitCode.ERROR
    if sending.bad or sending.stopped or counts.not_kept or counts.in_flight:
        return ExitCode.ERROR
    return ExitCode.KEPT if counts.failed else ExitCode.DONE


def _named(store: Path, store_keys: Path | None) -> tuple[Path, str]:
    """
    The store, and the options that name it in a command that works in every folder.
    """
    keys = "" if store_keys is None else f" --store-keys {shlex.quote(str(store_keys.absolute()))}"
    return store, f"--failed {shlex.quote(str(store))}{keys}"


def _explain(sending: Sending, counts: Counts, store: tuple[Path, str] | None, url: str) -> None:
    """
    Say what did not go as wished, and what to do; without a store, the input has the rows.
    """
    reasons = ", ".join(f"{number:,} {code}" for code, number in sending.errors.most_common())
    if sending.bad:
        complain(f"{count(sending.bad, 'row')} could not be sent; named above")
    if store is not None:
        _explain_kept(sending, counts, *store, url, reasons)
    elif counts.failed:
        complain(
            f"{count(counts.failed, 'row')} not confirmed ({reasons})\n"
            f"  find the cause:  safepulsar doctor --url {shlex.quote(url)}\n"
            "  go on:           the same command again; what is in the topic is left out"
        )
    if sending.stopped:
        where = f"after {sending.last}" if sending.last else "before the first row"
        complain(f"stopped {where}, because {sending.stopped}; the rows behind it were not sent")


def _explain_kept(sending: Sending, counts: Counts, store: Path, named: str, url: str, reasons: str) -> None:
    kept = counts.failed - counts.not_kept
    if kept:
        say(
            f"{count(kept, 'row')} kept in {store} ({reasons})\n"
            f"  find the cause:  safepulsar doctor --url {shlex.quote(url)}\n"
            f"  look at them:    safepulsar failed list {named}\n"
            f"  send them:       safepulsar failed replay {named} --url {shlex.quote(url)}"
        )
    if counts.not_kept:
        first = ", ".join(sending.not_kept_rows)
        complain(
            f"{count(counts.not_kept, 'row')} neither confirmed nor kept in {store} ({reasons}): {first}"
            f"{', …' if counts.not_kept > len(sending.not_kept_rows) else ''}; send them again"
        )
    if counts.in_flight:
        complain(f"the fate of {count(counts.in_flight, 'row')} is not known: {store} does not answer")


def _print_summary(topic: str, summary: Summary, bad: int) -> None:
    parts = [f"{count(summary.read, 'row')} read", f"{summary.delivered:,} delivered"]
    parts += [f"{summary.duplicate:,} there before"] if summary.duplicate else []
    parts += [f"{summary.failed:,} kept"] if summary.failed else []
    parts += [f"{bad:,} not sent"] if bad else []
    rate = summary.read / summary.seconds if summary.seconds else 0
    OUT.print(f"{visible(topic)}: {', '.join(parts)} in {summary.seconds:.1f} s ({rate:,.0f} rows/s)", soft_wrap=True)
