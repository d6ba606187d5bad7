"""
The shop of the examples as a picture: some orders delivered, and one that waits because the broker is dead.

    python -m tools.pictures.shop docs/pictures/shop.png
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from playwright.sync_api import expect

from examples.shop.process import ShopProcess
from tools.pictures.browser import open_page

if TYPE_CHECKING:
    from playwright.sync_api import Page

_DELIVERED: Final = [("customer-7", 1, "11.77"), ("customer-12", 2, "89.00"), ("customer-3", 5, "63.34"),
                     ("customer-7", 1, "14.96"), ("customer-21", 3, "42.23"), ("customer-3", 1, "13.49")]  # fmt: skip
_WAITING: Final = ("customer-12", 2, "29.33")


def main() -> None:
    """
    Start a shop, play, and write the picture.
    """
    parser = argparse.ArgumentParser(prog="python -m tools.pictures.shop", description=__doc__.split("\n\n")[0])
    parser.add_argument("file", type=Path, help="a .png")
    arguments = parser.parse_args()
    with ShopProcess() as shop, open_page(f"http://{shop.address}", scale=1.5) as page:
        play(page)
        page.screenshot(path=arguments.file)
    print(f"{arguments.file}: {arguments.file.stat().st_size:,} bytes")


def play(page: Page) -> None:
    """
    Place orders, kill the broker once they are delivered, and place one more.
    """
    for order in _DELIVERED:
        place(page, *order)
        expect(page.locator("tr.waiting")).to_have_count(0)
    page.get_by_role("button", name="Kill the broker").click()
    expect(page.get_by_role("status")).to_have_text("is dead")
    place(page, *_WAITING)
    expect(page.locator("tr.waiting td.took")).to_have_text(re.compile(r"^[2-9]\.\d s$"), timeout=10_000)


def place(page: Page, customer: str, quantity: int, amount: str) -> None:
    """
    Fill in the form, and wait until the order is listed.
    """
    rows = page.locator("tbody tr")
    before = rows.count()
    page.get_by_label("Customer").fill(customer)
    page.get_by_label("Records").fill(str(quantity))
    page.get_by_label("Amount").fill(amount)
    page.get_by_role("button", name="Place order").click()
    expect(rows).to_have_count(before + 1)


if __name__ == "__main__":
    main()
