"""From a table as it is to forecasts, without a flag: each kind of table that once ended in wrong numbers.

`init` guesses and loads; rows are checked, aggregated and made regular as `run` does it; one model is trained. The
stages between are those of `many_models_tests/days`.
"""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from many_models.data.ingest import FAR_FUTURE, Ingest, sales_of
from many_models.data.row_checks import check_columns
from many_models.forecasting import prepare, train
from many_models.keys import SeriesKey
from many_models.onboarding.guess import infer_settings
from many_models.onboarding.load import load_file
from many_models.orchestration.forecast_spec import spec_of
from many_models.orchestration.source_state import copied_until, first_periods
from many_models.settings import load_settings
from many_models.wiring import build_lake, build_source

if TYPE_CHECKING:
    from pathlib import Path

    from many_models.settings import Settings

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = pd.date_range("2023-01-02", "2024-06-30")


def set_up(folder: Path, file: str) -> Settings:
    """The project that `init` makes of a file."""
    found = infer_settings(str(folder / file), now=NOW)
    load_file(str(folder / file), folder / "sales.db", found)
    (folder / "many_models.toml").write_text(found.to_toml("sqlite:///sales.db"))
    return load_settings(folder / "many_models.toml")


def usable(settings: Settings) -> pa.Table:
    """The rows that are copied of its source."""
    source = build_source(settings)
    sales = sales_of(settings, source)
    kinds = check_columns(source.columns(settings.source.table), sales)
    starts = [datetime.strptime(key, "%Y-%m-%d") for key in first_periods(settings, source, sales)]
    until = copied_until(settings, source, sales, starts)
    ingest = Ingest(settings, source, build_lake(settings), sales, kinds, NOW.replace(tzinfo=None), until)
    raw = ingest.read_span(*ingest.whole(min(starts), until or FAR_FUTURE))
    assert raw is not None
    return ingest.checked(raw).rows


def forecast(settings: Settings) -> pd.DataFrame:
    """What a first run forecasts, without what series learn together."""
    rows, spec = usable(settings), spec_of(settings)
    as_of = pc.max(rows["ds"]).as_py()
    prepared = prepare(rows, spec, as_of)
    assert not prepared.failures
    return train(prepared.rows, spec, as_of).model.predict(None).to_pandas()


def stores(name: str, days: pd.DatetimeIndex, size: int = 3) -> pd.DataFrame:
    return pd.concat([pd.DataFrame({"store": f"s{at}", name: days}) for at in range(size)], ignore_index=True)


@pytest.mark.slow
def test_monthly_sales_are_forecast_by_month(tmp_path: Path):
    table = stores("month", pd.date_range("2019-01-01", "2024-12-01", freq="MS"))
    table["sales"] = np.random.default_rng(1).poisson(80, len(table))
    table.to_csv(tmp_path / "sales.csv", index=False)
    found = forecast(set_up(tmp_path, "sales.csv"))
    assert found["ds"].min() == pd.Timestamp("2025-01-01")
    assert found["y_hat"].mean() == pytest.approx(80, rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.08, 0.4, 2.5])
