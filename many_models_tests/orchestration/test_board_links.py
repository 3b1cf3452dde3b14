"""Each series' record in Dagster links to its page on the board."""

from __future__ import annotations

import dagster as dg
import pytest

from many_models.orchestration.cutoff_stage import PAGES
from many_models.orchestration.due import DECISIONS
from many_models.orchestration.partitions import board_page
from many_models.orchestration.stage_run import SeriesResult, board_link, materializations
from many_models.settings import Settings

KEY = dg.AssetKey("predictions")


def test_a_record_links_to_the_items_page_where_the_board_has_an_address():
    settings = Settings.model_validate({"board": {"url": "https://board.example.com/"}})
    event = materializations(settings, KEY, {"a%2Fb__ü": SeriesResult("1", "2", {"total": 3.0})})[0]
    assert event.metadata["board"].value == "https://board.example.com/items/a%252Fb__%C3%BC"
    assert (event.metadata["total"].value, event.partition, len(event.tags)) == (3.0, "a%2Fb__ü", 2)


def test_without_an_address_of_the_board_a_record_has_no_link():
    assert "board" not in materializations(Settings(), KEY, {"a": SeriesResult("1", "2")})[0].metadata


@pytest.mark.parametrize(
    ("by", "partition", "page"),
    [(["store"], "a%2Fb 1", "/groups/store/a%2Fb%201"), (["item"], "ü", "/groups/item/%C3%BC"),
     (["store", "item"], "a__b%2Fc", "/items?is.store=a&is.item=b%2Fc")],
)  # fmt: skip
def test_a_record_of_several_series_links_to_their_page(by, partition, page):
    settings = Settings.model_validate({
        "data": {"keys": ["store", "item"]}, "partitions": {"by": by}, "board": {"url": "https://board.example.com"},
    })  # fmt: skip
    assert board_page(settings, partition) == page
    assert board_link(settings, page)["board"].value == f"https://board.example.com{page}"


def test_each_stage_of_a_cutoff_has_a_page():
    assert set(PAGES) == set(DECISIONS)
