"""
The store of failed messages, and what else is in its file.
"""

from __future__ import annotations

from safepulsar.errors.base import SafePulsarError


class StoreError(SafePulsarError):
    """
    The store of failed messages could not do what was asked; nothing else is lost by it.
    """


class StoreUnavailable(StoreError):
    """
    The store cannot be opened or written: a folder, read-only, locked for too long, not a database.
    """

    retriable = True


class StoreFull(StoreError):
    """
    The disk or the quota is full; free space and replay or resend.
    """

    retriable = True


class StoreInsecure(StoreError):
    """
    The store's file or folder could be read or replaced by others.
    """


class StoreTooNew(StoreError):
    """
    A newer version of safepulsar wrote this store.
    """


class StoreCorrupted(StoreError):
    """
    A row or the file fails its checksum.
    """


class StoreOfAnotherProducer(StoreError):
    """
    The producer name has a history here that is not this one's: another topic, or another input.
    """


class ProducerNameInUse(StoreError):
    """
    Another process or object holds the producer name, or took it over: two that number messages lose some.
    """

    retriable = True


class NoSuchFailedMessage(StoreError, KeyError):
    """
    The store holds no failed message of this id.
    """

    def __str__(self) -> str:
        """
        The sentence itself (KeyError would print its repr).
        """
        return str(self.args[0]) if self.args else ""
