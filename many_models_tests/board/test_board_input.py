"""What the board makes of odd keys, unknown items, typed addresses, and stores that do not answer."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from many_models.board.headers import POLICY
from many_models.data import lake_tables
from many_models.errors import ConflictError
from many_models.ports import Filter
from many_models_tests.board.shop import AS_OF, PLAIN, POISON, Away, Shop, series, shop
from many_models_tests.support.serving_parts import draft, pack

if TYPE_CHECKING:
    from pathlib import Path

PAGES = ("/", "/items", "/groups", "/groups/store/Berlin", "/proposal")


class Scripts(HTMLParser):
    """The scripts of a page that a browser would run, attributes that run code, and styles in the text."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if (
            tag == "script"
            and given.get("type") != "application/json"
            and not (given.get("src") or "").startswith("/static/")
        ):
            self.found.append(str(attrs))
        if tag in {"b", "style"} or any(name.startswith("on") or name == "style" for name in given):
            self.found.append(f"{tag} {attrs}")


def scripts_of(page: str) -> list[str]:
    parser = Scripts()
    parser.feed(page)
    return parser.found


@pytest.mark.slow
@pytest.mark.parametrize("item", POISON)
def test_a_key_of_any_text_has_a_page_and_runs_nothing(tmp_path: Path, item: str) -> None:
    with shop(tmp_path).client() as client:
        name = series("Berlin", item)
        for url in (f"/items/{quote(name, safe='')}", f"/items?is.item={quote(item)}", "/items", "/groups",
                    f"/groups/item/{quote(item, safe='')}"):  # fmt: skip
            page = client.get(url)
            assert page.status_code == 200, url
            assert scripts_of(page.text) == []
            assert page.headers["content-security-policy"] == POLICY
            assert "49" not in re.findall(r"<h1>.*?</h1>", page.text, re.DOTALL)[0]
        for data in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page.text, re.DOTALL):
            json.loads(data)
        listed = client.get("/items").text
        links = [unquote(link) for link in re.findall(r'<th scope="row"><a href="/items/([^"]+)"', listed)]
        assert name in links


def test_the_policy_lets_no_script_of_the_page_or_of_others_run() -> None:
    rules = dict(part.strip().split(" ", 1) for part in POLICY.split(";"))
    assert (rules["default-src"], rules["script-src"]) == ("'none'", "'self'")
    assert not any("unsafe" in rule or "http" in rule or "*" in rule for rule in rules.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["no such item", "Berlin__brea", "Berlin__bread__more", "%", "../../etc/passwd", "a" * 3000]
)
def test_an_unknown_item_is_a_page_that_offers_similar_ones(tmp_path: Path, name: str) -> None:
    with shop(tmp_path).client() as client:
        page = client.get(f"/items/{quote(name, safe='')}")
        assert page.status_code == 404
        assert scripts_of(page.text) == []
        if name == "Berlin__brea":
            assert "Berlin · bread" in page.text


@pytest.mark.slow
@pytest.mark.parametrize(
    "query",
    ["sort=__class__", "min.wape=x&max.wape=", "is.nothing=1", "page=-1", "page=99999999999", "q=" + "z" * 5000,
     "order=%00", "min.wape=nan&sort=item", "is.state=forecast&is.state=failed", "&&&==&", "q=%ff%fe"],
)  # fmt: skip
def test_a_mistyped_address_is_a_page_all_the_same(tmp_path: Path, query: str) -> None:
    with shop(tmp_path).client() as client:
        assert client.get(f"/items?{query}").status_code == 200


def test_the_file_of_items_has_every_text_as_a_text(tmp_path: Path) -> None:
    with shop(tmp_path).client() as client:
        rows = list(csv.DictReader(io.StringIO(client.get("/items.csv?is.store=Rome").text)))
    assert {row["item"] for row in rows} == {*POISON, PLAIN} - {"=1+1"} | {"'=1+1"}
    assert all(row["store"] == "Rome" for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "named", "rest"),
    [("lake", "lake", ""), ("warehouse", "warehouse", "forecast by a model"),
     ("production", "production registry", "forecast by a model")],
)  # fmt: skip
def test_a_page_names_the_store_that_is_away_and_shows_the_rest(
    tmp_path: Path, which: str, named: str, rest: str
) -> None:
    found = shop(tmp_path)
    setattr(found, which, Away())
    with found.client() as client:
        for path in PAGES[:3]:
            page = client.get(path)
            assert page.status_code == 200, path
            if path == "/" or which != "production":
                assert f"<strong>{named}</strong>: nobody answers" in page.text
        assert rest in client.get("/").text


