"""
Brings every sender of the process to a broker for tests, also those that an application makes by itself.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from safepulsar.broker import client_registry
from safepulsar.broker.client_registry import ClientRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safepulsar.testing.fault_switch import BrokerForTests


@contextmanager
def all_senders_on(broker: BrokerForTests) -> Iterator[ClientRegistry]:
    """
    Within the block, every sender that is opened without a registry of its own reaches `broker`, whatever its URL.

    So an application need not know that it is tested, and no test reaches a broker that it should not. A sender that
    was opened before keeps its broker, and one that is opened in the block keeps this one. Not for several threads
    with brokers of their own.
    """
    registry = ClientRegistry(broker.connect)
    before = client_registry._shared  # noqa: SLF001  # the same package; applications have no business to replace it
    client_registry._shared = registry  # noqa: SLF001
    try:
        yield registry
    finally:
        client_registry._shared = before  # noqa: SLF001
