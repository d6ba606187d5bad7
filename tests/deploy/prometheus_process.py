"""
A Prometheus of Debian's, or whoever's is on PATH, that scrapes one application every second.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self

DEPLOY: Final = Path(__file__).parents[2] / "deploy"


def program(name: str) -> str:
    """
    The path of a program that these tests are nothing without: skipped where it is missing, failed where it must be.
    """
    found = shutil.which(name)
    if found is None:
        if os.environ.get("SAFEPULSAR_REQUIRE_PROMETHEUS") == "1":
            pytest.fail(f"SAFEPULSAR_REQUIRE_PROMETHEUS=1, but {name} is not on PATH")
        pytest.skip(f"needs {name}: apt-get install prometheus prometheus-alertmanager")
    return found


def run(name: str, *arguments: object) -> str:
    """
    Run such a program to its end, and return what it wrote.
    """
    ended = subprocess.run(
        [program(name), *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, f"{name} ended with {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


class PrometheusProcess:
    """
    Runs in a `with` block.

    Args:
        folder: for its data; empty.
        port: of the application that it scrapes.
        job: what it calls the application.
    """

    def __init__(self, folder: Path, port: int, job: str = "orders") -> None:
        self._program = program("prometheus")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._address = f"127.0.0.1:{free.getsockname()[1]}"
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(DEPLOY / "prometheus" / "safepulsar.rules.yml")],
            "scrape_configs": [{"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}],
        }
        file = folder / "prometheus.yml"
        file.write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML, too
        self._log = folder / "prometheus.log"
        self._arguments = [f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}"]

    @property
    def url(self) -> str:
        """
        Of its API.
        """
        return f"http://{self._address}"

    def get(self, path: str, **parameters: object) -> Any:  # noqa: ANN401 - whatever the API says
        """
        The data of an answer.

        Raises:
            AssertionError: it is an error.
        """
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=10) as answer:  # noqa: S310 - its own address
                found = json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error
        assert found["status"] == "success", found
        return found["data"]

    def query(self, expression: str) -> Sequence[Any]:
        """
        The series that an expression finds now.
        """
        result: Sequence[Any] = self.get("query", query=expression)["result"]
        return result

    def _ready(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=1) as answer:  # noqa: S310 - its own address
                return bool(answer.status == 200)
        except OSError:
            return False

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [self._program, *self._arguments, f"--web.listen-address={self._address}"], stdout=log, stderr=log
            )
        try:
            wait_until(self._ready, "Prometheus to answer", timeout_seconds=30)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.wait()
