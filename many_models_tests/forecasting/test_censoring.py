"""Sales that stock cut short: lower bounds of demand, which teach, and which no forecast is judged by."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from many_models.adapters.lake.memory import MemoryLake
from many_models.adapters.source.memory import MemorySource
from many_models.data.ingest import Ingest, sales_table
from many_models.data.row_checks import check_columns
from many_models.errors import InputError, SettingsError
from many_models.forecasting import PackModel, Spec, backtest, prepare, train
from many_models.forecasting.censoring import IN_STOCK, LOWER_BOUND, NOTHING_KNOWN, demand, problem_of
from many_models.forecasting.datasets import ExistingHistory
from many_models.forecasting.evaluation import evaluate
from many_models.orchestration.decision_inputs import backtest_of, dated_backtest_of
from many_models.orchestration.forecast_spec import spec_of
from many_models.ports import Chunk, Filter
from many_models.reporting.actuals import actual_parts
from many_models.settings import DataSettings, Settings
from many_models.tasks import PrepareTask
from many_models_tests.forecasting.histories import AS_OF, SPEC, sales, table

AVAILABLE = replace(SPEC, available="share")
HOURS = replace(SPEC, sold_out="share", open_hours=16.0)
FLAG = replace(SPEC, sold_out="share")
DAYS = 240


def shop(seed: int, level: float = 30.0, days: int = DAYS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Demand, sales and the share of each day with stock: every third day or so sells out at some hour."""
    rng = np.random.default_rng(seed)
    asked = rng.poisson(level * (1 + 0.3 * np.sin(2 * np.pi * np.arange(days) / 7)) * rng.gamma(20, 1 / 20, days))
    share = np.where(rng.random(days) < 0.35, rng.uniform(0.1, 0.9, days), 1.0)
    return asked.astype(float), rng.binomial(asked, share).astype(float), share


def prepared(y: np.ndarray, share: np.ndarray, spec: Spec = AVAILABLE) -> pd.DataFrame:
    found = prepare(table({"a": y}, share=share), spec, AS_OF)
    assert not found.failures
    return found.rows.to_pandas()


# --- Demand behind a sale ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("flag", "least", "most"), [(False, 0.78, 1.0), (True, 0.75, 1.0)])
def test_demand_behind_cut_sales_is_found(flag: bool, least: float, most: float):
    """More than was sold, and never more than was asked for: what is usual is learned from days with stock."""
    found, sold, real = 0.0, 0.0, 0.0
    for seed in range(30):
        asked, _, _ = shop(seed)
        stock = np.random.default_rng(seed).uniform(20, 34, DAYS)
        y = np.minimum(asked, stock)  # sold evenly through the day until stock is gone
        cut = y < asked
        out, state = demand(y, np.where(cut, np.nan if flag else y / asked, 1.0), np.arange(DAYS) % 7, 7)
        assert (out >= y).all()
        assert (state == np.where(cut, LOWER_BOUND, IN_STOCK)).all()
        found, sold, real = found + out[20:].sum(), sold + y[20:].sum(), real + asked[20:].sum()
    assert least < found / real < most
    assert sold < 0.9 * real


def test_a_series_that_always_sells_out_at_noon_asks_for_twice_its_sales():
    y = np.random.default_rng(0).poisson(20.0, 200).astype(float)
    out, _ = demand(y, np.full(200, 0.5), np.zeros(200, int), 1)
    assert out[100:].mean() == pytest.approx(40, rel=0.05)
    assert (demand(y, np.full(200, np.nan), np.zeros(200, int), 1)[0] < 40).all()


def test_a_day_without_any_stock_says_nothing():
    asked, _, _ = shop(1)
    share = np.ones(DAYS)
    share[100:110] = 0.0
    out, state = demand(np.where(share == 0, 0.0, asked), share, np.arange(DAYS) % 7, 7)
    assert (state[100:110] == NOTHING_KNOWN).all()
    assert (out[:100] == asked[:100]).all()
    rows = prepared(np.where(share == 0, 0.0, asked), share)
    assert rows["state"][100:110].tolist() == ["stock_out"] * 10
    assert np.isnan(rows.loc[100:109, "y"]).all()
    assert (rows["sold"][100:110] == 0).all()


def test_what_comes_later_changes_no_estimate():
    _, sold, share = shop(2)
    whole = demand(sold, share, np.arange(DAYS) % 7, 7)[0]
    part = demand(sold[:150], share[:150], np.arange(150) % 7, 7)[0]
    assert (whole[:150] == part).all()


