"""Kinds of sales tables that the core was not tuned on, made up, and what others make of the same series.

Daily stores with closed days and promotions, weekly departments with holidays that move, series of a few weeks with
returns, weekly sales driven by price. Run by benchmarks.forecasting; `measure` takes one of KINDS.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from many_models.forecasting import backtest

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Kind:
    """A table (series, ds, y, known columns) and how it is to be forecast."""

    table: pd.DataFrame
    frequency: str
    horizon: int
    known: list[str] = field(default_factory=list[str])
    country: str = ""
    season: int = 7


def _weekday_and_doy(days: pd.DatetimeIndex) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    at = pd.Series(days).dt
    return at.dayofweek.to_numpy(np.int64), at.dayofyear.to_numpy(np.int64)


def closed_stores(series: int) -> Kind:
    """Daily stores that shut on Sundays and holidays, sell more before them, and have promotions every other week."""
    import holidays

    rng, days = np.random.default_rng(1), pd.date_range("2021-01-01", periods=900)
    weekday, doy = _weekday_and_doy(days)
    shut = days.isin(pd.to_datetime(list(holidays.country_holidays("DE", years=range(2021, 2024)))))
    parts = []
    for i in range(series):
        opened = ~shut & ((weekday != 6) | (i % 20 == 0))
        before = np.r_[shut[1:], [False]]
        promo = ((np.arange(900) // 7 + i) % 2 == 0) & (weekday < 5) & (rng.random(900) < 0.9)
        level = rng.uniform(5.0, 9.0) + np.cumsum(rng.normal(0, 0.004, 900))
        week = rng.normal(0, 0.15, 7)[weekday]
        year = rng.normal(0, 0.15) * np.sin(2 * np.pi * doy / 365.25)
        mean = np.exp(level + week + year + rng.uniform(0.15, 0.45) * promo + 0.25 * before) * opened
        y = np.where(opened, np.round(mean * np.exp(rng.normal(0, 0.08, 900))), 0.0)
        parts.append(pd.DataFrame({"series": f"s{i:03d}", "ds": days, "y": y, "open": opened, "promo": promo}))
    return Kind(pd.concat(parts), "D", 42, ["open", "promo"], "DE")


def weekly_departments(series: int) -> Kind:
    """Weekly departments with a yearly shape, peaks in the weeks of holidays, and returns beyond sales at times."""
    import holidays

    rng, weeks = np.random.default_rng(2), pd.date_range("2020-02-07", periods=150, freq="W-FRI")
    special = pd.to_datetime([
        day for day, name in holidays.country_holidays("US", years=range(2020, 2024)).items()
        if any(word in name for word in ("Thanksgiving", "Christmas", "Labor", "Washington"))
    ])  # fmt: skip
    event = np.array([((special > week - pd.Timedelta(days=7)) & (special <= week)).any() for week in weeks])
    _, doy = _weekday_and_doy(weeks)
    parts = []
    for i in range(series):
        angle = 2 * np.pi * doy / 365.25
        shape = (
            rng.normal(0, 0.2) * np.sin(angle)
            + rng.normal(0, 0.2) * np.cos(angle)
            + rng.normal(0, 0.1) * np.sin(2 * angle)
        )
        level = rng.uniform(4.0, 10.0) + np.cumsum(rng.normal(0, 0.01, 150))
        mean = np.exp(level + shape + rng.normal(0.3, 0.2) * event)
        y = np.round(mean * np.exp(rng.normal(0, 0.1, 150)), 2)
        if i % 6 == 0:  # a small department, in which returns count
            y = np.round(rng.normal(20, 25, 150) * (1 + shape), 2)
        parts.append(pd.DataFrame({"series": f"d{i:03d}", "ds": weeks, "y": y, "event": event}))
    return Kind(pd.concat(parts), "W-FRI", 8, ["event"], "US", 52)


def short_series(series: int) -> Kind:
    """Daily series of five to twelve weeks, some with returns, some begun late."""
    rng, end = np.random.default_rng(3), pd.Timestamp("2024-03-31")
    parts = []
    for i in range(series):
        n = int(rng.integers(35, 85))
        days = pd.date_range(end=end, periods=n)
        weekday, _ = _weekday_and_doy(days)
        mean = np.exp(rng.normal(2.0, 1.0) + rng.normal(0, 0.3, 7)[weekday] + rng.normal(0, 0.004) * np.arange(n))
        y = rng.poisson(mean).astype(float)
        if i % 5 == 0:
            y -= rng.poisson(0.3 * mean)
        parts.append(pd.DataFrame({"series": f"n{i:03d}", "ds": days, "y": y}))
    return Kind(pd.concat(parts), "D", 7)


def priced_weeks(series: int) -> Kind:
    """Weekly sales that own price, the price of a rival and features in the leaflet drive."""
    rng, weeks = np.random.default_rng(4), pd.date_range("2022-01-05", periods=120, freq="W-WED")
    parts = []
    for i in range(series):
        regular = rng.uniform(1.5, 4.0)
        price = regular * np.where(rng.random(120) < 0.3, rng.uniform(0.6, 0.95, 120), 1.0)
        rival = regular * np.where(rng.random(120) < 0.3, rng.uniform(0.6, 0.95, 120), 1.0)
        leaflet = (price < 0.9 * regular) & (rng.random(120) < 0.6)
        level = rng.uniform(5.0, 9.0) + np.cumsum(rng.normal(0, 0.02, 120))
        effect = -rng.uniform(1.5, 4.0) * np.log(price / regular) + rng.uniform(0, 1.5) * np.log(rival / regular)
        mean = np.exp(level + effect + rng.uniform(0.1, 0.8) * leaflet)
        y = rng.poisson(mean * rng.gamma(20, 1 / 20, 120)).astype(float)
        columns = {"price": price, "rival": rival, "leaflet": leaflet}
        parts.append(pd.DataFrame({"series": f"p{i:03d}", "ds": weeks, "y": y, **columns}))
    return Kind(pd.concat(parts), "W-WED", 4, ["price", "rival", "leaflet"], season=52)


KINDS: dict[str, Callable[[int], Kind]] = {
    "daily stores, closed days": closed_stores, "weekly departments, holidays": weekly_departments,
    "series of a few weeks, returns": short_series, "weekly sales, prices": priced_weeks,
}  # fmt: skip
WINDOWS = 2


def measure(kind: Kind) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """WAPE of the core, of its baseline, of AutoETS and of HistGradientBoosting per series; RMSE's; coverage."""
    report = backtest(
        kind.table, keys=["series"], timestamp="ds", target="y", known=kind.known, frequency=kind.frequency,
        horizon=kind.horizon, windows=WINDOWS, country=kind.country,
    )  # fmt: skip
    rows = report.metrics.set_index("candidate")
    table = report.forecasts.merge(kind.table[["series", "ds", "y"]], on=["series", "ds"])
    found = {"many_models": table["y_hat"].to_numpy()}
    for name, peer in (("AutoETS", by_ets), ("HistGradientBoosting", by_boosting)):
        made = pd.concat([peer(kind, cutoff) for cutoff in sorted(table["cutoff"].unique())])
        found[name] = table[["series", "ds"]].merge(made, on=["series", "ds"], how="left")["f"].to_numpy()
    y = table["y"].to_numpy()
    wape = {name: float(np.abs(f - y).sum() / np.abs(y).sum()) for name, f in found.items()}
    wape["seasonal naive"] = float(rows.loc["seasonal_naive", "wape"])
    rmse = {name: float(np.sqrt(((f - y) ** 2).mean())) for name, f in found.items()}
    cover = {level: float(rows.loc["selected", level]) for level in ("cover80", "cover95")}
    return wape, rmse, cover


