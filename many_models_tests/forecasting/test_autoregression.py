"""The autoregression that series learn together: its numbers by a slow, obvious version, whom it is for, old files."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest

from many_models.forecasting import PackModel, PooledModels, Spec, autoregression, pool, train
from many_models.forecasting import explanation as ex
from many_models.forecasting.autoregression import SHRINKAGE, learn_lags
from many_models.forecasting.evaluation import evaluate
from many_models.forecasting.pack import mm_pack_v1 as loader
from many_models.forecasting.pack.array_files import array_files, sha256_of
from many_models.forecasting.panel import build, layout_of
from many_models.forecasting.spec import BUILT_IN
from many_models_tests.forecasting.histories import AS_OF, SPEC, rows_of, sales

PLACE = BUILT_IN.index("autoregression")
LAST = datetime(2023, 12, 1)
MONTHLY = Spec("MS", 6, windows=2)


def economy(months: int, seed: int) -> np.ndarray:
    """A smooth series: its growth over a year before follows that of the month before, beside a fixed season."""
    rng = np.random.default_rng(seed)
    growth = np.zeros(months)
    for t in range(2, months):
        growth[t] = 1.85 * growth[t - 1] - 0.86 * growth[t - 2] + rng.normal(0.0, 0.002)
    season = 1.0 + 0.2 * np.sin(np.arange(months) * np.pi / 6 + seed)
    return 1000.0 * (1 + seed) * season * np.exp(growth)


def windows(y: np.ndarray, lags: int, horizon: int, span: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(lags and 1, targets, place of the newest lag) of each place, in units of the level before it."""
    lagged, targets, place = [], [], []
    for t in range(lags - 1, len(y) - horizon):
        past = y[t - lags + 1 : t + 1]
        level = past[-span:].mean()
        lagged.append([*np.clip((past - level) / level, -3.0, 3.0), 1.0])
        targets.append((y[t + 1 : t + 1 + horizon] - level) / level)
        place.append(t)
    return np.array(lagged), np.array(targets), np.array(place)


def ridge(lagged: np.ndarray, y: np.ndarray, weight: np.ndarray, shrinkage: float) -> np.ndarray:
    gram = (lagged * weight[:, None]).T @ lagged
    penalty = shrinkage * np.trace(gram) / len(gram) * np.eye(len(gram))
    penalty[-1, -1] = 0.0
    return np.linalg.solve(gram + penalty, (lagged * weight[:, None]).T @ y)


def obvious(histories: list[np.ndarray], lags: int, season: int, horizon: int) -> np.ndarray:
    """Forecasts after each of `histories`."""
    parts = [windows(y, lags, horizon, season) for y in histories]
    noise = np.array([np.mean((y[:, 0] - lagged[:, lags - season]) ** 2) for lagged, y, _ in parts])
    weight = 1.0 / np.maximum(noise, 0.05 * np.median(noise))
    weight = np.minimum(weight, 5.0 * weight.mean())
    lagged, y, place = (np.concatenate([part[k] for part in parts]) for k in range(3))
    w = np.repeat(weight, [len(part[0]) for part in parts])
    border = int(np.quantile(place, 0.8))
    before, after = place <= border - horizon, place > border
    errors = [
        (w[after, None] * (lagged[after] @ ridge(lagged[before], y[before], w[before], s) - y[after]) ** 2).sum()
        for s in SHRINKAGE
    ]
    beta = ridge(lagged, y, w, SHRINKAGE[int(np.argmin(errors))])
    said = []
    for one in histories:
        level = one[-season:].mean()
        said.append(level + level * (np.r_[np.clip((one[-lags:] - level) / level, -3.0, 3.0), 1.0] @ beta))
    return np.array(said)


def fitted(histories: dict[str, np.ndarray], spec: Spec = MONTHLY, last: datetime = LAST) -> PackModel:
    rows = rows_of(histories, spec, last)
    return train(rows, spec, last, pooled=pool(rows, spec, last)).model


@pytest.mark.slow
def test_its_numbers_are_those_of_the_obvious_version():
    histories = {f"s{i}": economy(160, i) for i in range(6)}
    model = fitted(histories)
    expected = obvious([histories[name] for name in model.series], 60, 12, 6)
    np.testing.assert_allclose(model.candidates()[:, PLACE], expected, rtol=1e-4)


@pytest.mark.slow
def test_it_follows_what_other_candidates_do_not():
    histories = {f"s{i:02d}": economy(200, i) for i in range(20)}
    model = fitted({name: y[:194] for name, y in histories.items()})
    actual = np.stack([histories[name][194:] for name in model.series])
    size = np.stack([histories[name].mean(keepdims=True) for name in model.series])
    error = (np.abs(model.candidates() - actual[:, None]) / size[:, None]).sum((0, 2))
    assert error[PLACE] < 0.8 * np.delete(error, PLACE).min()
    assert model.arrays["weights"][:, PLACE].mean() > 0.3