# --- Datasets ---------------------------------------------------------------------------------------------------------
def test_share_hours_and_flag_name_the_same_periods():
    _, sold, share = shop(3)
    by_share, by_hours = prepared(sold, share), prepared(sold, 16 * (1 - share), HOURS)
    by_flag = prepared(sold, (share < 1).astype(float), FLAG)
    assert by_share["state"].tolist() == by_hours["state"].tolist() == by_flag["state"].tolist()
    assert np.allclose(by_share["y"], by_hours["y"], equal_nan=True)
    cut = np.flatnonzero((share < 1) & (sold > 0))
    assert by_share.loc[cut, "sold"].tolist() == sold[cut].tolist()
    assert (by_share.loc[cut, "y"] >= sold[cut]).all()
    assert by_share.loc[np.flatnonzero(share == 1), "y"].tolist() == sold[share == 1].tolist()


def test_with_the_column_nothing_else_is_taken_for_a_stock_out():
    y = sales(200, 30.0)
    y[150:160] = 0.0
    assert "stock_out" in prepare(table({"a": y}), SPEC, AS_OF).rows["state"].to_pylist()
    assert set(prepared(y, np.ones(200))["state"]) == {"observed"}


def test_an_empty_value_says_that_there_was_stock():
    _, sold, share = shop(4)
    empty = pa.array([None if value == 1 else value for value in share.tolist()], pa.float64())
    raw = table({"a": sold}, share=share)
    raw = raw.set_column(raw.column_names.index("share"), "share", empty)
    rows = prepare(raw, AVAILABLE, AS_OF).rows.to_pandas()
    pd.testing.assert_frame_equal(rows, prepared(sold, share))


def test_a_history_that_goes_on_is_the_one_made_whole():
    _, sold, share = shop(5)
    before = AS_OF.replace(day=21)
    raw = table({"a": sold}, share=share)
    held = prepare(raw, AVAILABLE, before).series.to_pylist()[0]
    more = prepare(raw, AVAILABLE, AS_OF, {"a": ExistingHistory(held["until"], held["digest"])})
    assert more.since == {"a": before}
    whole = prepare(raw, AVAILABLE, AS_OF).rows
    assert more.rows.equals(whole.filter(pc.greater(whole["ds"], pa.scalar(before, pa.timestamp("us")))))


# --- What is wrong is told --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("spec", "value", "said"), [
    (AVAILABLE, 40.0, "share is 40, needed a share from 0 to 1"),
    (AVAILABLE, -0.5, "share is -0.5, needed a share from 0 to 1"),
    (HOURS, 17.0, r"share is 17, needed hours from 0 to data.open_hours \(16\)"),
    (FLAG, 7.0, r"share is 7, needed 0 or 1 \(for hours set data.open_hours\)"),
])  # fmt: skip
def test_a_value_that_cannot_be_meant_fails_its_own_series_alone(spec: Spec, value: float, said: str):
    good, bad = sales(100), sales(100, seed=1)
    share = np.zeros(100) if spec.sold_out else np.ones(100)
    wrong = share.copy()
    wrong[50] = value
    raw = pa.concat_tables([table({"good": good}, share=share), table({"bad": bad}, share=wrong)])
    found = prepare(raw, spec, AS_OF)
    (failure,) = found.failures
    assert failure.series_id == "bad"
    assert problem_of(wrong, spec) is not None
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(failure.reason)
    alone = prepare(table({"good": good}, share=share), spec, AS_OF)
    assert found.rows.equals(alone.rows)


def test_a_column_of_text_or_none_at_all_is_refused_in_a_sentence():
    raw = table({"a": sales(60)}, share=np.array(["much"] * 60))
    with pytest.raises(InputError, match=r"data\.available names share, which holds string, needed numbers or flags"):
        prepare(raw, AVAILABLE, AS_OF)
    with pytest.raises(InputError, match="the raw table lacks share"):
        prepare(table({"a": sales(60)}), AVAILABLE, AS_OF)
    with pytest.raises(SettingsError, match="say the same: name one"):
        replace(SPEC, available="a", sold_out="b")
    with pytest.raises(SettingsError, match="open_hours"):
        replace(SPEC, open_hours=16.0)


