"""The table of items against slow, obvious versions of it."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from many_models.board.charts import history_chart, parts_chart
from many_models.board.grid import grid_of
from many_models.board.group_page import movers, totals
from many_models.board.items import Items, build_items
from many_models.board.items_page import backfill_url
from many_models.board.night import costliest, realised
from many_models.board.query import Query, chosen, parse_query
from many_models.board.tables import Tables

if TYPE_CHECKING:
    from collections.abc import Mapping

AS_OF = datetime(2026, 10, 31)
FIRST_WEEK = datetime(2026, 10, 19)


def tables(n: int = 40, days: int = 91, seed: int = 1) -> Tables:
    rng = np.random.default_rng(seed)
    ids = [f"s{i % 4}__item {i}" for i in range(n)]
    keys = pd.DataFrame(
        {"series_id": ids, "store": [f"s{i % 4}" for i in range(n)], "item": [f"item {i}" for i in range(n)]}
    )
    series = pd.DataFrame({"series_id": ids, "observations": days, "active": True, "why": ""})
    trained = pd.DataFrame({"series_id": ids[:-5], "candidate": "trees", "fallback": ""})
    for name in ("wape", "baseline_wape", "skill", "noise_floor", "bias", "cover80"):
        trained[name] = rng.uniform(0, 1, n - 5)
    status = pd.DataFrame(
        {"series_id": ids[:2], "stage": "trained_models", "kind": "E", "reason": "odd", "set_aside": [False, True]}
    )
    recent = pd.DataFrame([
        {"series_id": name, "ds": AS_OF - timedelta(days=back), "y": float(rng.poisson(3)),
         "price": 2.0 + (name == ids[0])}
        for name in ids for back in range(days) if rng.random() > 0.1
    ])  # fmt: skip
    forecast = pd.DataFrame([
        {"series_id": name, "cutoff": AS_OF, "ds": AS_OF + timedelta(days=step), "y_hat": rng.uniform(1, 5),
         "fallback": "prior:item" if name == ids[3] else ""}
        for name in ids[:-2] for step in range(1, 8)
    ])  # fmt: skip
    weeks = [
        pd.DataFrame({"series_id": ids, "week": FIRST_WEEK, "periods": 7, "actual": 20.0,
                      "abs_error": rng.uniform(1, 9, n), "error": rng.uniform(-3, 3, n), "covered": 6.0})
    ]  # fmt: skip
    return Tables(AS_OF, keys, series, trained, status, recent, forecast, pd.DataFrame(), weeks)


def table(found: Tables | None = None) -> Items:
    return build_items(found or tables(), grid_of("D"), ["store", "item"], "price", {})


def slow(items: Items, query: Query) -> list[str]:
    """Which items the query names, in its order, a row at a time."""

    def good(row: Mapping[str, object]) -> bool:
        text = f"{row['series_id']} {row['store']} {row['item']}".casefold()
        within = all(low <= float(str(row[name])) <= high for name, (low, high) in query.bounds.items())
        named = all(str(row[name]) in wanted for name, wanted in query.named.items())
        return within and named and all(word in text for word in query.text.casefold().split())

    rows = [row for row in items.frame.to_dict("records") if good(row)]
    known = [row for row in rows if not (isinstance(row[query.sort], float) and math.isnan(row[query.sort]))]
    values = {str(row["series_id"]): row[query.sort] for row in known}
    ordered = sorted(values, key=lambda name: values[name], reverse=query.descending)
    return ordered + [str(row["series_id"]) for row in rows if str(row["series_id"]) not in values]


@pytest.mark.parametrize(
    "query",
    [
        Query(), Query(sort="wape", descending=False), Query("item 1"),
        Query(named={"store": ("s1", "s2")}, sort="skill"),
        Query("S3", bounds={"wape": (0.2, 0.8)}, sort="volume"),
        Query(bounds={"cost": (1.0, math.inf)}, descending=False),
    ],
)  # fmt: skip
def test_the_query_finds_and_sorts_as_a_row_at_a_time_does(query: Query) -> None:
    items = table()
    assert items.frame["series_id"].iloc[chosen(items, query)].tolist() == slow(items, query)


def test_an_address_is_read_as_the_query_it_means() -> None:
    pairs = [
        ("q", " milk "),
        ("is.store", "s1"),
        ("is.store", "s2"),
        ("min.wape", "30%"),
        ("max.bias", "0.5"),
        ("sort", "item"),
    ]
    found = parse_query([*pairs, ("sort", "item"), ("order", "up"), ("page", "3")], table())
    bounds = {"wape": (0.3, math.inf), "bias": (-math.inf, 0.5)}
    assert found == Query("milk", {"store": ("s1", "s2")}, bounds, "item", descending=False, page=3)


def test_volume_value_and_cost_are_sums_over_the_rows() -> None:
    given = tables()
    frame = table(given).frame.set_index("series_id")
    for name, rows in given.recent.groupby("series_id"):
        worth = rows["price"].iloc[0]
        assert frame.loc[name, "volume"] == pytest.approx(rows["y"].mean(), rel=1e-6)
        week = given.realised[0].set_index("series_id").loc[name]
        cost = week["abs_error"] / week["actual"] * rows["y"].mean() * worth
        assert frame.loc[name, "cost"] == pytest.approx(cost, rel=1e-6)


def test_class_a_makes_up_the_first_four_fifths_of_the_turnover() -> None:
    frame = table().frame.sort_values("turnover", ascending=False)
    before = (frame["turnover"].cumsum() - frame["turnover"]) / frame["turnover"].sum()
    assert frame["abc"].tolist() == ["A" if share < 0.8 else "B" if share < 0.95 else "C" for share in before]


def test_each_item_is_in_the_state_that_people_have_to_know_first() -> None:
    items = table()
    states = dict(zip(items.frame["series_id"], items.frame["state"], strict=True))
    told = ["failed", "set aside", "forecast", "fallback"]
    assert [states[f"s{i}__item {i}"] for i in range(4)] == told
    assert states["s2__item 38"] == "no forecast"
    assert items.frame.set_index("series_id").loc["s0__item 0", "failure"] == "trained_models: odd"


def test_what_forecasts_were_worth_adds_up_over_the_items_seen() -> None:
    given = tables()
    items = table(given)
    rows = np.flatnonzero(items.frame["store"] == "s1")
    week = given.realised[0]
    own = week[week["series_id"].str.startswith("s1__")]
    told = {one.name: one.now for one in realised(items, rows)}
    assert told["wape"] == pytest.approx(own["abs_error"].sum() / own["actual"].sum())
    assert told["bias"] == pytest.approx(own["error"].sum() / own["actual"].sum())
    assert told["cover80"] == pytest.approx(6 / 7)
    assert costliest(items, rows, 3) == sorted(rows.tolist(), key=lambda at: -items.frame["cost"].iloc[at])[:3]


def test_a_groups_sum_is_that_of_its_items_and_movers_move_it_most() -> None:
    items = table()
    rows = np.arange(len(items.frame))
    found = totals(items, rows)
    frame = items.frame[items.frame["ahead"].notna()]
    assert found["ahead"] == pytest.approx(frame["ahead"].sum())
    assert found["change"] == pytest.approx((frame["ahead"] - frame["before"]).sum())
    assert movers(items, rows)[0] == int(items.frame["change"].abs().argmax())


@pytest.mark.parametrize(("frequency", "columns", "name"), [("D", 91, "day"), ("h", 91, "day"), ("W-SUN", 26, "week"),
                                                            ("MS", 24, "month"), ("B", 65, "working day")])  # fmt: skip
def test_recent_periods_are_columns_of_the_datas_own_rhythm(frequency: str, columns: int, name: str) -> None:
    grid = grid_of(frequency)
    assert (grid.columns, grid.name) == (columns, name)
    dates = grid.dates(datetime(2024, 6, 30), 3)
    assert len(set(dates.tolist())) == 3
    assert grid.dates(datetime(2024, 6, 30), 1, after=True)[0] > dates[-1]


def test_the_link_to_dagster_has_exactly_the_chosen_or_is_left_out() -> None:
    items = table()
    link = backfill_url("http://dagster", items, np.array([1, 0]))
    names = items.frame["series_id"].tolist()
    assert link.endswith(f"%22{names[1]}%22%2C%22{names[0]}%22".replace(" ", "%20"))
    assert backfill_url("", items, np.array([1])) == ""
    assert backfill_url("http://dagster", items, np.arange(40).repeat(30)) == ""


def test_a_series_of_three_observations_and_none_has_a_chart() -> None:
    days = pd.DataFrame({"ds": pd.date_range("2026-10-29", periods=3), "y": [1.0, 2.0, np.nan], "state": "observed"})
    chart = history_chart(days, pd.DataFrame(), None, {"2026-10-30": "a <b>"}, (), "sales")
    assert chart["data"][0]["y"] == [1.0, 2.0]
    assert chart["layout"]["yaxis2"]["ticktext"] == ["holiday"]
    assert history_chart(pd.DataFrame(), pd.DataFrame(), None, {}, (), "sales")["data"][0]["x"] == []


def test_the_bars_of_an_explanation_add_up_to_the_forecast() -> None:
    rng = np.random.default_rng(1)
    parts = {f"driver {i}": rng.normal(size=5).tolist() for i in range(12)} | {"level": [40.0] * 5}
    total = np.sum([*parts.values()], axis=0)
    chart = parts_chart([f"2026-11-0{i}T00:00" for i in range(1, 6)], parts, total.tolist())
    *bars, line = chart["data"]
    assert np.sum([bar["y"] for bar in bars], axis=0) == pytest.approx(total, abs=1e-3)
    assert (bars[0]["name"], len(bars), line["name"]) == ("level", 8, "forecast")