@pytest.mark.slow
@pytest.mark.parametrize("which", ["lake", "warehouse", "production"])
def test_an_items_page_names_the_store_that_is_away_and_shows_the_rest(tmp_path: Path, which: str, monkeypatch) -> None:
    monkeypatch.setattr("many_models.board.catalogue.LOOK_SECONDS", 0.0)
    monkeypatch.setattr("many_models.board.catalogue.AGAIN_SECONDS", -1.0)
    found = shop(tmp_path)
    if which == "warehouse":  # what it has is in the table of items: away from the start
        found.warehouse = Away()
    with found.client() as client:
        client.get("/items")
        store, away = getattr(found, which), Away()
        for name in [name for name in dir(store) if not name.startswith("_")]:
            monkeypatch.setattr(store, name, getattr(away, name))
        page = client.get(f"/items/{quote(series('Rome', PLAIN), safe='')}")
        group, approval = client.get("/groups/store/Rome"), client.get("/proposal")
    assert (page.status_code, group.status_code, approval.status_code) == (200, 200, 200)
    assert "Rome · bread" in page.text
    if which == "production":
        assert "<strong>production registry</strong>: nobody answers" in approval.text
    else:
        assert f"<strong>{which}</strong>: nobody answers" in page.text


def test_a_proposal_that_was_decided_meanwhile_is_told_and_the_page_shows_what_is_so_now(tmp_path: Path) -> None:
    found = shop(tmp_path)
    first = found.production.propose(draft(None, [pack("Berlin")]))

    def decide(proposal: str, **_: object) -> None:
        raise ConflictError(f"{proposal} does not wait: {second.release_id} does")

    found.decide = decide
    with found.client() as client:
        form = re.findall(r'name="(token|proposal)" value="([^"]+)"', client.get("/proposal").text)
        assert dict(form)["proposal"] == first.release_id
        second = found.production.propose(draft(None, [pack("Berlin"), pack("Rome")]))
        answer = client.post("/proposal", data={**dict(form), "verdict": "approve", "reason": "as I saw it"})
        assert answer.status_code == 409
        assert f"{first.release_id} does not wait" in answer.text
        assert f'name="proposal" value="{second.release_id}"' in client.get("/proposal").text
        found.production.approve(second.release_id, "somebody", "why not")
        assert "No release waits" in client.get("/proposal").text or second.release_id in client.get("/proposal").text


def put(found: Shop, table: lake_tables.LakeTable, series_id: str, **changed: object) -> None:
    """Change what a table says of one series; without changes, take the series out."""
    rows = found.lake.read(table.name).to_pylist()
    kept = [row for row in rows if row["series_id"] != series_id]
    kept += [{**row, **changed} for row in rows if row["series_id"] == series_id and changed]
    schema = found.lake.read(table.name).schema
    found.lake.replace(table.name, pa.Table.from_pylist(kept, schema), Filter(), table.partition_by)


OF_FORECASTS = (lake_tables.TRAINED, lake_tables.PREDICTIONS)


def test_a_brand_new_item_has_a_page_before_it_has_a_forecast(tmp_path: Path) -> None:
    found, name = shop(tmp_path), series("Rome", PLAIN)
    for table in (lake_tables.SERIES, lake_tables.RAW_SALES, lake_tables.DATASETS, *OF_FORECASTS):
        put(found, table, name)
    page = item_page(found, name)
    assert "Rome · bread" in page
    assert "neither history nor forecast" in page


def test_an_item_opened_again_is_read_again_only_when_the_lake_changed(tmp_path: Path, monkeypatch) -> None:
    found, path = shop(tmp_path), f"/items/{quote(series('Rome', PLAIN), safe='')}"
    read, asked = found.lake.read, list[str]()
    monkeypatch.setattr(found.lake, "read", lambda table, *args: asked.append(table) or read(table, *args))
    with found.client() as client:
        first = client.get(path).text
        assert lake_tables.DATASETS.name in asked
        asked.clear()
        assert client.get(path).text == first
        assert lake_tables.DATASETS.name not in asked
        rows = read(lake_tables.PREDICTIONS.name)
        twice = rows.set_column(rows.column_names.index("y_hat"), "y_hat", pc.multiply(rows["y_hat"], 2.0))
        found.lake.replace(lake_tables.PREDICTIONS.name, twice, Filter(), lake_tables.PREDICTIONS.partition_by)
        assert client.get(path).text != first
        assert lake_tables.DATASETS.name in asked


