"""`many-models init` on strangers' tables: what is guessed, and why."""

from __future__ import annotations

import re
import sqlite3
import tomllib
from contextlib import closing
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from many_models.errors import InputError, MissingTableError
from many_models.onboarding.demo import write_source
from many_models.onboarding.load import load_file
from many_models.settings import load_settings
from many_models_tests.support import public_tables
from many_models_tests.support.strange_tables import RNG, csv, looked_at, panel, rows_of

pytestmark = pytest.mark.slow


def test_the_only_shop_of_an_excerpt_stays_a_key(tmp_path):
    """The next file may hold another shop: without the column its rows would be taken for this one's."""
    whole = panel("D", 120, Store=[1, 2], Dept=[3, 5, 8])
    excerpt = whole[whole["Store"] == 1]
    assert looked_at(csv(tmp_path, whole)).keys.value == ("Store", "Dept")
    found = looked_at(csv(tmp_path, excerpt, "excerpt.csv")).keys
    assert found.value == ("Store", "Dept")
    assert "Store is one and the same here" in found.reason
    constant = excerpt.rename(columns={"Store": "version"})
    assert looked_at(csv(tmp_path, constant, "other.csv")).keys.value == ("Dept",)


# --- Ten strangers --------------------------------------------------------------------------------------------------
def test_a_german_semicolon_table_with_decimal_commas(tmp_path: Path) -> None:
    frame = panel("D", 120, Filiale=["Köln", "Ulm"], Artikel=["007", "012", "100"])
    frame["y"] = frame["y"] * 1000.5
    frame = frame.rename(columns={"time": "Datum", "y": "Menge", "price": "Preis", "promo": "Aktion"})
    location = csv(tmp_path, frame, sep=";", decimal=",", date_format="%d.%m.%Y", encoding="cp1252")
    found = looked_at(location)
    assert found.keys.value == ("Filiale", "Artikel")
    assert (found.timestamp.value, found.target.value, found.frequency.value) == ("Datum", "Menge", "D")
    assert found.known.value == ("Preis", "Aktion")
    assert found.start == date(2023, 1, 2)
    load_file(location, tmp_path / "source.db", found)
    loaded = rows_of(tmp_path / "source.db")
    assert loaded == [
        (row.Filiale, row.Artikel, f"{row.Datum:%Y-%m-%d}", row.Menge, row.Preis, row.Aktion)
        for row in frame.itertuples()
    ]


def test_the_names_of_nixtla(tmp_path: Path) -> None:
    frame = panel("h", 300, unique_id=["a", "b", "c"]).rename(columns={"time": "ds"})[["ds", "unique_id", "y"]]
    found = looked_at(csv(tmp_path, frame))
    assert (found.keys.value, found.timestamp.value, found.target.value) == (("unique_id",), "ds", "y")
    assert (found.frequency.value, found.season.value) == ("h", 24)
    assert found.known.value == ()


def test_oil_wells_by_month(tmp_path: Path) -> None:
    frame = panel("MS", 60, "2018-01-01", well_id=[f"W-{n}" for n in range(20)])
    frame = frame.rename(columns={"time": "month", "y": "oil_bbl"})[["well_id", "month", "oil_bbl"]]
    found = looked_at(csv(tmp_path, frame, date_format="%Y-%m"))
    assert (found.keys.value, found.timestamp.value, found.target.value) == (("well_id",), "month", "oil_bbl")
    assert (found.frequency.value, found.season.value, found.horizon.value) == ("MS", 12, 6)
    assert tomllib.loads(found.to_toml("sqlite:///x.db"))["partitions"]["grain"] == "month"


def test_month_ends_in_american_dates(tmp_path: Path) -> None:
    frame = panel("ME", 48, "2019-01-31", Site=["A", "B"]).rename(columns={"time": "Period", "y": "Units Sold"})
    found = looked_at(csv(tmp_path, frame[["Site", "Period", "Units Sold"]], date_format="%m/%d/%Y"))
    assert found.frequency.value == "ME"
    assert found.start == date(2019, 1, 31)
    assert found.columns["Period"].type.style == "%m/%d/%Y"


