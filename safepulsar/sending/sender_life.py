"""
The life of a sender: opened at the first use, closed once, begun anew in a forked child, drained at the exit.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, cast

from safepulsar.broker.client_registry import ClientRegistry
from safepulsar.checks import check_timeout
from safepulsar.errors import InvalidSettings, SenderClosed
from safepulsar.failed_messages import InMemoryFailedMessages, SqliteFailedMessages
from safepulsar.observing import Watcher, observers_of
from safepulsar.processes.process import Stage, process
from safepulsar.sending.bulk import ManyStep
from safepulsar.sending.engine import CloseReport, Engine
from safepulsar.sending.intake import preparing
from safepulsar.sending.lane_probe import LaneProbe
from safepulsar.settings import ClientSettings, SenderSettings
from safepulsar.steps import Chain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from typing_extensions import Self

    from safepulsar.failed_messages import FailedMessageStore
    from safepulsar.observing import Observer
    from safepulsar.sender import RetryingSender
    from safepulsar.steps import Step

log = logging.getLogger("safepulsar")


class SenderLife:
    """
    What a `RetryingSender` is apart from sending. Not made by itself.
    """

    def __init__(
        self,
        client: str | ClientSettings,
        *,
        failed_messages: str | os.PathLike[str] | FailedMessageStore | None = None,
        settings: SenderSettings | None = None,
        registry: ClientRegistry | None = None,
        steps: Sequence[Step] = (),
        topic_steps: Mapping[str, Sequence[Step]] | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        if not isinstance(client, ClientSettings):
            client = ClientSettings(url=client)
        if settings is None:
            settings = SenderSettings()
        elif not isinstance(settings, SenderSettings):
            raise InvalidSettings("settings", f"must be SenderSettings, not {type(settings).__name__}")
        self._client_settings = client
        self._settings = settings
        self._registry = registry
        chain = Chain(steps, topic_steps)
        self._prepare = preparing(chain)
        self._check_kept = chain.check
        self._observers = observers_of(observers, chain)
        self._many = [step for step in chain.everywhere if isinstance(step, ManyStep)]
        self._owns_store = failed_messages is None or isinstance(failed_messages, (str, os.PathLike))
        self.failed_messages: FailedMessageStore = _store(failed_messages)
        self._lock = threading.RLock()  # guards _engine and _report
        self._engine: Engine | None = None
        self._report: CloseReport | None = None
        self._probe: LaneProbe | None = None
        for observer in self._observers:
            if isinstance(observer, Watcher):
                observer.watch(cast("RetryingSender", self))

    # -- life ------------------------------------------------------------------------------------------------

    def open(self) -> Self:
        """
        Open the store and stand by for exit, fork and SIGTERM; the first use does it too.

        Raises:
            StoreError: the store cannot be opened. Nothing is sent by a sender that could keep nothing.
            SenderClosed: it was closed before.
        """
        self._start()
        return self

    def close(self, timeout: float | None = None) -> CloseReport:
        """
        Stop intake, wait for what is in flight, keep the rest in the store, and close everything.

        Idempotent and safe in any thread, in a done callback and in a signal handler.

        Args:
            timeout: seconds for what is in flight; None is `SenderSettings.close_seconds`. Keeping the rest
                may take a little longer, because what is not kept then is lost.

        Raises:
            InvalidInput: the timeout is no number of seconds.
        """
        seconds = self._settings.close_seconds if timeout is None else check_timeout(timeout)
        with self._lock:
            if self._report is not None:
                return self._report
            engine = self._engine
            if engine is None:
                engine = self._engine = self._make_engine()
        if self._probe is not None:
            self._probe.close()
        report = engine.close(seconds)
        if engine.closed:  # not so for a done callback or a signal handler that closes while closing is under way
            self._end(engine, report)
        return report

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """
        Close, also if the block raised.
        """
        self.close()

    @property
    def closed(self) -> bool:
        """
        Whether it was closed, or is being closed, and takes no more messages.
        """
        return self._report is not None or (self._engine is not None and not self._engine.ledger.open)

    @property
    def client_settings(self) -> ClientSettings:
        """
        Where it sends to.
        """
        return self._client_settings

    @property
    def settings(self) -> SenderSettings:
        """
        What it was made with.
        """
        return self._settings

    def __repr__(self) -> str:
        """
        Where to and how it stands.
        """
        engine = self._engine
        if self._report is not None:
            state = "closed"
        elif engine is None:
            state = "not opened yet"
        else:
            state = f"{engine.ledger.in_flight} in flight"
        return f"<RetryingSender {self._client_settings.url!r}, {state}>"

    # -- inside ----------------------------------------------------------------------------------------------

    def _started(self) -> Engine:
        return self._engine or self._start()

    def _start(self) -> Engine:
        # Before the lock is taken: a child that is forked while another thread opens must get a lock of its own.
        process.watch(self, Stage.SENDERS)
        with self._lock:
            try:
                if self._report is not None:
                    raise SenderClosed("the sender is closed; make a new one")  # noqa: TRY301  # told with the lock
                if self._engine is None:
                    self.failed_messages.open()
                    engine = self._make_engine()
                    engine.topics.open()
                    self._engine = engine
                    if self._settings.lane_probe_seconds is not None:
                        self._probe = LaneProbe(cast("RetryingSender", self), self._settings.lane_probe_seconds)
                    process.watch(self, Stage.SENDERS)  # again: who failed to open it at the same time forgot it
                    if self._settings.drain_on_sigterm:
                        process.drain_on_sigterm()
            except Exception:
                if self._engine is None or self._report is not None:
                    process.forget(self, Stage.SENDERS)
                raise
            return self._engine

    def _make_engine(self) -> Engine:
        registry = self._registry or ClientRegistry.shared()
        return Engine(self._client_settings, self._settings, self.failed_messages, registry, self._observers)

    def _end(self, engine: Engine, report: CloseReport) -> None:
        with self._lock:
            if self._report is not None or engine is not self._engine:
                return
            self._report = report
        process.forget(self, Stage.SENDERS)
        if isinstance(self.failed_messages, InMemoryFailedMessages) and report.counts.failed:
            log.warning("safepulsar.kept_in_memory_only", extra={"messages": report.counts.failed})
        if self._owns_store and engine.store_answers:
            self.failed_messages.close()

    def at_exit(self) -> None:
        """
        The process ends: as `close`. Ctrl-C ends the wait for the broker, and what is in flight is kept.
        """
        try:
            self.close()
        except BaseException:  # Ctrl-C, or what a server's own handler raises; gunicorn's is SystemExit
            self.close(0.0)
            raise

    def after_fork(self) -> None:
        """
        In a forked child: start afresh at the next use. What the parent had accepted stays the parent's.
        """
        self._lock = threading.RLock()
        engine, self._engine, self._probe = self._engine, None, None
        if engine is not None:
            engine.after_fork()
        self.failed_messages.after_fork()


def _store(where: str | os.PathLike[str] | FailedMessageStore | None) -> FailedMessageStore:
    if where is None:
        return InMemoryFailedMessages()
    return SqliteFailedMessages(where) if isinstance(where, (str, os.PathLike)) else where
