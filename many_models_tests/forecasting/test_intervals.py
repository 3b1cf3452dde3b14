"""Intervals hold what they promise, for every class of volume, on series whose distribution is known."""

from __future__ import annotations

import numpy as np
import pytest

from many_models.forecasting import Spec, calibration, combination, pool, train
from many_models.forecasting.calibration import calmness, unsure
from many_models.forecasting.evaluation import evaluate
from many_models_tests.forecasting.histories import AS_OF, rows_of

RATES = {"rare": 0.15, "some": 0.6, "often": 1.6, "always": 40.0}
EACH, PERIODS, HORIZON = 36, 500, 28
SPEC = Spec("D", HORIZON, windows=3, levels=(50, 80, 95))


@pytest.fixture(scope="module")
def covered():
    """Volume class → level → share of the next HORIZON days inside the interval, and its mean width at each step."""
    rng = np.random.default_rng(5)
    week = 1 + 0.4 * np.sin(2 * np.pi * np.arange(PERIODS + HORIZON) / 7)
    y = {
        f"{name}{i:02d}": rng.poisson(rate * rng.uniform(0.7, 1.4) * week * rng.gamma(8, 1 / 8, len(week))).astype(
            float
        )
        for name, rate in RATES.items()
        for i in range(EACH)
    }
    rows = rows_of({name: values[:PERIODS] for name, values in y.items()}, SPEC)
    shared = pool(rows, SPEC, AS_OF, trees=False)
    forecast = train(rows, SPEC, AS_OF, pooled=shared).model.predict(None).to_pandas()
    forecast["actual"] = np.concatenate([y[name][PERIODS:] for name in dict.fromkeys(forecast["series_id"])])
    forecast["volume"] = forecast["series_id"].str[:-2]
    return forecast


@pytest.mark.slow
@pytest.mark.parametrize("volume", RATES)
def test_each_class_of_volume_is_covered_as_asked_at_any_level(covered, volume):
    mine = covered[covered["volume"] == volume]
    assert len(mine) == EACH * HORIZON
    for level in SPEC.levels:
        inside = ((mine[f"lo{level}"] <= mine["actual"]) & (mine["actual"] <= mine[f"hi{level}"])).mean()
        zeros = (mine["actual"] == 0).mean()  # all of them are inside: no interval can leave some out
        assert inside >= level / 100 - 0.05, level
        assert inside <= max(level / 100, zeros) + 0.07, level


@pytest.mark.slow
def test_bounds_are_in_order_never_below_zero_and_wider_in_the_last_week(covered):
    order = ["lo95", "lo80", "lo50", "y_hat", "hi50", "hi80", "hi95"]
    assert (np.diff(covered[order].to_numpy(), axis=1) >= 0).all()
    assert (covered["lo95"] >= 0).all()
    always = covered[covered["volume"] == "always"]
    width = (always["hi80"] - always["lo80"]).groupby(always["step"]).mean()
    weeks = width.to_numpy().reshape(4, 7).mean(1)
    assert weeks[-1] > weeks[0]


def test_series_of_different_volume_are_of_different_classes():
    rng = np.random.default_rng(0)
    y = np.array([rng.poisson(rate, 400) for rate in RATES.values()], float)
    assert combination.class_of(y, np.ones(y.shape, bool), 364).tolist() == [0, 1, 2, 3]


# --- calm windows -----------------------------------------------------------------------------------------------------
def restless(name: str, spread: np.ndarray) -> np.ndarray:
    """Daily sales around 100 whose standard deviation on each day is `spread`."""
    chance = np.random.default_rng(int.from_bytes(name.encode(), "big"))
    return np.maximum(100.0 + spread * chance.standard_normal(len(spread)), 0.0)


CALM_SPEC = Spec("D", 14, windows=3)
WILD = np.full(500, 20.0)
CALM = np.r_[np.full(440, 20.0), np.full(60, 5.0)]


def calm_of(histories: dict[str, np.ndarray], spec: Spec = CALM_SPEC) -> np.ndarray:
    rows = rows_of(histories, spec)
    return calmness(evaluate(rows, spec, AS_OF, pool(rows, spec, AS_OF, trees=False)))


