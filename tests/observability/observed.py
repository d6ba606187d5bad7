"""
Senders on the fake broker whose observers are the tests' own, and records of the log as they came.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final

from safepulsar.broker.client_registry import ClientRegistry
from safepulsar.observing import Finished
from safepulsar.sender import RetryingSender
from safepulsar.settings import RetrySettings, SenderSettings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from typing_extensions import Self

    from safepulsar.failed_messages import FailedMessageStore
    from safepulsar.message import Fate
    from safepulsar.observing import Fact, Observer
    from safepulsar.steps import Step
    from safepulsar.testing import FakeBroker

TOPIC: Final = "persistent://public/default/orders"
AT_ONCE: Final = RetrySettings(first_delay_seconds=0, jitter_seconds=0)
NO_RETRY: Final = RetrySettings(max_retries=0, first_delay_seconds=0, jitter_seconds=0)


def observed(
    broker: FakeBroker,
    *observers: Observer,
    steps: Sequence[Step] = (),
    topic_steps: Mapping[str, Sequence[Step]] | None = None,
    store: FailedMessageStore | str | None = None,
    **settings: Any,  # noqa: ANN401 - as SenderSettings
) -> RetryingSender:
    """
    A sender that knows no other broker, and leaves the process's signals alone.
    """
    return RetryingSender(
        broker.url,
        failed_messages=store,
        settings=SenderSettings(**{"drain_on_sigterm": False, "retry": AT_ONCE, **settings}),
        registry=ClientRegistry(broker.connect),
        steps=steps,
        topic_steps=topic_steps,
        observers=observers,
    )


class Listener:
    """
    Keeps every fact; the sender's `close` has told all of them.
    """

    def __init__(self) -> None:
        self.facts: list[Fact] = []
        self.threads: set[str] = set()

    def observe(self, fact: Fact) -> None:
        """
        Keep it.
        """
        self.threads.add(threading.current_thread().name)
        self.facts.append(fact)

    def finished(self, fate: Fate) -> int:
        """
        How many messages got this fate.
        """
        return sum(len(fact.handles) for fact in self.facts if isinstance(fact, Finished) and fact.fate is fate)


class Records(logging.Handler):
    """
    Keeps the records of a logger, from DEBUG on, in a `with` block.
    """

    def __init__(self, logger: str = "safepulsar") -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []
        self._logger = logging.getLogger(logger)

    def emit(self, record: logging.LogRecord) -> None:
        """
        Keep it.
        """
        self.records.append(record)

    def of(self, event: str) -> list[logging.LogRecord]:
        """
        Those of one event.
        """
        return [record for record in self.records if record.msg == event]

    def __enter__(self) -> Self:
        self._level = self._logger.level
        self._logger.setLevel(logging.DEBUG)
        self._logger.addHandler(self)
        return self

    def __exit__(self, *exc: object) -> None:
        self._logger.removeHandler(self)
        self._logger.setLevel(self._level)