def test_weekly_sales_with_holidays(tmp_path: Path) -> None:
    frame = panel("W-FRI", 140, "2021-01-01", Branch=[1, 2, 3], Dept=[1, 2, 7])
    frame["IsHoliday"] = frame["time"].isin(frame["time"].unique()[[7, 35, 47, 51, 60, 88, 99, 103]])
    frame = frame.rename(columns={"time": "WeekStarting", "y": "WeeklySales"})
    found = looked_at(csv(tmp_path, frame[["Branch", "Dept", "WeekStarting", "WeeklySales", "IsHoliday"]]))
    assert (found.keys.value, found.target.value) == (("Branch", "Dept"), "WeeklySales")
    assert (found.frequency.value, found.season.value, found.horizon.value) == ("W-FRI", 52, 8)
    assert found.known.value == ("IsHoliday",)


def test_a_table_of_meters_with_times_and_zones(tmp_path: Path) -> None:
    frame = panel("h", 400, meter=["m1", "m2"]).rename(columns={"y": "kwh"})[["time", "kwh", "meter"]]
    frame["time"] = frame["time"].dt.tz_localize("UTC").dt.tz_convert("Europe/Berlin")
    path = tmp_path / "meters.parquet"
    frame.to_parquet(path)
    found = looked_at(str(path))
    assert (found.keys.value, found.timestamp.value, found.target.value) == (("meter",), "time", "kwh")
    assert found.frequency.value == "h"
    load_file(str(path), tmp_path / "source.db", found)
    assert rows_of(tmp_path / "source.db")[:2] == [
        ("2023-01-02", frame["kwh"][0], "m1"),
        ("2023-01-02 01:00:00", frame["kwh"][1], "m1"),
    ]


def test_days_as_numbers_and_tabs(tmp_path: Path) -> None:
    frame = panel("D", 90, shop=["x", "y"], sku=[10, 20]).rename(columns={"time": "dt", "y": "qty"})
    found = looked_at(csv(tmp_path, frame[["dt", "sku", "qty", "shop"]], "t.tsv", sep="\t", date_format="%Y%m%d"))
    assert (found.keys.value, found.timestamp.value, found.target.value) == (("shop", "sku"), "dt", "qty")
    assert found.start == date(2023, 1, 2)


def test_epoch_seconds_yes_and_no_and_thousands(tmp_path: Path) -> None:
    frame = panel("D", 100, warehouse=["N", "S"]).rename(columns={"time": "timestamp", "y": "demand"})
    truth = frame["demand"] * 1000
    frame["timestamp"] = frame["timestamp"].astype("int64") // 10**9
    frame["demand"] = truth.map("{:,}".format)
    frame["promo"] = frame["promo"].map({0: "no", 1: "yes"})
    location = csv(tmp_path, frame)
    found = looked_at(location)
    assert (found.timestamp.value, found.target.value) == ("timestamp", "demand")
    assert found.known.value == ("price", "promo")
    load_file(location, tmp_path / "source.db", found)
    loaded = rows_of(tmp_path / "source.db", "SELECT timestamp, demand, promo FROM sales")
    assert loaded[0][0] == "2023-01-02"
    assert [row[1] for row in loaded] == list(truth)
    assert {row[2] for row in loaded} == {0, 1}


def test_one_series_gets_a_key(tmp_path: Path) -> None:
    frame = panel("D", 100)[["time", "y"]].rename(columns={"time": "day", "y": "visitors"})
    location = csv(tmp_path, frame, "museum.csv")
    found = looked_at(location)
    assert (found.keys.value, found.added_key) == (("series",), "series")
    load_file(location, tmp_path / "source.db", found)
    assert rows_of(tmp_path / "source.db", "SELECT DISTINCT series FROM sales") == [("museum",)]


def test_one_store_is_its_own_key(tmp_path: Path) -> None:
    frame = panel("D", 100, store=["Ulm"]).rename(columns={"time": "date"})
    found = looked_at(csv(tmp_path, frame))
    assert (found.keys.value, found.added_key, found.known.value) == (("store",), "", ("price", "promo"))


def test_a_date_beside_an_hour_is_no_key_but_a_warning(tmp_path: Path) -> None:
    frame = panel("h", 400, store=["a", "b"])
    frame["Date"], frame["Hour"] = frame["time"].dt.date, frame["time"].dt.hour
    found = looked_at(csv(tmp_path, frame.drop(columns="time")))
    assert found.keys.value == ("store",)
    assert any("put it and Hour into one column" in warning for warning in found.warnings)


def test_a_column_for_each_series_is_warned_of(tmp_path: Path) -> None:
    wide = panel("D", 100, store=["a", "b", "c"]).pivot_table(index="time", columns="store", values="y").reset_index()
    assert any("below one another" in warning for warning in looked_at(csv(tmp_path, wide)).warnings)


