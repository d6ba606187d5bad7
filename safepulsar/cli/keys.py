"""
Keys from a file that only this user can read: of a store's encryption, and of seals. None is ever shown, whole or in part.

The file is a JSON object of key ids to keys in base64. The last one is for what is written, all of them are for reading.
"""

from __future__ import annotations

import base64
import json
import os
import stat
from typing import TYPE_CHECKING, Final

from safepulsar.errors import InvalidInput
from safepulsar.integrity import AnySeal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from safepulsar.failed_messages.encryption import PayloadEncryption

_STORE: Final = "--store-keys"
_SEAL: Final = "--seal-keys"
_STORE_BYTES: Final = 32
_SEAL_BYTES: Final = 16
_MOST_BYTES: Final = 65_536


def store_encryption(path: Path | None) -> PayloadEncryption | None:
    """
    What encrypts a store's payloads by the keys in a file; None without one.

    Raises:
        InvalidInput: others can read the file, or it holds no keys.
        ImportError: the extra `encryption` is missing.
    """
    if path is None:
        return None
    from safepulsar.failed_messages.encryption import PayloadEncryption  # noqa: PLC0415  # an extra

    keys = _read_keys(_STORE, path)
    for place, key in enumerate(keys.values(), start=1):
        if len(key) != _STORE_BYTES:
            raise InvalidInput(_STORE, f"{str(path)!r}: key {place} has {len(key)} bytes, and needs {_STORE_BYTES}")
    for place, name in enumerate(keys, start=1):
        try:
            encryption = PayloadEncryption(name, keys.__getitem__)
        except InvalidInput:
            raise _no_id(_STORE, path, place) from None
    return encryption


def seals(path: Path | None) -> AnySeal:
    """
    What checks the seals of messages: checksums always, and HMACs by the keys in a file.

    Raises:
        InvalidInput: others can read the file, or it holds no keys.
    """
    if path is None:
        return AnySeal()
    keys = _read_keys(_SEAL, path)
    for place, (name, key) in enumerate(keys.items(), start=1):
        if len(key) < _SEAL_BYTES:
            problem = f"{str(path)!r}: key {place} has {len(key)} bytes, and needs {_SEAL_BYTES} at least"
            raise InvalidInput(_SEAL, problem)
        try:
            AnySeal({name: key})
        except InvalidInput:
            raise _no_id(_SEAL, path, place) from None
    return AnySeal(keys)


def _no_id(option: str, path: Path, place: int) -> InvalidInput:
    # Not quoted: who takes one for the other writes the key where its id belongs.
    return InvalidInput(option, f"{str(path)!r}: key {place} has an id that is empty, too long, or no plain text")


def _read_keys(option: str, path: Path) -> dict[str, bytes]:
    """
    The keys by their ids, in the order of the file.
    """

    def refuse(problem: str) -> InvalidInput:
        return InvalidInput(option, f"{str(path)!r} {problem}")

    try:
        value = json.loads(_text(path, refuse), object_pairs_hook=_Pairs)
    except InvalidInput:
        raise
    except (ValueError, RecursionError):
        raise refuse("is not JSON; it must hold an object of key ids to keys in base64") from None
    if not isinstance(value, _Pairs) or not value:
        raise refuse("must hold a JSON object of key ids to keys in base64, with one at least")
    keys: dict[str, bytes] = {}
    for place, (name, key) in enumerate(value, start=1):
        if name in keys:
            raise refuse(f"is no file of keys: key {place} has the id of one before it")
        try:
            keys[name] = base64.b64decode(key, validate=True)
        except (TypeError, ValueError):
            raise refuse(f"is no file of keys: key {place} is not base64") from None
    return keys


class _Pairs(list[tuple[str, str]]):
    """
    An object with all of its pairs, in their order, whose names may be the same.
    """


def _text(path: Path, refuse: Callable[[str], InvalidInput]) -> bytes:
    try:
        # Without waiting for whoever may write into a pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise refuse(f"can't be read: {os.strerror(error.errno or 0)}") from error
    try:
        # The open file is looked at, not its name: so a link may lead to it, and nobody can turn it meanwhile.
        if problem := _insecure(os.fstat(descriptor)):
            raise refuse(problem)
        text = os.read(descriptor, _MOST_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(text) > _MOST_BYTES:
        raise refuse(f"is over {_MOST_BYTES:,} bytes, so it is no file of keys")
    return text


def _insecure(found: os.stat_result) -> str:
    """
    Why a file is none for keys; empty if it is one.
    """
    if not stat.S_ISREG(found.st_mode):
        return "is not a plain file"
    me = os.geteuid()
    if found.st_uid != me:
        return f"belongs to user {found.st_uid}, not to this one ({me}), who could change the keys; make a file of your own"
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        mode = stat.S_IMODE(found.st_mode)
        return f"can be opened by others (mode {mode:04o}); run chmod 600 on it, and make new keys if somebody may have read it"
    return ""
