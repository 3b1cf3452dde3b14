"""The board in a real Chromium, over the demo's shop."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import dagster as dg
import pytest

from many_models.operations.board import interesting_item
from many_models.operations.day import open_instance
from many_models.orchestration.plots import BLOCKS
from many_models.setting_sections import item_page
from many_models.wiring import build_production
from many_models_tests.support.boards import URL, demo_nights, served_board
from many_models_tests.support.browser import Watched, chromium, serious_findings
from many_models_tests.support.ports import free_port
from many_models_tests.support.serving_parts import confine_fail_soon

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

    from many_models_tests.support.project import Project

PAGES = ("/", "/items", "/groups", "/groups/store/Berlin%20Mitte", "/proposal", "/items/no-such-item")
DAGSTER = "MANY_MODELS__BOARD__DAGSTER"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return demo_nights(tmp_path_factory.mktemp("nights"))


@pytest.fixture(scope="module")
def dagster_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def address(project: Project, dagster_port: int) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        confine_fail_soon(patch)
        patch.setenv(DAGSTER, f"http://127.0.0.1:{dagster_port}")
        with served_board(project.settings(), project.home, patch) as url:
            yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def watched(browser: Browser, address: str) -> Iterator[Watched]:
    """A page; at the end nothing went wrong in it, and no request has left the board."""
    context = browser.new_context(viewport={"width": 1240, "height": 900})
    found = Watched(context.new_page())
    yield found
    context.close()
    assert [said for said in found.wrong if "404 (Not Found)" not in said] == []
    assert {urlsplit(url).netloc for url in found.asked} == {urlsplit(address).netloc}


def some_item(watched: Watched, address: str) -> str:
    """The address of an item that a model forecasts: the one whose error costs most."""
    page = watched.open(f"{address}/items?is.state=forecast")
    return address + str(page.locator("tbody a").first.get_attribute("href"))


def test_every_page_has_its_charts_and_is_no_wider_than_a_phone(watched: Watched, address: str) -> None:
    for url in (*(address + path for path in PAGES), some_item(watched, address)):
        watched.page.set_viewport_size({"width": 1240, "height": 900})
        page = watched.open(url)
        assert page.locator("h1").inner_text()
        assert page.locator(".missing").count() == 0, page.locator(".missing").inner_text()
        assert page.locator("[data-chart]").count() == page.locator("[data-chart].drawn").count()
        watched.page.set_viewport_size({"width": 390, "height": 800})
        watched.open(url)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, url


def test_axe_finds_nothing_serious_on_any_page(watched: Watched, address: str) -> None:
    found = {}
    for url in (*(address + path for path in PAGES), some_item(watched, address)):
        found[url] = serious_findings(watched.open(url))
    assert {url: findings for url, findings in found.items() if findings} == {}


def test_the_table_is_filtered_sorted_and_left_by_the_keyboard(watched: Watched, address: str) -> None:
    page = watched.open(f"{address}/items")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.locator("#q").focus()
    page.keyboard.type("croissant")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("q=croissant"))
    names = page.locator("tbody th a").all_inner_texts()
    assert names
    assert all("Croissant" in name for name in names)
    watched.open(f"{address}/items?min.volume=5&sort=volume&order=up")
    volumes = [float(text.replace(",", "")) for text in page.locator("tbody td.n:nth-of-type(4)").all_inner_texts()]
    assert volumes == sorted(volumes)
    assert len(volumes) > 2
    assert volumes[0] >= 5
    page.locator("tbody a").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("html[data-drawn]", state="attached")
    assert "/items/" in page.url


def test_an_item_says_why_its_forecast_is_what_it_is(watched: Watched, address: str) -> None:
    page = watched.open(some_item(watched, address))
    page.wait_for_selector("[data-explanation][data-told]")
    sentences = page.locator("[data-words] p").all_inner_texts()
    assert sentences[0].startswith("The forecast is ")
    traces = "document.querySelector('[data-parts]').data.map((one) => [one.name, one.y])"
    *parts, (name, forecast) = page.evaluate(traces)
    assert name == "forecast"
    assert parts[0][0] == "level"
    sums = [sum(values) for values in zip(*(y for _, y in parts), strict=True)]
    assert sums == pytest.approx(forecast, abs=0.01)


def test_an_item_prints_on_a_few_sheets_without_its_controls(watched: Watched, address: str) -> None:
    page = watched.open(some_item(watched, address))
    page.wait_for_selector("[data-explanation][data-told]")
    page.emulate_media(media="print")
    shown = {name: page.locator(name).first.is_visible() for name in ("h1", "[data-chart]", ".what-if", ".ranges")}
    assert shown == {"h1": True, "[data-chart]": True, ".what-if": False, ".ranges": False}
    sheets = len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4")))
    assert 1 <= sheets <= 4


def test_a_what_if_draws_the_new_curve_and_says_the_difference(watched: Watched, address: str) -> None:
    page = watched.open(some_item(watched, address))
    form = page.locator("[data-what-if]")
    names = "document.querySelector('[data-chart=history]').data.map((trace) => trace.name)"
    assert "what if" not in page.evaluate(names)
    page.locator("[data-known=price]").fill("-30")
    page.wait_for_selector("[data-what-if][data-shown]")
    assert re.fullmatch(r"\+.+ in all \(\+.+ %\): price \+.+\.", form.locator("[data-said]").inner_text())
    assert page.evaluate(names).count("what if") == 1
    drawn = "document.querySelector('[data-chart=history]').data.filter((one) => one.meta === 'what-if')"
    low, high, curve = page.evaluate(f"{drawn}.map((one) => one.y)")
    assert all(lo <= at <= hi for lo, at, hi in zip(low, curve, high, strict=True))
    assert any(lo < hi for lo, hi in zip(low, high, strict=True))
    form.locator("button[type=reset]").click()
    page.wait_for_selector("[data-said]:empty", state="attached")
    assert not {"what if", "80 % of the change"} & set(page.evaluate(names))


def test_the_demos_most_interesting_item_has_a_page(watched: Watched, address: str, project: Project) -> None:
    named = interesting_item(project.settings())
    page = watched.open(address + project.settings().board.item_url(named).removeprefix("http://127.0.0.1:8090"))
    assert "__".join(page.locator("article h1 .part").all_inner_texts()) == named
    assert "Forecast by a model" in page.locator(".lead").inner_text()


def test_a_proposal_is_approved_from_its_page_with_a_reason(watched: Watched, address: str, project: Project) -> None:
    production = build_production(project.settings())
    waiting = production.waiting()
    assert waiting is not None
    tab = Watched(watched.page.context.new_page())
    tab.open(item := some_item(tab, address))
    page = watched.open(f"{address}/proposal")
    assert page.locator("main code").first.inner_text() == waiting.release_id
    page.locator("#reason").fill("the croissants look right")
    page.get_by_role("button", name="Approve").click()
    page.wait_for_selector(".said")
    assert "approved" in page.locator(".said").inner_text()
    live = production.live()
    assert live is not None
    assert live.release_id == waiting.release_id
    assert live.approval is not None
    assert live.approval.reason == "the croissants look right"
    assert live.approval.actor.endswith("(board)")
    log = project.table("release_log")
    assert log[log["event"] == "approved"]["reason"].tolist() == ["the croissants look right"]
    watched.open(address)
    assert "the croissants look right" in page.locator("main").inner_text()
    check_what_if_of_another_release(tab, item, waiting.release_id)
    watched.asked += tab.asked
    watched.wrong += tab.wrong


def check_what_if_of_another_release(tab: Watched, item: str, release_id: str) -> None:
    """A page that was opened under the release before says of which release its what-if is, and draws both curves."""
    end = time.monotonic() + 120
    while release_of(f"{item}/explanation") != release_id:
        assert time.monotonic() < end
        time.sleep(0.2)
    form = tab.page.locator("[data-what-if]")
    assert not form.locator("[data-other]").is_visible()
    tab.page.locator("[data-known=price]").fill("-30")
    tab.page.wait_for_selector(f"[data-what-if][data-shown][data-release='{release_id}']")
    assert release_id in form.locator("[data-other]").inner_text()
    names = tab.page.evaluate("document.querySelector('[data-chart=history]').data.map((trace) => trace.name)")
    assert {"what if", "as planned, live model"} <= set(names)
    form.locator("button[type=reset]").click()
    tab.page.wait_for_selector("[data-said]:empty", state="attached")
    assert not form.locator("[data-other]").is_visible()


def release_of(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.load(answer)["release"]


def test_every_record_in_dagster_links_to_a_page_that_is_there(address: str, project: Project) -> None:
    """One event of each asset, of the newest partition and the oldest one, is followed to its page."""
    found = {}
    with open_instance(project.home, project.settings().dagster.storage) as instance:
        for asset in sorted(key.to_user_string() for key in instance.all_asset_keys()):
            for ascending in (True, False):
                wanted = dg.AssetRecordsFilter(dg.AssetKey(asset))
                records = instance.fetch_materializations(wanted, limit=1, ascending=ascending).records
                event = records[0].asset_materialization
                assert event is not None
                found[asset, event.partition] = event.metadata
    assert {asset for asset, _ in found} >= {"raw_sales", "pooled_models", "predictions", "coherent_predictions"}
    of_series = {"store_item_datasets", "trained_models", "promoted_models", "predictions"}
    for (asset, partition), metadata in found.items():
        assert "board" in metadata, (asset, partition)
        path = str(metadata["board"].value).removeprefix(URL)
        if asset in of_series:
            assert path == item_page(str(partition))
        with urllib.request.urlopen(address + path, timeout=60) as answer:
            assert answer.status == 200
    assert all(set(str(metadata["chart"].value)) <= set(" " + BLOCKS) for (asset, _), metadata in found.items()
               if asset == "predictions")  # fmt: skip


# --- Dagster's own pages ----------------------------------------------------------------------------------------------
@pytest.fixture
def dagster_ui(project: Project, dagster_port: int) -> Iterator[str]:
    """Dagster's webserver on the project's records."""
    words = ["-m", "dagster_webserver", "-h", "127.0.0.1", "-p", str(dagster_port), "-m", "many_models.definitions"]
    log = project.root / "webserver.log"
    environment = {
        **os.environ, "DAGSTER_HOME": str(project.home), "MANY_MODELS_CONFIG": str(project.root / "many_models.toml"),
    }  # fmt: skip
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, *words], cwd=project.root, env=environment, stdout=out, stderr=out, start_new_session=True
        )
    try:
        end = time.monotonic() + 300
        while not answers(f"http://127.0.0.1:{dagster_port}/server_info"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{dagster_port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.mark.usefixtures("dagster_ui")
def test_the_links_to_dagster_lead_to_the_item_and_to_exactly_these(browser: Browser, address: str) -> None:
    context = browser.new_context(viewport={"width": 1240, "height": 900})
    watched = Watched(context.new_page())
    page = watched.open(f"{address}/items?q=cr")
    names = page.locator("tbody th a").all_inner_texts()
    assert len(names) > 1
    page.get_by_role("link", name="Materialize exactly these in Dagster").click()
    page.wait_for_url(re.compile("/assets/trained_models"))
    page.get_by_text(f"{len(names)} Partitions Selected").wait_for()
    for name in names:
        page.get_by_text(name.replace(" · ", "__"), exact=True).first.wait_for(state="attached")
    item = some_item(watched, address)
    watched.open(item)
    page.get_by_role("link", name="Dagster: its forecasts").click()
    page.wait_for_url(re.compile("/assets/predictions"))
    page.get_by_text(unquote(item.rpartition("/")[2]), exact=True).first.wait_for(state="attached")
    assert {urlsplit(url).hostname for url in watched.asked} == {"127.0.0.1"}
    context.close()
