"""
Payloads that nobody reads in the store's file who has not the key: AES-GCM, each bound to its topic and its id.

Topics, keys and properties stay readable, because the store looks for messages by them.

Needs `cryptography`: `pip install "safepulsar[encryption]"`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from safepulsar.checks import check_key
from safepulsar.errors import InvalidSettings, StoreUnavailable
from safepulsar.failed_messages.codec import RowDamaged

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
except ImportError as error:
    raise ImportError('encryption needs cryptography: pip install "safepulsar[encryption]"') from error

if TYPE_CHECKING:
    from collections.abc import Callable

_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_MAX_ID_BYTES: Final = 255
_TOMBSTONE: Final = b"\x00"
_PAYLOAD: Final = b"\x01"


class PayloadEncryption:
    """
    Encrypts what is written, and decrypts what is read. Shared by threads.

    Args:
        key_id: names the key for what is written from now on; stored with each payload.
        key: returns the 32 bytes of the key with this id. It is asked for each payload, so whatever takes long in it
            belongs into a cache of its own. To rotate, name a new id and keep answering for the old one.

    Raises:
        InvalidSettings: the id is no text of 1 to 255 bytes, or the key can't be called.
    """

    def __init__(self, key_id: str, key: Callable[[str], bytes]) -> None:
        if check_key("key_id", key_id) > _MAX_ID_BYTES:
            raise InvalidSettings("key_id", f"must have at most {_MAX_ID_BYTES} bytes")
        if not callable(key):
            raise InvalidSettings("key", f"must be a function of the key id, not {type(key).__name__}")
        self._key_id = key_id
        self._key = key

    def __repr__(self) -> str:
        """
        Say which key is used for what is written.
        """
        return f"<PayloadEncryption with key {self._key_id!r}>"

    def encrypt(self, payload: bytes | None, topic: str, number: int) -> bytes:
        """
        Return what is stored of a payload; that it is a tombstone can't be seen either.

        Raises:
            StoreUnavailable: there is no key.
        """
        name = self._key_id.encode()
        nonce = os.urandom(_NONCE_BYTES)
        head = bytes([len(name)]) + name
        plain = _TOMBSTONE if payload is None else _PAYLOAD + payload
        return head + nonce + self._cipher(self._key_id).encrypt(nonce, plain, _bound(head, topic, number))

    def decrypt(self, stored: bytes, topic: str, number: int) -> bytes | None:
        """
        Return the payload of what is stored.

        Raises:
            RowDamaged: it was changed, is another message's, or the key is another one.
            StoreUnavailable: there is no key of its id.
        """
        end = 1 + stored[0] if stored else 1
        head, nonce, sealed = stored[:end], stored[end : end + _NONCE_BYTES], stored[end + _NONCE_BYTES :]
        try:
            name = head[1:].decode()
        except UnicodeDecodeError as error:
            raise RowDamaged from error
        if not name or len(nonce) < _NONCE_BYTES:
            raise RowDamaged
        try:
            plain = self._cipher(name).decrypt(nonce, sealed, _bound(head, topic, number))
        except InvalidTag:
            raise RowDamaged from None
        return None if plain == _TOMBSTONE else plain[1:]

    def _cipher(self, key_id: str) -> AESGCM:
        try:
            key = self._key(key_id)
        except Exception as error:
            problem = f"raised {type(error).__name__}"
            raise StoreUnavailable(
                f"there is no key {key_id!r} for the payloads of the store: key() {problem}"
            ) from error
        if not isinstance(key, bytes) or len(key) != _KEY_BYTES:
            problem = f"must return {_KEY_BYTES} bytes"
            raise StoreUnavailable(f"there is no key {key_id!r} for the payloads of the store: key() {problem}")
        return AESGCM(key)


def _bound(head: bytes, topic: str, number: int) -> bytes:
    return head + number.to_bytes(8, "big") + topic.encode()
