"""Each series' record in Dagster links to its page on the board."""

from __future__ import annotations

import dagster as dg

from many_models.orchestration.stage_run import SeriesResult, _linked
from many_models.settings import Settings

KEY = dg.AssetKey("predictions")


def test_a_record_links_to_the_items_page_where_the_board_has_an_address():
    settings = Settings.model_validate({"board": {"url": "https://board.example.com/"}})
    event = _linked(settings, KEY, "a%2Fb__ü", SeriesResult("1", "2", {"total": 3.0}))
    assert event.metadata["board"].value == "https://board.example.com/items/a%252Fb__%C3%BC"
    assert (event.metadata["total"].value, event.partition, len(event.tags)) == (3.0, "a%2Fb__ü", 2)


def test_without_an_address_of_the_board_a_record_has_no_link():
    assert "board" not in _linked(Settings(), KEY, "a", SeriesResult("1", "2")).metadata
