"""Made truths of the calendar: closed days, years of 53 weeks, holidays that move, quarters."""

from __future__ import annotations

from datetime import datetime

import numpy as np

from many_models.forecasting import Spec, pool, train
from many_models_tests.forecasting.histories import rows_of, stamps, table


def forecast_of(y: np.ndarray, spec: Spec, last: datetime, periods: int) -> np.ndarray:
    """The selected forecast after the first `periods` of a history whose last period is `last`."""
    ds = stamps(len(y), spec.frequency, last)
    cutoff = ds[periods - 1].astype(object)
    rows = rows_of({"a": y[:periods]}, spec, cutoff)
    return train(rows, spec, cutoff).model.predict(None)["y_hat"].to_numpy()


def test_closed_sundays_that_no_column_announces_are_forecast_as_closed() -> None:
    last = datetime(2023, 12, 31)
    weekday = np.array([stamp.astype(object).weekday() for stamp in stamps(420, "D", last)])
    y = np.random.default_rng(0).poisson(np.where(weekday == 6, 0.0, 40.0)).astype(float)
    found = forecast_of(y, Spec("D", 14, windows=2), last, 406)
    ahead = weekday[-14:]
    assert (found[ahead == 6] == 0.0).all()
    assert np.abs(found[ahead != 6] / 40.0 - 1.0).mean() < 0.1


def test_the_week_after_a_year_of_53_weeks_is_forecast_as_that_week_of_others() -> None:
    """2020 has 53 ISO weeks: the peak of the last December week stays there, and January after it is low."""
    last = datetime(2021, 1, 31)
    ds = stamps(6 * 52 + 5, "W-SUN", last)
    month_day = np.array([(stamp.astype(object).month, stamp.astype(object).day) for stamp in ds])
    peak = (month_day[:, 0] == 12) & (month_day[:, 1] >= 15)
    y = np.random.default_rng(1).poisson(np.where(peak, 150.0, 50.0)).astype(float)
    found = forecast_of(y, Spec("W-SUN", 10, windows=2), last, len(y) - 10)
    ahead = peak[-10:]
    assert ahead.sum() == 2
    assert found[ahead].mean() > 1.6 * found[~ahead].mean()
    assert np.abs(found[-4:] / 50.0 - 1.0).max() < 0.35, "January is no December"


def test_a_holiday_that_moves_through_weeks_is_forecast_where_it_falls() -> None:
    """Easter Monday doubles its week, between 22 March and 25 April."""
    easter = ["2018-04-02", "2019-04-22", "2020-04-13", "2021-04-05", "2022-04-18", "2023-04-10"]
    last = datetime(2023, 4, 30)
    ds = stamps(5 * 52 + 20, "W-SUN", last).astype("datetime64[D]")
    held = np.isin(ds, [np.datetime64(day) + (6 - np.datetime64(day).astype(object).weekday()) for day in easter])
    rng, spec = np.random.default_rng(2), Spec("W-SUN", 6, windows=2, country="DE")
    y = {f"s{i:02d}": rng.poisson(np.where(held, 120.0, 60.0)).astype(float)[:-6] for i in range(12)}
    cutoff = ds[-7].astype("datetime64[us]").astype(object)
    rows = rows_of(y, spec, cutoff)
    model = train(rows, spec, cutoff, pooled=pool(rows, spec, cutoff, trees=False)).model
    found = model.predict(None)["y_hat"].to_numpy().reshape(12, 6).mean(0)
    assert held[-6:].sum() == 1
    assert int(found.argmax()) == int(held[-6:].argmax())
    assert found[held[-6:]][0] > 1.3 * np.delete(found, held[-6:].argmax()).mean()


def test_a_holiday_that_moves_through_months_is_forecast_where_it_falls() -> None:
    """Easter adds half a month's sales to March or to April, as a known column of a user says; March 2024 has it, and
    April had it in five years before.
    """
    months = stamps(12 * 12, "MS", datetime(2024, 12, 1)).astype("datetime64[M]")
    march = {2013, 2016, 2018, 2024}
    held = np.array(
        [month.astype(object).month == (3 if month.astype(object).year in march else 4) for month in months]
    )
    rng, spec, cutoff = np.random.default_rng(3), Spec("MS", 6, windows=2, known=("easter",)), datetime(2023, 12, 1)
    y = {f"s{i:02d}": rng.poisson(np.where(held, 300.0, 200.0)).astype(float) for i in range(12)}
    rows = rows_of({name: one[:-12] for name, one in y.items()}, spec, cutoff, easter=held[:-12].astype(float))
    future = {name: one[-12:-6] for name, one in y.items()}
    ahead = table(future, "MS", datetime(2024, 6, 1), easter=held[-12:-6].astype(float)).drop_columns(["y"])
    model = train(rows, spec, cutoff, pooled=pool(rows, spec, cutoff, trees=False)).model
    found = model.predict(None, future=ahead)["y_hat"].to_numpy().reshape(12, 6).mean(0)
    assert int(found.argmax()) == 2, "March"
    assert found[2] > found[3] + 30.0, "the truth is 300 and 200"


def test_quarters_have_a_year_of_four_seasons() -> None:
    last = datetime(2023, 10, 1)
    shape = np.array([0.6, 0.9, 1.0, 1.5])
    y = np.random.default_rng(4).poisson(100.0 * shape[np.arange(40) % 4]).astype(float)
    spec = Spec("QS", 4, windows=2)
    assert spec.steps_per_season == 4
    found = forecast_of(y, spec, last, 36)
    assert np.abs(found / (100.0 * shape) - 1.0).max() < 0.2
