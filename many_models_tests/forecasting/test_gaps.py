"""What a period without a row means, and which values are beyond anything that a series ever had."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from many_models.errors import SettingsError
from many_models.forecasting import Spec, backtest, prepare, train
from many_models.forecasting.gaps import USUAL_AFTER, outliers
from many_models_tests.forecasting.histories import AS_OF, SPEC, sales, stamps, table

ZERO = replace(SPEC, missing="zero")


def history(y: np.ndarray, spec: Spec, last: datetime = AS_OF) -> pd.DataFrame:
    prepared = prepare(table({"a": y}, last=last), spec, AS_OF)
    assert not prepared.failures
    return prepared.rows.to_pandas().set_index("ds")


def only_when_sold(rate: float, days: int = 730, seed: int = 5) -> np.ndarray:
    sold = np.random.default_rng(seed).poisson(rate, days).astype(float)
    sold[0] = 1.0
    return np.where(sold > 0, sold, np.nan)


def forecast(y: np.ndarray, spec: Spec) -> pd.DataFrame:
    rows = prepare(table({"a": y}), spec, AS_OF).rows
    return train(rows, spec, AS_OF).model.predict(None, horizon=28).to_pandas()


def mean_forecast(histories: dict[str, np.ndarray], spec: Spec) -> float:
    rows = prepare(table(histories), spec, AS_OF).rows
    return float(train(rows, spec, AS_OF).model.predict(None).to_pandas()["y_hat"].mean())


# --- Rows only when something was sold --------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.03, 0.1, 0.5, 2.0])
def test_rows_only_when_sold_are_forecast_at_their_rate(rate: float):
    """The case rows_only_when_sold: one unit every ten days is 0.1 a day, not 1.03."""
    shops = {f"s{seed:02}": only_when_sold(rate, seed=seed) for seed in range(12)}
    assert mean_forecast(shops, replace(ZERO, horizon=28)) == pytest.approx(rate, rel=0.2)
    unknown = forecast(only_when_sold(rate), replace(SPEC, horizon=28))["y_hat"].mean()
    assert unknown > 0.99  # what the same rows say where nothing is known of the other days


def test_a_zero_is_no_missing_value_and_an_empty_target_stays_unknown():
    y = sales(60)
    y[[20, 21]] = np.nan
    raw = table({"a": y})
    empty = pa.table({"series_id": ["a"], "ds": pa.array([stamps(60)[20]]), "y": pa.array([None], pa.float64())})
    rows = prepare(pa.concat_tables([raw, empty]), ZERO, AS_OF).rows.to_pandas()
    assert rows["state"].tolist()[20:22] == ["missing", "observed"]
    assert np.isnan(rows["y"][20])
    assert rows["y"][21] == 0.0


def test_no_zeros_are_made_before_the_first_row_or_after_a_series_has_ended():
    y = np.r_[np.full(100, np.nan), sales(100), np.full(200, np.nan)]
    rows = history(y, ZERO)
    assert len(rows) == 100
    assert rows.index[0] == pd.Timestamp(stamps(400)[100])


def test_a_series_that_sells_rarely_has_not_ended_after_a_plausible_silence():
    """One sale every fifty days: a hundred days of silence are no end, five hundred are."""
    y = np.full(1000, np.nan)
    y[::50] = 1.0
    silent_since = y.copy()
    silent_since[900:] = np.nan
    ended = y.copy()
    ended[400:] = np.nan
    raw = table({"quiet": silent_since, "ended": ended})
    active = {row["series_id"]: row["active"] for row in prepare(raw, ZERO, AS_OF).series.to_pylist()}
    assert active == {"quiet": True, "ended": False}
    active = {row["series_id"]: row["active"] for row in prepare(raw, SPEC, AS_OF).series.to_pylist()}
    assert active == {"quiet": False, "ended": False}


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["zero", "closed"])
def test_backtest_scores_periods_without_a_row_as_what_they_mean(missing: str):
    """With unknown periods the WAPE is that of the days with a sale alone: .06 for forecasts ten times too high."""
    days = stamps(400)
    y = only_when_sold(0.1, 400)
    frame = pd.DataFrame({"s": "a", "d": days, "y": y}).dropna()
    frame = pd.concat([frame, pd.DataFrame({"s": ["a"], "d": [days[-1]], "y": [1.0]})]).drop_duplicates(["s", "d"])
    asked = {"keys": ["s"], "timestamp": "d", "target": "y", "frequency": "D", "horizon": 14, "windows": 2}
    unknown = backtest(frame, **asked).metrics.set_index("candidate")
    known = backtest(frame, **asked, missing=missing).metrics.set_index("candidate")
    assert known.loc["selected", "n"] == 28
    assert unknown.loc["selected", "n"] < 10


def test_one_store_may_have_rows_only_for_sales_and_another_not():
    """Each reads its missing rows as if it were alone, and neither changes the other."""
    both = {"Till 1__x": only_when_sold(0.2), "B__x": sales(730)}
    both["B__x"][::9] = np.nan
    at = replace(SPEC, missing_at=(("Till 1", "zero"),))
    mixed = prepare(table(both), at, AS_OF).rows.to_pandas().set_index("series_id")
    for name, spec in (("Till 1__x", ZERO), ("B__x", SPEC)):
        alone = prepare(table({name: both[name]}), spec, AS_OF).rows.to_pandas().set_index("series_id")
        pd.testing.assert_frame_equal(mixed.loc[[name]], alone)


def test_a_store_of_rows_for_sales_alone_may_be_silent_for_longer():
    y = np.full(1000, np.nan)
    y[:900:50] = 1.0
    at = replace(SPEC, missing_at=(("O'Neil, 2", "zero"),))
    raw = table({"O'Neil, 2__x": y, "B__x": y, "O%27Neil%2C 2__y": y})
    active = {row["series_id"]: row["active"] for row in prepare(raw, at, AS_OF).series.to_pylist()}
    assert active == {"O'Neil, 2__x": True, "B__x": False, "O%27Neil%2C 2__y": True}


def test_recipes_of_projects_without_such_a_store_stay_the_same():
    assert "missing_at" not in SPEC.to_json()
    at = replace(SPEC, missing_at=(("a", "zero"),))
    assert Spec.from_json(at.to_json()) == at
    assert at.recipe != SPEC.recipe
    with pytest.raises(SettingsError, match="a missing row cannot mean 'nothing'"):
        replace(SPEC, missing_at=(("a", "nothing"),))


# --- Closed days ------------------------------------------------------------------------------------------------------
def test_sundays_without_rows_are_forecast_as_closed():
    spec = replace(SPEC, horizon=28, missing_on=((6, "closed"),))
    y = sales(400)
    sunday = pd.DatetimeIndex(stamps(400)).dayofweek == 6
    y[sunday] = np.nan
    ahead = forecast(y, spec)
    on_sundays = ahead[pd.DatetimeIndex(ahead["ds"]).dayofweek == 6]
    assert (on_sundays["y_hat"] == 0).all()
    others = ahead[pd.DatetimeIndex(ahead["ds"]).dayofweek != 6]["y_hat"].mean()
    assert others == pytest.approx(np.nanmean(y[-100:]), rel=0.2)
    before = forecast(y, replace(SPEC, horizon=28))
    assert (before[pd.DatetimeIndex(before["ds"]).dayofweek == 6]["y_hat"] > 1).all()


def test_a_closed_day_of_a_rare_seller_lowers_the_level_of_no_other_day():
    """Sundays of a series that sells one unit every five days: its other days are forecast at their own rate."""
    open_days = pd.DatetimeIndex(stamps(1000)).dayofweek != 6
    shops = {f"s{seed:02}": np.where(open_days, only_when_sold(0.2, 1000, seed), np.nan) for seed in range(12)}
    spec = replace(ZERO, horizon=28, missing_on=((6, "closed"),))
    assert mean_forecast(shops, spec) == pytest.approx(0.2 * 6 / 7, rel=0.2)


def test_a_day_that_is_closed_by_setting_has_that_state_and_teaches_nothing():
    y = sales(200)
    y[150:160] = np.nan
    rows = history(y, replace(SPEC, missing="closed"))
    assert set(rows["state"].iloc[150:160]) == {"closed"}
    assert (rows["y"].iloc[150:160] == 0).all()
    ahead = forecast(y, replace(SPEC, missing="closed", horizon=28))["y_hat"].mean()
    assert ahead == pytest.approx(np.nanmean(y[-60:]), rel=0.15)


def test_meanings_of_missing_rows_are_checked():
    with pytest.raises(SettingsError, match="a missing row cannot mean 'nothing': use unknown, zero, closed"):
        replace(SPEC, missing="nothing")
    again = Spec.from_json(replace(SPEC, missing="zero", missing_on=((6, "closed"),)).to_json())
    assert (again.missing, again.missing_on) == ("zero", ((6, "closed"),))


# --- Outliers ---------------------------------------------------------------------------------------------------------
def test_a_single_absurd_day_changes_no_forecast_and_stays_visible():
    y = sales(300)
    odd = y.copy()
    odd[280] = 1_000_000.0
    gone = y.copy()
    gone[280] = np.nan
    raw = prepare(table({"a": odd}), SPEC, AS_OF).rows.to_pandas()
    assert raw["state"][280] == "outlier"
    assert raw["outlier"][280] == 1_000_000.0
    assert raw["outlier"].notna().sum() == 1
    pd.testing.assert_frame_equal(forecast(odd, SPEC), forecast(gone, SPEC))
    assert forecast(odd, SPEC)["hi95"].max() < 100


@pytest.mark.parametrize("back", [5, 30, 250])
def test_an_outlier_of_any_age_leaves_the_upper_bound_alone(back: int):
    y = sales(400)
    y[-back] = 20_000.0
    assert forecast(y, SPEC)["hi95"].max() < 3 * np.delete(y, 400 - back).max()


def test_an_outlier_is_judged_by_what_came_before_it_alone():
    y = np.r_[sales(200), 1e6, sales(99, seed=1)]
    later = y.copy()
    later[201:] *= 1e5
    for other in (y[:201], y, later):
        assert outliers(other)[:201].tolist() == outliers(y)[:201].tolist()
    assert outliers(y).sum() == 1


def test_a_new_level_is_taken_after_a_few_periods():
    y = np.r_[sales(200), 1000 * sales(100, seed=1)]
    assert outliers(y).sum() == USUAL_AFTER
    assert forecast(y, SPEC)["y_hat"].mean() > 1000


@pytest.mark.parametrize(
    "y",
    [
        np.r_[np.ones(100), 12.0, np.ones(50)],
        np.r_[np.zeros(200), 50.0, np.zeros(20)],
        np.r_[sales(200), 8 * sales(200).max(), sales(30)],
        np.r_[sales(20), 1e6],
        -sales(100),
        np.zeros(0),
        np.full(50, np.nan),
        np.random.default_rng(0).lognormal(0, 1.5, 1000),
    ],
)
def test_usual_sales_are_no_outliers(y: np.ndarray):
    assert not outliers(y).any()


def test_an_outlier_of_one_series_changes_no_other():
    others = {"b": sales(200, seed=1), "c": sales(150, seed=2)}
    odd = sales(200)
    odd[150] = 1e7
    alone = prepare(table(others), SPEC, AS_OF).rows
    together = prepare(table({**others, "a": odd}), SPEC, AS_OF).rows
    mine = together.to_pandas().query("series_id != 'a'").reset_index(drop=True)
    pd.testing.assert_frame_equal(mine, alone.to_pandas())
    assert (AS_OF - timedelta(days=49)) in set(together.to_pandas().query("state == 'outlier'")["ds"])


def test_the_backtests_paths_know_nothing_of_closed_days():
    """Neither a day that was forecast as closed, nor one of which nobody knew, tells how far off forecasts are."""
    y = sales(200)
    y[6::7] = np.nan
    y[-10] = np.nan  # a day in the middle of a week
    spec = replace(SPEC, missing="closed", horizon=14, windows=2)
    paths = train(prepare(table({"a": y}), spec, AS_OF).rows, spec, AS_OF, keep_paths=True).paths
    assert paths is not None
    told = np.array([[np.nan if value is None else value for value in row["y"]] for row in paths.to_pylist()])
    np.testing.assert_array_equal(np.isnan(told.ravel()), np.isnan(y[-28:]))
    np.testing.assert_array_equal(told.ravel()[~np.isnan(y[-28:])], y[-28:][~np.isnan(y[-28:])])