def test_intervals_know_that_the_windows_were_calmer_than_the_year():
    """The year moved 4 times as far as the windows, outside of them: that is taken for at most twice as far."""
    assert calm_of({f"a{i}": restless(f"a{i}", CALM) for i in range(6)}) == pytest.approx(2.0**0.75)
    usual = calm_of({f"a{i}": restless(f"a{i}", WILD) for i in range(6)})
    assert (usual >= 1.0).all()
    assert (usual < 1.06).all()


def test_windows_wilder_than_the_year_narrow_nothing():
    wilder = np.r_[np.full(440, 5.0), np.full(60, 20.0)]
    assert calm_of({f"a{i}": restless(f"a{i}", wilder) for i in range(6)}).tolist() == [1.0] * 4


def test_the_calm_of_one_series_widens_no_other_ones():
    others = {f"a{i}": restless(f"a{i}", WILD) for i in range(9)}
    assert calm_of({**others, "calm": restless("calm", CALM)}) == pytest.approx(calm_of(others), rel=0.02)


@pytest.mark.parametrize("spec", [Spec("D", 70, windows=3), Spec("MS", 6, windows=3)])
def test_where_a_year_is_no_more_than_the_windows_twice_it_says_nothing(spec):
    histories = {f"a{i}": restless(f"a{i}", CALM)[-(400 if spec.frequency == "D" else 120) :] for i in range(3)}
    assert calm_of(histories, spec).tolist() == [1.0] * 4


def test_forecasts_after_calm_windows_have_wider_intervals(monkeypatch):
    rows = rows_of({f"a{i}": restless(f"a{i}", CALM) for i in range(6)}, CALM_SPEC)

    def width() -> float:
        shared = pool(rows, CALM_SPEC, AS_OF, trees=False)
        made = train(rows, CALM_SPEC, AS_OF, pooled=shared).model.predict(None).to_pandas()
        return float((made["hi80"] - made["lo80"]).mean())

    now = width()
    monkeypatch.setattr(calibration, "calmness", lambda *_: np.ones(4))
    assert now / width() == pytest.approx(2.0**0.75, rel=0.01)


def shocked(series: int, shared: float, windows: int = 3, steps: int = 40) -> np.ndarray:
    """Errors of variance one, of which each window has a `shared` part."""
    rng = np.random.default_rng(2)
    luck = np.array([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])[:windows, None] * np.ones(steps)
    return np.sqrt(shared) * luck + np.sqrt(1.0 - shared) * rng.normal(size=(series, windows, steps))


def test_windows_that_share_their_luck_are_as_many_observations_as_there_are_windows():
    mask = np.ones((200, 3, 40), bool)
    assert unsure(shocked(200, 0.0), mask, (80, 95)) == pytest.approx(1.0, abs=0.01)
    # Student's t with three degrees of freedom over a normal distribution, from a table
    assert unsure(shocked(200, 1.0), mask, (80, 95)) == pytest.approx([1.638 / 1.282, 3.182 / 1.960], rel=0.01)
    half = unsure(shocked(200, 0.5), mask, (80, 95))
    assert (unsure(shocked(200, 0.0), mask, (80, 95)) < half).all()
    assert (half < unsure(shocked(200, 0.8), mask, (80, 95))).all()
    more = unsure(shocked(200, 1.0, windows=6), np.ones((200, 6, 40), bool), (80, 95))
    assert more == pytest.approx([1.440 / 1.282, 2.447 / 1.960], rel=0.01), "six windows tell more"


def test_one_series_tells_less_than_many_and_one_window_nothing():
    errors = shocked(200, 0.0)
    alone = unsure(errors[:1], np.ones((1, 3, 40), bool), (80,))
    assert 1.1 < alone[0] < 1.28
    mask = np.ones((200, 3, 40), bool)
    mask[:, 1:] = False
    assert unsure(errors, mask, (80, 95)).tolist() == [1.0, 1.0]


def test_what_does_not_count_says_nothing_of_the_luck_of_windows():
    errors, mask = shocked(9, 0.3), np.ones((9, 3, 40), bool)
    mask[0], mask[1, :2], mask[2, :, 20:] = False, False, False
    poisoned = np.where(mask, errors, 1e9)
    assert unsure(poisoned, mask, (80, 95)).tolist() == unsure(errors, mask, (80, 95)).tolist()


def bounds_of(errors: np.ndarray, mask: np.ndarray | None = None) -> tuple[float, float]:
    """The 80 % interval of standardised errors, wherever zero lies."""
    spec, mask = Spec("D", 40, windows=3, levels=(80,)), np.ones(errors.shape, bool) if mask is None else mask
    zero = np.full(errors.shape, -np.inf)
    low, high = calibration.residual_quantiles(errors, zero, mask, mask, spec)
    return float(low), float(high)


