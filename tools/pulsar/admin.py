"""
The few calls of Pulsar's admin interface (REST) that the tests need.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from typing import Any, Final

_CALL_SECONDS: Final = 20.0
# After a crash the check itself takes up to three seconds; asked again meanwhile, it would start over.
_HEALTH_SECONDS: Final = 10.0
_SETTLE_SECONDS: Final = 20.0
_POLL_SECONDS: Final = 0.05
_NOT_FOUND: Final = 404
_CONFLICT: Final = 409


class AdminError(Exception):
    """
    The admin interface refused a call; the text has the call and the answer.

    Attributes:
        status: the HTTP status.
    """

    def __init__(self, call: str, status: int, answer: str) -> None:
        super().__init__(f"{call}: {status} {answer}")
        self.status = status


class PulsarAdmin:
    """
    The admin interface of one broker. Safe to use from several threads.

    Topics are named in full or in short (`orders` is `persistent://public/default/orders`), namespaces as
    `public/default`. Each call gives up after 20 s.

    Args:
        url: its root, e.g. `http://127.0.0.1:8080`.
        token: of a role that may do it all, where the broker asks for one.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        self._root = f"{url}/admin/v2"
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def __repr__(self) -> str:
        return f"<PulsarAdmin {self._root}>"

    def is_healthy(self) -> bool:
        """
        Say whether the broker passes its own health check, which sends a message and reads it back.
        """
        try:
            request = urllib.request.Request(f"{self._root}/brokers/health", headers=self._headers)
            with urllib.request.urlopen(request, timeout=_HEALTH_SECONDS) as answer:
                return bool(answer.read() == b"ok")
        except OSError:  # refused, timed out, or an HTTP error: not yet
            return False

    def create_namespace(self, namespace: str, *, deduplication: bool) -> None:
        """
        Make a namespace, where it is missing, that deduplicates or doesn't, whatever the broker's default.
        """
        try:
            self._call("PUT", f"/namespaces/{namespace}", {})
        except AdminError as exc:
            if exc.status != _CONFLICT:  # it is there already
                raise
        self._call("POST", f"/namespaces/{namespace}/deduplication", deduplication)

    def set_deduplication(self, topic: str, *, enabled: bool) -> None:
        """
        Switch deduplication of one topic, and return once it has taken effect. The topic is made if missing.
        """
        path = _path(topic)
        if not self._exists(path):
            self._call("PUT", path)
        self._call("POST", f"{path}/deduplicationEnabled", enabled)
        deadline = time.monotonic() + _SETTLE_SECONDS
        while self._call("GET", f"{path}/deduplicationEnabled?applied=true") is not enabled:
            if time.monotonic() > deadline:
                raise TimeoutError(f"deduplication of {topic} has not become {enabled} within {_SETTLE_SECONDS:g} s")
            time.sleep(_POLL_SECONDS)

    def allow(self, namespace: str, role: str, *actions: str) -> None:
        """
        Let a role do this in a namespace: `produce`, `consume`.
        """
        self._call("POST", f"/namespaces/{namespace}/permissions/{role}", actions)

    def create_partitioned_topic(self, topic: str, partitions: int) -> None:
        """
        Make a topic with that many partitions.
        """
        self._call("PUT", f"{_path(topic)}/partitions", partitions)

    def add_partitions(self, topic: str, partitions: int) -> None:
        """
        Let a partitioned topic have that many, more than it has.
        """
        self._call("POST", f"{_path(topic)}/partitions", partitions)

    def topic_stats(self, topic: str) -> dict[str, Any]:
        """
        Return the broker's statistics of a topic, e.g. `["msgInCounter"]` or `["publishers"]`.
        """
        stats: dict[str, Any] = self._call("GET", f"{_path(topic)}/stats")
        return stats

    def statistics_url(self, topic: str) -> str:
        """
        Return where a process of its own finds what `topic_stats` returns.
        """
        return f"{self._root}{_path(topic)}/stats"

    def producer_count(self, topic: str) -> int:
        """
        Return how many producers the broker has open on a topic; 0 for one that it doesn't know.
        """
        return len(self.topic_stats(topic)["publishers"]) if self._exists(_path(topic)) else 0

    def schema(self, topic: str) -> dict[str, Any]:
        """
        Return the latest schema of a topic: its `type`, its `data` and its `version`.
        """
        tenant, namespace, name = _path(topic).split("/")[2:]
        latest: dict[str, Any] = self._call("GET", f"/schemas/{tenant}/{namespace}/{name}/schema")
        return latest

    def unload(self, topic: str) -> None:
        """
        Make the broker let go of a topic: its producers are disconnected and look it up again.
        """
        self._call("PUT", f"{_path(topic)}/unload")

    def terminate(self, topic: str) -> None:
        """
        Make a topic take no more messages, for ever.
        """
        self._call("POST", f"{_path(topic)}/terminate")

    def truncate(self, topic: str) -> None:
        """
        Throw away what a topic holds; its next messages are in a new ledger.
        """
        self._call("DELETE", f"{_path(topic)}/truncate")

    def delete(self, topic: str) -> None:
        """
        Delete a topic, its producers notwithstanding.
        """
        self._call("DELETE", f"{_path(topic)}?force=true")

    def _exists(self, path: str) -> bool:
        try:
            self._call("GET", f"{path}/stats")
        except AdminError as exc:
            if exc.status == _NOT_FOUND:
                return False
            raise
        return True

    def _call(self, method: str, path: str, body: object = None) -> Any:  # noqa: ANN401  # the caller knows its JSON
        request = urllib.request.Request(
            self._root + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", **self._headers},
        )
        try:
            with urllib.request.urlopen(request, timeout=_CALL_SECONDS) as response:
                text = response.read()
        except urllib.error.HTTPError as exc:
            with exc:
                answer = exc.read().decode(errors="replace")
            raise AdminError(f"{method} {path}", exc.code, answer) from exc
        return json.loads(text) if text else None


def _path(topic: str) -> str:
    """
    Return the path of a topic's resource.
    """
    if "://" not in topic:
        topic = f"persistent://public/default/{topic}"
    domain, _, name = topic.partition("://")
    return f"/{domain}/{name}"
