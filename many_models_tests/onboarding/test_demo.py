"""The demo's source database: what a grocer would recognise, with dirty rows that are counted."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

import holidays
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from many_models.data.row_checks import check_rows
from many_models.errors import InputError
from many_models.onboarding.demo import (
    FUTURE_DAYS,
    LEAST_DAYS,
    LEAST_SERIES,
    DemoFacts,
    true_futures,
    write_source,
)
from many_models.onboarding.demo_plans import BAD, GOOD, NOISY
from many_models.onboarding.demo_settings import demo_settings
from many_models.ports import SalesTable
from many_models.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path

END = date(2026, 3, 14)
WEIGHED = ("Gouda", "Bananas", "Apples", "Tomatoes", "Asparagus")
SALES = SalesTable("sales", ("store", "item"), "date", "sales", ("price", "promotion"))


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> DemoFacts:
    return write_source(tmp_path_factory.mktemp("demo") / "source.db", series=120, days=800, end=END, seed=3)


@pytest.fixture(scope="module")
def sales(facts: DemoFacts) -> pd.DataFrame:
    with closing(sqlite3.connect(facts.path)) as database:
        return pd.read_sql("SELECT * FROM sales", database)


@pytest.fixture(scope="module")
def clean(sales: pd.DataFrame) -> pd.DataFrame:
    frame = sales.assign(
        date=pd.to_datetime(sales["date"], format="%Y-%m-%d", errors="coerce"),
        sales=pd.to_numeric(sales["sales"], errors="coerce"),
    )
    frame = frame[(frame["date"] <= pd.Timestamp(END)) & np.isfinite(frame["sales"]) & (frame["sales"] >= 0)]
    return frame.drop_duplicates(["store", "item", "date"])


def rows_of(path: Path, table: str = "sales") -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(f"SELECT * FROM {table}").fetchall()


def test_the_same_seed_gives_the_same_rows_and_another_seed_gives_others(tmp_path: Path) -> None:
    one, two, three = (tmp_path / f"{n}.db" for n in range(3))
    for path, seed in ((one, 7), (two, 7), (three, 8)):
        write_source(path, series=12, days=90, end=END, seed=seed)
    assert rows_of(one) == rows_of(two)
    assert rows_of(one, "covariates") == rows_of(two, "covariates")
    assert rows_of(one) != rows_of(three)


@pytest.mark.slow
@pytest.mark.parametrize("series", [LEAST_SERIES, 11, 59, 130])
@pytest.mark.parametrize("days", [LEAST_DAYS, 200, 500])
def test_there_are_exactly_as_many_series_as_asked_for(tmp_path: Path, series: int, days: int) -> None:
    facts = write_source(tmp_path / "source.db", series=series, days=days, end=END)
    assert facts.series == series
    assert len({row[:2] for row in rows_of(facts.path)}) == series


def test_too_small_a_demo_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{LEAST_SERIES} series and {LEAST_DAYS} days, got 3 and 90"):
        write_source(tmp_path / "source.db", series=3, days=90, end=END)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_demo_leaves_the_old_source(tmp_path: Path) -> None:
    facts = write_source(tmp_path / "source.db", series=12, days=90, end=END)
    before = rows_of(facts.path)

    def interrupt(_done: int, _series: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_source(facts.path, series=12, days=90, end=END, seed=2, progress=interrupt)
    assert rows_of(facts.path) == before
    write_source(facts.path, series=12, days=90, end=END, seed=2)
    assert rows_of(facts.path) != before
    assert [path.name for path in tmp_path.iterdir()] == ["source.db"]


def test_progress_ends_with_all_series(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    write_source(tmp_path / "source.db", series=130, days=90, end=END, progress=lambda *told_now: told.append(told_now))
    assert told == sorted(told)
    assert told[-1] == (130, 130)


@pytest.mark.slow
def test_the_facts_are_what_is_in_the_file(facts: DemoFacts, sales: pd.DataFrame) -> None:
    assert facts.rows == len(sales)
    assert facts.series == 120
    assert facts.stores == sales["store"].nunique()
    assert facts.items == sales["item"].nunique()
    assert facts.covariate_rows == len(rows_of(facts.path, "covariates"))
    assert facts.last == END


def test_dirty_rows_are_exactly_those_that_the_row_checks_quarantine(facts: DemoFacts, sales: pd.DataFrame) -> None:
    dates = pd.to_datetime(sales["date"], format="%Y-%m-%d", errors="coerce")
    dated = pa.Table.from_pandas(sales.assign(sales=sales["sales"].map(lambda y: None if y is None else str(y))))
    dated = dated.set_column(2, "date", pa.array(dates.to_numpy().astype("datetime64[us]"), pa.timestamp("us")))
    out = check_rows(dated, SALES, now=datetime(2026, 3, 15), negatives="quarantine", frequency="D")
    assert out.reasons == facts.dirty
    assert min(facts.dirty.values()) >= 1
    assert out.series.num_rows == facts.series


def test_the_series_made_on_purpose_are_what_they_are_called(facts: DemoFacts, clean: pd.DataFrame) -> None:
    histories = dict(iter(clean.groupby(["store", "item"])))
    assert set(histories[facts.constant]["sales"]) == {3.0}
    assert set(histories[facts.all_zero]["sales"]) == {0.0}
    assert list(histories[facts.newest]["date"]) == [pd.Timestamp(END)]
    assert len(histories[facts.short]) == 10
    a_year_ago = pd.Timestamp(END - timedelta(days=365))
    assert {key for key, frame in histories.items() if frame["date"].max() < a_year_ago} == set(facts.ended)
    assert facts.ended
    assert any(frame["date"].min() > pd.Timestamp(END - timedelta(days=50)) for frame in histories.values())


def test_shops_are_shut_on_sundays_and_holidays_but_for_the_station(facts: DemoFacts, clean: pd.DataFrame) -> None:
    shut = holidays.country_holidays("DE", years=range(2023, 2027))
    closed = clean["date"].map(lambda day: day.weekday() == 6 or day in shut)
    assert set(clean.loc[closed, "store"]) <= {"Frankfurt Bahnhof"}
    assert len(set(clean["store"])) >= 4


@pytest.mark.slow
def test_stores_open_later_close_and_are_rebuilt(tmp_path: Path) -> None:
    facts = write_source(tmp_path / "source.db", series=300, days=400, end=END)
    frame = pd.DataFrame(rows_of(facts.path), columns=["store", "item", "date", "sales", "price", "promotion"])
    frame = frame[frame["date"].str.match(r"^20[12]\d-") & (frame["date"] <= END.isoformat())]
    days = {store: sorted(set(dates)) for store, dates in frame.groupby("store")["date"]}
    assert any(dates[0] > "2025-05-01" for dates in days.values())
    assert any(dates[-1] < "2026-02-15" for dates in days.values())
    gaps = {store: max(np.diff(np.array(dates, "datetime64[D]"))).astype(int) for store, dates in days.items()}
    assert sum(gap >= 40 for gap in gaps.values()) == 1


def test_covariates_are_known_for_eight_weeks_and_agree_with_the_sales(facts: DemoFacts, clean: pd.DataFrame) -> None:
    names = ["store", "item", "date", "price", "promotion"]
    known = pd.DataFrame(rows_of(facts.path, "covariates"), columns=names)
    known["date"] = pd.to_datetime(known["date"])
    assert not known.duplicated(["store", "item", "date"]).any()
    joined = clean.merge(known, on=["store", "item", "date"], how="left", suffixes=("", "_known"))
    assert (joined["price"] == joined["price_known"]).all()
    assert (joined["promotion"] == joined["promotion_known"]).all()
    assert known["date"].max() == pd.Timestamp(END + timedelta(days=FUTURE_DAYS))
    assert FUTURE_DAYS >= 56
    active = set(clean.loc[clean["date"] == pd.Timestamp(END), ["store", "item"]].itertuples(index=False, name=None))
    future = known[known["date"] > pd.Timestamp(END)].groupby(["store", "item"]).size()
    assert all(future[key] == FUTURE_DAYS for key in active)


def test_promotions_prices_weekends_and_holidays_act(clean: pd.DataFrame) -> None:
    busy = clean[clean.groupby(["store", "item"])["sales"].transform("mean") > 3]
    share = busy["sales"] / busy.groupby(["store", "item"])["sales"].transform("mean")
    on = share.groupby(busy["promotion"]).mean()
    assert on[1] > 1.5 * on[0]
    weekday = share.groupby(busy["date"].dt.weekday).mean()
    assert weekday[5] > 1.5 * weekday[1]
    before_christmas = busy["date"].isin(pd.to_datetime(["2024-12-23", "2025-12-23"]))
    assert share[before_christmas].mean() > 1.3 * share[busy["date"].dt.weekday == 1].mean()
    assert Counter(busy["promotion"]).keys() == {0, 1}
    assert busy.groupby(["store", "item"])["price"].nunique().max() > 3


def test_there_are_slow_movers_stock_outs_and_fractions(clean: pd.DataFrame) -> None:
    zero_share = clean.groupby(["store", "item"])["sales"].agg(lambda y: (y == 0).mean())
    assert (zero_share.between(0.4, 0.999)).any()
    mean = clean.groupby(["store", "item"])["sales"].transform("mean")
    assert ((clean["sales"] == 0) & (mean > 10)).sum() > 10
    assert (clean["sales"] % 1 != 0).any()


def test_key_parts_hold_characters_that_names_trip_over(tmp_path: Path) -> None:
    facts = write_source(tmp_path / "source.db", series=500, days=60, end=END)
    text = "".join("".join(map(str, row[:2])) for row in set(rows_of(facts.path)))
    assert set("/'\"%üè🍓, .") <= set(text)


def test_its_settings_file_can_be_loaded(tmp_path: Path) -> None:
    file = tmp_path / "many_models.toml"
    file.write_text(demo_settings(start=date(2024, 1, 2), url="sqlite:///source.db", horizon=14), encoding="utf-8")
    settings = load_settings(file)
    assert settings.source.covariates_table == "covariates"
    assert settings.data.start == date(2024, 1, 2)
    assert (settings.data.keys, settings.data.known) == (["store", "item"], ["price", "promotion"])
    assert settings.forecast.horizon == 14


def test_one_store_has_rows_only_for_what_it_sold(facts: DemoFacts, clean: pd.DataFrame) -> None:
    assert facts.rows_for_sales in set(clean["store"])
    zeros = clean.groupby(["store", "item"])["sales"].agg(lambda y: (y == 0).mean())
    own = zeros[facts.rows_for_sales]
    assert set(own) <= {0.0, 1.0}  # an item that never sold keeps its rows, so that the demo has all series
    assert (zeros.drop(facts.rows_for_sales) > 0).any()


def test_a_small_demo_has_no_such_store(tmp_path: Path) -> None:
    assert not write_source(tmp_path / "source.db", series=12, days=90, end=END).rows_for_sales


def test_its_settings_say_what_a_missing_row_of_that_store_means(tmp_path: Path, facts: DemoFacts) -> None:
    """In other stores a day without a row is a Sunday, a holiday, or one of rebuilding: the shop was closed."""
    file = tmp_path / "many_models.toml"
    file.write_text(demo_settings(start=facts.first, rows_for_sales=facts.rows_for_sales), encoding="utf-8")
    data = load_settings(file).data
    assert (data.missing, data.missing_at) == ("closed", {facts.rows_for_sales: "zero"})


def test_ten_steady_items_sell_forty_per_cent_more_since_two_weeks(facts: DemoFacts, clean: pd.DataFrame) -> None:
    assert len(facts.shifted) == 10
    histories = dict(iter(clean.groupby(["store", "item"])))
    lifts = list[float]()
    for key in facts.shifted:
        own = histories[key].set_index("date")["sales"].sort_index()
        after = own[own.index > pd.Timestamp(END - timedelta(days=14))]
        lifts.append(after.mean() / own[: -len(after)].tail(len(after)).mean())
    assert float(np.median(lifts)) == pytest.approx(1.4, abs=0.15)


def test_people_write_categories_terms_of_stock_and_changes(facts: DemoFacts, clean: pd.DataFrame) -> None:
    """Every series has a category and terms; the good one's orders are in the sales, the bad one's targets are not."""
    with closing(sqlite3.connect(facts.path)) as database:
        items, stock, changes = (
            pd.read_sql(f"SELECT * FROM {table}", database) for table in ("items", "stock", "changes")
        )
    assert set(clean["item"]) <= set(items["item"])
    assert items["category"].notna().all()
    assert len(stock) == len(stock.drop_duplicates(["store", "item"])) == facts.series
    assert (stock["lead_time"] + 2 * stock["lead_time_sd"] + stock["review"] <= 14).all()
    assert set(changes["author"]) == {GOOD, BAD, NOISY}
    assert (changes["entered_at"] < changes["from"]).all()
    begun = pd.to_datetime(changes["from"])
    newest = changes[(begun > pd.Timestamp(END - timedelta(days=28))) & (begun <= pd.Timestamp(END))]
    assert set(newest["author"]) == {GOOD, BAD, NOISY}
    # a cutoff lies before closed Sundays and holidays, and judges only what was written by its windows
    assert (newest["entered_at"] <= (END - timedelta(days=28 + 4)).isoformat()).all()
    orders = changes[(changes["author"] == GOOD) & (changes["to"] <= END.isoformat())]
    assert len(orders) >= 10
    dated = orders.assign(date=pd.to_datetime(orders["to"]))
    both = clean.merge(dated, on=["store", "item", "date"], how="inner")
    assert len(both) >= 0.9 * len(orders)  # but for rows that are dirty
    assert (both["sales"] >= both["value"] - 1e-9).all()


def test_what_may_come_has_large_orders_as_the_history_had() -> None:
    """Three a store and round, each on two days in a row: nothing else doubles sales twice. No half units either."""
    draws = 20
    paths = true_futures(series=60, days=200, end=END, seed=3, steps=28, draws=draws)
    stores = {store for store, _ in paths}
    orders = 0
    for own in paths.values():
        usual = own.mean(0)
        if usual.max() >= 8:
            high = (own > 2.2 * usual) & (usual > 0)
            orders += int((high[:, 1:] & high[:, :-1]).any(1).sum())
    assert 0.4 * 3 * draws * len(stores) < orders <= 3 * draws * len(stores)
    counted = [own for (_, item), own in paths.items() if not item.startswith(WEIGHED)]
    assert all((np.mod(own, 1.0) == 0).all() for own in counted)


def test_the_demo_says_what_people_wrote_and_what_shifted(facts: DemoFacts) -> None:
    with closing(sqlite3.connect(facts.path)) as database:
        written = dict(database.execute("SELECT author, count(*) FROM changes GROUP BY author").fetchall())
        (categories,) = database.execute("SELECT count(DISTINCT category) FROM items").fetchone()
    _, people, shift = facts.sentences()
    assert f"in {categories} categories" in people
    assert all(f"{written[author]} by {author}" in people for author in (GOOD, BAD, NOISY))
    assert shift == "level shift: 10 items of one store sell 40% more since 2026-03-01"