def test_a_site_and_an_item_are_taken_rather_than_an_id_that_says_the_same(tmp_path: Path) -> None:
    frame = panel("D", 80, store=["CA_1", "TX_2"], item=["F_1", "F_2", "H_9"]).rename(columns={"time": "date"})
    frame.insert(0, "id", frame["item"] + "_" + frame["store"] + "_validation")
    frame["brand"] = frame["item"].str[0]
    found = looked_at(csv(tmp_path, frame.drop(columns="promo")))
    assert found.keys.value == ("store", "item")


def test_dates_that_read_both_ways_are_read_so_that_they_are_regular(tmp_path: Path) -> None:
    frame = panel("MS", 36, "2020-01-01", store=["a", "b"])[["store", "time", "y"]]
    found = looked_at(csv(tmp_path, frame, date_format="%m/%d/%Y"))
    assert found.frequency.value == "MS"
    found = looked_at(csv(tmp_path, frame, date_format="%d/%m/%Y"))
    assert found.frequency.value == "MS"
    assert found.timestamp.confidence == "unsure"
    assert any("check the first and last day" in warning for warning in found.warnings)


def test_iso_weeks(tmp_path: Path) -> None:
    frame = panel("W-MON", 60, store=["a", "b"])[["store", "time", "y"]].rename(columns={"time": "week"})
    frame["week"] = frame["week"].dt.strftime("%G-W%V")
    found = looked_at(csv(tmp_path, frame))
    assert (found.frequency.value, found.start) == ("W-MON", date(2023, 1, 2))


def test_bare_names_are_guessed_by_how_columns_behave(tmp_path: Path) -> None:
    frame = panel("D", 200, a=["k1", "k2"], b=[1, 2, 3])
    frame["e"] = frame["time"].dt.day_name()
    frame = frame.rename(columns={"time": "c", "y": "d", "price": "f"})[["f", "d", "e", "b", "c", "a"]]
    found = looked_at(csv(tmp_path, frame))
    assert (set(found.keys.value), found.timestamp.value, found.target.value) == ({"a", "b"}, "c", "d")
    assert found.known.value == ("f",)
    assert found.known.confidence == "unsure"


# --- What must not be known -----------------------------------------------------------------------------------------
def test_what_is_made_of_the_target_is_never_a_known_covariate(tmp_path: Path) -> None:
    frame = panel("D", 200, store=["a", "b"], item=["x", "y"]).rename(columns={"time": "date", "y": "quantity"})
    series = frame.groupby(["store", "item"])["quantity"]
    frame["takings"] = (frame["quantity"] * frame["price"]).round(2)
    frame["price_index"] = series.transform(lambda y: y.rolling(7, min_periods=1).mean())
    frame["event_score"] = frame["quantity"] * 0.5 + 3
    frame["promo_effect"] = series.shift(1).fillna(0)
    frame["weekday"] = frame["date"].dt.weekday
    frame["holiday_year"] = frame["date"].dt.year
    frame["brand"] = frame["item"].str.upper()
    found = looked_at(csv(tmp_path, frame))
    assert found.target.value == "quantity"
    assert set(found.known.value) - {"holiday_year"} == {"price", "promo"}
    for leak in ("takings", "price_index", "event_score", "promo_effect"):
        assert leak in found.known.reason


@pytest.mark.parametrize(("name", "values", "found"), [
    ("in_stock_share", (0.5, 1.0), ("available", 0.0)),
    ("sold_out", (0, 1), ("sold_out", 0.0)),
    ("soldOutHours", (0, 3, 14), ("sold_out", 14.0)),
    ("unavailable", (0, 1), None),
    ("sold_out", (0, 90), None),
])  # fmt: skip
def test_a_column_of_stock_is_guessed_by_name_and_values(tmp_path: Path, name: str, values: tuple, found) -> None:
    frame = panel("D", 200, store=["a", "b"]).rename(columns={"time": "date"})
    frame[name] = RNG.choice(values, len(frame))
    guess = looked_at(csv(tmp_path, frame))
    assert name not in guess.known.value
    told = tomllib.loads(guess.to_toml("sqlite:///x.db"))["data"]
    assert (
        {key: told.get(key) for key in ("available", "sold_out") if told.get(key)},
        told.get("open_hours", 0.0),
    ) == (({found[0]: name}, found[1]) if found else ({}, 0.0))


