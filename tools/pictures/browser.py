"""
A page in Debian's Chromium, or in whichever is on PATH, without a screen.
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
_WIDTH, _HEIGHT = 1160, 690


class NoChromium(Exception):
    """
    There is none on PATH; the text says how to get it.
    """


def program() -> str:
    """
    The path of the browser.

    Raises:
        NoChromium: there is none.
    """
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        raise NoChromium("needs Chromium: apt-get install --no-install-recommends chromium")
    return found


@contextmanager
def open_page(url: str, *, scale: float = 1.0) -> Iterator[Page]:
    """
    The page at a URL.

    Args:
        url: nothing else is reachable from there but its own host.
        scale: pixels of the picture for one of the page.

    Raises:
        NoChromium: see `program`.
    """
    path = program()
    with sync_playwright() as playwright:
        # Its sandbox can't be had as root, nor in many a container; the page is our own.
        browser = playwright.chromium.launch(executable_path=path, chromium_sandbox=False)
        try:
            context = browser.new_context(
                viewport={"width": _WIDTH, "height": _HEIGHT}, device_scale_factor=scale, locale="en-US"
            )
            page = context.new_page()
            page.goto(url)
            yield page
        finally:
            browser.close()
