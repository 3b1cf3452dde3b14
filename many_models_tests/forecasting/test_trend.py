"""The smoothing with a trend: its numbers by a slow, obvious version, seasons that are chance, files from before it."""

from __future__ import annotations

import json
from datetime import datetime

import numpy as np
import pandas as pd
import pytest

from many_models.forecasting import PackModel, PooledModels, Spec, pool, train
from many_models.forecasting.pack import mm_pack_v1 as loader
from many_models.forecasting.pack.array_files import array_files, sha256_of
from many_models.forecasting.spec import BUILT_IN
from many_models_tests.forecasting.histories import AS_OF, SPEC, rows_of, sales

TREND = BUILT_IN.index("smoothing_trend")
LAST = datetime(2023, 12, 1)
MONTHLY = Spec("MS", 6, windows=2)


def declining(months: int, seed: int, season: float) -> np.ndarray:
    """A field in decline, with a season of that size."""
    rng, t = np.random.default_rng(seed), np.arange(months)
    return (400.0 - 3.0 * t) * (1.0 + season * np.sin(t * np.pi / 6)) * np.exp(rng.normal(0.0, 0.05, months))


def seasonal_factors(y: pd.Series, m: int, *, additive: bool) -> np.ndarray:
    """By phase, counted from the last period: the classical decomposition, shrunk by twice what chance explains."""
    middle = pd.Series(y.rolling(m, min_periods=int(np.ceil(0.6 * m))).mean())
    middle.iloc[: m - 1] = np.nan
    if m % 2 == 0:
        middle = (middle + middle.shift(1)) / 2
    middle = middle.shift(-(m // 2))
    ratio = (y - middle if additive else y / middle).dropna()
    phase = (ratio.index.to_numpy() - (len(y) - 1)) % m
    groups = ratio.groupby(phase)
    within = ((ratio - groups.transform("mean")) ** 2).sum() / (len(ratio) - groups.ngroups)
    between = (groups.size() * (groups.mean() - ratio.mean()) ** 2).sum() / (groups.ngroups - 1)
    trust = max(0.0, 1.0 - 2.0 * within / between)
    factor = (groups.mean() - ratio.mean()).reindex(range(m), fill_value=0.0).to_numpy() * trust
    return factor - factor.mean() if additive else (1.0 + factor) / (1.0 + factor).mean()


def theta(y: np.ndarray, m: int, horizon: int, *, additive: bool = False) -> np.ndarray:
    """Exponential smoothing plus half the drift; NaN where nothing was observed. A gain a forecast, then their mean.

    Where a factor is tiny, errors count in units of the series: squares of factors weigh, at most 1.
    """
    factor = seasonal_factors(pd.Series(y), m, additive=additive)
    there = np.flatnonzero(np.isfinite(y))
    phase = (np.arange(len(y)) - (len(y) - 1)) % m
    z = (y - factor[phase] if additive else y / factor[phase])[there]
    tiny = not additive and factor.min() < 0.2
    weight = np.minimum(factor[phase][there], 1.0) ** 2 if tiny else np.ones(len(z))
    drift = np.polyfit(there, z, 1, w=np.sqrt(weight))[0]
    said, errors = [], []
    for gain in (0.05, 0.1, 0.2, 0.35, 0.5, 0.75):
        level, error = 0.0, 0.0
        for n, value in enumerate(z):
            error += weight[n] * (value - level) ** 2 if n > 2 else 0.0
            level += max(gain * weight[n], weight[n] / weight[: n + 1].sum()) * (value - level)
        usual = gain * weight.mean()
        lag = (1 - (1 - usual) ** len(z)) / usual
        said.append(level + drift / 2 * (np.arange(horizon) + lag))
        errors.append(error)
    forecast = np.average(said, axis=0, weights=(min(errors) / np.array(errors)) ** 4)
    ahead = factor[(np.arange(horizon) + 1) % m]
    return forecast + ahead if additive else forecast * ahead


@pytest.mark.parametrize(("season", "shift"), [(0.4, 0.0), (0.02, 0.0), (0.4, -350.0), (0.95, 0.0)])
def test_its_numbers_are_those_of_the_obvious_version(season, shift):
    histories = {f"s{i}": np.round(declining(90, i, season) + shift) for i in range(3)}
    histories["s1"][[30, 31, 50]] = np.nan
    rows = rows_of(histories, MONTHLY, last=LAST)
    spec = Spec("MS", 6, windows=2, nonnegative=shift == 0.0)
    model = train(rows, spec, LAST).model
    tail = int(model.arrays["conf"][loader.TAIL])
    assert tail < 90
    for name, said in zip(model.series, model.candidates()[:, TREND], strict=True):
        expected = theta(histories[name][-tail:], 12, 6, additive=shift < 0)
        np.testing.assert_allclose(said, expected, rtol=1e-5)


def test_a_season_by_chance_is_none():
    rng, season, chance = np.random.default_rng(0), np.zeros(12), 0
    for _ in range(200):
        y = np.exp(rng.normal(3.0, 0.2, 72))
        loader.tested_season(y, np.ones(72, np.int8), 0, 71, 12, False, season)
        chance += bool((season != 1.0).any())
    assert chance < 20
    loader.tested_season(declining(72, 0, 0.4), np.ones(72, np.int8), 0, 71, 12, False, season)
    np.testing.assert_allclose(season, 1.0 + 0.4 * np.sin((71 + np.arange(12)) * np.pi / 6), atol=0.08)


def test_smoothing_of_rare_sales_takes_no_chance_for_a_season():
    """Six years of a part that sells in one month of ten: every month is forecast alike, a real season is not."""
    rng = np.random.default_rng(0)
    rare = {f"p{i}": np.where(rng.random(72) < 0.1, rng.integers(1, 9, 72), 0.0) for i in range(40)}
    model = train(rows_of({**rare, "field": declining(72, 0, 0.4)}, MONTHLY, last=LAST), MONTHLY, LAST).model
    parts = [i for i, name in enumerate(model.series) if name != "field"]
    for name in ("smoothing_slow", "smoothing_medium", "smoothing_fast"):
        said = model.candidates()[:, BUILT_IN.index(name)]
        assert np.median(np.ptp(said[parts], axis=1)) == 0.0, name
        assert np.ptp(said[model.series.index("field")]) > 20.0, name


def test_trust_in_a_season_is_none_by_chance_and_whole_where_it_is_plain():
    rng, season, ones = np.random.default_rng(1), np.zeros(12), np.ones(72, np.int8)
    by_chance = [
        loader.tested_season(np.exp(rng.normal(3, 0.2, 72)), ones, 0, 71, 12, False, season) for _ in range(200)
    ]
    assert np.mean(np.array(by_chance) > 0.0) < 0.25
    assert np.mean(by_chance) < 0.1
    assert loader.tested_season(declining(72, 0, 0.4), ones, 0, 71, 12, False, season) == 1.0
    assert loader.tested_season(declining(72, 0, 0.4) - 300.0, ones, 0, 71, 12, True, season) == 1.0


@pytest.mark.parametrize(("every", "trust"), [(1, 1.0), (4, 0.25)])
def test_two_years_do_not_tell_a_season_from_chance_and_the_share_of_sales_decides(every, trust):
    y = np.where(np.arange(24) % every == 0, 5.0, 0.0)
    assert loader.tested_season(y, np.ones(24, np.int8), 0, 23, 12, False, np.zeros(12)) == trust


def test_closed_periods_are_no_share_of_what_a_series_sells():
    """Twenty weeks of a market on three weekdays, on which it always sells."""
    code = np.where(np.arange(140) % 7 < 3, loader.OBSERVED, loader.CLOSED).astype(np.int8)
    y = np.where(code == loader.OBSERVED, 5.0, 0.0)
    assert loader.tested_season(y, code, 0, 139, 7, False, np.zeros(7)) == 1.0


def test_it_follows_a_decline():
    histories = {f"s{i}": declining(96, i, 0.0) for i in range(12)}
    model = train(rows_of({name: y[:90] for name, y in histories.items()}, MONTHLY, last=LAST), MONTHLY, LAST).model
    actual = np.stack([histories[name][90:] for name in model.series])
    error = np.abs(model.candidates() - actual[:, None]).sum((0, 2))
    best = min(error[BUILT_IN.index(name)] for name in ("mean", "smoothing_slow", "smoothing_medium", "smoothing_fast"))
    assert error[TREND] < 0.85 * best


def test_nights_of_nearly_nobody_do_not_speak_for_the_level():
    """Eight weeks of a street by hour: about 700 people by day, and at night two, or twenty after a party."""
    rng, t = np.random.default_rng(0), np.arange(9 * 168)
    night = (t % 24 < 6) | (t % 24 == 23)
    passed = np.where(night, 2.0 + 18.0 * (rng.random(len(t)) < 0.1), 700.0 + 300.0 * np.sin(t * np.pi / 12))
    passed = np.round(passed * np.exp(rng.normal(0.0, 0.1, len(t))))
    conf, own, code = np.zeros(loader.CONF_SIZE), np.zeros(loader.OWN_SIZE), np.ones(len(t), np.int8)
    conf[loader.SEASON], conf[loader.TAIL], own[loader.UNIT] = 168, 8 * 168, passed.mean()
    level, season = np.zeros(168), np.zeros(168)
    loader.smoothed_trend(passed, code, 8 * 168 - 1, conf, own, level, season)
    week = passed[8 * 168 :]
    assert np.abs(level * season - week).sum() < 0.12 * week.sum()


def test_too_little_is_the_mean():
    model = train(rows_of({"a": sales(3), "b": sales(60)}), SPEC, AS_OF).model
    short, long = model.candidates()
    np.testing.assert_allclose(short[TREND], sales(3).mean())
    assert np.abs(long[TREND] - long[BUILT_IN.index("mean")]).max() > 0.01


def test_a_pack_from_before_forecasts_as_then():
    rows = rows_of({f"s{i}": sales(200, 5.0 + i, seed=i) for i in range(3)})
    model = train(rows, SPEC, AS_OF).model
    weights = np.array(model.arrays["weights"], np.float32)
    weights[:, loader.CANDIDATES.index("smoothing_medium")] += weights[:, TREND]
    weights[:, TREND:] = 0.0
    now = PackModel(model.index, {**model.arrays, "weights": weights})
    index = {**model.index, "candidates": list(loader.CANDIDATES[: loader.BEFORE_TREND])}
    files = PackModel(index, {**model.arrays, "weights": weights[:, :TREND]}).files()
    then = PackModel.from_files(files)
    assert then.index["candidates"] == list(loader.CANDIDATES)
    assert not then.arrays["weights"][:, TREND:].any()
    assert then.predict(None).equals(now.predict(None))


@pytest.mark.slow
def test_pooled_models_from_before_give_it_no_weight():
    rows = rows_of({f"s{i:02d}": sales(200, 5.0 + i, seed=i) for i in range(12)})
    files = pool(rows, SPEC, AS_OF).files()
    about = json.loads(files["pooled.json"])
    moments = PooledModels.from_files(files).evidence.moments
    changed = array_files({"moments": moments[:, :TREND, :TREND]})
    about["sha256"] |= sha256_of(changed)
    old = PooledModels.from_files({**files, **changed, "pooled.json": json.dumps(about).encode()})
    np.testing.assert_array_equal(old.evidence.moments[:, :TREND, :TREND], moments[:, :TREND, :TREND])
    assert not train(rows, SPEC, AS_OF, pooled=old).model.arrays["weights"][:, TREND:].any()
