"""
Whether a process is live, ready and started, as far as its sender is concerned, and why not.

For the probes of whoever runs the process; the adapters serve it over HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from safepulsar.books.handle import GRACE_SECONDS, now

if TYPE_CHECKING:
    from safepulsar.sender import RetryingSender
    from safepulsar.sending.engine import Engine

_LATE_SECONDS = 1.0  # beyond the moment at which a failed message should be kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """
    The answer to one probe.

    Args:
        ok: yes or no.
        reasons: why not; nothing of a message, no secret.
        notes: what is wrong and no reason to say no.
    """

    ok: bool
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        """
        What is served.
        """
        return {"status": "ok" if self.ok else "failing", "reasons": list(self.reasons), "notes": list(self.notes)}


def live(sender: RetryingSender) -> Health:
    """
    No means: only a new process helps. A broker that is down is no reason, and neither is a full disk.
    """
    return _answer(["the sender is closed; this process accepts no more messages"] if sender.closed else [])


def started(sender: RetryingSender) -> Health:
    """
    Whether the sender was opened, and with it its store of failed messages.
    """
    if sender.closed or sender._engine is not None:
        return _answer([])
    return _answer(["the sender is not opened yet; open() it when the application starts, or send"])


def ready(sender: RetryingSender, *, broker_required: bool = False) -> Health:
    """
    Whether a message would be accepted now, and kept if it failed.

    Args:
        sender: the one that is asked about.
        broker_required: say no also while no producer can be had for some topic. By default that is a note: messages
            are accepted then, and kept, and all instances of a service would say no at the same moment.
    """
    reasons = [*live(sender).reasons, *started(sender).reasons]
    engine = sender._engine
    if reasons or engine is None:
        return _answer(reasons)
    counts = engine.ledger.counts()
    settings = engine.settings
    if counts.in_flight >= settings.max_in_flight_messages:
        reasons.append(f"full: {counts.in_flight} of {settings.max_in_flight_messages} messages are in flight")
    if counts.in_flight_bytes >= settings.max_in_flight_bytes:
        reasons.append(f"full: {counts.in_flight_bytes} of {settings.max_in_flight_bytes} bytes are in flight")
    limit = now() - GRACE_SECONDS - _LATE_SECONDS
    if any(handle._deadline < limit for handle in engine.keeper.pending()):
        reasons.append("the store of failed messages does not answer; see its disk")
    broker = _broker_problems(engine)
    if broker_required:
        return _answer(reasons + broker)
    return _answer(reasons, broker)


def _broker_problems(engine: Engine) -> list[str]:
    return [
        f"no producer for topic {queue.topic!r}: {code}"
        for queue in engine.queues()
        if (code := queue.borrower.last_failure()) is not None
    ]


def _answer(reasons: list[str], notes: list[str] | None = None) -> Health:
    return Health(ok=not reasons, reasons=tuple(reasons), notes=tuple(notes or ()))
