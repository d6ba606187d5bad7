"""
The shop's page in a real browser: what a visitor does, and sees.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

from examples.shop.process import FASTAPI, FLASK, ShopProcess
from tools.pictures import shop as picture
from tools.pictures.browser import NoChromium, open_page, program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Page

_MS: Final = 20_000  # what a busy machine may need
_PNG: Final = b"\x89PNG\r\n\x1a\n"

pytestmark = [pytest.mark.timeout(100), pytest.mark.broker]


@pytest.fixture
def chromium() -> None:
    """
    What these tests are nothing without.
    """
    need_chromium()


def need_chromium() -> None:
    """
    Skip the test where there is none, and fail it where there must be one.
    """
    try:
        program()
    except NoChromium as error:
        if os.environ.get("SAFEPULSAR_REQUIRE_CHROMIUM") == "1":
            pytest.fail(f"SAFEPULSAR_REQUIRE_CHROMIUM=1, but: {error}")
        pytest.skip(str(error))


@pytest.fixture
def deadline() -> int:
    """
    Seconds until an order is kept, such that none is by chance.
    """
    return 60


@pytest.fixture(params=[pytest.param(FASTAPI, id="FastAPI"), pytest.param(FLASK, id="Flask")])
def shop(request: pytest.FixtureRequest, chromium: None, deadline: int) -> Iterator[ShopProcess]:  # noqa: ARG001 - before it
    """
    One that runs.
    """
    with ShopProcess(request.param, "--deadline", str(deadline)) as running:
        yield running


@pytest.fixture
def page(shop: ShopProcess) -> Iterator[Page]:
    """
    Its page, with no complaint of the browser at the end, and nothing fetched from anywhere else.
    """
    expect.set_options(timeout=_MS)
    complaints: list[str] = []
    hosts: set[str] = set()
    with open_page("about:blank") as opened:
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.on("console", lambda message: complaints.append(message.text))
        opened.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        opened.goto(f"http://{shop.address}")
        yield opened
        assert not complaints
        assert hosts - {""} == {shop.address}  # "" is of its own icon, a data: URL


def books(page: Page) -> dict[str, int]:
    """
    The numbers above the table.
    """
    names = ("accepted", "delivered", "waiting", "kept")
    return {name: int(page.locator(f"#{name}").inner_text()) for name in names}


def test_orders_wait_for_a_dead_broker_and_are_delivered_when_it_is_back(page: Page) -> None:
    """
    Each order's fate is seen as it changes, without a reload.
    """
    expect(page.get_by_text("No order yet.")).to_be_visible()
    picture.place(page, "customer-1", 1, "11.77")
    picture.place(page, "customer-2", 3, "42.23")
    expect(page.locator("tr.delivered")).to_have_count(2)
    expect(page.locator("tr.delivered .id").first).to_have_text(re.compile(r"^\d+:\d+:-1:-1$"))
    expect(page.locator("tbody tr").first).to_contain_text("customer-2")

    page.get_by_role("button", name="Kill the broker").click()
    expect(page.get_by_role("status")).to_have_text("is dead")
    picture.place(page, "customer-1", 1, "12.99")
    expect(page.locator("tr.waiting")).to_contain_text("accepted; no answer yet")
    assert books(page) == {"accepted": 3, "delivered": 2, "waiting": 1, "kept": 0}

    page.get_by_role("button", name="Revive the broker").click()
    expect(page.get_by_role("status")).to_have_text("runs")
    expect(page.locator("tr.delivered")).to_have_count(3)
    assert books(page) == {"accepted": 3, "delivered": 3, "waiting": 0, "kept": 0}


@pytest.mark.parametrize("deadline", [1])
def test_what_is_kept_says_why_and_goes_when_the_broker_is_back(page: Page) -> None:
    """
    The reason stands beside it, and afterwards that it had been kept.
    """
    page.get_by_role("button", name="Kill the broker").click()
    expect(page.get_by_role("status")).to_have_text("is dead")
    page.get_by_role("button", name="Place 20 of ten customers").click()
    expect(page.locator("tr.kept")).to_have_count(20)
    expect(page.locator("tr.kept .fate").first).to_have_text("failed, kept")
    expect(page.locator("tr.kept").last).to_contain_text("surely not stored")
    expect(page.get_by_text("What is kept is in the store of failed messages")).to_be_visible()

    page.get_by_role("button", name="Revive the broker").click()
    expect(page.locator("tr.delivered")).to_have_count(20)
    expect(page.locator("tr.delivered").first).to_contain_text("had been kept")
    assert books(page) == {"accepted": 20, "delivered": 20, "waiting": 0, "kept": 0}


def test_the_picture_of_the_docs(page: Page, tmp_path: Path) -> None:
    """
    Made as `python -m tools.pictures.shop` makes it.
    """
    file = tmp_path / "shop.png"
    picture.play(page)
    page.screenshot(path=file)
    assert file.read_bytes().startswith(_PNG)
    assert books(page) == {"accepted": 7, "delivered": 6, "waiting": 1, "kept": 0}


@pytest.mark.usefixtures("chromium")
def test_a_visitor_is_told_when_the_shop_is_gone() -> None:
    """
    What is shown is old then.
    """
    expect.set_options(timeout=_MS)
    with ShopProcess() as shop, open_page(f"http://{shop.address}") as page:
        expect(page.get_by_role("status")).to_have_text("runs")
        shop.process.kill()
        expect(page.get_by_role("alert")).to_have_text("The shop does not answer. Start it again, or wait.")
        page.get_by_role("button", name="Place order").click()
        expect(page.get_by_role("alert")).to_be_visible()


def test_without_chromium_the_tests_are_skipped_or_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The text says how to get it.
    """
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("SAFEPULSAR_REQUIRE_CHROMIUM", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install"):
        need_chromium()
    monkeypatch.setenv("SAFEPULSAR_REQUIRE_CHROMIUM", "1")
    with pytest.raises(pytest.fail.Exception, match="SAFEPULSAR_REQUIRE_CHROMIUM=1"):
        need_chromium()