def test_an_item_with_three_observations_has_a_page_with_its_chart(tmp_path: Path) -> None:
    found, name = shop(tmp_path), series("Rome", PLAIN)
    for table in (lake_tables.RAW_SALES, lake_tables.DATASETS):
        rows = found.lake.read(table.name).to_pylist()
        own = [row for row in rows if row["series_id"] == name][-3:]
        kept = [row for row in rows if row["series_id"] != name] + own
        schema = found.lake.read(table.name).schema
        found.lake.replace(table.name, pa.Table.from_pylist(kept, schema), Filter(), table.partition_by)
    assert 'data-chart="history"' in item_page(found, name) or '"history"' in item_page(found, name)


def test_an_ended_item_says_since_when_and_has_its_history(tmp_path: Path) -> None:
    found, name = shop(tmp_path), series("Rome", PLAIN)
    put(found, lake_tables.SERIES, name, active=False, why="ended on 2026-09-01")
    for table in OF_FORECASTS:
        put(found, table, name)
    assert "ended on 1 Sep 2026" in item_page(found, name)


def test_an_item_that_is_set_aside_says_so_with_its_reason(tmp_path: Path) -> None:
    found, name = shop(tmp_path), series("Rome", PLAIN)
    status = {
        "stage": ["trained_models"], "series_id": [name], "version": ["v"], "kind": ["ForecastError"],
        "reason": ["its <b>history</b> is odd"], "permanent": [True], "attempts": [2], "set_aside": [True],
    }  # fmt: skip
    found.lake.replace(lake_tables.SERIES_STATUS.name, pa.table(status), Filter(), ("stage",))
    page = item_page(found, name)
    assert "set aside: " in page.casefold()
    assert "its &lt;b&gt;history&lt;/b&gt; is odd" in page


@pytest.mark.slow
@pytest.mark.parametrize(
    ("order", "said"), [(24.0, "Order <strong>24</strong> now"), (0.0, "Nothing to order now"), (None, "is not known")]
)
def test_an_item_says_what_to_order_as_of_its_newest_forecast(tmp_path: Path, order: float | None, said: str) -> None:
    found, name = shop(tmp_path, stock={"lead_time": 3.0}), series("Rome", PLAIN)
    assert 'id="stock"' not in item_page(found, name)
    position = None if order is None else 7.0
    kept = {
        "lead_time": 3.0, "reorder_point": 12.5, "safety_stock": 4.5, "order_up_to": 36.0, "position": position,
        "order_now": order, "expected_fill_rate": 0.981, "cutoff_date": "2026-10-31",
    }  # fmt: skip
    rows = [{**kept, "series_id": of, "cutoff": AS_OF} for of in (name, series("Berlin", PLAIN))]
    rows[1] |= {"order_now": 999.0, "position": 1.0}
    found.lake.replace(lake_tables.STOCK.name, pa.Table.from_pylist(rows), Filter(), ("cutoff_date",))
    page = item_page(found, name)
    assert said in page
    assert all(text in page for text in ("12.5", "98.1 %", "3 days"))
    assert "999" not in page


def item_page(found: Shop, name: str) -> str:
    with found.client() as client:
        page = client.get(f"/items/{quote(name, safe='')}")
        assert client.get("/").status_code == client.get("/items").status_code == 200
    assert page.status_code == 200
    return page.text


def test_records_that_cannot_be_read_are_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    found = shop(tmp_path)

    def broken() -> tuple[()]:
        raise OSError("no such file")

    found.night = broken
    with found.client() as client:
        page = client.get("/").text
    assert "Dagster&#39;s records" in page
    assert "forecast by a model" in page


def test_a_lake_that_goes_away_leaves_the_last_table_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("many_models.board.catalogue.LOOK_SECONDS", 0.0)
    found = shop(tmp_path)
    with found.client() as client:
        before = client.get("/items").text
        away = Away()
        for name in ("read", "version", "fingerprint"):
            monkeypatch.setattr(found.lake, name, getattr(away, name))
        after = client.get("/items").text
        item = client.get(f"/items/{quote(series('Rome', PLAIN), safe='')}")
    assert "<strong>lake</strong>: nobody answers" in after
    assert re.findall("<tbody>.*</tbody>", after, re.DOTALL) == re.findall("<tbody>.*</tbody>", before, re.DOTALL)
    assert item.status_code == 200
    assert "neither history nor forecast" in item.text


def test_a_project_in_which_nothing_has_run_has_pages(tmp_path: Path) -> None:
    found = shop(tmp_path)
    found.lake = type(found.lake)()
    found.warehouse = type(found.warehouse)()
    with found.client() as client:
        for path in PAGES[:3]:
            assert client.get(path).status_code == 200, path
        assert "nothing has run yet" in client.get("/").text
