"""
Faults that a test ordered in advance, each for the next so many calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from safepulsar.broker.outcomes import Phase

# After these the official client's producer takes no message any more, and what is pending ends the same way.
ENDS_A_PRODUCER: Final = frozenset({"AlreadyClosed", "ProducerFenced", "TopicTerminated"})


@dataclass(slots=True, kw_only=True)
class Fault:
    """
    What goes wrong, and how often it still will. Ordered by `FakeBroker.fail_next`, where the words are explained.
    """

    code: str
    phase: Phase
    topic: str | None
    stored: bool
    left: int


class FaultScript:
    """
    The ordered faults, oldest first. Not locked: the broker's lock guards it.
    """

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def order(self, fault: Fault) -> None:
        """
        Add one; it comes after those ordered before for the same phase and topic.
        """
        self._faults.append(fault)

    def take(self, phase: Phase, topic: str) -> Fault | None:
        """
        The fault of this call, if one is due; it is used up by that.
        """
        for fault in self._faults:
            if fault.phase is phase and fault.topic in (None, topic):
                fault.left -= 1
                if not fault.left:
                    self._faults.remove(fault)
                return fault
        return None

    def clear(self) -> None:
        """
        Forget those not used up.
        """
        self._faults.clear()

    def left(self) -> int:
        """
        How many calls are still to fail.
        """
        return sum(fault.left for fault in self._faults)
