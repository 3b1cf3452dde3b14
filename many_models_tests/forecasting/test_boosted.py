"""Boosted trees on the recent level of each series, learned over all series."""

from __future__ import annotations

import json
import math
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from many_models.forecasting import PooledModels, Spec, kernels, pool, pooling, train
from many_models.forecasting.local_fit import training_steps
from many_models.forecasting.pack import mm_pack_v1 as loader
from many_models.forecasting.pack.array_files import array_files, sha256_of
from many_models.forecasting.pack.mm_before_v1 import moved_features
from many_models.forecasting.panel import Layout
from many_models.forecasting.spec import BUILT_IN
from many_models.forecasting.terms import Choice
from many_models.forecasting.trees import grow
from many_models_tests.forecasting.histories import AS_OF, SPEC, rows_of, sales

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from many_models.forecasting.trees import TreeRows


@pytest.mark.slow
def test_pooled_models_from_before_boosted_trees_mean_what_they_meant():
    """Files of then: no count of boosted trees, no newer candidates, static features before those beside the target."""
    y = {f"s{i:02d}": sales(200, 5.0 + i, seed=i) for i in range(40)}
    rows = rows_of(y)
    pooled = pool(rows, SPEC, AS_OF)
    seen = pooled.late.beta.shape[1] + loader.EXTRA + 1
    moved = moved_features(np.array([-1, 0, seen - 1, seen, seen + 1]), pooled.late.beta.shape[1], 1)
    assert moved.tolist() == [-1, 0, seen - 1, seen + loader.BESIDE + 1, seen + loader.BESIDE + 2]
    files = pooled.files()
    about = json.loads(files["pooled.json"])
    del about["boosted"]
    then = loader.BEFORE_BOOSTED
    moments = pooled.evidence.moments[:, :then, :then]
    changed = array_files({"moments": moments})
    about["sha256"] |= sha256_of(changed)
    files |= changed
    files["pooled.json"] = json.dumps(about).encode()
    old = PooledModels.from_files(files)
    assert old.late.boosted == 0
    assert old.evidence.moments.shape == pooled.evidence.moments.shape
    assert not train(rows, SPEC, AS_OF, pooled=old).model.arrays["weights"][:, then:].any()


@pytest.mark.slow
def test_boosted_trees_forecast_what_no_line_says(monkeypatch):
    """A promotion sells at weekends only: an interaction, and each series has seen few of them. Lines are straight
    here: test_terms has those that bend.
    """
    monkeypatch.setattr(pooling, "choose", lambda _: Choice())
    rng = np.random.default_rng(3)
    days = np.arange(420)
    on, weekend = rng.random(len(days)) < 0.3, days % 7 >= 5
    y = {f"s{i:02d}": rng.poisson((5.0 + i) * np.where(on & weekend, 4.0, 1.0)).astype(float) for i in range(30)}
    spec = Spec("D", 14, windows=2, known=("promo",))
    rows = rows_of(y, spec, promo=on.astype(float))
    cutoff = AS_OF - timedelta(days=14)
    past = rows.filter(pc.less_equal(rows["ds"], pa.scalar(cutoff, pa.timestamp("us"))))
    model = train(past, spec, cutoff, pooled=pool(past, spec, cutoff)).model
    said = model.candidates(future=rows.filter(pc.greater(rows["ds"], pa.scalar(cutoff, pa.timestamp("us")))))
    actual = np.stack([y[name][-14:] for name in model.series])
    error = {name: np.abs(said[:, BUILT_IN.index(name)] - actual).sum() for name in ("boosted", "poisson", "ridge_raw")}
    assert error["boosted"] < 0.8 * min(error["poisson"], error["ridge_raw"])


def test_turned_steps_meet_every_phase_while_those_in_turn_meet_one():
    """With twelve months ahead, steps in turn train each month with one step only."""
    month = np.arange(600) % 12
    alike, turned = (training_steps(4321, 600, 12, turned=turned) for turned in (False, True))
    assert set(turned) == set(range(1, 13))
    for phase in range(12):
        assert len(set(alike[month == phase])) == 1
        assert set(turned[month == phase]) == set(range(1, 13))
    assert (training_steps(4321 + 100, 500, 12, turned=True) == turned[100:]).all()  # by absolute time


