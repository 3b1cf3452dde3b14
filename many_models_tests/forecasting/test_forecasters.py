"""The contract over every candidate; users' own forecasters: isolated, timed, competing, travelling as data."""

from __future__ import annotations

import json
import time
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from many_models.errors import SettingsError
from many_models.forecasting import PackModel, Spec, pool, train
from many_models.forecasting.pack import mm_pack_v1 as loader
from many_models.forecasting.spec import Custom
from many_models_tests.contracts.forecaster import ForecasterContract
from many_models_tests.forecasting.histories import AS_OF, rows_of, sales

pytestmark = pytest.mark.slow
MINE = "many_models_tests.forecasting.mine"
FOREST = '{"n_estimators": 5, "max_depth": 6}'
LONG = 120.0  # seconds, for fits that take a moment: the machine may be slow
CUSTOM = {
    "ridge": Custom("ridge", "sklearn.linear_model:Ridge", '{"alpha": 3.0}', LONG),
    "forest": Custom("forest", "sklearn.ensemble:ExtraTreesRegressor", FOREST, LONG),
    "weekdays": Custom("weekdays", f"{MINE}:WeekdayMeans", seconds=LONG),
    "noisy": Custom("noisy", f"{MINE}:Noisy", seconds=LONG),
}


class TestBuiltIn(ForecasterContract):
    @pytest.fixture(params=loader.CANDIDATES)
    def candidate(self, request):
        return request.param

    @pytest.fixture
    def custom(self):
        return ()


class TestCustom(ForecasterContract):
    @pytest.fixture(params=CUSTOM)
    def candidate(self, request):
        return request.param

    @pytest.fixture
    def custom(self, candidate):
        return (CUSTOM[candidate],)


@pytest.mark.slow
class TestStatsforecast(ForecasterContract):
    @pytest.fixture
    def candidate(self):
        return "theta"

    @pytest.fixture
    def custom(self):
        return (Custom("theta", "statsforecast.models:DynamicOptimizedTheta", '{"season_length": 7}', LONG),)


# --- Isolated, timed, recorded --------------------------------------------------------------------------------------
LEVELS = {"low": sales(200, 20.0, seed=1), "high": sales(200, 500.0, seed=2), "other": sales(200, 30.0, seed=3)}


def trained_with(how: str, seconds: float = 30.0, levels=LEVELS):
    bad = Custom("bad", f"{MINE}:Bad", json.dumps({"how": how}), seconds)
    spec = Spec("D", 7, windows=2, custom=(bad,))
    return train(rows_of(levels), spec, AS_OF)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("raise", "RuntimeError: too much"),
        ("exit", "SystemExit: 3"),
        ("nan", "nan at step 3"),
        ("few", "3 numbers, needed 7"),
        ("die", "SIGKILL"),
    ],
)
def test_one_that_fails_gives_no_forecast_for_that_series_and_says_why(how, says):
    result = trained_with(how)
    assert not result.failures
    problems = {r["series_id"]: r for r in result.scores.to_pylist() if r["candidate"] == "bad" and r["window"] == 1}
    assert says in problems["high"]["problem"]
    assert problems["high"]["wape"] is None
    weights = {row["series_id"]: json.loads(row["weights"]) for row in result.series.to_pylist()}
    assert "bad" not in weights["high"]
    for name in ("low", "other"):
        assert problems[name]["problem"] is None
        assert problems[name]["wape"] < 0.5
        assert 0 < problems[name]["seconds"] < 30
        assert weights[name]["bad"] > 0.05
    built_in = trained_with("raise", levels={"high": LEVELS["high"]}).series.to_pylist()[0]
    same = next(row for row in result.series.to_pylist() if row["series_id"] == "high")
    assert same["weights"] == built_in["weights"]


@pytest.mark.parametrize("how", ["sleep", "hold"])
@pytest.mark.slow
def test_one_that_hangs_is_stopped_at_its_limit_and_the_others_go_on(how):
    begun = time.monotonic()
    result = trained_with(how, 6.0)
    assert time.monotonic() - begun >= 6
    problems = {r["series_id"]: r["problem"] for r in result.scores.to_pylist() if r["candidate"] == "bad"}
    assert problems == {"low": None, "other": None, "high": "took longer than 6 s, and was stopped"}


@pytest.mark.slow
def test_one_that_is_lost_on_three_series_in_a_row_is_tried_no_more():
    result = trained_with("die", levels={f"s{i}": sales(100, 500.0, seed=i) for i in range(6)})
    problems = [r["problem"] for r in result.scores.to_pylist() if r["candidate"] == "bad" and r["window"] == 1]
    assert ["SIGKILL" in p for p in problems] == [True] * 3 + [False] * 3
    assert "not tried" in problems[-1]


def test_what_a_forecaster_prints_is_no_answer():
    talks = Spec("D", 7, windows=2, custom=(Custom("talks", f"{MINE}:Talks", seconds=LONG),))
    scores = train(rows_of(LEVELS), talks, AS_OF).scores
    assert set(scores.filter(pc.equal(scores["candidate"], "talks"))["problem"].to_pylist()) == {None}


@pytest.mark.parametrize(
    ("use", "says"),
    [
        ("no_such_module:Thing", "no_such_module"),
        (f"{MINE}:Nothing", "Nothing"),
        (f"{MINE}:NoPredict", "no predict"),
        (f"{MINE}:made", "weeks"),
    ],
)
def test_one_that_cannot_be_made_is_a_settings_error(use, says):
    spec = Spec("D", 7, custom=(Custom("mine", use),))
    with pytest.raises(SettingsError, match=says):
        train(rows_of({"a": sales()}), spec, AS_OF)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (("ridge_raw", "a:b"), "not built in"),
        (("two words", "a:b"), "letters"),
        (("x", "sklearn.Ridge"), "module:attribute"),
        (("x", "a:b", "[1]"), "names and values"),
        (("x", "a:b", "{"), "JSON"),
        (("x", "a:b", "{}", 0.0), "more than 0"),
    ],
)
def test_a_custom_forecaster_that_is_written_wrong_is_a_settings_error(values, says):
    with pytest.raises(SettingsError, match=says):
        Custom(*values)


