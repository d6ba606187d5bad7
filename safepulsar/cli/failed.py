"""
`safepulsar failed`: what was accepted and not confirmed: look at it, send it again, take it out.
"""

import json as json_text
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Annotated, Final

import typer

from safepulsar.cli.description import describe, moment
from safepulsar.cli.listing import line, print_table
from safepulsar.cli.options import (
    Certain,
    DryRun,
    Error,
    Failed,
    Ids,
    Json,
    Key,
    OlderThan,
    SealKeys,
    StoreKeys,
    Topic,
    failed_path,
)
from safepulsar.cli.replay import replay
from safepulsar.cli.store import only, opened
from safepulsar.cli.terminal import OUT, count, print_json, say, visible
from safepulsar.errors import InvalidInput
from safepulsar.failed_messages import FailedMessageState, to_json

_SHOWN: Final = 100


def list_(
    *,
    failed: Failed = None,
    store_keys: StoreKeys = None,
    seal_keys: SealKeys = None,
    topic: Topic = None,
    key: Key = None,
    error: Error = None,
    older_than: OlderThan = None,
    certainty: Certain = None,
    ids: Ids = None,
    limit: Annotated[
        int | None,
        typer.Option(help=f"At most so many. Default: {_SHOWN}, and all with --json.", min=1, show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """
    List them in the order in which they failed.

    With --json one object a line: id, first_failed_at (Unix seconds), topic, key, certainty, error, attempts (their
    number) and size_bytes (of the payload).
    """
    where = only(topic, key, error, older_than, certainty, ids)
    with opened(failed_path(failed), store_keys, seal_keys) as store:
        if json:
            for message in store.find(where, limit=limit):
                print_json(line(message))
            return
        total = store.count(where)
        shown = print_table(store.find(where, limit=limit or _SHOWN))
    if shown < total:
        say(f"{shown:,} of {count(total, 'message')} shown; see --limit")
    elif not total:
        say("no failed messages")


def show(
    message_id: Annotated[int, typer.Argument(help="As `list` shows it.", metavar="ID")],
    *,
    failed: Failed = None,
    store_keys: StoreKeys = None,
    seal_keys: SealKeys = None,
    json: Json = False,
) -> None:
    """
    Show everything about one: what it is, what was tried, what is known; or where it is, if it was delivered.

    With --json one object: `state` (KEPT, CLAIMED or DELIVERED) and what `export` writes; if delivered, `state`, `id`,
    `topic`, `delivered_at` and `message_id`.
    """
    with opened(failed_path(failed), store_keys, seal_keys) as store:
        status = store.status(message_id)
        if status.state is not FailedMessageState.DELIVERED:
            message = store.get(message_id)
            if json:
                print_json({"state": status.state.value, **to_json(message)})
            else:
                describe(message, status)
            return
    if json:
        print_json(
            {
                "state": status.state.value,
                "id": status.id,
                "topic": status.topic,
                "delivered_at": status.delivered_at,
                "message_id": str(status.message_id),
            }
        )
    else:
        how = "acknowledged late" if status.owner is None else "replayed"
        when = moment(status.delivered_at or 0.0)
        OUT.print(
            f"failed message {status.id} is in {visible(status.topic)}: {how} {when} as message id {status.message_id}",
            soft_wrap=True,
        )


def export(
    *,
    failed: Failed = None,
    store_keys: StoreKeys = None,
    seal_keys: SealKeys = None,
    topic: Topic = None,
    key: Key = None,
    error: Error = None,
    older_than: OlderThan = None,
    certainty: Certain = None,
    ids: Ids = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="A new file, which only this user may read. Default: standard output.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
) -> None:
    """
    Write them as JSON lines with everything that is known, and leave them where they are.

    `payload` is in base64; `payload_text` is the same as text where it is UTF-8, else null.
    """
    where = only(topic, key, error, older_than, certainty, ids)
    with ExitStack() as stack:
        store = stack.enter_context(opened(failed_path(failed), store_keys, seal_keys))
        target = sys.stdout if output is None else stack.enter_context(_new_file(output))
        number = 0
        for message in store.find(where):
            target.write(json_text.dumps(to_json(message)) + "\n")
            number += 1
        target.flush()
    say(f"{count(number, 'message')} exported; still kept")


def purge(
    *,
    failed: Failed = None,
    topic: Topic = None,
    key: Key = None,
    error: Error = None,
    older_than: OlderThan = None,
    certainty: Certain = None,
    ids: Ids = None,
    dry_run: DryRun = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    json: Json = False,
) -> None:
    """
    Delete them for good, except what a replay holds right now.

    With --json one object: purged (their number) and dry_run.
    """
    where = only(topic, key, error, older_than, certainty, ids)
    with opened(failed_path(failed)) as store:
        number = store.purge(where, dry_run=True)
        if number and not dry_run:
            if not yes:
                _ask(number)
            number = store.purge(where)
    if json:
        print_json({"purged": number, "dry_run": dry_run})
    else:
        OUT.print(f"{count(number, 'message')} {'would be purged' if dry_run else 'purged'}")


def _ask(number: int) -> None:
    if not sys.stdin.isatty():
        raise InvalidInput(
            "--yes", f"is needed to delete {count(number, 'message')} for good where nobody can be asked"
        )
    typer.confirm(f"Delete {count(number, 'message')} for good?", abort=True, err=True)


def _new_file(path: Path) -> IO[str]:
    try:
        # Payloads are nobody else's, and what stands there may be somebody's only copy.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        problem = f"{str(path)!r} can't be made: {os.strerror(error.errno or 0)}; name a new file in a folder of yours"
        raise InvalidInput("--output", problem) from error
    return os.fdopen(descriptor, "w", encoding="utf-8")


failed = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Messages that were accepted and not confirmed: look at them, send them again, take them out.",
)
failed.command("list")(list_)
for command in (show, replay, export, purge):
    failed.command()(command)
