"""Boosted trees on the recent level of each series, learned over all series."""

from __future__ import annotations

import json
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from many_models.forecasting import PooledModels, Spec, pool, pooling, train
from many_models.forecasting.pack import mm_pack_v1 as loader
from many_models.forecasting.pack.array_files import array_files, sha256_of
from many_models.forecasting.spec import BUILT_IN
from many_models.forecasting.terms import Choice
from many_models_tests.forecasting.histories import AS_OF, SPEC, rows_of, sales


@pytest.mark.slow
def test_pooled_models_from_before_boosted_trees_mean_what_they_meant():
    """Files of then: no count of boosted trees, no newer candidates, static features before those beside the target."""
    y = {f"s{i:02d}": sales(200, 5.0 + i, seed=i) for i in range(40)}
    rows = rows_of(y)
    pooled = pool(rows, SPEC, AS_OF)
    seen = pooled.late.beta.shape[1] + loader.EXTRA + 1
    moved = loader.moved_features(np.array([-1, 0, seen - 1, seen, seen + 1]), pooled.late.beta.shape[1], 1)
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