@pytest.mark.parametrize("function", [loader.fill_course, kernels.pack.fill_course], ids=["plain", "compiled"])
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_the_course_is_what_a_person_would_count(function: Callable[..., None], data: st.DataObject) -> None:
    """Against a plain reading of the history; periods after the origin change nothing."""
    n, m = data.draw(st.integers(3, 60)), data.draw(st.sampled_from([1, 4, 7, 12]))
    y = np.array(data.draw(st.lists(st.integers(0, 90), min_size=n, max_size=n)), float)
    code = np.array(data.draw(st.lists(st.sampled_from([0, 1, 1, 1, 2, 3]), min_size=n, max_size=n)), np.int8)
    o, h = data.draw(st.integers(0, n - 1)), data.draw(st.integers(1, 15))
    conf, own = np.zeros(loader.CONF_SIZE), np.zeros(loader.OWN_SIZE)
    conf[loader.SEASON], conf[loader.TAIL], own[:2] = m, 40, 2.0

    def course(y: NDArray[np.float64], code: NDArray[np.int8]) -> NDArray[np.float64]:
        row, sums = np.full(loader.COURSE + 3, 7.0), np.zeros((n + 1, 3))
        loader.prefix(y, code, own, sums)
        function(row, sums, y, code, o, o + h, 10.0, math.log(2.5), conf, own)
        assert (row[:3] == 7.0).all()
        return row[3:]

    def there(t: int) -> bool:
        return max(0, o - 39) <= t <= o and code[t] == loader.OBSERVED

    def mean(a: int, b: int) -> float:
        seen = [y[t] for t in range(a, b) if there(t)]
        return (sum(seen) / len(seen) if seen else 10.0) / 5.0

    same = next(t for t in range(o, o - m, -1) if (o + h - t) % m == 0)
    expected = [mean(t, t + 1) for t in [*range(o, o - 8, -1), same, same - m, same - 2 * m]]
    expected += [mean(same - 1, same + 2), mean(o - 1, o + 1), mean(o - 3, o + 1), mean(o - 7, o + 1)]
    expected += [mean(o + 1 - m, o + 1), mean(o + 1 - 2 * m, o + 1 - m)]
    assert course(y, code) == pytest.approx(np.array(expected))
    later = np.arange(n) > o
    assert (course(np.where(later, 1e6, y), np.where(later, 1, code).astype(np.int8)) == course(y, code)).all()


def test_each_half_of_the_boosted_trees_says_half():
    """Their mean in the log, so that neither counts more; the trees on the own fit do not see the recent course."""
    rng = np.random.default_rng(5)
    p, layout = 4, Layout("D", 7, 7, (), (), "")
    width = loader.tree_width(p, layout.columns, 0)

    def made(place: int) -> TreeRows:
        features = rng.random((900, width)).astype(np.float32)
        return features, 5.0 * np.exp(features[:, place]), np.zeros(900), np.zeros(900), np.ones(900)

    (root, feature, *rest), boosted = grow(made(0), made(width - 1), layout, p)
    seen = rng.random((300, width))
    on_own, on_level = np.zeros((2, 300))
    loader.add_trees(seen, root[:-boosted], feature, *rest, on_own)
    loader.add_trees(seen, root[-boosted:], feature, *rest, on_level)
    line = np.stack([np.ones(300), seen[:, 0], seen[:, -1]], 1)
    assert np.linalg.lstsq(line, on_own, rcond=None)[0][1:] == pytest.approx([1.0, 0.0], abs=0.1)
    assert np.linalg.lstsq(line, on_level, rcond=None)[0][1:] == pytest.approx([0.5, 0.5], abs=0.06)


def test_boosted_trees_learn_of_all_series_alike():
    """None of them splits by what a series' own coefficients made of its season and covariates; others do."""
    price = 1.0 + 0.5 * np.random.default_rng(1).random(400)
    histories = {f"a{i}": sales(400, 20.0, seed=i) * np.round(price, 1) ** (i - 4.0) for i in range(9)}
    spec = Spec("D", 7, windows=2, known=("price",))
    rows = rows_of(histories, spec, price=np.round(price, 1))
    shared = pool(rows, spec, AS_OF)
    root, feature = shared.late.trees[:2]
    own = shared.late.beta.shape[1] + np.arange(loader.EXTRA - 1, loader.EXTRA + shared.layout(rows, spec).columns)
    begins = root[-shared.late.boosted]
    assert np.isin(feature[:begins], own).any()
    assert not np.isin(feature[begins:], own).any()
