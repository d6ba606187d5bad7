"""
A shop in a process of its own, for the programs that drive one.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

FASTAPI: Final = "examples.10_shop_fastapi"
FLASK: Final = "examples.11_shop_flask"
_ROOT: Final = Path(__file__).parents[2]
_SAYS: Final = re.compile(r"the shop: http://(\S+), its broker: (\S+)\n")
_END_SECONDS: Final = 8.0


class ShopNotStarted(Exception):
    """
    It ended instead; the text has what it complained of.
    """


class ShopProcess:
    """
    A shop with a broker of its own, in a process group of its own, so that Ctrl-C is not for it.

    It starts and ends with a `with` block, and ends with this process, however that ends.

    Args:
        module: of the shop.
        arguments: its own.

    Attributes:
        address: its host and port, once it is started.
        broker_url: likewise.
    """

    address: str
    broker_url: str

    def __init__(self, module: str = FASTAPI, *arguments: str) -> None:
        self._command = [sys.executable, "-m", module, "--port", "0", "--end-with-stdin", *arguments]
        self._at_end = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            # Its files come here, so that they go away even if it is killed.
            folder = undo.enter_context(TemporaryDirectory(prefix="safepulsar-shop-", ignore_cleanup_errors=True))
            log = undo.enter_context(Path(folder, "shop.log").open("w+b"))
            ours = {name: value for name, value in os.environ.items() if not name.startswith("SAFEPULSAR_")}
            self.process = subprocess.Popen(  # noqa: S603 - a command of our own
                self._command,
                cwd=_ROOT,
                env={**ours, "TMPDIR": folder},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                text=True,
            )
            undo.enter_context(self.process)
            undo.callback(self._end)
            assert self.process.stdout is not None  # noqa: S101 - it is a pipe; for the type checker
            said = _SAYS.fullmatch(self.process.stdout.readline())
            if said is None:
                self._end()
                log.seek(0)
                raise ShopNotStarted(log.read().decode(errors="replace"))
            self.address, self.broker_url = said[1], said[2]
            self._at_end = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._at_end.close()

    def _end(self) -> None:
        try:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(_END_SECONDS)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