def lags_from(histories: dict[str, np.ndarray], spec: Spec = MONTHLY, last: datetime = LAST) -> np.ndarray:
    rows = rows_of(histories, spec, last)
    layout = layout_of(spec, rows)
    panel = build(rows, layout, last, 0, ahead=spec.horizon, from_first_sale=True)
    return learn_lags(panel, panel.periods - 1, layout.conf(), spec.horizon)


def test_a_noisy_series_does_not_hide_the_rule():
    rng = np.random.default_rng(0)
    smooth = {f"s{i}": economy(160, i) for i in range(6)}
    noise = {f"n{i}": np.exp(rng.normal(8.0, 0.7, 160)) for i in range(6)}
    model, later = fitted({**smooth, **noise}), economy(166, 3)
    said = model.candidates()[model.series.index("s3"), PLACE]
    assert np.abs(said - later[160:]).mean() < 0.05 * later[160:].mean()


def test_too_little_to_learn_from_is_nothing_learned():
    assert lags_from({"a": economy(40, 0)}).shape == (0, 6)
    assert lags_from({f"s{i}": economy(160, i) for i in range(3)}).shape == (61, 6)


def test_long_lags_are_zero_where_the_usual_history_is_short():
    beta = lags_from({**{f"s{i:02d}": economy(66, i) for i in range(20)}, "long": economy(300, 20)})
    assert not beta[:30].any()
    assert beta[30:].any(1).all()


def test_without_it_and_where_little_is_sold_it_repeats_the_medium_smoothing():
    seldom = np.where(np.random.default_rng(3).random(200) < 0.2, 5.0, 0.0)
    rows = rows_of({**{f"s{i}": sales(200, 5.0 + i, seed=i) for i in range(8)}, "seldom": seldom})
    model = train(rows, SPEC, AS_OF, pooled=pool(rows, SPEC, AS_OF)).model
    medium = loader.CANDIDATES.index("smoothing_medium")
    said = model.candidates()
    at = model.series.index("seldom")
    np.testing.assert_array_equal(said[at, PLACE], said[at, medium])
    assert np.abs(said[:at, PLACE] - said[:at, medium]).max() > 0.1
    alone = train(rows, SPEC, AS_OF).model
    np.testing.assert_array_equal(alone.candidates()[:, PLACE], alone.candidates()[:, medium])
    assert not alone.arrays["weights"][:, PLACE].any()
    further = model.candidates(horizon=10)
    np.testing.assert_array_equal(further[:, PLACE, 7:], further[:, medium, 7:])


def test_it_says_nothing_is_sold_on_closed_days_and_explains_itself():
    histories = {f"s{i}": sales(200, 30.0 + i, seed=i) * (np.arange(200) % 7 != 3) for i in range(8)}
    model = fitted(histories, SPEC, AS_OF)
    said = model.candidates()[:, PLACE]
    closed = np.array([histories[name][-7:] == 0 for name in model.series])
    assert closed.any(1).all()
    assert not said[closed].any()
    assert (said[~closed] > 5).all()
    weights = np.zeros_like(model.arrays["weights"])
    weights[:, PLACE] = 1.0
    alone = PackModel(model.index, {**model.arrays, "weights": weights, "factor": np.ones(8)})
    for one in ex.explanations(alone):
        np.testing.assert_allclose(one.parts.sum(1), one.y_hat, atol=1e-6)
        assert np.abs(one.of("day of week")[one.y_hat > 0]).max() > 1.0


def test_a_pack_and_pooled_models_from_before_give_it_no_weight():
    rows = rows_of({f"s{i}": sales(200, 5.0 + i, seed=i) for i in range(12)})
    learned = pool(rows, SPEC, AS_OF)
    files = learned.files()
    about = json.loads(files["pooled.json"])
    changed = array_files({"moments": learned.evidence.moments[:, :PLACE, :PLACE]})
    about["sha256"] = {
        name: text for name, text in (about["sha256"] | sha256_of(changed)).items() if "lags" not in name
    }
    kept = {name: data for name, data in files.items() if "lags" not in name}
    old = PooledModels.from_files({**kept, **changed, "pooled.json": json.dumps(about).encode()})
    model = train(rows, SPEC, AS_OF, pooled=old).model
    assert not model.arrays["weights"][:, PLACE].any()
    arrays = {name: array for name, array in model.arrays.items() if name != "pool_lags"}
    index = {**model.index, "candidates": list(BUILT_IN[:PLACE])}
    then = PackModel.from_files(
        PackModel(index, {**arrays, "weights": np.array(model.arrays["weights"][:, :PLACE])}).files()
    )
    assert then.predict(None).equals(model.predict(None))
    newer = train(rows, SPEC, AS_OF, pooled=learned).model.select(["s3"])
    both = PackModel.merge([then.select(["s1"]), newer])
    assert both.predict(None, series=["s1"]).equals(model.predict(None, series=["s1"]))
    assert both.predict(None, series=["s3"]).equals(newer.predict(None))