def test_temperature_is_left_to_its_user(tmp_path: Path) -> None:
    frame = panel("D", 200, store=["a", "b"]).rename(columns={"time": "date"})
    frame["temperature"] = RNG.normal(10, 5, len(frame)).round(1)
    found = looked_at(csv(tmp_path, frame))
    assert found.known.value == ("price", "promo")
    assert found.known.alternatives == ("temperature",)
    assert looked_at(csv(tmp_path, frame), known=["temperature"]).known.value == ("temperature",)


def test_event_names_are_categories_and_rare_or_redundant_ones_are_left_out(tmp_path: Path) -> None:
    frame = panel("D", 400, store=["a", "b"])[["store", "time", "y"]].rename(columns={"time": "date"})
    number = frame.groupby("store").cumcount()
    frame["event"] = np.where(number % 20 == 3, "e" + (number // 20).astype(str), "")
    frame["event_type"] = np.where(number % 20 == 3, np.where(number < 200, "sport", "religion"), "")
    frame["event_rare"] = np.where(number == 77, "eclipse", "")
    assert looked_at(csv(tmp_path, frame)).known.value == ("event_type",)


# --- Warnings and errors --------------------------------------------------------------------------------------------
def test_noise_repeats_gaps_and_bad_values_are_warned_of(tmp_path: Path) -> None:
    frame = panel("D", 200, store=["a", "b", "c", "d"])[["store", "time", "y"]].rename(columns={"time": "date"})
    frame["y"] = RNG.integers(9_000, 20_000, len(frame)).astype(object)
    frame["date"] = frame["date"].dt.strftime("%Y-%m-%d")
    frame = frame[RNG.random(len(frame)) > 0.1].reset_index(drop=True)
    frame.loc[3, "y"] = "n/a"
    frame.loc[4, "date"] = "2099-01-01"
    frame.loc[5, "date"] = "soon"
    frame = pd.concat([frame, frame.head(2)])
    text = "\n".join(looked_at(csv(tmp_path, frame)).warnings)
    assert "looks like noise" in text
    assert "rows that repeat a series and date: 2, " in text
    assert "of the periods between" in text
    assert "values of y that are not numbers: 1, " in text
    assert "rows dated later than now: 1, " in text
    assert "rows without a date that is understood: 1, " in text


def test_a_clean_table_is_not_warned_of(tmp_path: Path) -> None:
    frame = panel("D", 300, store=["a", "b"], item=["x", "y"]).rename(columns={"time": "date"})
    assert looked_at(csv(tmp_path, frame)).warnings == ()


def test_receipts_are_summed_up_and_their_keys_taken_by_name(tmp_path: Path) -> None:
    frame = panel("D", 60, store=["a", "b"], item=["x", "y"])[["store", "item", "time", "y"]]
    frame = frame.loc[frame.index.repeat(4)].rename(columns={"time": "date", "y": "units"})
    frame["units"] = RNG.integers(1, 5, len(frame))
    found = looked_at(csv(tmp_path, frame))
    assert (found.keys.value, found.keys.confidence) == (("store", "item"), "unsure")
    assert (found.aggregate.value, found.missing.value) == ("sum", "zero")
    assert "4.0 rows a series and period" in found.aggregate.reason


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a;b\n", "no rows"),
        ("just words\nwithout columns\n", "have one field"),
        ("2024-01-01,3,4\n2024-01-02,4,5\n", "looks like values"),
        ("store,y\na,1\nb,2\n", "--timestamp"),
        ("date,store\n2024-01-01,a\n2024-01-02,a\n", "--target"),
    ],
)
def test_what_cannot_be_guessed_says_what_to_give(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        looked_at(str(path))


def test_quarter_hours_become_hours(tmp_path: Path) -> None:
    frame = panel("15min", 400, meter=["a", "b"])[["meter", "time", "y"]]
    found = looked_at(csv(tmp_path, frame))
    assert (found.frequency.value, found.aggregate.value) == ("h", "sum")
    assert looked_at(csv(tmp_path, frame), frequency="D").aggregate.value == "sum"


def test_given_names_overrule_guesses_and_wrong_ones_are_named(tmp_path: Path) -> None:
    frame = panel("D", 60, store=["a", "b"], item=["x", "y"]).rename(columns={"time": "date"})
    frame["returns"] = RNG.integers(0, 3, len(frame))
    location = csv(tmp_path, frame)
    found = looked_at(location, keys=["item", "store"], target="returns", known=[], frequency="B")
    assert (found.keys.value, found.target.value, found.known.value) == (("item", "store"), "returns", ())
    assert found.frequency.value == "B"
    with pytest.raises(InputError, match="--target sold: the columns are store, item"):
        looked_at(location, target="sold")
    with pytest.raises(InputError, match="--target store: its values are not numbers"):
        looked_at(location, target="store")
    with pytest.raises(InputError, match="no file"):
        looked_at(str(tmp_path / "nowhere.csv"))


@pytest.mark.parametrize(("target", "start"), [("sales", "^the numbers"), ("", "no column of numbers .*date, sales")])
def test_a_column_with_two_decimal_signs_is_named_with_both(tmp_path: Path, target: str, start: str) -> None:
    """`1.234,50` beside `1234.50`: it is text, and `its values are not numbers` did not say why."""
    frame = panel("D", 60, store=["a"], item=["x"]).rename(columns={"time": "date"})
    frame = pd.DataFrame({name: frame[name] for name in ("store", "item", "date")})
    frame["sales"] = [f"1.{day:03d},50" if day % 2 else f"1{day:03d}.50" for day in range(len(frame))]
    wanted = (
        r"the numbers of sales have two decimal signs, as in 1\.001,50 and 1000\.50: write all of them with a point"
    )
    with pytest.raises(InputError, match=f"{start}.*sales.*1000" if target else start) as caught:
        looked_at(csv(tmp_path, frame), target=target)
    assert re.search(wanted, str(caught.value))


def test_a_damaged_workbook_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "book.xlsx").write_bytes(b"PK\x03\x04 and so on")
    with pytest.raises(InputError, match="damaged archive or workbook"):
        looked_at(str(tmp_path / "book.xlsx"))


