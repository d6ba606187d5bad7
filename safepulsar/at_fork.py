"""
Objects that must be new in a forked child: locks that another thread of the parent may have held, counts that are its.
"""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def renew_in_child(method: Callable[[], None]) -> None:
    """
    Call `method` of an object in every child that is forked from now on, as long as the object lives.
    """
    if not hasattr(os, "register_at_fork"):
        return  # Windows, which has no fork
    living = weakref.WeakMethod(method)

    def renew() -> None:
        alive = living()
        if alive is not None:
            alive()

    os.register_at_fork(after_in_child=renew)
