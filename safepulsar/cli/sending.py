"""
Rows to messages, one by one, and what became of them; in memory bounded by the sender, whatever the size of the file.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Final

from safepulsar.cli.rows import BadRow, Row
from safepulsar.cli.stop import Stopped
from safepulsar.errors import BrokerError, InvalidMessage, LanePaused, QueueFull, SenderClosed, SendFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from safepulsar.books.handle import SendHandle
    from safepulsar.cli.stop import StopSignals

    Submit = Callable[[int, Row], "SendHandle | None"]

_LOOK_EVERY: Final = 500
_ROWS_SHOWN: Final = 20
_SIGNAL: Final = "a signal asked for it"


class Sending:
    """
    Sends rows to one topic. Used by one thread; the counts may be read by others.

    Args:
        submit: accepts a row by its number, None if it is stored already; its sender is used by nobody else, so that the
            books are this command's.
        topic: where to.
        tell: called with a line for a person, for each row that can't be sent.

    Attributes:
        topic: as given.
        stored: rows that were in the topic before.
        bad: rows that were refused; nothing of them was sent.
        stopped: why the rows were not read to their end, empty if they were.
        last: where the row that was accepted last stands, empty if there is none.
        errors: the last error of failed rows, and of how many.
        not_kept: rows that failed and could not be kept either.
        not_kept_rows: where the first of those stand.
    """

    def __init__(self, submit: Submit, topic: str, *, tell: Callable[[str], None]) -> None:
        self._submit = submit
        self.topic = topic
        self._tell = tell
        self.stored = 0
        self._open: deque[tuple[str, SendHandle]] = deque()
        self.bad = 0
        self.stopped = ""
        self.last = ""
        self.errors: Counter[str] = Counter()
        self.not_kept = 0
        self.not_kept_rows: list[str] = []

    def run(self, rows: Iterable[Row | BadRow], stop: StopSignals) -> None:
        """
        Send until the end, or until a signal, or until a row is lost: those behind it would be lost likewise.
        """
        try:
            for number, row in enumerate(rows, 1):
                if isinstance(row, BadRow):
                    self._refuse(row)
                else:
                    self._send(number, row)
                if stop.requested:
                    self.stopped = _SIGNAL
                    return
                if self.not_kept:
                    self.stopped = "what fails can't be kept"
                    return
        except Stopped:
            self.stopped = _SIGNAL
        except LanePaused:
            self.stopped = "a row before it was not confirmed"
        except OSError as error:
            self.stopped = f"the file can't be read: {error.strerror or error}"

    def settle(self) -> None:
        """
        Look at what is final by now.
        """
        while self._open and self._open[0][1].done():
            where, handle = self._open.popleft()
            error = handle.exception()
            if isinstance(error, SendFailed):
                self._failed(where, error)

    def _send(self, number: int, row: Row) -> None:
        """
        Have the row accepted or refused.

        Raises:
            Stopped: the sender was closed meanwhile, as a signal does it.
            LanePaused: a row failed, and nothing may overtake it.
        """
        while True:
            try:
                handle = self._submit(number, row)
            except InvalidMessage as error:
                self._refuse(BadRow(row.where, str(error)))
                return
            except QueueFull:
                continue  # everything in flight has waited as long as this row; there is room once that has failed
            except SenderClosed as error:
                raise Stopped from error
            break
        self.last = row.where
        if handle is None:
            self.stored += 1
            return
        self._open.append((row.where, handle))
        if len(self._open) % _LOOK_EVERY == 0:
            self.settle()

    def _refuse(self, row: BadRow) -> None:
        self.bad += 1
        self._tell(f"{row.where}: {row.problem}; not sent")

    def _failed(self, where: str, error: SendFailed) -> None:
        cause = error.__cause__
        self.errors[cause.code if isinstance(cause, BrokerError) else type(cause).__name__] += 1
        if error.failed_message_id is None:
            self.not_kept += 1
            if len(self.not_kept_rows) < _ROWS_SHOWN:
                self.not_kept_rows.append(where)
