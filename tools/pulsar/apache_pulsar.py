"""
A real Apache Pulsar standalone, deduplication on, as a process of ours: killed, frozen and started again on the same data.
"""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from safepulsar.broker_process import LOOPBACK, BrokerNotStarted, BrokerProcess, free_port
from tools.pulsar import jars
from tools.pulsar.admin import PulsarAdmin

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_HERE: Final = Path(__file__).parent
# What Pulsar's own launcher opens to it: buffers outside the heap, and figures of the machine.
_OPENED_MODULES: Final = (
    "java.base/java.lang",
    "java.base/java.nio",
    "java.base/jdk.internal.loader",
    "java.base/jdk.internal.misc",
    "java.management/sun.management",
    "jdk.management/com.sun.management.internal",
)
# Enough for the tests' load, and small enough for two of them beside the tests; about 0.45 GB are really taken.
_MEMORY: Final = ("-Xms256m", "-Xmx1g", "-XX:MaxDirectMemorySize=1g")


class ApachePulsar(BrokerProcess):
    """
    An Apache Pulsar standalone; made stopped. See `BrokerProcess` for what it promises.

    It answers about 5 s after its start. Being killed loses nothing that it acknowledged.

    Args:
        folder: its own, for its data, configuration and log.
        settings: of the broker, beside those of `standalone.conf`.
        token: for the admin interface, where those settings ask for one.

    Attributes:
        admin: its admin interface, usable while it runs.

    Raises:
        PulsarUnavailableError: there is no Java 17, or no jars and no way to fetch them.
    """

    name = "Apache Pulsar"
    start_seconds = 90.0
    stop_seconds = 20.0

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None, *, token: str | None = None) -> None:
        self._java = jars.java()
        self._jars = jars.ensure()
        super().__init__(folder, _different_ports(3))
        self.admin_url = f"http://{LOOPBACK}:{self._ports[1]}"
        self.admin = PulsarAdmin(self.admin_url, token)
        self._settings = dict(settings or {})

    def _command(self) -> Sequence[str]:
        return (
            *(self._java, *_MEMORY),
            *(part for module in _OPENED_MODULES for part in ("--add-opens", f"{module}=ALL-UNNAMED")),
            "-Dio.netty.tryReflectionSetAccessible=true",
            f"-Dlog4j2.configurationFile={_HERE / 'log4j2.properties'}",
            *("-cp", str(self._jars / "*"), "org.apache.pulsar.PulsarStandaloneStarter"),
            *("-c", str(self._configuration_path), "--no-functions-worker", "--no-stream-storage"),
            *("--bookkeeper-port", str(self._ports[2])),
            *("--metadata-dir", str(self._metadata_path)),
            *("--bookkeeper-dir", str(self._folder / "bookkeeper")),
        )

    def _prepare(self) -> None:
        common = (_HERE / "standalone.conf").read_text(encoding="utf-8")
        own = (
            f"brokerServicePort={self._ports[0]}",
            f"webServicePort={self._ports[1]}",
            # Without it the bookie would listen on every interface, whatever its address.
            f"listeningInterface={_loopback_interface()}",
            *(f"{name}={value}" for name, value in self._settings.items()),
        )
        self._configuration_path.write_text("\n".join([common, *own, ""]), encoding="utf-8")
        if self._metadata_path.exists():
            self._forget_old_bookie()

    def _forget_old_bookie(self) -> None:
        """
        Remove the registration of a bookie that was killed, from the metadata that it left.

        The new bookie would find and replace it, and then may take the news of that for the loss of its own. It registers
        again, hears of that, and so on for ever, about a hundred times a second: half of all restarts became a broker
        that could not open some topics. Listing the bookies removes it too, while nobody listens.
        """
        configuration = self._folder / "bookkeeper.conf"
        configuration.write_text(
            f"metadataServiceUri=metadata-store:rocksdb://{self._metadata_path}\n", encoding="utf-8"
        )
        command = [
            *(self._java, "-XX:TieredStopAtLevel=1", f"-Dlog4j2.configurationFile={_HERE / 'log4j2.properties'}"),
            "-Dbookkeeper.metadata.bookie.drivers=org.apache.pulsar.metadata.bookkeeper.PulsarMetadataBookieDriver",
            "-Dbookkeeper.metadata.client.drivers=org.apache.pulsar.metadata.bookkeeper.PulsarMetadataClientDriver",
            *("-cp", str(self._jars / "*"), "org.apache.bookkeeper.bookie.BookieShell"),
            *("-conf", str(configuration), "listbookies", "-rw"),
        ]
        try:
            done = subprocess.run(
                command, cwd=self._folder, capture_output=True, text=True, timeout=self.start_seconds, check=False
            )
        except subprocess.TimeoutExpired as exc:
            raise BrokerNotStarted(f"the old bookie was not removed within {self.start_seconds:g} s") from exc
        if done.returncode != 0:
            raise BrokerNotStarted(f"the old bookie could not be removed:\n{done.stdout}{done.stderr}")

    def _answers(self) -> bool:
        return self.admin.is_healthy()

    @property
    def _metadata_path(self) -> Path:
        return self._folder / "metadata"

    @property
    def _configuration_path(self) -> Path:
        return self._folder / "standalone.conf"


def _different_ports(count: int) -> list[int]:
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(free_port())
    return list(ports)


def _loopback_interface() -> str:
    """
    Return the name of the loopback interface, `lo` on Linux and `lo0` on macOS.
    """
    return next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
