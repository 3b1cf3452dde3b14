"""What the board makes of odd keys, unknown items, typed addresses, and stores that do not answer."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import pytest

from many_models.board.headers import POLICY
from many_models_tests.board.shop import PLAIN, POISON, Away, series, shop

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


@pytest.mark.parametrize("item", POISON)
def test_a_key_of_any_text_has_a_page_and_runs_nothing(tmp_path: Path, item: str) -> None:
    with shop(tmp_path).client() as client:
        name = series("Berlin", item)
        for url in (f"/items/{quote(name, safe='')}", f"/items?is.item={quote(item)}", "/items", "/groups"):
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


@pytest.mark.parametrize(
    "query",
    ["sort=__class__", "min.wape=x&max.wape=", "is.nothing=1", "page=-1", "page=99999999999", "q=" + "z" * 5000,
     "order=%00", "min.wape=nan&sort=item", "is.state=forecast&is.state=failed", "&&&==&", "q=%ff%fe"],
)  # fmt: skip
def test_an_address_that_somebody_typed_wrongly_is_a_page_all_the_same(tmp_path: Path, query: str) -> None:
    with shop(tmp_path).client() as client:
        assert client.get(f"/items?{query}").status_code == 200


def test_the_file_of_items_has_every_text_as_a_text(tmp_path: Path) -> None:
    with shop(tmp_path).client() as client:
        rows = list(csv.DictReader(io.StringIO(client.get("/items.csv?is.store=Rome").text)))
    assert {row["item"] for row in rows} == {*POISON, PLAIN} - {"=1+1"} | {"'=1+1"}
    assert all(row["store"] == "Rome" for row in rows)


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