def test_a_function_may_make_the_forecaster_and_a_folder_may_hold_it(tmp_path):
    (tmp_path / "somebodys.py").write_text(f"from {MINE} import made\n")
    custom = Custom("mine", "somebodys:made", '{"weeks": 2}', LONG)
    spec = Spec("D", 7, windows=2, candidates=("mine",), custom=(custom,), folder=str(tmp_path))
    scores = train(rows_of({"a": sales()}), spec, AS_OF).scores
    assert scores.filter(pc.equal(scores["candidate"], "mine"))["problem"].to_pylist() == [None, None]
    assert Spec.from_json(spec.to_json()) == spec
    assert spec.recipe != Spec("D", 7, windows=2, candidates=(), custom=()).recipe


# --- Competing ------------------------------------------------------------------------------------------------------
def test_its_scores_agree_with_a_slow_reckoning():
    import pandas as pd

    y = sales(200)
    spec = Spec("D", 7, windows=2, custom=(CUSTOM["weekdays"],))
    rows = train(rows_of({"a": y}), spec, AS_OF).scores.to_pylist()
    ds = pd.date_range(end=AS_OF, periods=200)
    for window, cutoff in ((1, 200 - 14), (2, 200 - 7)):
        recent = pd.Series(y[cutoff - 56 : cutoff], ds[cutoff - 56 : cutoff])
        means = recent.groupby(recent.index.dayofweek).mean()
        forecast = means[ds[cutoff : cutoff + 7].dayofweek].to_numpy()
        actual = y[cutoff : cutoff + 7]
        (row,) = [r for r in rows if (r["candidate"], r["window"]) == ("weekdays", window)]
        assert row["wape"] == pytest.approx(np.abs(actual - forecast).sum() / actual.sum())


def test_known_covariates_reach_it_as_they_are_past_and_future():
    rng = np.random.default_rng(0)
    on = (rng.random(407) < 0.3).astype(int)
    y = rng.poisson(np.where(on, 60.0, 15.0)).astype(float)[:400]
    custom = Custom("promo", f"{MINE}:FollowsPromotion", seconds=LONG)
    spec = Spec("D", 7, windows=2, known=("promo",), candidates=("promo",), custom=(custom,))
    ds = [AS_OF + timedelta(days=k) for k in range(1, 8)]
    future = pa.table({"series_id": ["a"] * 7, "ds": pa.array(ds, pa.timestamp("us")), "promo": pa.array(on[400:])})
    result = train(rows_of({"a": y}, spec, promo=on[:400]), spec, AS_OF, future=future)
    forecast = result.model.predict(None, future=future)["y_hat"].to_numpy()
    assert forecast == pytest.approx(np.where(on[400:], y[on[:400] == 1].mean(), y[on[:400] == 0].mean()), rel=0.05)


def test_what_is_learned_together_judges_it_too_and_a_series_alone_gets_the_same():
    rows = rows_of({f"s{i}": sales(300, 10.0 + i, seed=i) for i in range(8)})
    spec = Spec("D", 7, windows=2, custom=(CUSTOM["weekdays"],))
    pooled = pool(rows, spec, AS_OF)
    whole = train(rows, spec, AS_OF, pooled=pooled)
    alone = train(rows.filter(pc.equal(rows["series_id"], "s3")), spec, AS_OF, pooled=pooled)
    assert alone.model.files() == whole.model.select(["s3"]).files()
    assert pooled.evidence.moments.shape[1] == len(loader.CANDIDATES) + 1
    shares = [json.loads(row["weights"]).get("weekdays", 0.0) for row in whole.series.to_pylist()]
    assert min(shares) > 0.02


# --- In packs -------------------------------------------------------------------------------------------------------
def test_packs_with_and_without_it_merge_and_keep_every_forecast():
    rows = rows_of(LEVELS)
    with_it = train(rows, Spec("D", 7, windows=2, custom=(CUSTOM["weekdays"],)), AS_OF).model
    other = train(rows, Spec("D", 7, windows=2, custom=(CUSTOM["noisy"],)), AS_OF).model
    without = train(rows, Spec("D", 7, windows=2), AS_OF).model
    merged = PackModel.merge([with_it.select(["low"]), without.select(["high"]), other.select(["other"])])
    merged = PackModel.from_files(merged.files())
    for name, model in (("low", with_it), ("high", without), ("other", other)):
        assert merged.predict(None, series=[name]).equals(model.predict(None, series=[name])), name


def test_later_cutoffs_take_what_is_left_of_its_path_then_the_medium_smoothing():
    y = sales(207)
    spec = Spec("D", 7, windows=2, candidates=("weekdays",), custom=(CUSTOM["weekdays"],))
    model = train(rows_of({"a": y[:200]}, spec, AS_OF), spec, AS_OF).model
    at_training = model.candidates()[0, -1]
    later = AS_OF + timedelta(days=3)
    fresh = rows_of({"a": y[:203]}, spec, later)
    y_hat = model.predict(fresh, later)["y_hat"].to_numpy()
    weights = model.arrays["weights"][0]
    assert weights[-1] > 0.9
    assert y_hat[:4] == pytest.approx(at_training[3:], rel=0.05)
    assert np.isfinite(y_hat).all()
