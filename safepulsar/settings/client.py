"""
The settings of a connection to a cluster.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from safepulsar.errors import InvalidSettings, shown
from safepulsar.settings.base import Settings, check_enum, check_flag, check_number, check_text

if TYPE_CHECKING:
    from collections.abc import Callable

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_LOOPBACK = re.compile(r"localhost|\[::1\]|127(\.[0-9]{1,3}){3}")  # not 127.example.com
_MAX_PORT = 65_535


class LogLevel(str, Enum):
    """
    How much of the client library's own log is written.
    """

    ERROR = "ERROR"
    WARN = "WARN"
    INFO = "INFO"
    DEBUG = "DEBUG"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ClientSettings(Settings):
    """
    One connection to one Pulsar cluster; equal settings share one client in a process.

    Args:
        url: `pulsar://host:6650` or `pulsar+ssl://host:6651`, several hosts separated by commas.
        token: a JSON web token, or a callable that returns the current one; a callable is asked at each
            connect, so an expired token heals by itself. Refused over an unencrypted connection to another
            machine unless `allow_token_without_tls` says so.
        allow_token_without_tls: send the token in clear text. Anyone on the network can then read it.
        tls_trust_certs_file: PEM file of the authorities to trust; None trusts the system's.
        tls_certificate_file: the client's own certificate, for authentication by TLS; needs `pulsar+ssl://`.
        tls_private_key_file: the key of that certificate.
        tls_validate_hostname: True refuses a server whose certificate is for another name. The official
            client leaves this off, which lets anyone with any trusted certificate stand in the middle.
        tls_allow_insecure_connection: accept any certificate. For a test machine only.
        operation_timeout_seconds: for creating a producer and looking up a topic. Shorter gives clearer
            errors on a dead broker, longer survives a slow start. Whole seconds.
        connection_timeout_seconds: for one TCP connection.
        io_threads: native threads for the network; one serves some hundred thousand messages a second.
        log_level: of the client library's own log.
        log_file: where that log goes; None is standard error. Never a Python logger: the process then
            aborts at exit every now and then (apache/pulsar-client-python#256).
        listener_name: which advertised listener of the broker to use.
    """

    url: str
    token: str | Callable[[], str] | None = field(default=None, metadata={"secret": True})
    allow_token_without_tls: bool = False
    tls_trust_certs_file: str | None = None
    tls_certificate_file: str | None = None
    tls_private_key_file: str | None = None
    tls_validate_hostname: bool = True
    tls_allow_insecure_connection: bool = False
    operation_timeout_seconds: int = 10
    connection_timeout_seconds: float = 5.0
    io_threads: int = 1
    log_level: LogLevel = LogLevel.WARN
    log_file: str | None = None
    listener_name: str | None = None

    def __post_init__(self) -> None:
        """
        Refuse what the client library would take silently.
        """
        me = "ClientSettings"
        _check_url(f"{me}.url", self.url)
        if not callable(self.token):
            check_text(me, "token", self.token)
        check_text(me, "tls_trust_certs_file", self.tls_trust_certs_file)
        check_text(me, "tls_certificate_file", self.tls_certificate_file)
        check_text(me, "tls_private_key_file", self.tls_private_key_file)
        check_text(me, "log_file", self.log_file)
        check_text(me, "listener_name", self.listener_name)
        check_flag(me, "allow_token_without_tls", self.allow_token_without_tls)
        check_flag(me, "tls_validate_hostname", self.tls_validate_hostname)
        check_flag(me, "tls_allow_insecure_connection", self.tls_allow_insecure_connection)
        check_number(me, "operation_timeout_seconds", self.operation_timeout_seconds, 1, 3600, whole=True)
        check_number(me, "connection_timeout_seconds", self.connection_timeout_seconds, 0.1, 3600)
        check_number(me, "io_threads", self.io_threads, 1, 64, whole=True)
        check_enum(me, "log_level", self.log_level, LogLevel)
        if (self.tls_certificate_file is None) != (self.tls_private_key_file is None):
            problem = "the client certificate and its private key are given together or not at all"
            raise InvalidSettings(f"{me}.tls_certificate_file", problem)
        if self.tls_certificate_file is not None and not self.tls:
            problem = "is shown to the broker over pulsar+ssl:// only; the url says pulsar://"
            raise InvalidSettings(f"{me}.tls_certificate_file", problem)
        if self.token is not None and not (self.tls or self.allow_token_without_tls or self._loopback()):
            problem = (
                "a token over pulsar:// to another machine travels in clear text; use pulsar+ssl://, "
                "or say allow_token_without_tls=True"
            )
            raise InvalidSettings(f"{me}.token", problem)

    @property
    def tls(self) -> bool:
        """
        Whether the connection is encrypted.
        """
        return self.url.startswith("pulsar+ssl://")

    def _loopback(self) -> bool:
        hosts = (_HOST.fullmatch(host) for host in _hosts(self.url))
        return all(host is not None and _LOOPBACK.fullmatch(host[1]) is not None for host in hosts)


def _hosts(url: str) -> list[str]:
    return url.partition("://")[2].removesuffix("/").split(",")


def _check_url(field_name: str, url: object) -> None:
    # Nothing of the URL is quoted: a password may stand anywhere in a malformed one.
    if not isinstance(url, str):
        raise InvalidSettings(field_name, f"must be text such as 'pulsar://localhost:6650', not {shown(url)}")
    if not url.startswith(("pulsar://", "pulsar+ssl://")):
        problem = "must begin with 'pulsar://', or with 'pulsar+ssl://' for TLS, as in 'pulsar://localhost:6650'"
        raise InvalidSettings(field_name, problem)
    if "@" in url:
        raise InvalidSettings(field_name, "must not carry a user or a password; use `token` or a client certificate")
    for each in _hosts(url):
        host = _HOST.fullmatch(each)
        if host is None:
            raise InvalidSettings(field_name, "must name hosts as host:port, several separated by commas")
        if host[2] is not None and not 0 < int(host[2]) <= _MAX_PORT:
            raise InvalidSettings(field_name, f"port {host[2]} is not between 1 and {_MAX_PORT}")
