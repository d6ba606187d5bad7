"""
Running a shop as a program: its options, its address, and its end in order.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from examples.shop.shop import open_shop
from safepulsar.logs import RepeatFilter, TextFormatter

if TYPE_CHECKING:
    from collections.abc import Callable

    from examples.shop.shop import Shop

_HOST: Final = "127.0.0.1"  # nobody else should press its buttons


def run(serve: Callable[[Shop, socket.socket], None], *, port: int) -> None:
    """
    Open a shop, say where it is, and serve it until Ctrl-C or SIGTERM.

    Args:
        serve: serves the shop on the socket. It ends by `KeyboardInterrupt`, and the sender is closed then: the shop's
            broker ends last.
        port: unless the command line names another.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=port, help=f"of the page; 0 for a free one, {port} by default")
    parser.add_argument("--deadline", type=float, default=10.0, help="seconds until an order is kept; 10 by default")
    parser.add_argument("--end-with-stdin", action="store_true", help="end when the standard input does")
    arguments = parser.parse_args()
    _log()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if arguments.end_with_stdin:
        threading.Thread(target=_end_with_stdin, name="shop-stdin", daemon=True).start()
    with (
        suppress(KeyboardInterrupt),
        _listen(arguments.port) as listener,
        open_shop(arguments.deadline) as shop,
    ):
        # The system takes connections from now on, so whoever reads this may ask at once.
        print(f"the shop: http://{_HOST}:{listener.getsockname()[1]}, its broker: {shop.url}", flush=True)
        serve(shop, listener)


def _log() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(TextFormatter())
    handler.addFilter(RepeatFilter(10))
    logging.getLogger("safepulsar").addHandler(handler)


def _listen(port: int) -> socket.socket:
    try:
        listener = socket.create_server((_HOST, port))
    except OSError as error:
        sys.exit(f"can't listen on port {port}: {error.strerror}; name another one: --port {port + 1}")
    # Its connections inherit it. Else each answer of two pieces waits 40 ms for the first one's acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _end_with_stdin() -> None:
    # Whoever started it holds the other end, and lets go of it however it ends.
    os.read(sys.stdin.fileno(), 1)
    os.kill(os.getpid(), signal.SIGTERM)
