"""
What the store writes of a payload: the payload itself, or what its key makes of it; and what it takes for whole again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from safepulsar.errors import SealBroken, StoreUnavailable
from safepulsar.failed_messages.codec import RowDamaged

if TYPE_CHECKING:
    from safepulsar.failed_messages.encryption import PayloadEncryption
    from safepulsar.integrity import Seal
    from safepulsar.message import FailedMessage, Message

# Before what is encrypted, and before a payload that happens to begin like that.
_MARK: Final = b"\x00safepulsar\x00"
_AS_IT_IS, _ENCRYPTED = b"\x00", b"\x01"


class StoredPayloads:
    """
    Payloads on their way into the store and out of it. A tombstone stays one.

    Args:
        encryption: None writes them as they are.
        seal: None does not look at seals.
    """

    def __init__(self, encryption: PayloadEncryption | None, seal: Seal | None) -> None:
        self._encryption = encryption
        self._seal = seal

    def conceal(self, payload: bytes | None, topic: str, number: int) -> bytes | None:
        """
        Return what is written.

        Raises:
            StoreUnavailable: there is no key.
        """
        if self._encryption is not None:
            return _MARK + _ENCRYPTED + self._encryption.encrypt(payload, topic, number)
        return _MARK + _AS_IT_IS + payload if payload is not None and payload.startswith(_MARK) else payload

    def reveal(self, failed: FailedMessage) -> FailedMessage:
        """
        Return the message with its payload.

        Raises:
            RowDamaged: the payload was changed, or the seal is broken.
            StoreUnavailable: there is no key, or the payload is not encrypted where it should be.
        """
        message = self.reveal_message(failed.message, failed.id or 0)
        return failed if message is failed.message else replace(failed, message=message)

    def reveal_message(self, message: Message, number: int) -> Message:
        """
        Return the message with its payload; `number` is its id in the store. Raises as `reveal`.
        """
        if self._encryption is not None or (message.payload is not None and message.payload.startswith(_MARK)):
            message = replace(message, payload=self._opened(message.payload, message.topic, number))
        if self._seal is not None:
            try:
                self._seal.before_resend(message)
            except SealBroken as error:
                raise RowDamaged from error
        return message

    def _opened(self, stored: bytes | None, topic: str, number: int) -> bytes | None:
        mark = b"" if stored is None else stored[: len(_MARK) + 1]
        rest = b"" if stored is None else stored[len(_MARK) + 1 :]
        if mark == _MARK + _ENCRYPTED and self._encryption is not None:
            return self._encryption.decrypt(rest, topic, number)
        if mark == _MARK + _AS_IT_IS and self._encryption is None:
            return rest
        if mark == _MARK + _ENCRYPTED:
            problem = "is encrypted; open the store with its PayloadEncryption, or give the command --store-keys"
        elif self._encryption is not None:
            # Whoever can write the file but has no key must not be able to put a message of theirs into it.
            problem = "is not encrypted; replay what was kept before, with the store opened without encryption"
        else:
            raise RowDamaged
        raise StoreUnavailable(f"the payload of message {number} {problem}")
