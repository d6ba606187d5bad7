"""
The settings of a sender: its bounds, its patience, and the parts it is made of.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from safepulsar.errors import InvalidSettings, shown
from safepulsar.settings.base import YEAR_SECONDS, Settings, check_enum, check_flag, check_number, check_text
from safepulsar.settings.producer import BROKER_MAX_MESSAGE_BYTES, TopicSettings

_HOUR, _DAY = 3600, 86_400
_PATTERN = re.compile(r"[-=:.*\w]+/[-=:.*\w]+", re.ASCII)
_MAX_RATE = 1e12


class WhenFull(str, Enum):
    """
    What `submit` and `send` do when the bound on messages or bytes in flight is reached.
    """

    BLOCK = "BLOCK"  # wait until there is room or the deadline is over
    RAISE = "RAISE"  # raise QueueFull at once
    KEEP = "KEEP"  # put the message into the store of failed messages, surely not stored in the topic


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PoolSettings(Settings):
    """
    How the pool keeps producers.

    Args:
        max_producers: at most this many open at once; when all are leased, a lease waits.
        idle_seconds: a producer that nobody leased for so long is flushed and closed.
        max_concurrent_creations: how many topics are asked for at once; more would press a broker that
            has just come back.
        creation_backoff_seconds: after a failed creation the topic is left alone for so long; doubled at
            each further failure up to `creation_backoff_max_seconds`.
        creation_backoff_max_seconds: the longest pause between two tries.
        leak_seconds: a lease held longer is reported with the place where it was taken; None reports none
            and saves the look at the stack.
    """

    max_producers: int = 1000
    idle_seconds: float = 60.0
    max_concurrent_creations: int = 16
    creation_backoff_seconds: float = 0.1
    creation_backoff_max_seconds: float = 5.0
    leak_seconds: float | None = None

    def __post_init__(self) -> None:
        """
        Check every number.
        """
        me = "PoolSettings"
        check_number(me, "max_producers", self.max_producers, 1, 1_000_000, whole=True)
        check_number(me, "idle_seconds", self.idle_seconds, 0, YEAR_SECONDS)
        check_number(me, "max_concurrent_creations", self.max_concurrent_creations, 1, 10_000, whole=True)
        first, longest = self.creation_backoff_seconds, self.creation_backoff_max_seconds
        check_number(me, "creation_backoff_seconds", first, 0, _HOUR)
        check_number(me, "creation_backoff_max_seconds", longest, first, _HOUR)
        if self.leak_seconds is not None:
            check_number(me, "leak_seconds", self.leak_seconds, 0, YEAR_SECONDS)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RetrySettings(Settings):
    """
    When a failed attempt is made again.

    Args:
        max_retries: after the first attempt. 0 makes every attempt the only one.
        first_delay_seconds: before the first retry, doubled each time.
        max_delay_seconds: doubling ends here.
        jitter_seconds: up to so much is added to every delay at random, so that many senders don't come back
            at once.
        resend_maybe_stored: False keeps a message whose attempt may have been stored (`MAYBE_STORED`) for
            a human or a tool to decide; True sends it again and accepts a duplicate.
    """

    max_retries: int = 3
    first_delay_seconds: float = 0.1
    max_delay_seconds: float = 5.0
    jitter_seconds: float = 0.1
    resend_maybe_stored: bool = False

    def __post_init__(self) -> None:
        """
        Check every number.
        """
        me = "RetrySettings"
        check_number(me, "max_retries", self.max_retries, 0, 1_000_000, whole=True)
        check_number(me, "first_delay_seconds", self.first_delay_seconds, 0, _HOUR)
        check_number(me, "max_delay_seconds", self.max_delay_seconds, self.first_delay_seconds, _DAY)
        check_number(me, "jitter_seconds", self.jitter_seconds, 0, _HOUR)
        check_flag(me, "resend_maybe_stored", self.resend_maybe_stored)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SenderSettings(Settings):
    """
    How a `RetryingSender` behaves; every default is safe.

    Args:
        deadline_seconds: of each message, from the call to its fate: waiting for room, creating a
            producer, every attempt and every pause together.
        max_in_flight_messages: accepted and not yet final, over all topics. What bounds the memory.
        max_in_flight_bytes: payloads, keys and properties of those.
        when_full: see `WhenFull`.
        max_message_bytes: payload, keys and properties of one message; the broker's own limit is
            5 MiB unless changed there. With chunking the limit does not apply.
        messages_per_second: at most, averaged over the sender; None does not limit.
        bytes_per_second: likewise.
        retry: see `RetrySettings`.
        pool: see `PoolSettings`.
        close_seconds: how long `close()` without an argument, the end of a `with` block and the exit of
            the interpreter wait for what is in flight before they keep the rest in the store.
        lane_probe_seconds: so often paused lanes are tried again: what is kept of them and surely not stored is replayed, and
            then they go on. None leaves that to you.
        drain_on_sigterm: True lets SIGTERM, where the application has no handler of its own, first deliver
            or keep what was accepted and then end the process by the same signal.
        allowed_namespaces: patterns (`*` matches within a part) of `tenant/namespace`, None for any. A topic
            elsewhere is refused, which stops a topic name that came from outside.
        topics: settings of single topics by their name as given to `send`; all others use `topic_defaults`.
            The mapping is copied.
        topic_defaults: see `TopicSettings`.
    """

    deadline_seconds: float = 10.0
    max_in_flight_messages: int = 10_000
    max_in_flight_bytes: int = 64 * 1024 * 1024
    when_full: WhenFull = WhenFull.BLOCK
    max_message_bytes: int = BROKER_MAX_MESSAGE_BYTES - 16 * 1024
    messages_per_second: float | None = None
    bytes_per_second: float | None = None
    retry: RetrySettings = RetrySettings()
    pool: PoolSettings = PoolSettings()
    close_seconds: float = 10.0
    lane_probe_seconds: float | None = None
    drain_on_sigterm: bool = True
    allowed_namespaces: tuple[str, ...] | None = None
    topics: Mapping[str, TopicSettings] = field(default_factory=dict, metadata={"each": TopicSettings}, hash=False)
    topic_defaults: TopicSettings = TopicSettings()  # noqa: RUF009 - it is frozen

    def __post_init__(self) -> None:
        """
        Check every number, and that the parts are what they should be.
        """
        me = "SenderSettings"
        check_number(me, "deadline_seconds", self.deadline_seconds, 0.001, YEAR_SECONDS)
        check_number(me, "max_in_flight_messages", self.max_in_flight_messages, 1, 100_000_000, whole=True)
        check_number(me, "max_in_flight_bytes", self.max_in_flight_bytes, 1, 1024**5, whole=True)
        check_number(me, "max_message_bytes", self.max_message_bytes, 1, 1024**3, whole=True)
        check_enum(me, "when_full", self.when_full, WhenFull)
        if self.messages_per_second is not None:
            check_number(me, "messages_per_second", self.messages_per_second, 0.001, _MAX_RATE)
        if self.bytes_per_second is not None:
            check_number(me, "bytes_per_second", self.bytes_per_second, 0.001, _MAX_RATE)
        check_number(me, "close_seconds", self.close_seconds, 0, _DAY)
        if self.lane_probe_seconds is not None:
            check_number(me, "lane_probe_seconds", self.lane_probe_seconds, 0.01, _DAY)
        check_flag(me, "drain_on_sigterm", self.drain_on_sigterm)
        _check_topics(me, self.topics)
        object.__setattr__(self, "topics", dict(self.topics))
        _check_part(f"{me}.retry", self.retry, RetrySettings)
        _check_part(f"{me}.pool", self.pool, PoolSettings)
        _check_part(f"{me}.topic_defaults", self.topic_defaults, TopicSettings)
        if self.allowed_namespaces is not None:
            _check_patterns(f"{me}.allowed_namespaces", self.allowed_namespaces)


def _check_part(field_name: str, value: object, kind: type[Settings]) -> None:
    if not isinstance(value, kind):
        raise InvalidSettings(field_name, f"must be {kind.__name__}, not {shown(value)}")


def _check_topics(owner: str, topics: object) -> None:
    if not isinstance(topics, Mapping):
        problem = f"must be a mapping of topic names to TopicSettings, not {shown(topics)}"
        raise InvalidSettings(f"{owner}.topics", problem)
    for name, settings in topics.items():
        check_text(owner, "topics", name, optional=False)
        _check_part(f"{owner}.topics[{name[:80]!a}]", settings, TopicSettings)


def _check_patterns(field_name: str, patterns: object) -> None:
    if not isinstance(patterns, tuple):
        raise InvalidSettings(field_name, f"must be a tuple of patterns such as ('shop/*',), not {shown(patterns)}")
    for place, pattern in enumerate(patterns):
        if not isinstance(pattern, str) or not _PATTERN.fullmatch(pattern):
            raise InvalidSettings(f"{field_name}[{place}]", "must be a pattern of tenant/namespace, such as 'shop/*'")