# --- Settings -------------------------------------------------------------------------------------------------------
def test_the_settings_file_loads_whatever_the_names_hold(tmp_path: Path) -> None:
    frame = panel("D", 60, **{'st"ore\\ß': ["a", "b"], "state": ["x", "y"]})
    frame = frame.rename(columns={"time": "date\ttime", "y": "sales 'net' 🍎"})
    location = csv(tmp_path, frame)
    found = looked_at(location)
    assert found.renamed == {"state": "state_"}
    file = tmp_path / "many_models.toml"
    file.write_text(found.to_toml("sqlite:///source.db"), encoding="utf-8")
    data = load_settings(file).data
    assert (tuple(data.keys), data.timestamp, data.target) == (
        found.keys.value,
        found.timestamp.value,
        found.target.value,
    )
    assert (tuple(data.known), data.start) == (found.known.value, date(2023, 1, 2))
    load_file(location, tmp_path / "source.db", found)
    columns = {row[1] for row in rows_of(tmp_path / "source.db", "PRAGMA table_info(sales)")}
    assert {*data.keys, data.timestamp, data.target, *data.known} <= columns


def test_every_choice_can_be_shown(tmp_path: Path) -> None:
    found = looked_at(csv(tmp_path, panel("D", 60, store=["a", "b"]).rename(columns={"time": "date"})))
    assert list(found.choices)[:4] == ["table", "keys", "timestamp", "target"]
    assert all(choice.reason for name, choice in found.choices.items() if name != "table")


