"""
A sender from the configuration of an application: one mapping with names that begin with `SAFEPULSAR_`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from safepulsar.errors import InvalidSettings, shown
from safepulsar.request_context import ContextStep
from safepulsar.request_headers import RequestContextSettings
from safepulsar.sender import RetryingSender
from safepulsar.settings import ClientSettings, SenderSettings
from safepulsar.settings.base import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self

    from safepulsar.broker.client_registry import ClientRegistry
    from safepulsar.observing import Observer
    from safepulsar.steps import Step

PREFIX: Final = "SAFEPULSAR_"
_NAMES: Final = ("URL", "TOKEN", "TLS_TRUST_CERTS_FILE", "FAILED_MESSAGES", "CLIENT", "SENDER", "REQUEST")
_COMMAND_LINE: Final = ("DEBUG", "SEAL_KEYS", "STORE_KEYS")  # in the same environment, and the command's alone
_NAMED_BY_THE_USER: Final = ("topics", "fields", "properties")
_S = TypeVar("_S", bound=Settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """
    All that an adapter makes its sender of.

    Args:
        client: see `ClientSettings`.
        sender: see `SenderSettings`.
        request: see `RequestContextSettings`.
        failed_messages: the path of the store; None keeps failed messages in memory.
    """

    client: ClientSettings
    sender: SenderSettings = SenderSettings()  # noqa: RUF009 - it is frozen
    request: RequestContextSettings = RequestContextSettings()  # noqa: RUF009
    failed_messages: str | None = None

    @classmethod
    def read(cls, values: Mapping[str, object]) -> Self:
        """
        Read the names that begin with `SAFEPULSAR_`.

        They are `URL`, `TOKEN`, `TLS_TRUST_CERTS_FILE`, `FAILED_MESSAGES`, and the parts `CLIENT`, `SENDER` and `REQUEST`,
        which are mappings as for `from_mapping`, or settings.

        Raises:
            InvalidSettings: there is no URL, a name with our prefix is unknown, or a value is wrong.
        """
        ours = {name[len(PREFIX) :]: value for name, value in values.items() if name.startswith(PREFIX)}
        for name in ours:
            if name not in (*_NAMES, *_COMMAND_LINE):
                remedy = f"the names are {', '.join(_NAMES)}; other settings go into CLIENT, SENDER or REQUEST"
                raise InvalidSettings(PREFIX + name, f"is not a name of the configuration; {remedy}")
        failed_messages = ours.get("FAILED_MESSAGES")
        if failed_messages is not None and not isinstance(failed_messages, (str, os.PathLike)):
            raise InvalidSettings(f"{PREFIX}FAILED_MESSAGES", f"must be a path, not {shown(failed_messages)}")
        return cls(
            client=_client(ours),
            sender=_part(SenderSettings, "SENDER", ours.get("SENDER", {})),
            request=_part(RequestContextSettings, "REQUEST", ours.get("REQUEST", {})),
            failed_messages=None if failed_messages is None else os.fspath(failed_messages),
        )

    def make_sender(
        self,
        *,
        registry: ClientRegistry | None = None,
        steps: Sequence[Step] = (),
        observers: Sequence[Observer] = (),
    ) -> RetryingSender:
        """
        A sender whose messages carry the request's context, and then pass `steps`. Nothing is opened.
        """
        context = ContextStep(deadline_seconds=self.sender.deadline_seconds, bound_sends=self.request.bound_sends)
        return RetryingSender(
            self.client,
            failed_messages=self.failed_messages,
            settings=self.sender,
            registry=registry,
            steps=[context, *steps],
            observers=observers,
        )


def _client(ours: Mapping[str, object]) -> ClientSettings:
    given = ours.get("CLIENT", {})
    short = {name.lower(): ours[name] for name in ("URL", "TOKEN", "TLS_TRUST_CERTS_FILE") if ours.get(name)}
    if isinstance(given, ClientSettings):
        if short:
            raise InvalidSettings(f"{PREFIX}CLIENT", f"says {', '.join(short)} already; leave out one of the two")
        return given
    if not isinstance(given, Mapping):
        raise InvalidSettings(f"{PREFIX}CLIENT", f"must be a mapping or ClientSettings, not {shown(given)}")
    values = {**_lowered(given), **short}
    if not values.get("url"):
        problem = "is missing: set it to the broker, e.g. 'pulsar://localhost:6650', before the application begins"
        raise InvalidSettings(f"{PREFIX}URL", problem)
    return ClientSettings.from_mapping(values)


def _lowered(given: Mapping[str, object]) -> dict[str, object]:
    """
    The same with names in lower case: variables of the environment come in capitals. Topics have names of their own.
    """
    lowered: dict[str, object] = {}
    for name, value in given.items():
        low = name.lower() if isinstance(name, str) else name
        lowered[low] = _lowered(value) if isinstance(value, Mapping) and low not in _NAMED_BY_THE_USER else value
    return lowered


def _part(kind: type[_S], name: str, given: object) -> _S:
    if isinstance(given, kind):
        return given
    if not isinstance(given, Mapping):
        raise InvalidSettings(PREFIX + name, f"must be a mapping or {kind.__name__}, not {shown(given)}")
    return kind.from_mapping(_lowered(given))
