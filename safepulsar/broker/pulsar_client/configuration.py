"""
Settings become the native library's configuration: seconds to milliseconds, names to its enumerations.

The library's own errors pass through here and quote values; see `native.quietly`.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Final

import _pulsar

from safepulsar.broker.pulsar_client.schemas import schema_info
from safepulsar.errors import InvalidSettings
from safepulsar.settings import AccessMode, Compression, LogLevel

if TYPE_CHECKING:
    from collections.abc import Callable

    from safepulsar.settings import ClientSettings, ProducerSettings

log = logging.getLogger("safepulsar")

_NO_LIMIT_BYTES: Final = 2**31 - 1
_NO_TIMER_MS: Final = 3_600_000
_COMPRESSIONS: Final = {
    Compression.NONE: _pulsar.CompressionType.NONE,
    Compression.LZ4: _pulsar.CompressionType.LZ4,
    Compression.ZLIB: _pulsar.CompressionType.ZLib,
    Compression.ZSTD: _pulsar.CompressionType.ZSTD,
    Compression.SNAPPY: _pulsar.CompressionType.SNAPPY,
}
_ACCESS_MODES: Final = {
    AccessMode.SHARED: _pulsar.ProducerAccessMode.Shared,
    AccessMode.EXCLUSIVE: _pulsar.ProducerAccessMode.Exclusive,
    AccessMode.EXCLUSIVE_WITH_FENCING: _pulsar.ProducerAccessMode.ExclusiveWithFencing,
}
_LOG_LEVELS: Final = {
    LogLevel.ERROR: _pulsar.LoggerLevel.Error,
    LogLevel.WARN: _pulsar.LoggerLevel.Warn,
    LogLevel.INFO: _pulsar.LoggerLevel.Info,
    LogLevel.DEBUG: _pulsar.LoggerLevel.Debug,
}


class TokenSource:
    """
    Asks the application for a token at each connect, on the library's network thread.

    The library takes an exception as a failed authentication, and writes its text to the log: only its kind may show.

    Attributes:
        failure: what was wrong at the last time, None if nothing.
    """

    def __init__(self, supplier: Callable[[], str]) -> None:
        self.failure: str | None = None
        self._supplier = supplier

    def __call__(self) -> str:
        """
        Return the token.

        Raises:
            RuntimeError: the application has none; the text is `failure`.
        """
        try:
            token: object = self._supplier()
        except BaseException as error:  # noqa: BLE001  # on that thread there is nobody else to handle it
            self.failure = f"the token callable of ClientSettings raised {type(error).__name__}"
        else:
            if isinstance(token, str) and token:
                self.failure = None
                return token
            what = "empty text" if token == "" else type(token).__name__
            self.failure = f"the token callable of ClientSettings returned {what}, not a token"
        raise RuntimeError(self.failure)


def client_configuration(settings: ClientSettings, token: TokenSource | None) -> _pulsar.ClientConfiguration:
    """
    Make the configuration of a client.

    Raises:
        InvalidSettings: a file cannot be read, or the log cannot be written.
    """
    configuration = _pulsar.ClientConfiguration()
    configuration.operation_timeout_seconds(settings.operation_timeout_seconds)
    configuration.connection_timeout(max(1, round(settings.connection_timeout_seconds * 1000)))
    configuration.io_threads(settings.io_threads)
    configuration.stats_interval_in_seconds(0)  # a line in the log every 10 minutes, for a lock at every message
    configuration.set_file_logger(_LOG_LEVELS[settings.log_level], _log_path(settings.log_file))
    if settings.listener_name is not None:
        configuration.listener_name(settings.listener_name)
    if settings.tls:
        configuration.tls_validate_hostname(settings.tls_validate_hostname)
        configuration.tls_allow_insecure_connection(settings.tls_allow_insecure_connection)
        authorities = settings.tls_trust_certs_file or _trusted_authorities()
        configuration.tls_trust_certs_file_path(_readable("ClientSettings.tls_trust_certs_file", authorities))
    if settings.tls_certificate_file is not None and settings.tls_private_key_file is not None:
        certificate = _readable("ClientSettings.tls_certificate_file", settings.tls_certificate_file)
        key = _readable("ClientSettings.tls_private_key_file", settings.tls_private_key_file)
        configuration.tls_certificate_file_path(certificate)
        configuration.tls_private_key_file_path(key)
        configuration.authentication(_pulsar.AuthenticationTLS.create(certificate, key))
    if token is not None:
        configuration.authentication(_pulsar.AuthenticationToken.create(token))
    elif settings.token is not None:
        # Without this word a token that begins with `file:` or `env:` would be taken for a place to look.
        configuration.authentication(_pulsar.AuthenticationToken.create(f"token:{settings.token}"))
    return configuration


def producer_configuration(settings: ProducerSettings) -> _pulsar.ProducerConfiguration:
    """
    Make the configuration of a producer.

    Raises:
        InvalidSettings: a key file cannot be read.
    """
    configuration = _pulsar.ProducerConfiguration()
    if settings.schema is not None:
        configuration.schema(schema_info(settings.schema))
    # Its timeouts fail all messages as soon as one is late, and are put off by each reconnect; deadlines are ours.
    configuration.send_timeout_millis(0)
    # Unlimited: the bounds are ours, and a batch or a chunked message that is refused leaks permits of its own.
    configuration.max_pending_messages(0)
    configuration.block_if_queue_full(False)  # noqa: FBT003  # these functions of pybind11's take no keywords
    configuration.compression_type(_COMPRESSIONS[settings.compression])
    configuration.chunking_enabled(settings.chunking)
    configuration.access_mode(_ACCESS_MODES[settings.access_mode])
    configuration.batching_enabled(settings.batch_max_messages > 1)
    if settings.batch_max_messages > 1:
        configuration.batching_max_messages(settings.batch_max_messages)
        # Whoever sends closes each batch, by count or flush. A limit or a timer of the library's would split one
        # silently; a batch over the broker's limit is better refused as a whole, which `MessageTooBig` does.
        configuration.batching_max_allowed_size_in_bytes(_NO_LIMIT_BYTES)
        configuration.batching_max_publish_delay_ms(_NO_TIMER_MS)
    if settings.producer_name is not None:
        configuration.producer_name(settings.producer_name)
    if settings.initial_sequence_id is not None:
        configuration.initial_sequence_id(settings.initial_sequence_id)
    elif settings.producer_name is None:
        # Ids from 1. Left to itself the library counts anew when it reconnects before the first acknowledgement, from
        # the last id that reached the broker: a broker that deduplicates then drops new messages as if it had them.
        configuration.initial_sequence_id(0)
    for name, value in settings.properties:
        configuration.property(name, value)
    if settings.encryption_key is not None and settings.crypto_key_files is not None:
        public, private = settings.crypto_key_files
        _readable("ProducerSettings.crypto_key_files", public)  # the private one is the receivers'
        configuration.encryption_key(settings.encryption_key)
        configuration.crypto_key_reader(_pulsar.CryptoKeyReader(public, private))
    return configuration


def _readable(field: str, path: str) -> str:
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError as error:
        raise InvalidSettings(field, f"the file cannot be read: {error.strerror}") from error
    return path


def _trusted_authorities() -> str:
    # Imported here, because a start without TLS need not take the time.
    import ssl  # noqa: PLC0415

    # The library's own OpenSSL looks in folders of the machine that it was built on.
    system = ssl.get_default_verify_paths().cafile
    if system:
        return system
    import certifi  # noqa: PLC0415  # which pulsar-client depends on

    return certifi.where()


def _log_path(log_file: str | None) -> str:
    """
    Return where the library's log goes. Its console logger writes to standard output, which is the program's.

    Standard error by its name in the file system; where it has none (a socket, or closed) there is no log, and ours
    says so. A file that standard error is redirected to must be opened for appending (`2>>`), or the two overwrite
    each other.
    """
    path = log_file or "/dev/stderr"
    try:
        # Made here, so that nobody else can read it. Not waiting, if it is a pipe that has lost its reader.
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o600))
    except OSError as error:
        if log_file is not None:
            raise InvalidSettings("ClientSettings.log_file", f"cannot be written: {error.strerror}") from error
        log.warning("safepulsar.client_log_off", extra={"reason": error.strerror, "remedy": "ClientSettings.log_file"})
        return os.devnull
    return path