# --- SQL ------------------------------------------------------------------------------------------------------------
def test_a_database_with_several_tables_offers_the_one_with_sales(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    write_source(path, series=12, days=120, end=date(2025, 6, 30))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE stores (store TEXT, city TEXT)")
        connection.execute("CREATE TABLE sales_forecast AS SELECT date, store, item, sales FROM sales LIMIT 500")
    for location in (f"sqlite:///{path}", str(path)):
        found = looked_at(location)
        assert (found.table.value, found.covariates_table.value) == ("sales", "covariates")
        assert (set(found.keys.value), found.timestamp.value, found.target.value) == (
            {"store", "item"},
            "date",
            "sales",
        )
        assert found.known.value == ("price", "promotion")
        assert found.last <= date(2025, 6, 30)
        assert found.url == f"sqlite:///{path}"
    assert looked_at(f"sqlite:///{path}::sales_forecast").table.value == "sales_forecast"
    names = "changes, covariates, items, sales, sales_forecast, stock, stores"
    with pytest.raises(MissingTableError, match=f"there are: {names}"):
        looked_at(f"sqlite:///{path}", table="umsatz")


def test_a_database_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no SQLite database"):
        looked_at(f"sqlite:///{tmp_path}/none.db")
    with pytest.raises(InputError, match="not a SQLAlchemy URL"):
        looked_at("oracel://host/db")


# --- Real tables ----------------------------------------------------------------------------------------------------
REAL = [
    ("store_item/train.csv.gz", ("store", "item"), "date", "sales", "D", ()),
    ("m5_tiny/tiny_m5.parquet", ("store_id", "item_id"), "date", "value", "D", ("event_type_1", "snap", "sell_price")),
    ("carparts/carparts_long.parquet", ("unique_id",), "ds", "y", "MS", ()),
    ("oj_simulated/subset_oj_sim_sales.csv", ("Store", "Brand"), "WeekStarting", "Quantity", "W-THU", ("Price",)),
]


@pytest.mark.slow
@pytest.mark.public_tables
@pytest.mark.parametrize(("file", "keys", "timestamp", "target", "frequency", "known"), REAL)
@pytest.mark.parametrize("how", ["as it is", "shuffled", "renamed"])
def test_real_tables_are_guessed(
    tmp_path: Path,
    file: str,
    keys: tuple[str, ...],
    timestamp: str,
    target: str,
    frequency: str,
    known: tuple[str, ...],
    how: str,
) -> None:
    path, renamed = public_tables.folder() / file, dict[str, str]()
    if how != "as it is":
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
        frame = frame[list(np.random.default_rng(3).permutation(frame.columns))]
        if how == "renamed":
            renamed = {name: f"c{number}" for number, name in enumerate(frame.columns)}
        path = tmp_path / "table.parquet"
        pq.write_table(pa.Table.from_pandas(frame.rename(columns=renamed), preserve_index=False), path)
    found = looked_at(str(path))
    assert set(found.keys.value) == {renamed.get(name, name) for name in keys}
    assert found.timestamp.value == renamed.get(timestamp, timestamp)
    assert found.target.value == renamed.get(target, target)
    assert found.frequency.value == frequency
    assert set(found.known.value) == {renamed.get(name, name) for name in known} or how == "renamed"
    assert any("noise" in warning for warning in found.warnings) == ("oj_" in file)
    if how == "as it is":
        assert found.keys.value == keys


EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.name)
def test_the_example_settings_load(file: Path) -> None:
    assert load_settings(file).source.url == "sqlite:///sales.db"


@pytest.mark.slow
@pytest.mark.public_tables
@pytest.mark.parametrize("example", ["store_item", "m5_tiny"])
def test_the_example_settings_say_what_init_guesses(example: str) -> None:
    file = next(file for file, *_ in REAL if file.startswith(example))
    found, data = looked_at(str(public_tables.folder() / file)), load_settings(EXAMPLES / f"{example}.toml").data
    assert (tuple(data.keys), data.timestamp, data.target) == (
        found.keys.value,
        found.timestamp.value,
        found.target.value,
    )
    assert (set(data.known), data.frequency, data.start) == (set(found.known.value), found.frequency.value, found.start)


# --- Exposure -------------------------------------------------------------------------------------------------------
def exposed(hours: np.ndarray) -> pd.DataFrame:
    frame = panel("D", 200, store=["a", "b"])
    frame["hours"] = np.tile(hours, 2)
    frame["y"] = RNG.poisson(3 * np.maximum(frame["hours"], 0))
    return frame


def test_a_given_exposure_is_written_as_known_too(tmp_path: Path) -> None:
    location = csv(tmp_path, exposed(RNG.integers(0, 12, 200)))
    found = looked_at(location, target="y", exposure="hours", known=["price"])
    (tmp_path / "many_models.toml").write_text(found.to_toml("sqlite:///sales.db"))
    settings = load_settings(tmp_path / "many_models.toml")
    assert (settings.data.exposure, settings.data.known) == ("hours", ["price", "hours"])


def test_no_exposure_is_guessed_or_written(tmp_path: Path) -> None:
    found = looked_at(csv(tmp_path, exposed(RNG.integers(0, 12, 200))), target="y")
    assert "exposure =" not in found.to_toml("sqlite:///sales.db")


def test_a_column_that_cannot_be_an_exposure_is_refused(tmp_path: Path) -> None:
    frame = exposed(RNG.integers(0, 12, 200))
    frame["kind"], frame["below"] = "open", frame["hours"] - 3
    frame["other"] = np.where(frame["hours"] > 4, 0, frame["hours"])
    location = csv(tmp_path, frame)
    for name, told in (
        ("kind", "holds text values, needed a number"), ("below", "lowest value is -3"),
        ("other", "rows without any have sales"), ("gone", "the columns are"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=f"--exposure {name}: .*{told}"):
            looked_at(location, target="y", exposure=name)
