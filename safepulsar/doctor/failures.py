"""
Where failures come from: what the store keeps and what the log says, put together by cause.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final

from safepulsar.broker.outcomes import Phase, classify
from safepulsar.doctor.log_file import read_log
from safepulsar.errors import (
    AuthenticationFailed,
    AuthorizationFailed,
    BrokerError,
    BrokerUnavailable,
    IncompatibleSchema,
    MessageRefused,
    MessageTooBig,
    ProducerBusy,
    ProducerFenced,
    ProducerGone,
    QuotaExceeded,
    SendTimeout,
    TopicNotFound,
    TopicTerminated,
)
from safepulsar.failed_messages import FailedMessageFilter
from safepulsar.message import Certainty

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from safepulsar.doctor.log_file import Entry
    from safepulsar.failed_messages import FailedMessageStore
    from safepulsar.message import FailedMessage

_MINUTE: Final = 60.0
_MOST_TOPICS: Final = 5


class Origin(str, Enum):
    """
    Where to look.
    """

    NETWORK = "network"
    BROKER = "broker"
    TOPIC = "topic"
    CREDENTIALS = "credentials"
    MESSAGE = "message"
    APPLICATION = "application"
    STORE = "store"


_SLOW = "see the broker's health and load, and the network between; a longer deadline_seconds outlasts a restart"
_BY_ERROR: Final[dict[type[BrokerError], tuple[Origin, str]]] = {
    AuthenticationFailed: (Origin.CREDENTIALS, "renew the token or certificate; a callable token renews itself"),
    AuthorizationFailed: (Origin.CREDENTIALS, "grant the role the right to produce on the topic"),
    TopicNotFound: (Origin.TOPIC, "create the topic, or allow the broker to; check the name"),
    TopicTerminated: (Origin.TOPIC, "the topic takes no more messages: send elsewhere"),
    ProducerBusy: (
        Origin.APPLICATION,
        "two processes use one producer name, or one holds the topic: name each its own",
    ),
    ProducerFenced: (Origin.APPLICATION, "another producer took the topic over: one writer at a time"),
    ProducerGone: (Origin.BROKER, "the producer was closed: the topic moved, was unloaded or deleted"),
    QuotaExceeded: (Origin.BROKER, "receivers are behind: the backlog quota holds senders back"),
    MessageTooBig: (Origin.MESSAGE, "send a reference, compress, or raise the broker's maxMessageSize"),
    MessageRefused: (Origin.MESSAGE, "checksum, encryption or format: see the message by its id"),
    IncompatibleSchema: (Origin.MESSAGE, "the topic's schema does not take these: change one of them"),
    SendTimeout: (Origin.BROKER, _SLOW),
    BrokerUnavailable: (Origin.BROKER, "see the broker: restarted, overloaded, or without its storage"),
}
_BY_CODE: Final = {
    "ConnectError": (Origin.NETWORK, "check that the broker runs, host and port, DNS and firewalls"),
    "Disconnected": (
        Origin.NETWORK,
        "the connection broke: the broker restarted, or something between cuts connections",
    ),
    "NotConnected": (Origin.NETWORK, "no connection: check that the broker runs, and the network"),
    "ReadError": (Origin.NETWORK, "the connection broke: the broker restarted, or something between cuts connections"),
    "DeadlineExceeded": (Origin.BROKER, _SLOW),
    "CreationBackoff": (Origin.BROKER, "no producer could be opened: see the attempts before"),
    "SenderClosed": (
        Origin.APPLICATION,
        "closed before the broker answered: allow close_seconds and the grace more time",
    ),
    "QueueFull": (Origin.APPLICATION, "more is sent than the broker takes: send slower, or raise the bounds in flight"),
    "LanePaused": (Origin.APPLICATION, "stands behind one that failed: look for that one, then resume the lane"),
}
_STORE_EVENTS: Final = ("safepulsar.not_kept", "safepulsar.store_close_failed", "safepulsar.failed_message_corrupted")


@dataclass(slots=True, kw_only=True)
class Cause:
    """
    Failures with the same code.

    Args:
        code: the broker's, or the name of our error.
        origin: where to look.
        remedy: what to do.
        messages: how many, kept or only in the log.
        kept: of these, in the store now.
        maybe_stored: of the kept ones, how many may be in the topic all the same.
        topics: how many of each, those with most first.
        first_at: Unix time in seconds.
        last_at: Unix time in seconds.
        peak_at: the minute with most.
        peak_messages: how many then.
        after: what attempts before the last one failed with.
    """

    code: str
    origin: Origin
    remedy: str
    messages: int = 0
    kept: int = 0
    maybe_stored: int = 0
    topics: dict[str, int] = field(default_factory=dict)
    first_at: float | None = None
    last_at: float | None = None
    peak_at: float | None = None
    peak_messages: int = 0
    after: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class FailureReport:
    """
    What failed since a moment.

    Args:
        since: Unix time in seconds.
        causes: those with most messages first.
        verdict: in a sentence, where failures come from.
        log_records: of the package, since then.
        log_levels: how many of each level.
        log_events: how many of each event, at WARNING and above.
        undated: records that don't say when; they count as if they were since then.
    """

    since: float
    causes: list[Cause]
    verdict: str = ""
    log_records: int = 0
    log_levels: dict[str, int] = field(default_factory=dict)
    log_events: dict[str, int] = field(default_factory=dict)
    undated: int = 0


class _Gathering:
    """
    The failures of one code, as they are found.
    """

    def __init__(self) -> None:
        self.kept = self.maybe_stored = self.logged = 0
        self.topics: Counter[str] = Counter()
        self.logged_topics: Counter[str] = Counter()
        self.after: Counter[str] = Counter()
        self.minutes: Counter[int] = Counter()
        self.logged_minutes: Counter[int] = Counter()
        self.times: list[float] = []

    def keep(self, failed: FailedMessage) -> None:
        """
        One of the store.
        """
        self.kept += 1
        self.maybe_stored += failed.certainty is Certainty.MAYBE_STORED
        self.topics[failed.message.topic] += 1
        self.minutes[int(failed.first_failed_at // _MINUTE)] += 1
        self._at(failed.first_failed_at)
        self.after.update(attempt.code for attempt in failed.attempts if attempt.code != failed.error)

    def log(self, entry: Entry, messages: int) -> None:
        """
        Some of the log.
        """
        self.logged += messages
        self.logged_topics[str(entry.fields.get("topic", "?"))] += messages
        if entry.at is not None:
            self.logged_minutes[int(entry.at // _MINUTE)] += messages
            self._at(entry.at)

    def _at(self, moment: float) -> None:
        self.times = [min(moment, *self.times), max(moment, *self.times)] if self.times else [moment, moment]

    def cause(self, code: str) -> Cause:
        """
        All of it. What was replayed since is in the log only, and what nobody logged is in the store only.
        """
        origin, remedy = origin_of(code)
        stored = self.kept >= self.logged
        minutes = self.minutes if stored else self.logged_minutes
        peak = minutes.most_common(1)
        return Cause(
            code=code,
            origin=origin,
            remedy=remedy,
            messages=max(self.kept, self.logged),
            kept=self.kept,
            maybe_stored=self.maybe_stored,
            topics=dict((self.topics if stored else self.logged_topics).most_common(_MOST_TOPICS)),
            first_at=self.times[0] if self.times else None,
            last_at=self.times[1] if self.times else None,
            peak_at=peak[0][0] * _MINUTE if peak else None,
            peak_messages=peak[0][1] if peak else 0,
            after=dict(self.after.most_common(_MOST_TOPICS)),
        )


def examine_failures(
    since_seconds: float,
    store: FailedMessageStore | None = None,
    log_file: str | os.PathLike[str] | None = None,
) -> FailureReport:
    """
    Read what failed in the last `since_seconds`, and say where that comes from.

    Args:
        since_seconds: how far back.
        store: open; None looks at the log alone.
        log_file: of the application, with the package's events in it; None looks at the store alone.

    Raises:
        OSError: the log can't be read.
        StoreError: the store can't be read.
    """
    since = time.time() - since_seconds
    found: dict[str, _Gathering] = {}
    if store is not None:
        for failed in store.find(FailedMessageFilter(newer_than_seconds=since_seconds)):
            found.setdefault(failed.error, _Gathering()).keep(failed)
    report = FailureReport(since=since, causes=[])
    if log_file is not None:
        _read(log_file, report, found)
    report.causes = sorted((each.cause(code) for code, each in found.items()), key=lambda cause: -cause.messages)
    report.verdict = _verdict(report, logged=log_file is not None)
    return report


def origin_of(code: str) -> tuple[Origin, str]:
    """
    Where to look for a code, and what to do.
    """
    known = _BY_CODE.get(code)
    if known is not None:
        return known
    error = classify(code, Phase.LATER, "").__class__
    return _BY_ERROR.get(error, (Origin.BROKER, "look the code up in docs/errors.md"))


def _read(log_file: str | os.PathLike[str], report: FailureReport, found: dict[str, _Gathering]) -> None:
    levels: Counter[str] = Counter()
    events: Counter[str] = Counter()
    for entry in read_log(log_file):
        if entry.at is None:
            report.undated += 1
        elif entry.at < report.since:
            continue
        report.log_records += 1
        levels[entry.level or "?"] += 1
        if entry.level not in ("DEBUG", "INFO"):
            events[entry.event] += 1
        if entry.event == "safepulsar.failed":
            code = str(entry.fields.get("error_code", "?"))
            # A record stands for itself and for those that were left out before it; a reminder for the latter alone.
            own = 1 if "outcome" in entry.fields else 0
            found.setdefault(code, _Gathering()).log(entry, own + entry.number("suppressed"))
    report.log_levels = dict(levels)
    report.log_events = dict(events.most_common())


def _verdict(report: FailureReport, *, logged: bool) -> str:
    lost = [event for event in _STORE_EVENTS if event in report.log_events]
    if lost:
        return f"the store itself had trouble ({', '.join(lost)}): see its disk first"
    if not report.causes:
        if logged and not report.log_records:
            return "nothing failed, as far as is known: the log has no record of safepulsar since then; is it the right file, and is the logger on?"
        return "nothing failed"
    total = sum(cause.messages for cause in report.causes)
    origins: Counter[Origin] = Counter()
    for cause in report.causes:
        origins[cause.origin] += cause.messages
    (origin, messages), *_ = origins.most_common(1)
    topics = {topic for cause in report.causes if cause.origin is origin for topic in cause.topics}
    share = f"{messages:,} of {total:,} failures come from the {origin.value}"
    if origin in (Origin.NETWORK, Origin.BROKER):
        where = "only one topic is concerned, so look at what serves it" if len(topics) == 1 else _several(topics)
        return f"{share}: {where}"
    return f"{share}: {report.causes[0].remedy}"


def _several(topics: set[str] | Mapping[str, int]) -> str:
    return f"{len(topics)} topics are concerned, so it is nothing of a single topic"
