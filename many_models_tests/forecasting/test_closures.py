"""Days of the year on which a series is closed although no calendar says so."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from dateutil.easter import easter

from many_models.forecasting import Spec, backtest, closures, prepare, train
from many_models.forecasting.closures import Readings, expected, recognised
from many_models.forecasting.pack import mm_pack_v1 as pack
from many_models.forecasting.pack.model import PackModel

if TYPE_CHECKING:
    from collections.abc import Iterable

FIRST = date(2021, 1, 1)
SPEC = Spec(frequency="D", horizon=28, windows=2)
CHRISTMAS = [(12, 25), (12, 26)]


def days_until(last: date, first: date = FIRST) -> pd.DatetimeIndex:
    return pd.date_range(first, last)


def shop(days: pd.DatetimeIndex, closed: Iterable[date], level: float = 40.0, seed: int = 1) -> np.ndarray:
    """Units a day by Poisson with a weekly pattern, none on the `closed` days."""
    rng = np.random.default_rng(seed)
    y = rng.poisson(level * (1 + 0.3 * np.sin(2 * np.pi * days.dayofweek / 7))).astype(float)
    y[np.isin(days.date, list(closed))] = 0.0
    return y


def every_year(month_days: Iterable[tuple[int, int]], years: Iterable[int] = range(2021, 2027)) -> list[date]:
    return [date(year, month, day) for year in years for month, day in month_days]


def found(y: np.ndarray, days: pd.DatetimeIndex, ahead: int = 0, lag: int = 28) -> list[date]:
    """The days, of the history and `ahead` of it, that are expected to be closed."""
    whole = days.append(pd.date_range(days[-1] + timedelta(days=1), periods=ahead))
    none = np.zeros(0, np.int64)
    readings = Readings.of(whole.to_numpy("datetime64[D]").astype(np.int64), none, none)
    code = np.where(np.isfinite(y), pack.OBSERVED, pack.MISSING).astype(np.int8)
    return whole.date[expected(np.nan_to_num(y), code, readings, 7, lag)].tolist()


def forecast(y: np.ndarray, days: pd.DatetimeIndex, spec: Spec = SPEC) -> pd.Series:
    return fitted({"a": y}, days, spec).predict(None).to_pandas().set_index("ds")["y_hat"]


def fitted(histories: dict[str, np.ndarray], days: pd.DatetimeIndex, spec: Spec = SPEC) -> PackModel:
    last = days[-1].to_pydatetime()
    return train(prepare(table(histories, days), spec, last).rows, spec, last).model


def table(histories: dict[str, np.ndarray], days: pd.DatetimeIndex) -> pa.Table:
    frames = [pd.DataFrame({"series_id": name, "ds": days, "y": y}) for name, y in histories.items()]
    return pa.Table.from_pandas(pd.concat(frames).dropna(), preserve_index=False)


# --- The case ---------------------------------------------------------------------------------------------------------
def test_a_shop_closed_on_both_days_of_christmas_twice_is_closed_the_third_time():
    """On the old code the 26th was a stock-out, and was forecast at a full day."""
    days = days_until(date(2023, 12, 10), date(2021, 12, 1))
    ahead = forecast(shop(days, every_year(CHRISTMAS)), days)
    assert ahead[["2023-12-25", "2023-12-26"]].tolist() == [0.0, 0.0]
    others = ahead.drop(pd.to_datetime(["2023-12-25", "2023-12-26", "2023-12-24"]))
    assert others.min() > 15


def test_closed_days_are_found_once_for_each_history_and_calendar(monkeypatch):
    """A training fits a series several times on the same history; another horizon or history is looked at again."""
    days = days_until(date(2023, 12, 10), date(2021, 12, 1))
    y, looked = shop(days, every_year(CHRISTMAS)), []
    monkeypatch.setattr(closures, "_KEPT", {})
    monkeypatch.setattr(closures, "expected", lambda *asked: (looked.append(asked[0].sum()), expected(*asked))[1])
    before = forecast(y, days)
    windows = len(looked)
    assert len(set(looked)) == windows  # each of them another part of the history
    pd.testing.assert_series_equal(forecast(y, days), before)
    assert len(looked) == windows
    assert forecast(y, days, replace(SPEC, horizon=14))["2023-12-11":"2023-12-24"].min() > 15
    assert len(looked) > windows
    monkeypatch.setattr(closures, "MOST_KEPT", 1)
    for level in (40.0, 50.0):
        forecast(shop(days, every_year(CHRISTMAS), level), days)
    assert len(closures._KEPT) == 1


def test_the_second_christmas_is_called_closed_and_no_stock_out():
    days = days_until(date(2023, 1, 31), date(2021, 6, 1))
    rows = prepare(table({"a": shop(days, every_year(CHRISTMAS))}, days), SPEC, days[-1].to_pydatetime()).rows
    states = rows.to_pandas().set_index("ds")["state"]
    assert states["2022-12-26"] == "closed"
    assert set(states.drop(pd.to_datetime(["2021-12-25", "2021-12-26", "2022-12-25", "2022-12-26"]))) == {"observed"}


def test_the_backtest_scores_such_a_day_with_its_zero():
    days = days_until(date(2024, 1, 7))
    frame = pd.DataFrame({"s": "a", "d": days, "y": shop(days, every_year(CHRISTMAS))})
    report = backtest(frame, keys=["s"], timestamp="d", target="y", frequency="D", horizon=28, windows=1)
    made = report.forecasts.set_index("d")["y_hat"]
    assert made["2023-12-26"] == 0.0
    assert report.metrics.set_index("candidate").loc["selected", "n"] == 28


# --- Its kind ---------------------------------------------------------------------------------------------------------
def easters(offset: int) -> list[date]:
    return [easter(year) + timedelta(days=offset) for year in range(2021, 2027)]


def fourth_thursdays() -> list[date]:
    november = [date(year, 11, day) for year in range(2021, 2027) for day in range(22, 29)]
    return [day for day in november if day.weekday() == 3]


def last_mondays() -> list[date]:
    return [day for year in range(2021, 2027) for day in (date(year, 5, d) for d in range(25, 32)) if not day.weekday()]


@pytest.mark.parametrize(
    "closed",
    [
        every_year([(12, 26)]), every_year([(8, 15)]), every_year([(7, n) for n in range(10, 16)]), easters(1),
        easters(-2), easters(39), easters(-48), fourth_thursdays(), last_mondays(),
    ],
    ids=["second day of Christmas", "15 August", "six days of July", "Easter Monday", "Good Friday", "Ascension",
         "Carnival Monday", "Thanksgiving", "last Monday of May"],
)  # fmt: skip
def test_days_of_the_year_and_days_that_move_are_found_from_the_third_year_on(closed: list[date]):
    days = days_until(date(2024, 1, 10))
    expected_days = {day for day in closed if day >= date(closed[0].year + 2, 1, 1)} & {
        day.date() for day in days_until(date(2025, 1, 10))
    }
    assert set(found(shop(days, closed), days, ahead=366)) == expected_days


def test_a_shop_that_is_closed_on_sundays_keeps_them_apart():
    days = days_until(date(2024, 6, 10))
    y = shop(days, every_year(CHRISTMAS))
    y[days.dayofweek == 6] = 0.0
    ahead = [day for day in found(y, days, ahead=366) if day > date(2024, 6, 10)]
    assert ahead == [date(2024, 12, 25), date(2024, 12, 26)]


def test_missing_days_and_one_year_say_nothing():
    days = days_until(date(2024, 1, 10))
    y = shop(days, every_year([(12, 26)], [2023]))
    assert found(y, days, ahead=366) == []
    y = shop(days, [])
    y[np.isin(days.date, every_year(CHRISTMAS))] = np.nan
    assert found(y, days, ahead=366) == []


def test_a_shop_that_opened_last_time_is_expected_to_open():
    days = days_until(date(2024, 1, 10))
    assert found(shop(days, every_year([(8, 15)], [2021, 2022])), days, ahead=366) == [date(2023, 8, 15)]
    days = days_until(date(2024, 12, 20))
    assert forecast(shop(days, every_year(CHRISTMAS, [2021, 2022])), days)["2024-12-26"] > 15


@pytest.mark.parametrize("seed", range(6))
def test_stock_outs_at_random_and_rare_sales_are_no_closures(seed: int):
    days = days_until(date(2025, 12, 31))
    rng = np.random.default_rng(seed)
    y = shop(days, [], seed=seed)
    for start in rng.integers(0, len(days), 20):
        y[start : start + int(rng.integers(2, 10))] = 0.0
    assert found(y, days, ahead=366) == []
    for level in (0.1, 1.0, 2.0, 3.0):
        assert found(shop(days, [], level=level, seed=seed), days, ahead=366) == []


# --- What must hold ---------------------------------------------------------------------------------------------------
def test_nothing_later_than_the_origin_is_looked_at():
    """Everything after `lag` days before a day is poisoned: what is expected of that day stays."""
    days = days_until(date(2025, 1, 31))
    y = shop(days, [*every_year(CHRISTMAS), *easters(1), *every_year([(8, 15)])])
    before = found(y, days)
    assert len(before) == 8
    for day in before:
        at = days.get_loc(pd.Timestamp(day))
        for poison in (0.0, 99.0, np.nan):
            other = y.copy()
            other[at - 27 :] = poison
            assert day in found(other, days)


def test_states_do_not_change_when_history_grows():
    days = days_until(date(2025, 1, 31))
    y = shop(days, [*every_year(CHRISTMAS), *easters(1)])
    none = np.zeros(0, np.int64)
    readings = Readings.of(days.to_numpy("datetime64[D]").astype(np.int64), none, none)
    code = np.full(len(y), pack.OBSERVED, np.int8)
    whole = recognised(y, code, readings, 7)
    assert whole.sum() >= 6
    for cut in (*np.flatnonzero(whole), *np.flatnonzero(whole) + 1, 800, 1200):
        assert recognised(y[:cut], code[:cut], readings, 7).tolist() == whole[:cut].tolist()


def test_no_day_is_passed_over_that_a_closer_look_finds_closed(monkeypatch: pytest.MonkeyPatch):
    """Only days that may be closed are looked at: looking at each day by each reading finds the same ones."""
    none, total = np.zeros(0, np.int64), 0
    for seed in range(24):
        rng = np.random.default_rng(seed)
        days = days_until(date(2023 + seed % 4, int(rng.integers(1, 13)), 28))
        closed = [
            day for day in [*every_year([(8, 15), *CHRISTMAS]), *easters(1), *last_mondays()] if rng.random() < 0.9
        ]
        y = shop(days, closed, level=float(rng.choice([6.0, 40.0])), seed=seed)
        y[rng.random(len(y)) < rng.choice([0.0, 0.02, 0.1])] = 0.0
        if seed % 3 == 0:
            y[days.dayofweek == 6] = 0.0
        code = np.where(rng.random(len(y)) < 0.01, pack.MISSING, pack.OBSERVED).astype(np.int8)
        readings = Readings.of(days.to_numpy("datetime64[D]").astype(np.int64), none, none)
        lag = (1, 28, 400)[seed % 3]
        quick = recognised(y, code, readings, 7), expected(y, code, readings, 7, lag)
        with monkeypatch.context() as patch:
            named = lambda self, at, *_, **__: self.labels[:, at] != closures.NO_LABEL  # noqa: E731
            patch.setattr(closures._Evidence, "may_be", named)
            assert recognised(y, code, readings, 7).tolist() == quick[0].tolist()
            assert expected(y, code, readings, 7, lag).tolist() == quick[1].tolist()
        total += quick[0].sum() + quick[1].sum()
    assert total > 150


def test_a_shop_with_closed_days_changes_no_other_series():
    days = days_until(date(2023, 12, 10), date(2021, 12, 1))
    others = {"b": shop(days, [], seed=2), "c": shop(days, [], level=2.0, seed=3)}
    alone = fitted(others, days).predict(None).to_pandas()
    poisoned = {**others, "a": shop(days, every_year(CHRISTMAS))}
    together = fitted(poisoned, days).predict(None, series=["b", "c"]).to_pandas()
    pd.testing.assert_frame_equal(together, alone)


def test_packs_keep_closed_days_and_older_packs_have_none():
    days = days_until(date(2023, 12, 10), date(2021, 12, 1))
    model = fitted({"a": shop(days, every_year(CHRISTMAS))}, days)
    again = PackModel.from_files(model.files())
    moment = datetime(2023, 12, 20)
    assert again.predict(None, horizon=300).to_pandas().set_index("ds")["y_hat"]["2023-12-26"] == 0.0
    assert int(np.datetime64("2024-12-26").astype(int)) in again.arrays["closed_days"][0].tolist()
    rows = prepare(table({"a": np.r_[shop(days, every_year(CHRISTMAS)), np.full(10, 40.0)]},
                         days_until(date(2023, 12, 20), date(2021, 12, 1))), SPEC, moment).rows  # fmt: skip
    assert again.predict(rows, moment).to_pandas().set_index("ds")["y_hat"]["2023-12-26"] == 0.0
    old = {name: array for name, array in model.arrays.items() if name != "closed_days"}
    read = pack.own_arrays(old, dict(model.index))
    assert (read["closed_days"] == pack.EMPTY).all()


def test_periods_that_are_no_days_are_left_alone():
    weeks = pd.date_range("2018-01-07", periods=200, freq="W-SUN")
    spec = replace(SPEC, frequency="W-SUN", horizon=4)
    assert fitted({"a": shop(weeks, [])}, weeks, spec).arrays["closed_days"].max() == pack.EMPTY
