"""Effects that are no straight lines, covariates that say nothing, a target that is proportional to its exposure."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from many_models.errors import InputError, SettingsError
from many_models.forecasting import PackModel, PooledModels, Spec, pool, prepare, terms, train
from many_models.forecasting.pack import mm_pack_v1 as loader
from many_models.forecasting.panel import build, layout_of
from many_models.forecasting.pooling import Sample
from many_models.forecasting.terms import choose

DAYS, HORIZON, SERIES = 500, 14, 12
STAMPS = np.datetime64("2023-01-02", "us") + np.arange(DAYS) * np.timedelta64(86_400_000_000, "us")
AS_OF = STAMPS[DAYS - HORIZON - 1].item()
LINEAR = ("ridge_raw", "ridge_log", "poisson", "pooled")
RNG = np.random.default_rng(1)
TEMPERATURE = np.tile(13 + 8 * np.sin(2 * np.pi * np.arange(DAYS) / 365) + RNG.normal(0, 5, DAYS), (SERIES, 1))
PRICE = np.where(RNG.random((SERIES, DAYS)) < 0.3, RNG.uniform(0.6, 0.95, (SERIES, DAYS)), 1.0)
SHOWN = (RNG.random((SERIES, DAYS)) < 0.25).astype(float)
HOURS = RNG.choice([0.0, 4.0, 8.0, 12.0], (SERIES, DAYS), p=[0.04, 0.26, 0.4, 0.3])
EFFECTS = {
    "a U": (0.005 * (TEMPERATURE - 14) ** 2, {"temperature": TEMPERATURE}),
    "a threshold": (1.0 * (TEMPERATURE > 18), {"temperature": TEMPERATURE}),
    "an interaction": (-(1.0 + 3.0 * SHOWN) * np.log(PRICE), {"price": PRICE, "shown": SHOWN}),
    "an effect by weekday": (1.2 * SHOWN * (np.arange(DAYS) % 7 >= 5), {"shown": SHOWN}),
}


def sales(effect: np.ndarray, seed: int = 0) -> np.ndarray:
    """Counts (series × days) with a level, a week and an effect on the log scale."""
    rng = np.random.default_rng(seed)
    week = np.exp(rng.normal(0, 0.2, (SERIES, 7)))[:, np.arange(DAYS) % 7]
    return rng.poisson(np.exp(rng.normal(3.4, 0.4, (SERIES, 1))) * week * np.exp(effect)).astype(float)


def table(y: np.ndarray, **known: np.ndarray) -> pa.Table:
    ids = np.repeat([f"s{i:02d}" for i in range(len(y))], DAYS)
    columns = {name: values.ravel() for name, values in {"y": y, **known}.items()}
    return pa.table({"series_id": ids, "ds": pa.array(np.tile(STAMPS, len(y)), pa.timestamp("us")), **columns})


def spec_for(known: dict[str, np.ndarray], **more: object) -> Spec:
    return Spec("D", HORIZON, windows=2, known=tuple(known), **more)  # pyright: ignore[reportArgumentType]


def chosen(y: np.ndarray, **known: np.ndarray):
    """What is made of the known covariates of all but the last days."""
    spec, rows = spec_for(known), table(y, **known)
    layout = layout_of(spec, rows)
    panel = build(rows, layout, AS_OF, from_first_sale=True)
    return choose(Sample(panel, layout, spec, panel.periods - 1, np.zeros((SERIES, 0), np.float32)))


def errors(y: np.ndarray, known: dict[str, np.ndarray], pooled: bool = True, **more: object) -> dict[str, float]:
    """WAPE of each candidate over the days after AS_OF."""
    spec, rows = spec_for(known, **more), table(y, **known)
    past = prepare(rows.filter(pc.less_equal(rows["ds"], pa.scalar(AS_OF, pa.timestamp("us")))), spec, AS_OF).rows
    future = rows.filter(pc.greater(rows["ds"], pa.scalar(AS_OF, pa.timestamp("us")))).drop_columns(["y"])
    model = train(past, spec, AS_OF, pooled=pool(past, spec, AS_OF, trees=False) if pooled else None).model
    found, actual = model.candidates(future=future), y[:, -HORIZON:]
    return {name: float(np.abs(found[:, c] - actual).sum() / actual.sum()) for c, name in enumerate(loader.CANDIDATES)}


@pytest.mark.slow
@pytest.mark.parametrize("effect", EFFECTS)
def test_linear_candidates_follow_what_is_no_straight_line(effect):
    """Without terms, as models of single series are, the error is a third larger or more."""
    added, known = EFFECTS[effect]
    y = sales(added)
    assert chosen(y, **known).terms
    bent, straight = errors(y, known), errors(y, known, pooled=False)
    for name in ("ridge_log", "poisson"):
        assert bent[name] < 0.8 * straight[name], (name, bent[name], straight[name])


def test_straight_effects_get_no_terms():
    assert not chosen(sales(0.5 * SHOWN - 1.5 * np.log(PRICE)), price=PRICE, shown=SHOWN).terms


def test_an_effect_by_hour_is_found():
    """Rain keeps people at home by day and not by night."""
    hours, series, rng = 24 * 70, 6, np.random.default_rng(5)
    ds = np.datetime64("2024-01-01", "us") + np.arange(hours) * np.timedelta64(3_600_000_000, "us")
    rain = np.tile((rng.random(hours) < 0.3).astype(float), (series, 1))
    day = np.sin(2 * np.pi * np.arange(hours) / 24)
    y = rng.poisson(20 * np.exp(0.3 * day - 0.6 * rain * day)).astype(float) + np.zeros((series, 1))
    rows = pa.table({
        "series_id": np.repeat([f"s{i}" for i in range(series)], hours), "y": y.ravel(), "rain": rain.ravel(),
        "ds": pa.array(np.tile(ds, series), pa.timestamp("us")),
    })  # fmt: skip
    spec = Spec("h", 24, known=("rain",))
    layout = layout_of(spec, rows)
    panel = build(rows, layout, ds[-1].item())
    found = choose(Sample(panel, layout, spec, panel.periods - 1, np.zeros((series, 0), np.float32)))
    assert (loader.HOUR_SIN, 0, 1, 0.0) in found.terms


# --- Columns that say nothing ----------------------------------------------------------------------------------------
def test_useless_columns_are_dropped_each_with_its_reason():
    rng = np.random.default_rng(0)
    noise = {f"noise_{k}": rng.normal(size=(SERIES, DAYS)) for k in range(4)}
    walk = np.tile(np.cumsum(rng.normal(size=DAYS)), (SERIES, 1))
    found = chosen(sales(0.5 * SHOWN), shown=SHOWN, walk=walk, **noise)
    assert "shown" not in found.dropped
    assert len(set(found.dropped) & set(noise)) >= 3
    assert "walk" in found.dropped
    assert all("forecasts no better" in reason for reason in found.dropped.values())


def test_of_many_useless_columns_few_stay_by_chance():
    """Half of them once did: their gain was above zero, however little."""
    rng, stay = np.random.default_rng(12), 0
    for seed in range(10):
        noise = {f"noise_{k}": rng.normal(size=(SERIES, DAYS)) for k in range(8)}
        stay += len(noise) - len(chosen(sales(np.zeros(1), seed), **noise).dropped)
    assert stay <= 80 * 0.3


@pytest.mark.parametrize("seed", range(4))
def test_a_small_effect_stays(seed):
    """Seven per cent more on every fourth day, beside chance of about twenty."""
    assert not chosen(sales(0.07 * SHOWN, seed), shown=SHOWN).dropped


@pytest.mark.parametrize("days", [[300], [300, 301, 302], [40, 400]])
def test_a_flag_that_is_on_too_seldom_to_judge_stays(days):
    """Other spans of time cannot know what it does."""
    flag = np.isin(np.arange(DAYS), days).astype(float) + np.zeros((SERIES, 1))
    shared = np.random.default_rng(3).normal(0, 0.05, DAYS)
    assert not chosen(sales(0.5 * flag + shared), sale=flag).dropped


def test_a_gain_that_is_large_counts_where_it_is_unsure():
    less = np.ones(6)
    assert terms._use(less, less - np.array([0.09, -0.05, 0.0, 0.0, 0.0, 0.0])) > 1.0
    assert terms._use(less, less - np.array([0.009, -0.005, 0.0, 0.0, 0.0, 0.0])) < 1.0


def test_one_loud_or_silent_span_of_time_does_not_say_whether_a_column_is_useful():
    gains = np.array([0.02, 0.03, 0.02, -0.001, 0.03, 0.02])
    for odd in (1.0, 1e4, 1e-9):
        less = np.where(np.arange(6) == 3, odd, 1.0)
        assert terms._use(less, less * (1 - gains)) > 1.0
        assert terms._use(less, less * (1 + gains)) < 0.0
    silent = np.where(np.arange(6) == 3, 0.0, 1.0)
    assert terms._use(silent, silent * (1 - gains) + 1e-6) > 1.0
    assert terms._use(np.zeros(6), np.zeros(6)) == 0.0


def test_a_column_that_series_follow_in_opposite_ways_stays():
    sign = np.where(np.arange(SERIES) % 2, 1.0, -1.0)[:, None]
    assert not chosen(sales(0.3 * sign * (TEMPERATURE - 13) / 5), temperature=TEMPERATURE).dropped


def test_a_flag_of_closed_days_stays():
    open_flag = (np.arange(DAYS) % 11 != 3).astype(float) + np.zeros((SERIES, 1))
    assert "open" not in chosen(sales(np.zeros(1)) * open_flag, open=open_flag).dropped


def test_what_is_dropped_does_not_change_a_forecast_and_need_not_be_known():
    y, noise = sales(0.5 * SHOWN), np.random.default_rng(0).normal(size=(SERIES, DAYS))
    known = {"noise": noise, "shown": SHOWN}
    spec, rows = spec_for(known), table(y, **known)
    past = prepare(rows.filter(pc.less_equal(rows["ds"], pa.scalar(AS_OF, pa.timestamp("us")))), spec, AS_OF).rows
    pooled = pool(past, spec, AS_OF, trees=False)
    assert set(pooled.choice.dropped) == {"noise"}
    assert PooledModels.from_files(pooled.files()).choice == pooled.choice
    model = train(past, spec, AS_OF, pooled=pooled).model
    assert model.index["known"] == ["noise", "shown"]
    future = rows.filter(pc.greater(rows["ds"], pa.scalar(AS_OF, pa.timestamp("us"))))
    other = future.set_column(future.column_names.index("noise"), "noise", pa.array(np.full(len(future), 1e6)))
    one, two = (model.predict(None, future=part)["y_hat"] for part in (future, other))
    assert one.equals(two)


def test_packs_of_different_choices_go_together():
    """Champions and refits come from pooled models of different days, which may have chosen otherwise."""
    known = {"price": PRICE, "shown": SHOWN, "noise": np.random.default_rng(0).normal(size=(SERIES, DAYS))}
    spec, rows = spec_for(known), table(sales(EFFECTS["an interaction"][0]), **known)
    past = prepare(rows.filter(pc.less_equal(rows["ds"], pa.scalar(AS_OF, pa.timestamp("us")))), spec, AS_OF).rows
    bent = pool(past, spec, AS_OF, trees=False)
    assert bent.choice.terms
    assert bent.choice.dropped
    models = [train(past, spec, AS_OF, pooled=one).model for one in (bent, None)]
    names = models[0].series
    both = PackModel.merge([models[0].select(names[:3]), models[1].select(names[3:])])
    both = PackModel.from_files(both.files())
    future = rows.filter(pc.greater(rows["ds"], pa.scalar(AS_OF, pa.timestamp("us"))))
    for model, mine in zip(models, (names[:3], names[3:]), strict=True):
        expected = model.predict(None, future=future, series=mine)
        assert both.predict(None, future=future, series=mine).equals(expected)


# --- Exposure --------------------------------------------------------------------------------------------------------
def test_a_target_is_proportional_to_its_exposure():
    y = np.random.default_rng(3).poisson(200 * HOURS / 8).astype(float)
    known = {"hours": HOURS}
    told, untold = (errors(y, known, pooled=False, **more) for more in ({"exposure": "hours"}, {}))
    for name in ("mean", "smoothing_medium", "ridge_log", "poisson"):
        assert told[name] < 0.85 * untold[name], (name, told[name], untold[name])


@pytest.fixture(scope="module")
def exposed():
    """Models of series that are proportional to hours, and the rows after them."""
    y = np.random.default_rng(4).poisson(30 * HOURS / 8).astype(float)
    spec, rows = spec_for({"hours": HOURS}, exposure="hours"), table(y, hours=HOURS)
    past = prepare(rows.filter(pc.less_equal(rows["ds"], pa.scalar(AS_OF, pa.timestamp("us")))), spec, AS_OF).rows
    trained = train(past, spec, AS_OF, pooled=pool(past, spec, AS_OF, trees=False))
    return trained, rows.filter(pc.greater(rows["ds"], pa.scalar(AS_OF, pa.timestamp("us"))))


def test_no_exposure_no_sales_and_twice_the_exposure_twice_the_sales(exposed):
    trained, future = exposed
    place = future.column_names.index("hours")

    def forecast(hours: float) -> np.ndarray:
        told = future.set_column(place, "hours", pa.array(np.full(len(future), hours)))
        return trained.model.predict(None, future=told)["y_hat"].to_numpy()

    assert (forecast(0.0) == 0).all()
    assert np.median(forecast(12.0) / forecast(6.0)) == pytest.approx(2.0, abs=0.1)


def test_an_update_after_training_takes_its_exposure_into_account(exposed):
    """Four days of half the hours and half the sales say that nothing has changed."""
    trained, future = exposed
    first = sorted(set(future["ds"].to_pylist()))[:4]
    days = future.filter(pc.is_in(future["ds"], pa.array(first, pa.timestamp("us"))))
    later = trained.model.predict(None, future=future.set_column(
        future.column_names.index("hours"), "hours", pa.array(np.full(len(future), 8.0))))  # fmt: skip
    usual = later["y_hat"].to_numpy().reshape(SERIES, HORIZON)[:, :4] / 2
    half = days.set_column(days.column_names.index("y"), "y", pa.array(usual.ravel()))
    half = half.set_column(half.column_names.index("hours"), "hours", pa.array(np.full(len(half), 4.0)))
    after = trained.model.predict(half, first[-1], future=future.set_column(
        future.column_names.index("hours"), "hours", pa.array(np.full(len(future), 8.0))), horizon=7)  # fmt: skip
    level = after["y_hat"].to_numpy().reshape(SERIES, 7).mean(1)
    assert level == pytest.approx(later["y_hat"].to_numpy().reshape(SERIES, HORIZON).mean(1), rel=0.05)


def test_scores_are_of_sales_not_of_sales_per_exposure(exposed):
    trained, _ = exposed
    scores = trained.scores.to_pandas()
    actual = scores[scores["candidate"] == "mean"].groupby("series_id")["abs_actual"].sum()
    windows = slice(DAYS - 3 * HORIZON, DAYS - HORIZON)
    y = np.random.default_rng(4).poisson(30 * HOURS / 8)[:, windows].sum(1)
    assert actual.to_numpy() == pytest.approx(y)


def test_an_exposure_must_be_a_known_number():
    with pytest.raises(SettingsError, match="not a known covariate"):
        Spec("D", 7, exposure="hours")
    text = table(sales(np.zeros(1)), hours=np.full((SERIES, DAYS), "many"))
    with pytest.raises(InputError, match="needed a number"):
        layout_of(spec_for({"hours": HOURS}, exposure="hours"), text)


# --- What explains them ----------------------------------------------------------------------------------------------
def test_parts_of_bent_and_exposed_forecasts_add_up(exposed):
    from many_models.forecasting import explanation

    added, known = EFFECTS["an interaction"]
    known = {**known, "hours": np.maximum(HOURS, 4.0)}
    y = sales(added) * known["hours"] / 8
    spec, rows = dataclasses.replace(spec_for(known), exposure="hours"), table(y, **known)
    past = prepare(rows.filter(pc.less_equal(rows["ds"], pa.scalar(AS_OF, pa.timestamp("us")))), spec, AS_OF).rows
    pooled = pool(past, spec, AS_OF, trees=False)
    assert any(term[0] == loader.PRODUCT for term in pooled.choice.terms)
    model = train(past, spec, AS_OF, pooled=pooled).model
    future = rows.filter(pc.greater(rows["ds"], pa.scalar(AS_OF, pa.timestamp("us"))))
    forecast = model.predict(None, future=future)["y_hat"].to_numpy().reshape(SERIES, HORIZON)
    found = explanation.explanations(model, future=future)
    for one, y_hat in zip(found, forecast, strict=True):
        np.testing.assert_allclose(one.parts.sum(1), y_hat, rtol=1e-6, atol=1e-6)
    shown, price = (sum(np.abs(one.of(name)).sum() for one in found) for name in ("shown", "price"))
    assert min(shown, price) > 0


# --- What is stored ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "term", [[9, 0, 0, 0.0], [2, 0, 7, 0.0], [0, 7, 0, 0.0], [0, -1, 0, 0.0], [0, 0.5, 0, 0.0], [0, 0, 0, np.nan]]
)
def test_a_pack_whose_terms_name_what_is_not_there_is_refused(exposed, term):
    arrays = {**exposed[0].model.arrays}
    arrays["pool_terms"] = arrays["pool_terms"].copy()
    arrays["pool_terms"][0, 0] = term
    with pytest.raises(ValueError, match="pool_terms"):
        loader.check(dict(exposed[0].model.index), arrays)
