"""
Pulsar's greeting, by hand: says what is at the other end without the client library, its threads and its retries.

A frame is its length, its command's length, and the command, a protobuf message of which a few fields are read here.
"""

from __future__ import annotations

import socket
import ssl
import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing import BinaryIO

    from safepulsar.settings import ClientSettings

_PORT, _TLS_PORT = 6650, 6651
_TYPE_CONNECT: Final = b"\x08\x02"
_CONNECT_TAG: Final = b"\x12"
# CommandConnect(client_version="safepulsar-doctor", protocol_version=19), without credentials.
_ANYBODY: Final = b"\x0a\x11safepulsar-doctor\x20\x13"
_AUTH_DATA_TAG, _AUTH_METHOD_TAG = b"\x1a", b"\x2a"
_CONNECTED, _ERROR, _AUTH_CHALLENGE = 3, 14, 36  # BaseCommand.Type
_MAX_FRAME_BYTES: Final = 64 * 1024
_MAX_REASON: Final = 200  # characters
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf's wire types


class NotPulsar(Exception):
    """
    Something answers there, but not as a Pulsar broker does; the text says what was seen.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """
    How a broker answered.

    Args:
        server: its version, as it names itself; empty if it refuses the credentials.
        max_message_bytes: its limit, None if it did not say.
        refusal: why it lets nobody in who has these credentials, or none; empty if it does.
    """

    server: str = ""
    max_message_bytes: int | None = None
    refusal: str = ""


def addresses(url: str) -> list[tuple[str, int]]:
    """
    Host and port of each broker that a (checked) URL names.
    """
    scheme, _, rest = url.partition("://")
    usual = _TLS_PORT if scheme == "pulsar+ssl" else _PORT
    found = []
    for host in rest.rstrip("/").split(","):
        name, separator, port = host.rpartition(":")
        if separator and port.isdigit() and (not name.startswith("[") or name.endswith("]")):
            found.append((name.strip("[]"), int(port)))
        else:
            found.append((host.strip("[]"), usual))
    return found


def greet(settings: ClientSettings, token: str | None, host: str, port: int, timeout_seconds: float) -> Greeting:
    """
    Connect, with TLS if the settings say so, and exchange greetings.

    Raises:
        OSError: no connection, or no answer in time; of its kinds, `ssl.SSLError` tells what TLS failed at.
        NotPulsar: another kind of answer.
    """
    with socket.create_connection((host, port), timeout_seconds) as plain:
        if not settings.tls:
            return _exchange(plain, settings, token)
        with _context(settings).wrap_socket(plain, server_hostname=host) as encrypted:
            return _exchange(encrypted, settings, token)


def _context(settings: ClientSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.tls_trust_certs_file)
    context.check_hostname = settings.tls_validate_hostname and not settings.tls_allow_insecure_connection
    if settings.tls_allow_insecure_connection:
        context.verify_mode = ssl.CERT_NONE  # as the settings have it; that it is a hazard is a finding of its own
    if settings.tls_certificate_file is not None:
        context.load_cert_chain(settings.tls_certificate_file, settings.tls_private_key_file)
    return context


def _exchange(connection: socket.socket, settings: ClientSettings, token: str | None) -> Greeting:
    connection.sendall(_connect(token, certificate=settings.tls_certificate_file is not None))
    with connection.makefile("rb") as incoming:
        greeting = _greeting(_command(incoming))
    return greeting if token is None else replace(greeting, refusal=greeting.refusal.replace(token, "…"))


def _connect(token: str | None, *, certificate: bool) -> bytes:
    """
    The frame with the credentials that the client library would send.
    """
    connect = _ANYBODY
    if token is not None:
        connect += _delimited(_AUTH_METHOD_TAG, b"token") + _delimited(_AUTH_DATA_TAG, token.encode())
    elif certificate:
        connect += _delimited(_AUTH_METHOD_TAG, b"tls")
    command = _TYPE_CONNECT + _delimited(_CONNECT_TAG, connect)
    return struct.pack(">II", len(command) + 4, len(command)) + command


def _delimited(tag: bytes, content: bytes) -> bytes:
    length, left = bytearray(), len(content)
    while left > 0x7F:  # noqa: PLR2004 - seven bits a byte; the highest says that more follow
        length.append(left & 0x7F | 0x80)
        left >>= 7
    return tag + bytes(length) + bytes([left]) + content


def _command(incoming: BinaryIO) -> bytes:
    head = incoming.read(8)
    if head.startswith(b"HTTP"):
        raise NotPulsar("speaks HTTP, as Pulsar's admin port does")
    if len(head) < 8:  # noqa: PLR2004 - two lengths of four bytes
        raise NotPulsar("closes the connection instead of a greeting")
    total, length = struct.unpack(">II", head)
    if not 0 < length <= total - 4 <= _MAX_FRAME_BYTES:
        raise NotPulsar("does not speak Pulsar's protocol")
    command = incoming.read(length)
    if len(command) < length:
        raise NotPulsar("breaks off in its greeting")
    return command


def _greeting(command: bytes) -> Greeting:
    try:
        fields = _fields(command)
        kind = fields.get(1)
        if kind == _CONNECTED:
            connected = _fields(fields[3])
            server, limit = connected.get(1, b""), connected.get(3)
            return Greeting(
                server=server.decode(errors="replace") if isinstance(server, bytes) else "",
                max_message_bytes=limit if isinstance(limit, int) and limit > 0 else None,
            )
        if kind == _ERROR:
            reason = _fields(fields[_ERROR]).get(3, b"")
            text = reason.decode(errors="replace") if isinstance(reason, bytes) else ""
            return Greeting(refusal=text[:_MAX_REASON] or "it gives no reason")
    except (LookupError, TypeError, ValueError) as error:
        raise NotPulsar("does not speak Pulsar's protocol") from error
    if kind == _AUTH_CHALLENGE:
        return Greeting(refusal="it asks for another way of authentication")
    raise NotPulsar("does not answer a greeting with one")


def _fields(message: bytes | int) -> dict[int, bytes | int]:
    """
    The fields of a protobuf message by their numbers; of one that is repeated, the last.

    Raises:
        IndexError: it breaks off.
        TypeError: it is no message but a number.
        ValueError: it has a field of no kind that is used here.
    """
    if isinstance(message, int):
        raise TypeError
    fields: dict[int, bytes | int] = {}
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            fields[number], at = _varint(message, at)
        elif kind == _BYTES:
            length, at = _varint(message, at)
            fields[number], at = message[at : at + length], at + length
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(kind)
    return fields


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - its highest bit says that more follow
            return value, at
        shift += 7
