"""
What every broker for tests has in common: topics to look into, and faults on command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from safepulsar.broker.outcomes import Phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safepulsar.broker.transport import Connect
    from safepulsar.testing.topic_log import StoredMessage


class FaultSwitch(Protocol):
    """
    Breaks a broker on command, and heals it. `FakeBroker` and `EmbeddedPulsar` are two.
    """

    def freeze(self) -> None:
        """
        Answer nothing from now on; connections stay.
        """

    def thaw(self) -> None:
        """
        Go on after `freeze`.
        """

    def kill(self) -> None:
        """
        End, as by a crash: connections break, and what was acknowledged stays.
        """

    def start(self) -> None:
        """
        Start again after `kill`.
        """

    def restart(self) -> None:
        """
        Kill it and start it again.
        """

    def fail_next(
        self,
        count: int,
        code: str,
        *,
        phase: Phase = Phase.LATER,
        topic: str | None = None,
        stored: bool = False,
    ) -> None:
        """
        Let the next `count` calls fail with a code of Pulsar's, e.g. `ProducerFenced`; see `FakeBroker.fail_next`.
        """

    def forget_faults(self) -> None:
        """
        Take back what `fail_next` ordered and nothing has used up.
        """


class BrokerForTests(FaultSwitch, Protocol):
    """
    A broker that senders can be connected to, and whose topics can be looked into.
    """

    @property
    def url(self) -> str:
        """
        What a sender is made with.
        """

    @property
    def connect(self) -> Connect:
        """
        Makes clients of this broker, whatever URL their settings have.
        """

    def messages(self, topic: str) -> Sequence[StoredMessage]:
        """
        Everything that a topic holds, in order.
        """
