"""
Lets paused lanes go on by themselves once the broker is well, if the settings want that.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from safepulsar.books.gate import Gate
from safepulsar.delivery.lanes import LaneState
from safepulsar.errors import LaneNotPaused, LanePaused, SafePulsarError
from safepulsar.failed_messages import FailedMessageFilter
from safepulsar.message import Certainty
from safepulsar.sending.replay import replay

if TYPE_CHECKING:
    from safepulsar.delivery.lanes import Lane
    from safepulsar.sender import RetryingSender

log = logging.getLogger("safepulsar")
_LAST_STEPS_SECONDS = 2.0


class LaneProbe:
    """
    A thread, `safepulsar-lane-probe`, that now and then replays what is kept of each paused lane, and resumes it.

    The first message of a lane tells whether the broker is well. What may be stored already is not sent again, and its
    lane waits for somebody who decides. The thread ends with the sender, and starts anew in a forked child.

    Args:
        sender: whose lanes.
        seconds: between two looks.
    """

    def __init__(self, sender: RetryingSender, seconds: float) -> None:
        self._sender = sender
        self._seconds = seconds
        self._closing = Gate()
        self._thread = threading.Thread(target=self._run, name="safepulsar-lane-probe", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """
        End it; what it replays just now is waited for, two seconds at most.
        """
        self._closing.open()
        if self._thread is not threading.current_thread():
            self._thread.join(_LAST_STEPS_SECONDS)

    def _run(self) -> None:
        while not self._closing.is_open:
            self._closing.wait(self._seconds)
            for lane in self._paused():
                if self._closing.is_open or not self._resumed(lane):
                    break  # the broker is not well: all others would find the same

    def _paused(self) -> list[Lane]:
        try:
            return [lane for lane in self._sender.lanes() if lane.state is LaneState.PAUSED]
        except SafePulsarError:  # it is being closed
            return []

    def _resumed(self, lane: Lane) -> bool:
        """
        Try one lane; False if its messages can't be sent now.
        """
        where = FailedMessageFilter(topic=lane.topic, key=lane.ordering_key, certainty=Certainty.NOT_STORED)
        try:
            report = replay(self._sender.failed_messages, self._sender, where=where)
            self._sender.resume(lane)
        except LanePaused:
            return report.failed == 0  # something is kept that may be stored: for somebody else to decide
        except LaneNotPaused:
            return True
        except SafePulsarError as error:
            log.warning("safepulsar.lane_not_resumed", extra={"topic": lane.topic, "error": type(error).__name__})
            return False
        log.info("safepulsar.lane_resumed", extra={"topic": lane.topic, "messages": report.delivered})
        return True
