"""
A store of failed messages for a command: opened only where one is, with its keys; what is damaged is told.
"""

from __future__ import annotations

import shlex
from contextlib import contextmanager
from typing import TYPE_CHECKING

from safepulsar.cli.keys import seals, store_encryption
from safepulsar.cli.terminal import complain, count, say
from safepulsar.errors import InvalidInput
from safepulsar.failed_messages import FailedMessageFilter, SqliteFailedMessages

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from safepulsar.message import Certainty


@contextmanager
def opened(path: Path, store_keys: Path | None = None, seal_keys: Path | None = None) -> Iterator[SqliteFailedMessages]:
    """
    The store at `path`, open until the end of the `with` block.

    Args:
        path: of the store.
        store_keys: the file with the keys of its payloads.
        seal_keys: the file with the keys of its messages' seals.

    Raises:
        InvalidInput: there is none; a command that reads must not make an empty one where the path has a typing error.
            Or a file of keys is refused.
        StoreError: it can't be opened.
    """
    encryption, seal = store_encryption(store_keys), seals(seal_keys)
    if not path.exists():
        raise InvalidInput(
            "--failed", f"there is no store of failed messages at {str(path)!r}; name the file that `send` uses"
        )
    with SqliteFailedMessages(path, encryption=encryption, seal=seal) as store:
        yield store
        damaged = store.corrupted_ids()
    for reason in sorted(seal.unchecked):
        say(f"not checked: {reason}")
    if damaged:
        ids = " ".join(f"--id {number}" for number in damaged)
        complain(
            f"{count(len(damaged), 'row')} of {path} damaged, and left out with what stands behind in the same lane; "
            f"to give them up: safepulsar failed purge --failed {shlex.quote(str(path))} {ids}"
        )


def only(
    topic: str | None,
    key: str | None,
    error: str | None,
    older_than: float | None,
    certainty: Certainty | None,
    ids: Sequence[int] | None,
) -> FailedMessageFilter:
    """
    The filter that the options mean.

    Raises:
        InvalidInput: one of them is refused.
    """
    return FailedMessageFilter(
        topic=topic,
        key=key,
        error=error,
        older_than_seconds=older_than,
        certainty=certainty,
        ids=tuple(ids) if ids else None,
    )