# --- Learning, scoring, forecasting -----------------------------------------------------------------------------------
def test_forecasts_are_of_demand_and_cut_periods_judge_nothing():
    shops = {f"s{seed}": shop(seed) for seed in range(8)}
    parts = [table({name: sold}, share=share) for name, (_, sold, share) in shops.items()]
    rows = prepare(pa.concat_tables(parts), AVAILABLE, AS_OF).rows
    evaluation = evaluate(rows, AVAILABLE, AS_OF)
    whole = np.array([share for _, _, share in shops.values()])[:, -14:].reshape(8, 2, 7) >= 1
    assert (evaluation.mask == whole).all()
    model = PackModel.from_files(train(rows, AVAILABLE, AS_OF).model.files(), "pack")
    ahead = float(pc.sum(model.predict(None)["y_hat"]).as_py()) / (8 * 7)
    asked, sold = (float(np.mean([one[k] for one in shops.values()])) for k in (0, 1))
    assert ahead == pytest.approx(asked, rel=0.06)
    assert abs(ahead - asked) < 0.3 * abs(ahead - sold)
    unaware = prepare(pa.concat_tables(parts).drop_columns(["share"]), SPEC, AS_OF).rows
    naive = float(pc.sum(train(unaware, SPEC, AS_OF).model.predict(None)["y_hat"]).as_py()) / (8 * 7)
    assert naive < asked * 0.92


def test_one_series_that_is_always_cut_changes_no_other():
    shops = {f"s{seed}": shop(seed) for seed in range(4)}
    parts = [table({name: sold}, share=share) for name, (_, sold, share) in shops.items()]
    poison = table({"zz": shop(9)[1]}, share=np.full(DAYS, 0.01))
    alone = train(prepare(pa.concat_tables(parts), AVAILABLE, AS_OF).rows, AVAILABLE, AS_OF).model
    beside = train(prepare(pa.concat_tables([*parts, poison]), AVAILABLE, AS_OF).rows, AVAILABLE, AS_OF).model
    assert beside.predict(None, series=alone.series).equals(alone.predict(None))
    assert np.isfinite(beside.predict(None, series=["zz"])["y_hat"].to_numpy()).all()


def test_backtest_scores_periods_with_stock_and_tells_of_the_others():
    frames = []
    for seed in range(6):
        asked, sold, share = shop(seed)
        days = pd.date_range(end=AS_OF, periods=DAYS)
        frames.append(pd.DataFrame({"item": f"i{seed}", "day": days, "sold": sold, "share": share, "asked": asked}))
    data = pd.concat(frames)
    report = backtest(data, keys=["item"], timestamp="day", target="sold", frequency="D", horizon=7, windows=2,
                      available="share", candidates=("mean", "ridge_raw"))  # fmt: skip
    selected = report.metrics.set_index("candidate").loc["selected"]
    late = data[data["day"] > AS_OF - pd.Timedelta(days=14)]
    assert selected["n"] == (late["share"] == 1).sum()
    assert selected["censored"] == ((late["share"] < 1) & (late["sold"] > 0)).sum()
    assert 0 <= selected["short"] < 0.05
    assert abs(selected["bias"]) < 0.06


# --- From the source to the dataset -----------------------------------------------------------------------------------
def test_the_column_reaches_the_dataset_through_the_lake():
    _, sold, share = shop(6, days=60)
    days = [AS_OF - timedelta(days=59 - day) for day in range(60)]
    source = MemorySource({"sales": pa.table({
        "item": ["a"] * 60, "date": pa.array(days, pa.timestamp("us")), "sales": sold, "in_stock": share,
    })})  # fmt: skip
    settings = Settings(data=DataSettings(keys=["item"], available="in_stock"))
    lake, of = MemoryLake(), sales_table(settings, ["item", "date", "sales", "in_stock"])
    assert of.known == ("in_stock",)
    copy = Ingest(settings, source, lake, of, check_columns(source.columns("sales"), of), AS_OF + timedelta(days=1))
    span = days[0], AS_OF + timedelta(days=1)
    copy.copy_span(*span, copy.read_span(*span))
    (pack,) = set(lake.read("raw_sales")["pack"].to_pylist())
    rows = PrepareTask(lake, spec_of(settings), AS_OF, ("item",))(Chunk(0, pack, ("a",))).tables["rows"].to_pandas()
    expected, state = demand(sold, share, rows["ds"].dt.dayofweek.to_numpy(), 7)
    assert np.allclose(rows["y"], np.where(state == NOTHING_KNOWN, np.nan, expected), equal_nan=True)
    assert (rows["state"] == "censored").sum() == (state == LOWER_BOUND).sum() > 0
    assert "in_stock" not in rows


