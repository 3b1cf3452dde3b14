"""One odd series changes nothing of the others: pooled models, packs, forecasts and intervals."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from many_models.forecasting import Spec, pool, prepare, train
from many_models.forecasting.pack import mm_pack_v1 as loader
from many_models.forecasting.panel import build, layout_of
from many_models.forecasting.pooled_fit import shared_periods
from many_models.forecasting.screening import reasons_not_to_learn_from
from many_models_tests.forecasting.histories import AS_OF, rows_of, sales, table

SPEC = Spec("D", 7, windows=2)
OTHERS = {f"s{i:02d}": sales(400, 6.0 + 3 * i, seed=i) for i in range(12)}
ODD = {
    "leading zeros": np.r_[np.zeros(250), sales(150, 30.0, seed=91)],
    "a constant": np.full(400, 7.0),
    "1e12": sales(400, 30.0, seed=93) * 1e12,
    "1e-9": sales(400, 30.0, seed=94) * 1e-9,
    "all zeros": np.zeros(400),
    "one observation": np.array([5.0]),
    "a level shift": np.r_[sales(200, 20.0, seed=95), 1000 * sales(200, 20.0, seed=96)],
    "a spike": np.r_[sales(10, 20.0, seed=95), 1e12, sales(389, 20.0, seed=96)],  # too early to be an outlier
}
LOCAL = [c for c, name in enumerate(loader.CANDIDATES) if name not in loader.LEARNED_TOGETHER]
MOST_POINT, MOST_BOUND = 0.01, 0.03  # of a series' level


def forecasts(histories: dict[str, np.ndarray], spec: Spec = SPEC):
    """Forecasts of the series in OTHERS where all of `histories` learn together and share a pack."""
    rows = prepare(table(histories), spec, AS_OF).rows
    frame = train(rows, spec, AS_OF, pooled=pool(rows, spec, AS_OF)).model.predict(None).to_pandas()
    return frame[frame["series_id"].isin(OTHERS)].set_index(["series_id", "ds"])


@pytest.fixture(scope="module")
def alone():
    return forecasts(OTHERS)


def moved(before, after) -> tuple[float, float]:
    """The largest move of a point and of a bound, in levels of the series."""
    level = before.groupby("series_id")["y_hat"].transform("mean")
    bounds = [name for name in before.columns if name[:2] in {"lo", "hi"}]
    point = (after["y_hat"] - before["y_hat"]).abs() / level
    return float(point.max()), float(max(((after[b] - before[b]).abs() / level).max() for b in bounds))


@pytest.mark.slow
@pytest.mark.parametrize("odd", ODD)
def test_an_odd_series_changes_no_other_forecast(alone, odd):
    point, bound = moved(alone, forecasts({**OTHERS, "odd": ODD[odd]}))
    assert point <= MOST_POINT
    assert bound <= MOST_BOUND


@pytest.mark.slow
def test_three_odd_series_at_once_change_no_other_forecast(alone):
    names = ("1e12", "a constant", "leading zeros")
    point, bound = moved(alone, forecasts({**OTHERS, **{f"odd{k}": ODD[name] for k, name in enumerate(names)}}))
    assert point <= MOST_POINT
    assert bound <= MOST_BOUND


@pytest.mark.slow
def test_what_is_left_out_of_pooled_models_is_recorded_with_its_reason():
    rows = prepare(table({**OTHERS, **ODD}), SPEC, AS_OF).rows
    assert set(pool(rows, SPEC, AS_OF).left_out) >= set(ODD) - {"leading zeros"}  # three in twenty are not rare


def closing(filled: int, days: int = 400) -> dict[str, np.ndarray]:
    """Thirty shops that close on Sundays, one of which opened later: its table has that many zeros before."""
    week = np.array([1.15, 1.0, 0.95, 0.97, 1.1, 0.85, 0.0])[np.arange(days) % 7]
    noise = np.random.default_rng(3)
    shops = {f"s{i:02d}": np.round(6000 * week * noise.lognormal(0, 0.1, days)) for i in range(30)}
    late = shops["s00"][175:]
    return {**shops, "s00": np.r_[np.zeros(filled), late]}


@pytest.mark.slow
def test_zeros_before_an_opening_change_nothing_at_all():
    """A row for each day before the opening says the same as no row: for the shop and for all others."""
    spec = Spec("D", 28)
    found = []
    for filled in (0, 175):
        rows = prepare(table(closing(filled)), spec, AS_OF).rows
        pooled = pool(rows, spec, AS_OF)
        found.append((train(rows, spec, AS_OF, pooled=pooled).model.candidates(), pooled))
    without, filled = found[0][0], found[1][0]
    np.testing.assert_allclose(filled[1:], without[1:], rtol=1e-6)
    np.testing.assert_allclose(filled[0, LOCAL], without[0, LOCAL], rtol=1e-6)


def test_a_series_that_sells_seldom_keeps_its_zeros():
    seldom = np.where(np.random.default_rng(0).random(300) < 0.05, 1.0, 0.0)
    seldom[:40] = 0.0
    rows = rows_of({"seldom": seldom, "never": np.zeros(300), "late": np.r_[np.zeros(30), sales(270)]})
    panel = build(rows, layout_of(SPEC, rows), AS_OF, from_first_sale=True)
    assert dict(zip(panel.series, panel.first.tolist(), strict=True)) == {"seldom": 0, "never": 0, "late": 30}


def test_series_of_very_different_size_all_teach():
    """Four decades apart is usual among shops: only what is far beyond the others is odd."""
    rows = rows_of({f"s{i}": sales(200, seed=i) * 10.0 ** (i % 5) for i in range(20)})
    panel = build(rows, layout_of(SPEC, rows), AS_OF, from_first_sale=True)
    assert reasons_not_to_learn_from(panel, 7) == [""] * 20


# --- fits that converge, or say that they did not ---------------------------------------------------------------------
def monthly_with_columns(columns: int) -> tuple[pa.Table, Spec, dict[str, np.ndarray]]:
    """Sixty series of 54 months with one shock a month, beside `columns` flags of months that say nothing."""
    rng, months = np.random.default_rng(0), 54
    known = {f"c{k}": (rng.random(months) < 0.1).astype(float) for k in range(columns)}
    together = np.exp(rng.normal(0, 0.12, months)) * (1 + 0.3 * np.sin(2 * np.pi * np.arange(months) / 12))
    histories = {
        f"s{i:02d}": np.round(np.exp(rng.normal(5, 1)) * together * np.exp(np.cumsum(rng.normal(0, 0.05, months))))
        for i in range(60)
    }
    spec, last = Spec("MS", 6, known=tuple(known)), datetime(2017, 6, 1)
    return prepare(table(histories, "MS", last, **known), spec, last).rows, spec, histories


@pytest.mark.slow
def test_many_columns_of_few_months_do_not_throw_the_pooled_fits_off():
    rows, spec, histories = monthly_with_columns(15)
    cutoff = datetime(2016, 12, 1)
    model = train(rows, spec, cutoff, pooled=pool(rows, spec, cutoff)).model
    future = rows.filter(pc.greater(rows["ds"], pa.scalar(cutoff, pa.timestamp("us")))).drop_columns(["y", "state"])
    said, actual = model.candidates(future=future), np.array([histories[name][48:] for name in model.series])
    wape = dict(zip(loader.CANDIDATES, np.abs(said - actual[:, None]).sum((0, 2)) / actual.sum(), strict=False))
    for name in ("poisson", "pooled", "trees"):
        assert wape[name] < 1.4 * wape["smoothing_medium"], (name, wape)


def test_a_period_that_all_series_share_is_one_observation_of_a_column_they_share():
    """1 + (m − 1) ρx ρe: 50 series a period, a column of periods, residuals of which half is the period's."""
    rng, m, periods = np.random.default_rng(1), 50, 400
    residual = rng.normal(size=periods) + rng.normal(size=(m, periods))
    features = np.stack([np.tile(rng.normal(size=periods), (m, 1)), rng.normal(size=(m, periods))])
    together = np.concatenate(
        [[np.full(periods, m), residual.sum(0), (residual**2).sum(0)], features.sum(1), (features**2).sum(1)]
    )
    shared, own = shared_periods(together)
    assert shared == pytest.approx(1 + 49 * 0.5, rel=0.15)
    assert own == pytest.approx(1.0, abs=0.1)


def test_a_fit_that_does_not_converge_does_not_compete_and_says_so(monkeypatch):
    from many_models.forecasting import kernels

    rows = rows_of({"a": sales(300, 20.0), "b": sales(300, 40.0, seed=1)})
    fit = kernels.fit_series

    def failing(*arguments):
        fit(*arguments)
        arguments[-1][:, loader.COUNT] = kernels.FAILED

    monkeypatch.setattr(kernels, "fit_series", failing)
    trained = train(rows, SPEC, AS_OF)
    poisson = trained.scores.filter(pc.equal(trained.scores["candidate"], "poisson"))
    assert set(poisson["problem"].to_pylist()) == {"its fit did not converge"}
    assert not trained.model.arrays["weights"][:, loader.CANDIDATES.index("poisson")].any()
    assert trained.scores.filter(pc.equal(trained.scores["candidate"], "ridge_raw"))["problem"].null_count > 0