def test_the_luck_that_windows_share_may_come_from_either_side_next_time():
    """Two of three windows were above what was forecast, and the intervals were once twice as wide above."""
    low, high = bounds_of(shocked(200, 0.8))
    assert high == pytest.approx(-low, rel=0.02)
    assert high > 1.0
    turned = bounds_of(-shocked(200, 0.8))
    assert turned == pytest.approx((low, high), rel=0.02)


def test_what_series_do_not_share_keeps_its_side():
    """Errors with a long tail above and most of them a little below: the shortest interval is not turned round."""
    errors = np.random.default_rng(4).gamma(1.0, 1.0, (200, 3, 40)) - 1.0
    low, high = bounds_of(errors)
    assert (low, high) == pytest.approx((-1.04, 1.04 * (np.log(5.0) - 1.0)), rel=0.05)


@pytest.mark.parametrize("odd", [30.0, -30.0])
def test_the_luck_of_one_series_moves_the_bounds_of_others_little(odd):
    errors, mask = shocked(60, 0.3), np.ones((60, 3, 40), bool)
    less = mask.copy()
    less[7] = False
    errors[7] = odd
    assert bounds_of(errors, mask) == pytest.approx(bounds_of(errors, less), rel=0.06)


def test_what_the_series_own_errors_explain_is_no_luck():
    """Five series of four steps: their mean errors are chance, and next to none of them is turned."""
    mask, zero, turned, explained = np.ones((5, 3, 4), bool), np.full((5, 3, 4), -np.inf), 0.0, 0.0
    for seed in range(40):
        errors = np.random.default_rng(seed).normal(size=(5, 3, 4))
        either, _ = calibration.either_way(errors, zero, mask)
        turned += float(((either[:60] - either[60:]) ** 2).mean()) / 4.0
        explained += float((errors.mean((0, 2)) ** 2).mean())
    assert turned < 0.4 * explained


def test_a_bias_of_many_windows_keeps_its_side():
    """Three windows may agree by chance, twelve do not."""
    errors = 0.8 + 0.6 * np.random.default_rng(5).normal(size=(60, 12, 7))
    few, many = (
        calibration.either_way(part, np.full(part.shape, -np.inf), np.ones(part.shape, bool))[0].reshape(2, -1)
        for part in (errors[:, :3], errors)
    )
    assert few[1].mean() == pytest.approx(-0.8, abs=0.05)
    assert many[1].mean() > 0.3


def test_errors_the_other_way_stay_above_zero_sales():
    errors, mask = shocked(50, 0.8) + 0.5, np.ones((50, 3, 40), bool)
    zero = np.full(errors.shape, -0.8)
    errors = np.maximum(errors, zero)
    either, at = calibration.either_way(errors, zero, mask)
    assert len(either) == len(at) == 2 * errors.size
    assert (either >= at).all()
    assert (either[: errors.size] == errors.ravel()).all()


@pytest.mark.parametrize("odd", [60.0, 1e300, np.inf, -np.inf, np.nan])
def test_one_odd_series_does_not_hide_the_luck_that_the_others_share(odd):
    errors, mask = shocked(200, 0.6), np.ones((200, 3, 40), bool)
    wanted = unsure(errors, mask, (80, 95))
    errors[7] = odd
    assert unsure(errors, mask, (80, 95)) == pytest.approx(wanted, rel=0.05)


def test_a_class_that_one_window_tells_of_is_as_wide_as_all_series_are():
    """Most series are there in all windows, and the few of the class in the newest."""
    spec, errors, mask = Spec("D", 40, windows=3, levels=(80, 95)), shocked(60, 0.7), np.ones((60, 3, 40), bool)
    mask[50:, :2] = False
    mine = mask & (np.arange(60) >= 50)[:, None, None]
    zero = np.full(errors.shape, -np.inf)
    of_class, of_all = (calibration.residual_quantiles(errors, zero, mask, one, spec) for one in (mine, mask))
    without = [calibration.shortest(*calibration.either_way(errors, zero, one), 0.8)[1] for one in (mine, mask)]
    assert of_class[1] / np.average(without, weights=[400 / 900, 500 / 900]) == pytest.approx(of_all[1] / without[1])