def test_realised_accuracy_leaves_out_sales_that_stock_cut_short():
    lake = MemoryLake()
    rows = pa.table({
        "series_id": ["a"] * 3, "ds": pa.array([AS_OF - timedelta(days=d) for d in (2, 1, 0)], pa.timestamp("us")),
        "y": [5.0, 1.0, 7.0], "gone": pa.array([0.0, 3.0, None]), "pack": ["p"] * 3, "year": [2023] * 3,
    })  # fmt: skip
    lake.replace("raw_sales", rows, Filter(), ("year",))
    lake.replace("predictions", pa.table({
        "series_id": ["a"] * 3, "ds": rows["ds"],
        "cutoff": pa.array([AS_OF - timedelta(days=3)] * 3, pa.timestamp("us")), "cutoff_date": ["2023-12-28"] * 3,
        "y_hat": [5.0, 9.0, 7.0],
    }), Filter(), ("cutoff_date",))  # fmt: skip
    data = DataSettings(keys=["item"], sold_out="gone", open_hours=12.0)
    parts = actual_parts(Settings(data=data), lake, AS_OF, {}, {}, ["2023-12-28"])
    (accuracy,) = [part.rows.to_pylist() for part in parts if part.table == "accuracy" and part.rows.num_rows]
    assert (accuracy[0]["periods"], accuracy[0]["wape"]) == (2, 0.0)
    assert sum(part.rows.num_rows for part in parts if part.table == "actuals") == 3


@pytest.mark.slow
def test_a_target_with_exposure_that_stock_cuts_short_is_forecast_as_demand():
    """Sales proportional to hours open, of which stock cut a third short: both are known, neither hides the other."""
    rng = np.random.default_rng(3)
    hours = rng.choice([4.0, 8.0, 12.0], DAYS)
    asked = rng.poisson(5 * hours)
    share = np.where(rng.random(DAYS) < 0.35, rng.uniform(0.3, 0.9, DAYS), 1.0)
    days = pd.date_range(end=AS_OF, periods=DAYS)
    frame = pd.DataFrame({"k": "a", "ds": days, "y": rng.binomial(asked, share), "hours": hours, "share": share})
    options = {"keys": ["k"], "timestamp": "ds", "target": "y", "known": ["hours"], "frequency": "D", "horizon": 7}
    bias = {}
    for name, more in (("both", {"exposure": "hours", "available": "share"}), ("neither", {})):
        found = backtest(frame, windows=3, workers=1, **options, **more).forecasts.merge(
            pd.DataFrame({"ds": days, "asked": asked}), on="ds"
        )
        bias[name] = float((found["y_hat"] - found["asked"]).sum() / found["asked"].sum())
    assert abs(bias["both"]) < 0.1
    assert bias["neither"] < bias["both"]


def test_the_backtests_paths_tell_estimated_demand_apart_and_decisions_take_it() -> None:
    """What stock is reckoned with has the days that sold out, on which more was asked for; drift has actuals alone."""
    _, y, share = shop(4)
    spec = replace(AVAILABLE, horizon=14, windows=2)
    rows = prepare(table({"a": y}, share=share), spec, AS_OF).rows
    paths = train(rows, spec, AS_OF, keep_paths=True).paths
    assert paths is not None
    lake = MemoryLake()
    lake.replace("backtest_paths", paths, Filter())
    sold, of_stock = dated_backtest_of(lake, ["a"], 14)[0].y.ravel(), backtest_of(lake, ["a"], 14).y.ravel()
    cut = share[-28:] < 1
    assert 0 < cut.sum() < 28
    np.testing.assert_array_equal(np.isnan(sold), cut)
    np.testing.assert_allclose(of_stock, np.asarray(rows["y"].to_numpy(), float)[-28:])


def test_the_backtest_of_an_earlier_version_has_no_estimated_demand() -> None:
    _, y, _ = shop(4)
    spec = replace(SPEC, horizon=14, windows=2)
    paths = train(prepare(table({"a": y}), spec, AS_OF).rows, spec, AS_OF, keep_paths=True).paths
    assert paths is not None
    assert "estimated" not in paths.column_names
    lake = MemoryLake()
    lake.replace("backtest_paths", paths, Filter())
    np.testing.assert_array_equal(backtest_of(lake, ["a"], 14).y.ravel(), y[-28:])
