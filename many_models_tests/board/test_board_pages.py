"""The board in a real Chromium, over the demo's shop."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from many_models_tests.support.boards import demo_nights, served_board
from many_models_tests.support.browser import Watched, chromium
from many_models_tests.support.serving_parts import confine_fail_soon

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

    from many_models_tests.support.project import Project

PAGES = ("/", "/items", "/groups", "/proposal")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return demo_nights(tmp_path_factory.mktemp("nights"))


@pytest.fixture(scope="module")
def address(project: Project) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        confine_fail_soon(patch)
        with served_board(project.settings(), project.home, patch) as url:
            yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def watched(browser: Browser, address: str) -> Iterator[Watched]:
    """A page; at the end nothing went wrong in it, and no request has left this machine."""
    context = browser.new_context(viewport={"width": 1240, "height": 900})
    found = Watched(context.new_page())
    yield found
    context.close()
    assert found.wrong == []
    assert {urlsplit(url).netloc for url in found.asked} == {urlsplit(address).netloc}


def some_item(watched: Watched, address: str) -> str:
    """The address of the first item of the table that a model forecasts."""
    page = watched.open(f"{address}/items?is.state=forecast")
    return address + str(page.locator("tbody a").first.get_attribute("href"))


def test_every_page_opens_with_its_charts_and_none_is_wider_than_a_phone(watched: Watched, address: str) -> None:
    for url in (*(address + path for path in PAGES), some_item(watched, address)):
        watched.page.set_viewport_size({"width": 1240, "height": 900})
        page = watched.open(url)
        assert page.locator("h1").inner_text()
        assert page.locator(".missing").count() == 0, page.locator(".missing").inner_text()
        assert page.locator("[data-chart]").count() == page.locator("[data-chart].drawn svg.main-svg").count() / 3
        watched.page.set_viewport_size({"width": 390, "height": 800})
        watched.open(url)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, url
