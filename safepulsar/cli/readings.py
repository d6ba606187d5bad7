"""
The numbers of a running process, read from its socket or from where Prometheus reads them, and what happened between two.
"""

from __future__ import annotations

import json
import math
import re
import socket
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Final

from safepulsar.errors import InvalidInput, SafePulsarError

_SECONDS: Final = 5.0
_MOST_BYTES: Final = 16 << 20
_SAMPLE: Final = re.compile(r"(safepulsar_\w+)(?:\{(.*)\})? (\S+)(?: \d+)?")
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_BUCKET: Final = "safepulsar_send_duration_seconds_bucket"


class NoAnswer(SafePulsarError):
    """
    Nothing, or nothing of safepulsar's, is to be read there.
    """


@dataclass(frozen=True, slots=True)
class Reading:
    """
    All numbers at one moment.

    Args:
        values: by name and labels, a histogram taken apart as Prometheus has it.
        pid: of the process, where it says so.
    """

    values: dict[tuple[str, frozenset[tuple[str, str]]], float] = field(default_factory=dict)
    pid: int | None = None

    def by(self, name: str, label: str) -> dict[str, float]:
        """
        The values of `safepulsar_{name}`, added up by one of its labels.
        """
        found: dict[str, float] = {}
        for (each, labels), value in self.values.items():
            if each == f"safepulsar_{name}":
                key = dict(labels).get(label, "")
                found[key] = found.get(key, 0.0) + value
        return found

    def total(self, name: str) -> float:
        """
        All of `safepulsar_{name}` together.
        """
        return sum(self.by(name, "").values())


def read(where: str) -> Reading:
    """
    The numbers at a URL of metrics, or at a socket's path.

    Raises:
        NoAnswer: there are none.
        InvalidInput: no such URL or path can be.
    """
    if where.startswith(("http://", "https://")):
        return from_text(_get(where))
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_SECONDS)
            connection.connect(where)
            parts = []
            while part := connection.recv(1 << 16):
                parts.append(part)
        return from_json(b"".join(parts))
    except (OSError, ValueError, LookupError, TypeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "no numbers come"
        msg = f"nothing is to be read at {where!r} ({why}): see serve_status(), or give the URL of the metrics"
        raise NoAnswer(msg) from error


def from_json(text: bytes) -> Reading:
    """
    What `serve_status` sends.
    """
    value = json.loads(text)
    bounds = [str(bound) for bound in value["buckets"]] + ["+Inf"]
    reading = Reading(pid=int(value["pid"]))
    for family in value["families"]:
        for labels, sample in family["samples"]:
            own = dict(zip(family["labels"], labels, strict=True))
            if isinstance(sample, dict):
                count = 0
                for bound, number in zip(bounds, sample["counts"], strict=True):
                    count += number
                    reading.values[f"{family['name']}_bucket", frozenset({**own, "le": bound}.items())] = count
                reading.values[f"{family['name']}_count", frozenset(own.items())] = count
                reading.values[f"{family['name']}_sum", frozenset(own.items())] = sample["total"]
            else:
                reading.values[family["name"], frozenset(own.items())] = float(sample)
    return reading


def from_text(text: str) -> Reading:
    """
    What Prometheus reads.

    Raises:
        NoAnswer: there is nothing of safepulsar's in it.
    """
    reading = Reading()
    for line in text.splitlines():
        found = _SAMPLE.fullmatch(line.strip())
        if found is not None:
            labels = frozenset((name, value) for name, value in _LABEL.findall(found[2] or ""))
            reading.values[found[1], labels] = float(found[3])
    if not reading.values:
        msg = "there are metrics, and none of safepulsar's among them: see safepulsar.metrics.prometheus.export()"
        raise NoAnswer(msg)
    return reading


def quantile(share: float, before: Reading, now: Reading) -> float | None:
    """
    So many of what was delivered in between took at most these seconds; None if nothing was.
    """
    counts: dict[float, float] = {}
    for (name, labels), value in now.values.items():
        own = dict(labels)
        if name == _BUCKET and own.get("outcome") == "delivered":
            bound = float(own["le"].replace("+Inf", "inf"))
            counts[bound] = counts.get(bound, 0.0) + value - before.values.get((name, labels), 0.0)
    total = counts.get(math.inf, 0.0)
    if total <= 0:
        return None
    low = seen = 0.0
    for bound, count in sorted(counts.items()):
        if count >= share * total:
            inside = count - seen
            return low if math.isinf(bound) else low + (bound - low) * (share * total - seen) / inside
        low, seen = bound, count
    return low


def _get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer:  # noqa: S310 - its scheme was looked at
            data: bytes = answer.read(_MOST_BYTES)
    except urllib.error.HTTPError as error:
        msg = f"{url} answers with {error.code}"
        raise NoAnswer(msg) from error
    except (OSError, ValueError) as error:
        msg = f"{url} does not answer"
        raise NoAnswer(msg) from error
    return data.decode(errors="replace")


def check_where(where: str) -> str:
    """
    A path or URL that may be read.

    Raises:
        InvalidInput: it is neither.
    """
    if "://" in where and not where.startswith(("http://", "https://")):
        raise InvalidInput("WHERE", "must be the path of a socket, or an http:// or https:// URL of metrics")
    return where
