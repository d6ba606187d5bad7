"""
Topic names: a full, allowed name or a typed error; nothing that came from outside reaches the broker unchecked.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from safepulsar.errors import InvalidTopic

_MAX_NAMES = 10_000  # remembered; a name made of user input must not grow the table without end
_PART = re.compile(r"[-=:.\w]{1,200}", re.ASCII)
_PARTITION = re.compile(r"-partition-[0-9]+\Z")
_SHORT_PARTS, _FULL_PARTS = 1, 3


class TopicNames:
    """
    Turns `orders`, `tenant/namespace/orders` or a full name into `persistent://tenant/namespace/orders`.

    Thread-safe: it only fills a dict, and filling it twice with the same does no harm.

    Args:
        allowed_namespaces: patterns of `tenant/namespace`; None allows any.
    """

    def __init__(self, allowed_namespaces: tuple[str, ...] | None = None) -> None:
        self._allowed = allowed_namespaces
        self._full: dict[str, str] = {}

    def full(self, topic: str) -> str:
        """
        The full name of `topic`.

        Raises:
            InvalidTopic: empty, malformed, a single partition's name, or outside the allowed namespaces.
        """
        try:
            return self._full[topic]
        except (KeyError, TypeError):
            full = self._parse(topic)
            if len(self._full) >= _MAX_NAMES:
                self._full.clear()
            self._full[topic] = full
            return full

    def _parse(self, topic: object) -> str:
        if not isinstance(topic, str) or not topic:
            what = "empty" if topic == "" else type(topic).__name__
            msg = f"must be text such as 'orders' or 'persistent://tenant/namespace/orders', not {what}"
            raise InvalidTopic("topic", msg)
        shown = ascii(topic[:80])
        domain, separator, rest = topic.partition("://")
        if not separator:
            domain, rest = "persistent", topic
        if domain not in ("persistent", "non-persistent"):
            msg = f"{shown} must begin with persistent:// or non-persistent://"
            raise InvalidTopic("topic", msg)
        parts = rest.split("/")
        if len(parts) == _SHORT_PARTS and not separator:
            parts = ["public", "default", *parts]
        if len(parts) != _FULL_PARTS:
            msg = f"{shown} must be a name, tenant/namespace/name, or {domain}://tenant/namespace/name"
            raise InvalidTopic("topic", msg)
        for part in parts:
            if not _PART.fullmatch(part) or part.strip(".") == "":
                msg = f"{shown}: each part takes 1 to 200 letters, digits and - = : . _, and more than dots"
                raise InvalidTopic("topic", msg)
        tenant, namespace, name = parts
        if _PARTITION.search(name):
            msg = f"{shown} names one partition; name the topic, and its partitions are found"
            raise InvalidTopic("topic", msg)
        where = f"{tenant}/{namespace}"
        if self._allowed is not None and not any(_matches(where, pattern) for pattern in self._allowed):
            msg = f"{shown} is outside the allowed namespaces ({', '.join(self._allowed)}); see allowed_namespaces"
            raise InvalidTopic("topic", msg)
        return f"{domain}://{where}/{name}"


def topic_of_partition(name: str) -> str:
    """
    The topic that a partition belongs to; a topic's own name as it is.
    """
    return _PARTITION.sub("", name)


def _matches(where: str, pattern: str) -> bool:
    # Part by part, so that `*` does not reach over the slash.
    return all(fnmatchcase(part, piece) for part, piece in zip(where.split("/"), pattern.split("/"), strict=True))
