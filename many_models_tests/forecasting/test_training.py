"""Training: the contract of every candidate, fallbacks, weights, leak-proofness."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from many_models.errors import InputError
from many_models.forecasting import PackModel, Prior, Spec, pool, prepare, train
from many_models.forecasting.local_fit import Fits, PooledFit, fit_panel
from many_models.forecasting.pack import mm_pack_v1 as loader
from many_models.forecasting.panel import Layout, build
from many_models_tests.forecasting.histories import AS_OF, ODD, SPEC, rows_of, sales, table

LONG = {f"s{i}": sales(400, 5.0 + 10 * i, seed=i) for i in range(6)}


@pytest.fixture(scope="module")
def odd_rows():
    return rows_of(ODD)


@pytest.fixture(scope="module")
def pooled():
    return pool(rows_of(LONG), SPEC, AS_OF)


@pytest.fixture(scope="module")
def trained(odd_rows):
    return train(odd_rows, SPEC, AS_OF)


CUT = AS_OF - timedelta(days=30)


@pytest.fixture(scope="module")
def clean_and_poisoned():
    """Rows and what was pooled from them as of CUT; in the second everything after it is absurd."""
    clean = rows_of(LONG)
    late = pc.greater(clean["ds"], pa.scalar(CUT, pa.timestamp("us")))
    poisoned = clean.set_column(2, "y", pc.if_else(late, pa.scalar(1e6), clean["y"]))
    return [(rows, pool(rows, SPEC, CUT)) for rows in (clean, poisoned)]


@pytest.mark.slow
def test_pooled_models_see_nothing_after_their_cutoff(clean_and_poisoned):
    (_, one), (_, two) = clean_and_poisoned
    assert one.hash == two.hash


@pytest.mark.slow
def test_pooled_models_from_the_future_are_refused(pooled):
    with pytest.raises(InputError, match="newer"):
        train(rows_of(LONG), SPEC, AS_OF - timedelta(days=1), pooled=pooled)


@pytest.mark.slow
def test_chunks_and_order_change_no_result(odd_rows, pooled):
    whole = train(odd_rows, SPEC, AS_OF, pooled=pooled)
    shuffled = odd_rows.take(pa.array(np.random.default_rng(1).permutation(len(odd_rows))))
    assert train(shuffled, SPEC, AS_OF, pooled=pooled).model.files() == whole.model.files()
    for name in whole.model.series:
        alone = train(odd_rows.filter(pc.equal(odd_rows["series_id"], name)), SPEC, AS_OF, pooled=pooled)
        assert alone.model.files() == whole.model.select([name]).files(), name


def test_training_twice_gives_the_same_bytes(odd_rows, trained):
    assert train(odd_rows, SPEC, AS_OF).model.files() == trained.model.files()


def test_the_fallback_chain_is_taken_and_recorded(trained):
    steps = {row["series_id"]: row["fallback"] for row in trained.series.to_pylist()}
    assert {name: step for name, step in steps.items() if step} == {
        "constant": "constant", "zero": "zero", "single": "short_history", "short": "short_history",
    }  # fmt: skip
    forecast = trained.model.predict(None).to_pandas().groupby("series_id")
    assert (forecast.get_group("constant").y_hat == 4.0).all()
    assert (forecast.get_group("zero").y_hat == 0.0).all()
    assert forecast.get_group("short").y_hat.iloc[0] == pytest.approx(7 / 3)
    assert set(forecast.get_group("short").fallback) == {"short_history"}


def test_a_short_series_leans_on_its_item_and_says_so(odd_rows):
    result = train(odd_rows, SPEC, AS_OF, priors={"short": Prior(9.0, "item")})
    row = next(r for r in result.series.to_pylist() if r["series_id"] == "short")
    assert row["fallback"] == "prior:item"
    y = result.model.predict(None, series=["short"])["y_hat"].to_numpy()
    assert y == pytest.approx(np.full(7, (7.0 + 4 * 9.0) / 7))


def test_weights_are_shares_and_scores_are_what_they_say(trained):
    for row in trained.series.to_pylist():
        weights = json.loads(row["weights"])
        assert sum(weights.values()) == pytest.approx(1, abs=1e-3)
        assert min(weights.values()) > 0
    plain = next(r for r in trained.series.to_pylist() if r["series_id"] == "plain")
    assert plain["accuracy"] == pytest.approx(1 - plain["wape"])
    assert plain["skill"] == pytest.approx(1 - plain["wape"] / plain["baseline_wape"])
    assert plain["skill"] > 0.1


def test_scores_agree_with_a_slow_reckoning(trained):
    y = ODD["plain"]
    for window, cutoff in ((1, 200 - 14), (2, 200 - 7)):
        actual, naive = y[cutoff : cutoff + 7], y[cutoff - 7 : cutoff]
        scale = np.mean([abs(y[t] - y[t - 7]) for t in range(7, cutoff)])
        row = next(
            r for r in trained.scores.to_pylist()
            if (r["series_id"], r["candidate"], r["window"]) == ("plain", "seasonal_naive", window)
        )  # fmt: skip
        assert row["wape"] == pytest.approx(np.abs(actual - naive).sum() / actual.sum())
        assert row["mase"] == pytest.approx(np.abs(actual - naive).mean() / scale)
        assert row["bias"] == pytest.approx((naive - actual).sum() / actual.sum())


def test_a_series_with_infinite_values_fails_alone():
    rows = rows_of(LONG)
    mask = np.zeros(len(rows), bool)
    mask[5] = True
    broken = rows.set_column(2, "y", pc.if_else(pa.array(mask), pa.scalar(float("inf")), rows["y"]))
    result = train(broken, SPEC, AS_OF)
    assert [f.series_id for f in result.failures] == ["s0"]
    assert result.model.series == tuple(f"s{i}" for i in range(1, 6))


def test_negative_values_are_forecast_where_they_are_allowed():
    y = np.random.default_rng(0).normal(-5, 1, 200)
    spec = Spec("D", 7, windows=2, nonnegative=False)
    forecast = train(rows_of({"a": y}, spec), spec, AS_OF).model.predict(None)
    assert forecast["y_hat"].to_numpy() == pytest.approx(np.full(7, -5.0), abs=1.5)
    assert train(rows_of({"a": y}), SPEC, AS_OF).model.predict(None)["y_hat"].to_numpy().min() >= 0


def test_a_champion_of_another_recipe_is_backtested_beside_it():
    rows = rows_of(LONG)
    naive = Spec("D", 7, windows=2, candidates=("seasonal_naive",))
    result = train(rows, SPEC, AS_OF, champions={"s0": naive, "s1": SPEC}).series.to_pylist()
    by = {row["series_id"]: row for row in result}
    assert by["s0"]["champion_wape"] == pytest.approx(by["s0"]["baseline_wape"])
    assert by["s1"]["champion_wape"] is None


@pytest.mark.parametrize("kind", ["price", "flag", "level"])
def test_a_known_covariate_of_any_kind_is_learned_and_used(kind):
    rng = np.random.default_rng(0)
    on = rng.random(407) < 0.3
    y = rng.poisson(np.where(on, 60.0, 15.0)).astype(float)[:400]
    values = {"price": np.where(on, 1.0, 2.0), "flag": on, "level": np.where(on, "deal", "none").astype(object)}[kind]
    spec = Spec("D", 7, windows=2, known=("k",))
    model = train(rows_of({"a": y}, spec, k=values[:400]), spec, AS_OF).model
    ds = [AS_OF + timedelta(days=k) for k in range(1, 8)]
    future = pa.table({"series_id": ["a"] * 7, "ds": pa.array(ds, pa.timestamp("us")), "k": pa.array(values[400:])})
    forecast = model.predict(None, future=future)
    expected = np.where(on[400:], 60.0, 15.0)
    assert np.abs(forecast["y_hat"].to_numpy() - expected).mean() < 8
    assert not any(forecast["known_repeated"].to_pylist())
    repeated = model.predict(None)
    assert all(repeated["known_repeated"].to_pylist())


@pytest.mark.parametrize(("frequency", "periods"), [("h", 600), ("W-SUN", 160), ("MS", 60), ("QS", 24), ("B", 200)])
def test_other_frequencies_train_and_forecast_the_right_stamps(frequency, periods):
    import pandas as pd

    last = loader.stamps(
        np.array([int(loader.step_number(np.array([AS_OF], "datetime64[us]"), frequency)[0]) - 1]), frequency
    )[0]
    last = last.astype(object)
    spec = Spec(frequency, 4, windows=2)
    result = train(rows_of({"a": sales(periods)}, spec, last), spec, last)
    forecast = result.model.predict(None)
    assert forecast["ds"].to_pylist() == list(pd.date_range(last, periods=5, freq=frequency)[1:].to_pydatetime())
    assert result.series["wape"].to_pylist()[0] < 1


def test_closed_days_are_forecast_as_zero():
    y = sales(400, 40.0)
    open_ = np.ones(407, bool)
    open_[::9] = False
    y[~open_[:400]] = 0
    spec = Spec("D", 7, windows=2, known=("open",))
    model = train(rows_of({"a": y}, spec, open=open_[:400]), spec, AS_OF).model
    ds = [AS_OF + timedelta(days=k) for k in range(1, 8)]
    shut = np.array([True, True, False, True, False, True, True])
    future = pa.table({"series_id": ["a"] * 7, "ds": pa.array(ds, pa.timestamp("us")), "open": pa.array(shut)})
    y_hat = model.predict(None, future=future)["y_hat"].to_numpy()
    assert (y_hat[~shut] == 0).all()
    assert (y_hat[shut] > 15).all()


def test_nothing_trained_of_no_rows():
    result = train(rows_of(LONG).slice(0, 0), SPEC, AS_OF)
    assert result.series.num_rows == result.scores.num_rows == 0
    assert isinstance(result.model, PackModel)
    assert result.model.predict(None).num_rows == 0


def test_what_the_future_says_nothing_of_is_taken_as_usual():
    """A promotion and a price cut on the last day were repeated for the whole horizon, and forecasts doubled."""
    rng = np.random.default_rng(5)
    on = (rng.random(400) < 0.15).astype(float)
    price = np.where(on > 0, 1.0, 2.0)
    text = np.where(on > 0, "flyer", "none")
    y = rng.poisson(np.where(on > 0, 60.0, 15.0)).astype(float)
    y[-1], on[-1], price[-1], text[-1] = 60.0, 1.0, 1.0, "flyer"
    for name, values in {"flag": on, "price": price, "text": text}.items():
        spec = Spec("D", 7, known=(name,))
        rows = table({"a": y}).append_column(name, pa.array(values.tolist()))
        prepared = prepare(rows, spec, AS_OF).rows
        model = train(prepared, spec, AS_OF).model
        alone = model.predict(None)
        assert all(alone["known_repeated"].to_pylist())
        assert alone["y_hat"].to_numpy().mean() == pytest.approx(15.0, rel=0.2), name
        fresh = model.predict(prepared, AS_OF)
        assert fresh["y_hat"].to_numpy() == pytest.approx(alone["y_hat"].to_numpy())


def test_a_price_that_the_future_names_holds_until_the_next_and_a_flag_does_not():
    rng = np.random.default_rng(6)
    on = (rng.random(400) < 0.2).astype(float)
    price = np.where(rng.random(400) < 0.3, 1.0, 2.0)
    y = rng.poisson(15.0 * (1 + 3 * on) * np.where(price < 2, 2.0, 1.0)).astype(float)
    spec = Spec("D", 6, known=("flag", "price"))
    rows = table({"a": y}).append_column("flag", pa.array(on)).append_column("price", pa.array(price))
    model = train(prepare(rows, spec, AS_OF).rows, spec, AS_OF).model
    ds = pa.array([AS_OF + timedelta(days=k) for k in range(1, 7)], pa.timestamp("us"))

    def forecast(flags: list[float | None], prices: list[float | None]) -> np.ndarray:
        columns = {"flag": pa.array(flags, pa.float64()), "price": pa.array(prices, pa.float64())}
        return model.predict(None, future=pa.table({"series_id": ["a"] * 6, "ds": ds, **columns}))["y_hat"].to_numpy()

    holes = forecast([1, None, None, None, None, None], [1, None, None, None, None, None])
    assert holes == pytest.approx(forecast([1, 0, 0, 0, 0, 0], [1] * 6))
    assert forecast([None] * 6, [None] * 6) == pytest.approx(forecast([0] * 6, [2] * 6))


def test_one_pass_fits_the_windows_by_what_was_known_then_and_the_cutoff_by_what_is_known_now():
    """Each as if it were fitted alone: also a series that began after the last window's cutoff."""
    season = 1 + 0.5 * np.sin(2 * np.pi * np.arange(900) / 365.25)
    histories = {f"a{i}": np.round(sales(900, 40.0, seed=i) * season) for i in range(6)}
    histories["young"] = histories["a0"][-9:]
    rows, spec = rows_of(histories, SPEC), SPEC
    shared = pool(rows, spec, AS_OF, trees=False)
    layout = shared.layout(rows, spec)

    def fits(origins: slice, fit: PooledFit, last: PooledFit | None = None) -> Fits:
        panel = build(rows, layout, AS_OF, ahead=spec.horizon)
        places = panel.periods - 1 - spec.horizon * np.arange(spec.windows, -1, -1)
        return fit_panel(panel, layout, spec, places[origins], fit, last=last)

    both = fits(slice(None), shared.early, shared.late)
    assert both.F[:, :-1] == pytest.approx(fits(slice(-1), shared.early).F, rel=1e-5)
    alone = fits(slice(-1, None), shared.late)
    assert np.abs(shared.early.shape - shared.late.shape).max() > 0.01
    assert both.state[:, covariate_level(layout)] == pytest.approx(alone.state[:, covariate_level(layout)])
    assert both.F[:, -1] == pytest.approx(alone.F[:, 0], rel=0.02)