def _past(kind: Kind, cutoff: pd.Timestamp) -> list[tuple[str, pd.DataFrame, int]]:
    """Series, its rows up to the last step ahead of `cutoff`, and how many of them are past."""
    last = pd.date_range(cutoff, periods=kind.horizon + 1, freq=kind.frequency)[-1]
    rows = kind.table[kind.table["ds"] <= last]
    parts = [(str(name), rows.loc[rows["series"] == name, :]) for name in sorted(set(rows["series"]))]
    return [(name, part, int((part["ds"] <= cutoff).sum())) for name, part in parts]


def by_ets(kind: Kind, cutoff: pd.Timestamp) -> pd.DataFrame:
    """Statsforecast's AutoETS on each series' last two years; with the weekly season on daily rows, none on others."""
    from statsforecast.models import AutoETS

    model, parts = AutoETS(season_length=7 if kind.frequency == "D" else 1), []
    for name, part, n in _past(kind, cutoff):
        if n < 10:
            parts.append(part.iloc[n:].assign(f=part["y"].iloc[:n].mean(), series=name))
            continue
        f = model.forecast(y=part["y"].to_numpy(float)[:n][-728:], h=len(part) - n)["mean"]
        parts.append(part.iloc[n:].assign(f=f, series=name))
    return pd.concat(parts).loc[:, ["series", "ds", "f"]]


def by_boosting(kind: Kind, cutoff: pd.Timestamp) -> pd.DataFrame:
    """HistGradientBoosting on each series' known columns, calendar, and lags and means known a horizon before."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    parts = []
    for name, part, n in _past(kind, cutoff):
        X, y = _features(part, kind), part["y"].to_numpy(float)  # noqa: N806
        X = X[:, np.isfinite(X[:n]).any(0)]  # noqa: N806
        model = HistGradientBoostingRegressor(random_state=0, min_samples_leaf=min(20, max(n // 8, 2)))
        parts.append(part.iloc[n:].assign(f=model.fit(X[:n], y[:n]).predict(X[n:]), series=name))
    return pd.concat(parts).loc[:, ["series", "ds", "f"]]


def _features(part: pd.DataFrame, kind: Kind) -> NDArray[np.float64]:
    ds, before = part["ds"].dt, part["y"].shift(kind.horizon)
    columns = [part[name].astype(float) for name in kind.known]
    columns += [ds.dayofweek, ds.dayofyear, ds.isocalendar().week.astype(float)]
    columns += [before.rolling(k, 1).mean() for k in (4, 13, 52)]
    columns += [part["y"].shift(k * kind.season) for k in (1, 2, 3) if k * kind.season >= kind.horizon]
    columns += [part["y"].shift(6 * 7)] if kind.frequency == "D" else []
    return np.column_stack([np.asarray(column, float) for column in columns])
