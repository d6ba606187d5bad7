"""
Options that several commands share, and what they mean when they are left out.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Final

import typer

from safepulsar.errors import InvalidInput, InvalidSettings
from safepulsar.message import Certainty
from safepulsar.settings import ClientSettings, LogLevel

_DEFAULT_URL: Final = "pulsar://localhost:6650"
# What the user wrote, by what the settings call it.
_NAMES: Final = {
    "ClientSettings.url": "--url",
    "ClientSettings.token": "SAFEPULSAR_TOKEN",
    "ClientSettings.tls_trust_certs_file": "SAFEPULSAR_TLS_TRUST_CERTS_FILE",
}
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def default_failed_path() -> Path:
    """
    Where failed messages are kept unless told otherwise: in this user's folder for state, made when needed.
    """
    state = os.environ.get("XDG_STATE_HOME", "")
    # The specification says to ignore a relative one.
    folder = Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state"
    return folder / "safepulsar" / "failed.db"


def failed_path(given: Path | None) -> Path:
    """
    The path that was given, or the default; absolute, so that a hint works in every folder.
    """
    return default_failed_path() if given is None else given.absolute()


def client_settings(url: str, *, debug: bool) -> ClientSettings:
    """
    The settings for one cluster.

    Secrets come from the environment and never from the command line, which other users of the machine can see.
    The client library's own log is only shown when debugging: what went wrong is told by the command.

    Raises:
        InvalidInput: the URL or a variable is refused.
    """
    try:
        return ClientSettings(
            url=url,
            token=os.environ.get("SAFEPULSAR_TOKEN") or None,
            tls_trust_certs_file=os.environ.get("SAFEPULSAR_TLS_TRUST_CERTS_FILE") or None,
            log_level=LogLevel.INFO if debug else LogLevel.ERROR,
            log_file=None if debug else os.devnull,
        )
    except InvalidSettings as error:
        raise InvalidInput(_NAMES.get(error.field, error.field), str(error).partition(": ")[2]) from error


def age(text: str) -> float:
    """
    Seconds from `90s`, `15m`, `2h` or `7d`.
    """
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhd])", text.strip().lower())
    if match is None:
        raise typer.BadParameter(f"{text!r} is no age; write a number with s, m, h or d: 90s, 15m, 2h, 7d")
    return float(match[1]) * _SECONDS[match[2]]


Url = Annotated[
    str,
    typer.Option(
        envvar="SAFEPULSAR_URL",
        show_default=_DEFAULT_URL,
        help="The broker, e.g. pulsar://host:6650 or pulsar+ssl://host:6651. A token comes from the variable "
        "SAFEPULSAR_TOKEN, a CA file from SAFEPULSAR_TLS_TRUST_CERTS_FILE.",
        metavar="URL",
    ),
]
DEFAULT_URL: Final = _DEFAULT_URL
Failed = Annotated[
    Path | None,
    typer.Option(
        "--failed",
        help="The store of failed messages, a file. Default: $XDG_STATE_HOME/safepulsar/failed.db, "
        "or ~/.local/state/safepulsar/failed.db.",
        metavar="PATH",
        show_default=False,
    ),
]
StoreKeys = Annotated[
    Path | None,
    typer.Option(
        "--store-keys",
        envvar="SAFEPULSAR_STORE_KEYS",
        help="The keys of a store whose payloads are encrypted: a file that only this user can read, with a JSON object of "
        "key ids to 32 bytes in base64. The last one encrypts.",
        metavar="FILE",
        show_default=False,
    ),
]
SealKeys = Annotated[
    Path | None,
    typer.Option(
        "--seal-keys",
        envvar="SAFEPULSAR_SEAL_KEYS",
        help="The keys of seals by HMAC-SHA-256, in such a file, too. Checksums are checked without.",
        metavar="FILE",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="JSON on standard output, for scripts.")]
Topic = Annotated[str | None, typer.Option(help="Only of this topic.", metavar="T", show_default=False)]
Key = Annotated[
    str | None,
    typer.Option(help="Only with this ordering key, or else partition key.", metavar="K", show_default=False),
]
Error = Annotated[
    str | None,
    typer.Option(help="Only with this last error, e.g. DeadlineExceeded.", metavar="E", show_default=False),
]
OlderThan = Annotated[
    float | None,
    typer.Option(
        parser=age, help="Only if first failed so long ago: 90s, 15m, 2h, 7d.", metavar="AGE", show_default=False
    ),
]
Certain = Annotated[
    Certainty | None,
    typer.Option(
        "--certainty",
        case_sensitive=False,
        help="Only what is surely not in the topic, or only what may be there.",
        show_default=False,
    ),
]
Ids = Annotated[
    list[int] | None, typer.Option("--id", help="Only this one; may be given several times.", show_default=False)
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
