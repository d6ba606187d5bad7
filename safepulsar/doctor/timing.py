"""
Whether the times and rates of settings fit together, and with those who end processes.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from safepulsar.doctor.finding import Finding, Level

if TYPE_CHECKING:
    from safepulsar.settings import RetrySettings, SenderSettings

_GRACE_SECONDS: Final = 30.0  # between SIGTERM and SIGKILL, by default of gunicorn and Kubernetes
_GUNICORN_SECONDS: Final = 30.0  # its default --timeout


def examine_retries(sender: SenderSettings) -> Finding:
    """
    Whether the retries fit into the deadline, and the deadline into a request.
    """
    retry, deadline = sender.retry, sender.deadline_seconds
    pauses = _pauses(retry)
    request = _gunicorn_timeout()
    level, remedy = Level.OK, ""
    what = f"up to {retry.max_retries} retries, {pauses:.1f} s of pauses, within {deadline:g} s"
    if deadline >= request:
        level = Level.BAD
        what = f"a send may take {deadline:g} s, and gunicorn kills a worker after {request:g} s"
        remedy = "a shorter deadline_seconds, or submit() in place of send() in a request"
    elif pauses >= deadline:
        level = Level.WARN
        what += ": the deadline comes first, and the last retries never happen"
        remedy = "a longer deadline_seconds, or fewer retries"
    return Finding(id="retries", level=level, what=what, remedy=remedy)


def examine_closing(sender: SenderSettings) -> Finding:
    """
    Whether the end of the process leaves time for what is in flight.
    """
    seconds = sender.close_seconds
    level, remedy = Level.OK, ""
    what = f"closing waits up to {seconds:g} s for what is in flight, and keeps the rest"
    if seconds >= _GRACE_SECONDS - 5:
        level = Level.WARN
        what += f"; containers and gunicorn kill after {_GRACE_SECONDS:g} s"
        remedy = "a shorter close_seconds, or a longer grace (terminationGracePeriodSeconds, --graceful-timeout)"
    elif not sender.drain_on_sigterm:
        level = Level.WARN
        what += "; SIGTERM does not drain, unless your own handler closes the sender"
        remedy = "leave drain_on_sigterm=True, or call close() in your handler"
    return Finding(id="closing", level=level, what=what, remedy=remedy)


def examine_rate(sender: SenderSettings) -> Finding:
    """
    Whether the rate limit lets messages through before their deadline.
    """
    messages, size = sender.messages_per_second, sender.bytes_per_second
    if messages is None and size is None:
        return Finding(
            id="rate-limit", level=Level.OK, what="none of our own; the broker's publish limits may hold back"
        )
    what = f"at most {f'{messages:g} messages' if messages else 'any number'} and {f'{size:,.0f} bytes' if size else 'any size'} a second"
    full = max(
        sender.max_in_flight_messages / messages if messages else 0.0,
        sender.max_message_bytes / size if size else 0.0,
    )
    if full > sender.deadline_seconds:
        return Finding(
            id="rate-limit",
            level=Level.WARN,
            what=f"{what}: a full queue, or one large message, needs {full:,.0f} s, and the deadline is {sender.deadline_seconds:g} s",
            remedy="fewer max_in_flight_messages, a longer deadline_seconds, or a higher rate",
        )
    return Finding(id="rate-limit", level=Level.OK, what=what)


def examine_resending(retry: RetrySettings, deduplication: Finding) -> Finding:
    """
    Whether sending again what may be stored makes duplicates.
    """
    if not retry.resend_maybe_stored:
        what = "what may be stored is kept, and not sent again by itself"
        return Finding(id="resending", level=Level.OK, what=what)
    if deduplication.level is Level.OK:
        what = "what may be stored is sent again; the broker deduplicates where producer names and sequence ids are set"
        return Finding(id="resending", level=Level.OK, what=what)
    return Finding(
        id="resending",
        level=Level.WARN,
        what="what may be stored is sent again, and this broker is not known to deduplicate: it may be stored twice",
        remedy="turn deduplication on and set producer names, or leave resend_maybe_stored=False",
    )


def _pauses(retry: RetrySettings) -> float:
    total, delay = 0.0, retry.first_delay_seconds
    for _ in range(min(retry.max_retries, 1000)):
        total += min(delay, retry.max_delay_seconds)
        delay = min(delay * 2, retry.max_delay_seconds)
    return total


def _gunicorn_timeout() -> float:
    arguments = os.environ.get("GUNICORN_CMD_ARGS")
    if arguments is None:
        return float("inf")
    words = arguments.replace("=", " ").split()
    for name in ("--timeout", "-t"):
        if name in words[:-1]:
            text = words[words.index(name) + 1]
            seconds = float(text) if text.isdigit() else _GUNICORN_SECONDS
            return seconds or float("inf")
    return _GUNICORN_SECONDS
