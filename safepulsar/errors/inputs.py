"""
What is refused before anything is sent.
"""

from __future__ import annotations

from safepulsar.errors.base import SafePulsarError


class InvalidInput(SafePulsarError, ValueError):
    """
    An argument is refused before anything is sent.

    The text names the field, the limit and the remedy, and never quotes a payload or a secret.

    Attributes:
        field: the argument's name, e.g. `partition_key`.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class InvalidSettings(InvalidInput):
    """
    A setting has a wrong type or value.
    """


class InvalidTopic(InvalidInput):
    """
    A topic name is malformed or outside the allowed namespaces.
    """


class InvalidMessage(InvalidInput):
    """
    A payload, key, property or time of a message is refused.
    """


class SealBroken(InvalidMessage):
    """
    A message is not what was sealed when it was sent: damaged, tampered with, or sealed by somebody else.

    It tells nothing of what the message holds. Whoever received it must not use it.
    """


class StepFailed(InvalidInput):
    """
    A step raised before the message was accepted; what it raised is the `__cause__`.
    """
