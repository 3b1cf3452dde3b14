"""Objectives, what a candidate of sparse series says, and what is irreducible, each against an obvious version."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pyarrow.compute as pc
import pytest

from many_models.errors import SettingsError
from many_models.forecasting import Spec, combination, metrics, pool, train
from many_models.forecasting.calibration import GROWTH, calibration, final_weights, gather_evidence, growth_of
from many_models.forecasting.evaluation import Evaluation, evaluate
from many_models.forecasting.pack import mm_pack_v1 as loader
from many_models_tests.forecasting.histories import AS_OF, SPEC, rows_of, sales


def sparse(seed: int) -> np.ndarray:
    """Demand in a third of the periods."""
    chance = np.random.default_rng(seed)
    return np.where(chance.random(300) < 0.35, 1.0 + chance.poisson(3.0, 300), 0.0)


def croston(y: np.ndarray, gain: float) -> float:
    """Croston's method with the correction of Syntetos and Boylan, from the first demand on."""
    size = interval = None
    since = 0
    for value in y[np.flatnonzero(y)[0] :]:
        since += 1
        if value > 0:
            size = value if size is None else size + gain * (value - size)
            interval = since if interval is None else interval + gain * (since - interval)
            since = 0
    assert size is not None
    assert interval is not None
    return size / interval * (1 - gain / 2)


def test_croston_is_what_its_papers_say():
    histories = {f"s{i}": np.r_[2.0, sparse(i)] for i in range(3)}
    rows = rows_of(histories)
    model = train(rows, Spec("D", 7, windows=2), AS_OF).model
    said = model.candidates()[:, loader.CANDIDATES.index("croston")]
    for name, forecast in zip(model.series, said, strict=True):
        there = pc.and_(pc.equal(rows["series_id"], name), pc.not_equal(rows["state"], "stock_out"))
        np.testing.assert_allclose(forecast, croston(rows.filter(there)["y"].to_numpy(), 0.05), rtol=1e-6)