def test_a_row_only_when_something_was_sold_is_forecast_at_its_rate(tmp_path: Path, rate: float):
    table = stores("day", DAYS, 12)
    table["units"] = np.random.default_rng(2).poisson(rate, len(table))
    table[table["units"] > 0].to_csv(tmp_path / "sales.csv", index=False)
    found = forecast(set_up(tmp_path, "sales.csv"))
    assert found["y_hat"].mean() == pytest.approx(rate, rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("stamp", ["%d.%m.%Y %H:%M", "%m/%d/%Y %I:%M %p", "%Y-%m-%dT%H:%M:%S"])
def test_receipts_are_forecast_at_the_sum_of_a_day(tmp_path: Path, stamp: str):
    rng = np.random.default_rng(3)
    table = stores("at", pd.date_range(end=DAYS[-1], periods=300)).loc[
        lambda rows: rows.index.repeat(rng.poisson(4, len(rows)))
    ]
    table["at"] = (table["at"] + pd.to_timedelta(rng.integers(8 * 60, 20 * 60, len(table)), "min")).dt.strftime(stamp)
    table = table.assign(receipt=np.arange(len(table)), quantity=rng.integers(1, 4, len(table)))
    table.to_csv(tmp_path / "sales.csv", index=False)
    found = forecast(set_up(tmp_path, "sales.csv"))
    assert found["y_hat"].mean() == pytest.approx(8, rel=0.2)
    assert found["ds"].min() == DAYS[-1] + timedelta(days=1)


@pytest.mark.slow
@pytest.mark.parametrize("rows_of_zero", [True, False])
def test_closed_sundays_are_forecast_as_closed_with_rows_and_without(tmp_path: Path, *, rows_of_zero: bool):
    table = stores("day", DAYS, 6)
    rng = np.random.default_rng(4)
    table["sales"] = np.round(4000 * rng.lognormal(0, 0.1, len(table)) * (table["day"].dt.dayofweek < 6))
    table[rows_of_zero | (table["sales"] > 0)].to_parquet(tmp_path / "sales.parquet", index=False)
    found = forecast(set_up(tmp_path, "sales.parquet"))
    sunday = found["ds"].dt.dayofweek == 6
    assert found.loc[sunday, "y_hat"].max() < 200
    assert found.loc[~sunday, "y_hat"].mean() == pytest.approx(4000, rel=0.1)


@pytest.mark.slow
def test_zeros_before_one_opening_change_no_other_store(tmp_path: Path):
    table = stores("day", DAYS, 8)
    table["sales"] = np.round(6000 * np.random.default_rng(5).lognormal(0, 0.1, len(table)))
    late = (table["store"] == "s0") & (table["day"] < DAYS[180])
    found = list[pd.DataFrame]()
    for name, rows in (("zeros", table.assign(sales=table["sales"].mask(late, 0))), ("without", table[~late])):
        (tmp_path / name).mkdir()
        rows.to_parquet(tmp_path / name / "sales.parquet", index=False)
        found.append(forecast(set_up(tmp_path / name, "sales.parquet")))
    zeros, without = (frame[frame["series_id"] != "s0"]["y_hat"].to_numpy() for frame in found)
    assert zeros == pytest.approx(without, rel=0.02)
    assert found[0]["y_hat"].mean() == pytest.approx(6000, rel=0.1)


# --- Columns of rare types, and days that are no days -----------------------------------------------------------------
def table_of() -> pa.Table:
    rows = stores("day", pd.date_range(end=DAYS[-1], periods=200))
    return pa.table(
        {"store": rows["store"], "day": rows["day"], "sales": np.random.default_rng(6).poisson(9, len(rows))}
    )


@pytest.mark.parametrize(
    ("store", "written"),
    [
        (pa.array([2**63 + 7, 2**64 - 1], pa.uint64()), {"9223372036854775815", "18446744073709551615"}),
        (pa.array(["Main St.", "Baker's"]).dictionary_encode(), {"Main St.", "Baker's"}),
        (pa.array([b"01", b"02"]), {"01", "02"}),
    ],
)
def test_keys_of_rare_types_keep_every_character(tmp_path: Path, store: pa.Array, written: set[str]):
    rows = table_of()
    keys = store.take(pa.array(np.arange(rows.num_rows) * 2 // rows.num_rows))
    days = pa.array(np.tile(DAYS[-rows.num_rows // 2 :].to_numpy("datetime64[us]"), 2))
    pq.write_table(rows.set_column(0, "store", keys).set_column(1, "day", days), tmp_path / "sales.parquet")
    found = usable(set_up(tmp_path, "sales.parquet"))
    assert {SeriesKey.parse(name).parts[0] for name in found["series_id"].to_pylist()} == written
    assert found.num_rows == rows.num_rows


@pytest.mark.slow
def test_columns_of_rare_types_are_read_or_left_out(tmp_path: Path):
    rows = table_of()
    for name, value, kind in (
        ("open_for", timedelta(hours=8), pa.duration("us")),
        ("opened", time(8), pa.time32("s")),
        ("parts", [1, 2], pa.list_(pa.int8())),
    ):
        rows = rows.append_column(name, pa.array([value] * rows.num_rows, kind))
    half = rows["sales"].to_numpy().astype(np.float16)
    pq.write_table(rows.set_column(2, "sales", pa.array(half)), tmp_path / "sales.parquet")
    settings = set_up(tmp_path, "sales.parquet")
    assert (settings.data.target, settings.data.keys) == ("sales", ["store"])
    assert sorted(usable(settings)["y"].to_pylist()) == sorted(half.astype(float).tolist())


@pytest.mark.slow
@pytest.mark.parametrize("as_text", [True, False])
def test_days_of_other_centuries_are_told_and_change_no_guess(tmp_path: Path, *, as_text: bool):
    """A row of 1600 or 1926 made `init` take 99 % of the days for missing; one of 9999 went without a word."""
    rows = table_of().to_pandas()
    odd = ["1600-01-05", "1926-01-13", "9999-12-31"]
    texts = np.array(rows["day"].dt.strftime("%Y-%m-%d").tolist(), object)
    texts[[5, 9, 11]] = odd
    days = pa.array(texts) if as_text else pa.array(texts.astype("datetime64[us]"))
    table = pa.Table.from_pandas(rows).set_column(1, "day", days)
    pq.write_table(table, tmp_path / "sales.parquet")
    found = infer_settings(str(tmp_path / "sales.parquet"), now=NOW)
    assert (str(found.start), str(found.last)) == (f"{DAYS[-200]:%Y-%m-%d}", "2024-06-30")
    assert found.missing.value == "unknown"
    assert not any("no row" in text for text in found.warnings)
    assert any("typing errors" in text and "1926-01-13" in text for text in found.warnings)
    told = " ".join(found.warnings)
    assert (
        ("dated later than now: 1" in told and "1600-01-05" in told) or "not understood" in told or "2, to be" in told
    )
    settings = set_up(tmp_path, "sales.parquet")
    source = build_source(settings)
    sales = sales_of(settings, source)
    ingest = Ingest(settings, source, build_lake(settings), sales, {}, NOW.replace(tzinfo=None))
    ingest.quarantine_the_rest()
    assert ingest.lake.read("quarantine").num_rows == len(odd)
