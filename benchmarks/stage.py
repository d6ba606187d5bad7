"""
Starts the brokers that cases run on, one kind after the other, and says which are not to be had.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.case import NotHereError, Scene
from safepulsar.broker_process import BrokerNotStarted
from safepulsar.local_broker import start_broker
from tools.pulsar.apache_pulsar import ApachePulsar
from tools.pulsar.jars import PulsarUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.case import Effort
    from safepulsar.broker_process import BrokerProcess

ORDERS = Path(__file__).parents[1] / "examples" / "data" / "cdnow_orders.csv"


class Broker(str, Enum):
    """
    A kind of broker.
    """

    NONE = ""
    LITE = "pulsar-lite"
    REAL = "Apache Pulsar"


@contextmanager
def stage(kind: Broker, effort: Effort, orders: Path = ORDERS) -> Iterator[Scene]:
    """
    Start a broker of that kind; yields a scene on it, without a size.

    Raises:
        NotHereError: that kind is not to be had here.
    """
    with tempfile.TemporaryDirectory(prefix="safepulsar-bench-") as name:
        folder = Path(name)
        os.chmod(folder, 0o700)  # noqa: PTH101 - said outright: stores refuse any other
        try:
            broker = _started(kind, folder / "broker")
        except (ImportError, BrokerNotStarted, PulsarUnavailableError) as error:
            raise NotHereError(str(error)) from error
        try:
            yield Scene(
                broker=kind.value,
                url=broker.url if broker else "",
                size_bytes=0,
                effort=effort,
                folder=folder,
                orders=orders,
                freeze=broker.freeze if broker else None,
                thaw=broker.thaw if broker else None,
            )
        finally:
            if broker is not None:
                broker.kill()  # its data go with it


def _started(kind: Broker, folder: Path) -> BrokerProcess | None:
    if kind is Broker.LITE:
        return start_broker(folder)
    if kind is Broker.REAL:
        real = ApachePulsar(folder)
        real.start()
        return real
    return None
