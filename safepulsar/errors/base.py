"""
The root of all errors, and how they speak of what they were given.
"""

from __future__ import annotations

from typing import ClassVar

_LONGEST_BITS = 64  # Python refuses to print very long numbers


class SafePulsarError(Exception):
    """
    The root of all errors of this package. They can be pickled, so that they get through a process pool whole.
    """

    retriable: ClassVar[bool] = False
    maybe_stored: ClassVar[bool] = False

    def __reduce__(self) -> tuple[object, ...]:
        """
        Pickle and copy without `__init__`, whose arguments are other ones than those that Exception remembers.
        """
        return _restored, (type(self), self.args), self.__dict__


def _restored(kind: type[SafePulsarError], args: tuple[object, ...]) -> SafePulsarError:
    return kind.__new__(kind, *args)


def shown(value: object) -> str:
    """
    What an error tells of a wrong value: a number itself, of anything else the type, because it could be a secret.
    """
    if isinstance(value, float) or (isinstance(value, int) and value.bit_length() <= _LONGEST_BITS):
        return repr(value)
    return type(value).__name__