@pytest.mark.slow
def test_one_more_series_hardly_moves_it():
    histories = {f"s{i:02d}": economy(160, i) for i in range(20)}
    before = fitted(histories)
    odd = {
        "shift": np.r_[np.full(80, 3.0), np.full(80, 3e3)] * np.exp(np.random.default_rng(1).normal(0, 0.3, 160)),
        "huge": 1e9 * economy(160, 3),
        "zeros": np.r_[np.zeros(100), economy(60, 2)],
        "constant": np.full(160, 7.0),
        "long": economy(400, 1),
        "spike": economy(160, 5) * np.where(np.arange(160) == 150, 1e6, 1.0),
    }
    for name, y in odd.items():
        after = fitted({**histories, name: y})
        said = after.candidates()[[after.series.index(one) for one in before.series], PLACE]
        level = np.array([histories[one][-12:].mean() for one in before.series])
        moved = np.abs(said - before.candidates()[:, PLACE]).max(1) / level
        assert moved.max() < 0.01, (name, moved.max())


def test_what_is_stored_does_not_say_how_much_memory_an_older_pack_takes():
    model = fitted({f"s{i}": sales(200, 5.0 + i, seed=i) for i in range(8)}, SPEC, AS_OF)
    arrays = {name: array for name, array in model.arrays.items() if name != "pool_lags"}
    arrays |= {"weights": arrays["weights"][:, :PLACE], "pool_beta": np.zeros((10**7, 0))}
    with pytest.raises(ValueError, match="pool_beta"):
        loader.own_arrays(arrays, {**model.index, "candidates": list(BUILT_IN[:PLACE])})


def test_rows_that_are_left_out_leave_every_weekday(monkeypatch):
    histories = {f"s{i}": sales(300, 30.0 + i, seed=i) for i in range(12)}
    whole = lags_from(histories, SPEC, AS_OF)
    rows = 12 * (300 + 1 - 84 - 7)
    monkeypatch.setattr(autoregression, "MOST_ROWS", rows // 7 + 1)  # each seventh row would end on one weekday
    np.testing.assert_allclose(lags_from(histories, SPEC, AS_OF)[-1], whole[-1], atol=0.03)


@pytest.mark.slow
def test_a_history_shorter_than_two_levels_has_the_level_that_was_learned():
    rng = np.random.default_rng(2)
    season = 1.0 + 0.8 * np.sin(np.arange(42) * np.pi / 6)
    histories = {f"s{i:02d}": (100.0 + i) * season * np.exp(rng.normal(0.0, 0.02, 42)) for i in range(40)}
    spec = Spec("MS", 12, windows=1)
    rows = rows_of({name: y[:30] for name, y in histories.items()}, spec, LAST)
    model = train(rows, spec, LAST, pooled=pool(rows, spec, LAST)).model
    actual = np.stack([histories[name][30:] for name in model.series])
    said = model.candidates()[:, PLACE]
    assert np.abs(said - actual).sum() < 0.06 * actual.sum()


@pytest.mark.slow
def test_series_that_repeat_themselves_do_not_silence_the_others():
    rng = np.random.default_rng(0)
    repeated = {f"r{i:02d}": np.tile(np.round(rng.uniform(50, 150, 12)), 14)[-160:] for i in range(21)}
    later = {f"s{i:02d}": economy(166, i) for i in range(20)}
    histories = {name: y[:160] for name, y in later.items()}
    actual = np.stack([y[160:] for y in later.values()])
    errors = []
    for model in (fitted(histories), fitted({**repeated, **histories})):
        said = model.candidates()[[model.series.index(name) for name in later], PLACE]
        errors.append((np.abs(said - actual) / actual).mean())
    assert errors[1] < 2.0 * errors[0]


@pytest.mark.slow
def test_a_window_does_not_know_what_was_sold_after_it():
    histories = {f"s{i:02d}": economy(160, i) for i in range(12)}
    histories["s00"] = np.r_[histories["s00"][:148], 40.0 * histories["s00"][148:]]
    rows = rows_of(histories, MONTHLY, LAST)
    pooled = pool(rows, MONTHLY, LAST)
    beyond = pooled.early.lags + np.float32(1e3)  # forecasts are as high as they may be
    found = evaluate(rows, MONTHLY, LAST, replace(pooled, early=replace(pooled.early, lags=beyond)))
    said = found.F[found.panel.series.index("s00"), 0, found.names.index("autoregression")]
    np.testing.assert_allclose(said.max(), 2.0 * histories["s00"][:148].max())