def weights(objective: str, forecasts: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """Weights of candidates `forecasts` (series × windows × candidates × steps) with no belief that favours any."""
    mask = np.ones(actual.shape, bool)
    moments, windows = combination.error_moments(forecasts, actual, mask, objective)
    counts = combination.importance(actual, mask, objective)
    there = np.ones(moments.shape[:2], bool)
    pooled = combination.pooled_moments(moments, windows, np.zeros(len(actual), np.int64), there, counts)
    belief = np.full((len(actual), forecasts.shape[2]), 1 / forecasts.shape[2])
    return combination.simplex_weights(moments, windows, belief, np.tile(pooled[:1], (len(actual), 1, 1)), 0.0)


def test_squared_errors_choose_the_mean_and_absolute_errors_the_median():
    actual = np.random.default_rng(0).exponential(10.0, (40, 3, 28))
    forecasts = np.stack([np.full(actual.shape, actual.mean()), np.full(actual.shape, np.median(actual))], 2)
    by = {objective: weights(objective, forecasts, actual)[:, 0].mean() for objective in ("rmsse", "mase", "pinball")}
    assert by["rmsse"] > 0.7
    assert by["mase"] == by["pinball"] < by["rmsse"] - 0.2


def test_wape_listens_to_the_large_series_and_mase_to_the_many():
    chance = np.random.default_rng(1)
    size = np.r_[np.full(2, 1000.0), np.full(38, 1.0)][:, None, None]
    actual = size * chance.gamma(20.0, 0.05, (40, 3, 28))
    good, bad = size * np.ones(actual.shape), 1.1 * size * np.ones(actual.shape)
    large = (size > 10) & np.ones(actual.shape, bool)
    forecasts = np.stack([np.where(large, good, bad), np.where(large, bad, good)], 2)
    assert weights("wape", forecasts, actual)[-1, 0] > weights("mase", forecasts, actual)[-1, 0] + 0.1


def test_an_unknown_objective_is_refused():
    with pytest.raises(SettingsError, match="objective 'mape'"):
        Spec("D", 7, objective="mape")


@pytest.mark.parametrize("mean", [0.05, 0.9, 3.0, 40.5])
def test_the_noise_floor_is_the_error_of_the_true_mean(mean):
    actual = np.random.default_rng(2).poisson(mean, (1, 100, 1000)).astype(float)
    forecasts, mask = np.full(actual.shape, mean), np.ones(actual.shape, bool)
    measured = np.abs(actual - mean).sum() / actual.sum()
    assert metrics.noise_floor(forecasts, actual, mask)[0] == pytest.approx(measured, rel=0.02)


def test_there_is_no_noise_floor_of_what_is_no_count():
    actual = np.array([[[1.5, 2.0]], [[0.0, 0.0]], [[-1.0, 2.0]]])
    assert np.isnan(metrics.noise_floor(np.ones(actual.shape), actual, np.ones(actual.shape, bool))).all()


def test_training_records_the_noise_floor_of_each_series():
    chance = np.random.default_rng(3)
    table = train(rows_of({"a": chance.poisson(6.0, 300).astype(float)}), Spec("D", 7, windows=2), AS_OF).series
    assert table["noise_floor"][0].as_py() == pytest.approx(0.32, abs=0.04)


def test_intervals_widen_by_what_the_errors_of_later_steps_say():
    chance = np.random.default_rng(4)
    steps, mask = 28, np.ones((500, 3, 28), bool)
    for growth in (0.0, 0.5, 1.0):
        errors = chance.normal(size=mask.shape) * (1 + growth * np.arange(steps) / steps)
        assert growth_of(errors / (1 + GROWTH * np.arange(steps) / steps), mask) == pytest.approx(growth, abs=0.08)
    assert growth_of(errors[:1, :1], mask[:1, :1]) < 0.3


# --- a combination that is safe ---------------------------------------------------------------------------------------
def shocked(shocks: tuple[float, ...], series: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Forecasts and actual sales (series × windows × 14 steps): all series of a window share one shock."""
    chance = np.random.default_rng(5)
    actual = np.exp(np.array(shocks))[None, :, None] * chance.gamma(25.0, 4.0, (series, len(shocks), 14))
    return np.full(actual.shape, 100.0), actual


@pytest.mark.parametrize("shocks", [(0.25, 0.0, -0.05), (0.1, -0.1, 0.15), (-0.2, 0.02, 0.02)])
def test_a_shock_that_all_series_of_a_window_share_is_not_calibrated_away(shocks):
    """One lucky window of three is one observation, however many series saw it."""
    forecast, actual = shocked(shocks)
    assert calibration(forecast, actual, np.ones(actual.shape, bool)) == pytest.approx(1.0, abs=0.01)


def test_a_bias_that_every_window_has_is_corrected():
    forecast, actual = shocked((-0.24, -0.2, -0.22))
    factor = calibration(forecast, actual, np.ones(actual.shape, bool))
    assert np.exp(-0.22) < factor < np.exp(-0.17)


def test_one_window_corrects_nothing():
    forecast, actual = shocked((-0.3,))
    assert calibration(forecast, actual, np.ones(actual.shape, bool)) == 1.0


@cache
def evaluated() -> Evaluation:
    """Thirty series that sell every day, over two windows."""
    rows = rows_of({f"s{i}": sales(level=40.0, seed=i) for i in range(30)})
    return evaluate(rows, SPEC, AS_OF, pool(rows, SPEC, AS_OF, trees=False))


@pytest.mark.parametrize("objective", ["rmsse", "mase"])
def test_a_window_of_large_errors_says_no_more_of_candidates_than_another(objective):
    """A holiday makes every candidate err three times as far, but for one that luck saves: that is one window's word.

    The candidate that is right in that window takes as much of the evidence as if the errors of both were alike.
    """
    was = replace(evaluated(), spec=replace(SPEC, objective=objective))
    forecasts = was.F.copy()
    forecasts[:, 0, 0] = was.Y[:, 0]
    loud = forecasts.copy()
    loud[:, 0] += 2.0 * (forecasts[:, 0] - was.Y[:, 0, None])
    squares = [np.einsum("kcc->kc", gather_evidence(replace(was, F=F)).moments)[3, :9] for F in (forecasts, loud)]
    ratio, louder = (square[0] / np.median(square) for square in squares)
    assert louder == pytest.approx(ratio, rel=0.1)


def test_what_series_that_always_sell_share_in_all_windows_is_mostly_the_times():
    """A promotion that lasts for all windows is no bias of models that follow the level; of series that seldom sell,
    whose models do not, it is.
    """
    was = replace(evaluated(), F=evaluated().F * np.exp(0.22))
    assert gather_evidence(was).factor[3] == pytest.approx(np.exp(-0.05), abs=1e-6)
    assert gather_evidence(replace(was, classes=np.zeros(30, np.int64))).factor[0] < np.exp(-0.15)


def test_weights_go_to_the_best_candidates_and_not_to_a_list():
    """Three years of months are a rich history: what is best on them is best, whatever was best elsewhere."""
    chance = np.random.default_rng(6)
    truth = chance.gamma(25.0, 4.0, (80, 3, 6))
    names = ("seasonal_naive", "mean", "tsb", "ridge_raw")
    noise = {"seasonal_naive": 8.0, "mean": 25.0, "tsb": 25.0, "ridge_raw": 20.0}
    forecasts = np.stack([truth + chance.normal(0, noise[name], truth.shape) for name in names], 2)
    mask, there = np.ones(truth.shape, bool), np.ones((80, 4), bool)
    moments, windows = combination.error_moments(forecasts, truth, mask)
    pooled = combination.pooled_moments(moments, windows, np.zeros(80, np.int64), there)
    belief = combination.beliefs(names, np.full(80, 36.0), np.ones(80))
    found = combination.simplex_weights(moments, windows, belief, np.tile(pooled[:1], (80, 1, 1)))
    assert found[:, 0].mean() > 0.8


def test_windows_without_sales_do_not_speak_for_forecasts_of_nothing():
    """Of 200 series that sell in one window of ten the mean is right; in most windows nothing is."""
    chance = np.random.default_rng(7)
    truth = np.where(chance.random((200, 3, 1)) < 0.1, 50.0, 0.0) * np.ones((200, 3, 6))
    forecasts = np.stack([np.full(truth.shape, 5.0), np.full(truth.shape, 0.5)], 2)
    mask, there = np.ones(truth.shape, bool), np.ones((200, 2), bool)
    usual = np.full(200, 0.1 * 50.0**2)
    sparse = np.ones(200, bool)
    moments, windows = combination.error_moments(forecasts, truth, mask, "rmsse", usual, sparse)
    pooled = combination.pooled_moments(moments, windows, np.zeros(200, np.int64), there)
    assert pooled[0, 0, 0] < pooled[0, 1, 1]


def test_one_loud_window_of_a_series_does_not_outvote_its_others():
    """In two windows the first candidate is twice as good; in the third both are far off, and the second a bit less."""
    off = np.array([[1.0, 2.0], [1.0, 2.0], [31.0, 30.0]])  # windows × candidates
    truth = np.full((2, 3, 6), 100.0)
    forecasts = truth[:, :, None] + off[None, :, :, None]
    mask = np.ones(truth.shape, bool)
    plain, _ = combination.error_moments(forecasts, truth, mask)
    even, _ = combination.error_moments(forecasts, truth, mask, even=np.array([True, False]))
    square = np.einsum("icc->ic", even)
    assert square[0, 0] < 0.95 * square[0, 1]
    assert plain[0, 0, 0] > plain[0, 1, 1]
    np.testing.assert_array_equal(even[1], plain[1])
    np.testing.assert_allclose(np.median(square[0]), np.median(np.einsum("icc->ic", plain)[0]))


def test_windows_that_are_alike_and_those_that_do_not_score_change_nothing():
    chance = np.random.default_rng(9)
    truth, mask = np.full((5, 3, 6), 100.0), np.ones((5, 3, 6), bool)
    mask[:, 2] = False
    forecasts = truth[:, :, None] + chance.choice([-3.0, 3.0], (5, 3, 2, 6))
    forecasts[:, 2] = 1e9
    plain, _ = combination.error_moments(forecasts, truth, mask)
    even, windows = combination.error_moments(forecasts, truth, mask, even=np.ones(5, bool))
    np.testing.assert_allclose(even, plain)
    assert windows.tolist() == [2.0] * 5


def test_a_candidate_that_explodes_for_one_series_keeps_its_weight_for_others():
    """One series on which the best candidate is a hundred times off is that series' own matter."""
    chance = np.random.default_rng(8)
    truth = chance.gamma(25.0, 4.0, (60, 3, 14))
    forecasts = np.stack([truth + chance.normal(0, noise, truth.shape) for noise in (10.0, 20.0, 20.0, 20.0)], 2)
    forecasts[0, :, 0] *= 30.0
    moments, windows = combination.error_moments(forecasts, truth, np.ones(truth.shape, bool))
    pooled = combination.pooled_moments(moments, windows, np.zeros(60, np.int64), np.ones((60, 4), bool))
    found = combination.simplex_weights(moments, windows, np.full((60, 4), 0.25), np.tile(pooled[:1], (60, 1, 1)))
    assert found[1:, 0].min() > 0.6
    assert found[0, 0] == 0.0


def mixed(squares: list[float], there: list[bool] | None = None) -> np.ndarray:
    """Weights of a series without windows of its own, by the evidence of independent candidates with these squares."""
    moments = np.diag(squares)[None]
    mask = None if there is None else np.array([there])
    belief = np.full((1, len(squares)), 1 / len(squares))
    return combination.simplex_weights(np.zeros_like(moments), np.zeros(1), belief, moments, there=mask)[0]


def test_where_the_best_candidate_is_not_there_the_others_share_its_weight():
    """It once put all others too far behind it: weights of zero, which are no forecast."""
    found = mixed([0.1, 1.0, 1.1, 9.0], [False, True, True, True])
    assert found.sum() == pytest.approx(1.0)
    assert found[0] == found[3] == 0.0
    assert found[1] == pytest.approx(found[2], rel=0.2)


def test_the_further_behind_a_candidate_is_the_fewer_mixtures_it_takes_part_in():
    """It once took part as a whole below one and a half times the best one's square, and not at all beyond."""
    third = {square: mixed([1.0, 1.0, square])[2] for square in (1.0, 1.3, 1.6, 2.1)}
    assert third[1.0] == pytest.approx(1 / 3, abs=1e-3)
    assert 0.16 < third[1.3] < 0.2
    assert 0.07 < third[1.6] < 0.1
    assert third[2.1] == 0.0


def test_weights_sum_to_one_however_many_candidates_are_left_out():
    """Those left out once took a share of independent errors with them: forecasts were some per cent too low."""
    assert mixed([1.0] * 16, [True] + [False] * 15).sum() == pytest.approx(1.0)
    assert mixed([1.0, 1.0] + [1.6] * 14).sum() == pytest.approx(1.0)


def test_a_candidates_own_record_counts_as_much_as_the_constant_says(monkeypatch):
    """`benchmarks.forecasting --without combination` switches it off there."""
    usual = final_weights(evaluated())
    monkeypatch.setattr(combination, "KEPT", 0.0)
    assert np.abs(final_weights(evaluated()) - usual).max() > 0.01
