"""Forecasts in parts: they add up for every candidate, and agree with a slow, obvious version."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from many_models.forecasting import Spec, pool, train
from many_models.forecasting import explanation as ex
from many_models_tests.forecasting.histories import AS_OF, ODD, SPEC, rows_of


def close(parts, whole):
    """Parts add up to 1e-6 of the whole, or of the largest part where they cancel out."""
    size = np.maximum(np.abs(whole), np.abs(parts).max(-1, initial=0.0))
    return (np.abs(parts.sum(-1) - whole) <= 1e-6 * np.maximum(size, 1e-300)).all()


def promoted(periods=800, n=8):
    """Rows of series whose promotions sell three times as much and whose Saturdays sell more, and their future."""
    spec = Spec("D", 28, windows=2, known=("promotion", "price"), country="DE")
    rng = np.random.default_rng(3)
    on = rng.random(periods + 28) < 0.15
    on[periods:] = False
    on[periods + 3 : periods + 7] = True
    price = np.where(rng.random(periods + 28) < 0.5, 2.0, 1.6)
    day = np.arange(periods + 28) % 7
    mean = 20.0 * np.where(on, 3.0, 1.0) * (2.0 / price) ** 1.5 * np.where(day == 5, 1.4, 1.0)
    histories = {f"s{i}": rng.poisson(mean[:periods] * (1 + i)).astype(float) for i in range(n)}
    rows = rows_of(histories, spec, promotion=on[:periods].astype(float), price=price[:periods])
    ds = [AS_OF + timedelta(days=k) for k in range(1, 29)] * n
    future = pa.table({
        "series_id": [name for name in histories for _ in range(28)], "ds": pa.array(ds, pa.timestamp("us")),
        "promotion": pa.array(np.tile(on[periods:].astype(float), n)), "price": pa.array(np.tile(price[periods:], n)),
    })  # fmt: skip
    return spec, rows, future


@pytest.fixture(scope="module")
def shop():
    spec, rows, future = promoted()
    return train(rows, spec, AS_OF, pooled=pool(rows, spec, AS_OF)).model, future


@pytest.fixture(scope="module")
def odd():
    rows = rows_of(ODD)
    return train(rows, SPEC, AS_OF, pooled=pool(rows, SPEC, AS_OF)).model


def all_candidates(model, future=None):
    """For each series the parts of its candidates, and the candidates' forecasts."""
    pack = model.computing()
    h = model.index["horizon"]
    for name, _, x, fresh, _ in model.aligned(pack, None, future=future, horizon=h):
        parts, forecasts, _ = pack.explainer().candidates(pack.row[name], h, x, fresh)
        yield name, parts, forecasts


def test_every_candidate_and_the_combination_add_up(shop):
    model, future = shop
    for name, parts, forecasts in all_candidates(model, future):
        assert len(parts) == len(model.index["candidates"])
        assert close(parts, forecasts), name
    forecast = model.predict(None, future=future)["y_hat"].to_numpy().reshape(-1, 28)
    for one, y_hat in zip(ex.explanations(model, future=future), forecast, strict=True):
        assert close(one.values, y_hat), one.series_id
        assert one.y_hat.tolist() == y_hat.tolist()


def test_odd_series_add_up_too(odd):
    for name, parts, forecasts in all_candidates(odd):
        assert close(parts, forecasts), name
    forecast = odd.predict(None)["y_hat"].to_numpy().reshape(-1, 7)
    for one, y_hat in zip(ex.explanations(odd), forecast, strict=True):
        assert close(one.values, y_hat), one.series_id


def test_promotion_and_weekday_get_what_they_did(shop):
    model, future = shop
    one = ex.explanations(model, future=future)[0]
    on = future["promotion"].to_numpy()[:28] > 0
    promotion, rest = one.of("promotion"), one.y_hat - one.of("promotion")
    assert (promotion[on] > 0.8 * rest[on]).all()
    assert (np.abs(promotion[~on]) < 0.1 * one.y_hat[~on]).all()