def test_the_last_fit_is_that_of_the_new_shape_although_it_goes_on_from_the_windows_fit(monkeypatch):
    """Sums are added up anew for the shape alone: they are those of a fit that starts with nothing."""
    from many_models.forecasting import kernels

    season = 1 + 0.5 * np.sin(2 * np.pi * np.arange(900) / 365.25)
    rows = rows_of({f"a{i}": np.round(sales(900, 40.0, seed=i) * season) for i in range(3)}, SPEC)
    shared = pool(rows, SPEC, AS_OF, trees=False)
    carried = train(rows, SPEC, AS_OF, pooled=shared).model.arrays["coef"]
    summed = kernels.sums_of_shape

    def anew(*arguments: Any) -> None:
        summed(*arguments)
        sums = arguments[-2:]
        kept = [one.copy() for one in sums]
        X, w, wl, z, first, done = arguments[:6]  # noqa: N806
        for way, weight in enumerate((w, wl)):
            here = X[way, first:done].astype(float)
            sums[0][way] = (here * weight[first:done, None]).T @ here
            sums[1][way] = (here * weight[first:done, None]).T @ z[way, first:done]
        for mine, exact in zip(kept, sums, strict=True):
            assert mine == pytest.approx(exact, rel=1e-4, abs=1e-4 * np.abs(exact).max())

    monkeypatch.setattr(kernels, "sums_of_shape", anew)
    again = train(rows, SPEC, AS_OF, pooled=shared).model.arrays["coef"]
    assert np.isfinite(carried).all()
    assert carried == pytest.approx(again, abs=1e-3)


def test_a_fit_that_goes_on_from_coefficients_that_lead_nowhere_starts_from_the_prior(monkeypatch):
    from many_models.forecasting import kernels

    rows = rows_of({"a": sales(300, 20.0)})
    usual = train(rows, SPEC, AS_OF).model.arrays["coef"]
    fit = kernels.fit_series

    def led_astray(*arguments: Any) -> None:
        arguments[-3][loader.COUNT] = 20.0  # coefficients: all forecasts are as large as can be
        fit(*arguments)

    monkeypatch.setattr(kernels, "fit_series", led_astray)
    trained = train(rows, SPEC, AS_OF)
    assert trained.scores.filter(pc.equal(trained.scores["candidate"], "poisson"))["problem"].null_count > 0
    assert trained.model.arrays["coef"] == pytest.approx(usual, abs=1e-3)


def covariate_level(layout: Layout) -> int:
    """The place of the last covariate's level, the shape's, in a state."""
    return 2 * (4 + layout.season) + 1 + (layout.season + 3) + 2 + layout.season + layout.columns - 1
