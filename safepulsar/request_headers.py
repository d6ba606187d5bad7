"""
What a client's headers say, made safe: malformed trace contexts are replaced, the rest is allowed by name, or left out.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import getrandbits  # ids of traces, no secrets; other ones in each forked child
from typing import Final, Protocol
from urllib.parse import quote, unquote

from safepulsar.checks import check_key
from safepulsar.errors import InvalidInput, InvalidSettings, shown
from safepulsar.settings.base import Settings, check_flag, check_number, check_text

MAX_BAGGAGE_BYTES: Final = 8192  # what the W3C asks everybody to carry
_MAX_BAGGAGE_ENTRIES: Final = 64
_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_TRACESTATE: Final = re.compile(r"[ -~]{1,512}")
_DAY_SECONDS: Final = 86_400.0


class Headers(Protocol):
    """
    The headers of a request, in any framework: names in any case.
    """

    def get(self, name: str, /) -> str | None: ...  # noqa: D102


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RequestContextSettings(Settings):
    """
    What is taken from a request.

    Args:
        baggage: names of W3C baggage entries that may travel on; by default none, because what a client sends
            is not for everybody.
        tenant_header: the header that names the tenant, None for none.
        deadline_header: the header with the seconds that the caller still waits, None for none.
        deadline_seconds: how long a request may take at most; None does not say.
        fields: properties of your own, by the header that each comes from, e.g. `{"user-agent": "User-Agent"}`.
        bound_sends: whether a request's remaining time bounds its sends.
    """

    baggage: tuple[str, ...] = ()
    tenant_header: str | None = None
    deadline_header: str | None = None
    deadline_seconds: float | None = None
    fields: Mapping[str, str] = field(default_factory=dict, hash=False)
    bound_sends: bool = True

    def __post_init__(self) -> None:
        """
        Check every name and number.
        """
        me = "RequestContextSettings"
        _check_names(me, self.baggage)
        check_text(me, "tenant_header", self.tenant_header)
        check_text(me, "deadline_header", self.deadline_header)
        if self.deadline_seconds is not None:
            check_number(me, "deadline_seconds", self.deadline_seconds, 0.001, _DAY_SECONDS)
        _check_fields(me, self.fields)
        object.__setattr__(self, "fields", dict(self.fields))
        check_flag(me, "bound_sends", self.bound_sends)


class Malformed:
    """
    How often a request carried something that was replaced or left out, by what it was. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _counts
        self._counts: dict[str, int] = {}

    def count(self, what: str) -> None:
        """
        One more.
        """
        with self._lock:
            self._counts[what] = self._counts.get(what, 0) + 1

    def counts(self) -> dict[str, int]:
        """
        A copy.
        """
        with self._lock:
            return dict(self._counts)


malformed: Final = Malformed()


def new_traceparent() -> str:
    """
    A trace that begins here, and is not sampled.
    """
    digits = f"{getrandbits(192):048x}"
    return f"00-{digits[:32]}-{digits[32:]}-00"


def is_traceparent(text: object) -> bool:
    """
    Whether it is a W3C trace context of any version, and not all zeros.
    """
    if type(text) is not str:
        return False
    found = _TRACEPARENT.fullmatch(text)
    if found is None:
        return False
    version, trace, span, _, rest = found.groups()
    if version == "ff" or (version == "00" and rest is not None):
        return False
    return trace.strip("0") != "" and span.strip("0") != ""


def is_tracestate(text: object) -> bool:
    """
    Whether it is 1 to 512 printable ASCII characters.
    """
    return type(text) is str and _TRACESTATE.fullmatch(text) is not None


def header_text(name: str, value: object) -> str | None:
    """
    The value of a header, if a property can hold it.
    """
    if value is None:
        return None
    text = str(value)
    try:
        check_key(name, text)
    except InvalidInput:
        malformed.count(name)
        return None
    return text


def deadline_of(headers: Headers, settings: RequestContextSettings) -> float | None:
    """
    When the caller stops waiting, on the clock of `time.monotonic`: as it says, and as the settings say at most.
    """
    seconds = settings.deadline_seconds
    text = headers.get(settings.deadline_header) if settings.deadline_header else None
    if text is not None:
        try:
            told = float(text)
        except ValueError:
            told = -1.0
        if 0 <= told <= _DAY_SECONDS:
            seconds = told if seconds is None else min(seconds, told)
        else:
            malformed.count("deadline")
    return None if seconds is None else time.monotonic() + seconds


def allowed_baggage(text: str | None, allowed: tuple[str, ...]) -> dict[str, str]:
    """
    The allowed entries of a baggage header, as many from its start as may travel.
    """
    kept: dict[str, str] = {}
    size = 0
    for entry in (text or "").split(","):
        name, equals, value = entry.partition(";")[0].partition("=")
        name = name.strip()
        if name not in allowed or not equals:
            continue
        plain = unquote(value.strip())
        size += len(name) + len(quote(plain)) + 2
        if size > MAX_BAGGAGE_BYTES or len(kept) >= _MAX_BAGGAGE_ENTRIES:
            malformed.count("baggage")
            break
        if header_text("baggage", plain) is not None:
            kept[name] = plain
    return kept


def baggage_text(baggage: Mapping[str, str]) -> str:
    """
    As the header has it.
    """
    return ",".join(f"{name}={quote(value)}" for name, value in baggage.items())


def _check_names(owner: str, names: object) -> None:
    if not isinstance(names, tuple):
        raise InvalidSettings(f"{owner}.baggage", f"must be a tuple of names, not {shown(names)}")
    for name in names:
        check_text(owner, "baggage", name, optional=False)


def _check_fields(owner: str, fields: object) -> None:
    if not isinstance(fields, Mapping):
        problem = f"must be a mapping of property names to header names, not {shown(fields)}"
        raise InvalidSettings(f"{owner}.fields", problem)
    for name, header in fields.items():
        check_text(owner, "fields", name, optional=False)
        check_text(owner, "fields", header, optional=False)
