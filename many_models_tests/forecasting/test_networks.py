"""The networks that series learn together: their numbers by slow, obvious versions, what odd series do, old files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from many_models.forecasting import PackModel, PooledModels, pool, train
from many_models.forecasting import explanation as ex
from many_models.forecasting import networks as networks_module
from many_models.forecasting.kernels import pack as compiled
from many_models.forecasting.networks import Networks, learn_networks, usual_of
from many_models.forecasting.pack import mm_explain_v1, mm_pack_v1
from many_models.forecasting.pack.array_files import array_files, sha256_of
from many_models.forecasting.spec import BUILT_IN, Spec
from many_models_tests.forecasting.histories import AS_OF, SPEC, rows_of, sales

PLACE = BUILT_IN.index("network")
Rows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def bent(n: int = 3000, seed: int = 0) -> Rows:
    """Rows whose sales bend with two of four features; the third says nothing, the fourth is not known."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((n, 4)).astype(np.float32)
    features[:, 3] = 1e30
    level = rng.normal(2.0, 1.0, n)
    mean = np.exp(level + 0.6 * np.sin(2.0 * features[:, 0]) * features[:, 1])
    return features, rng.poisson(mean).astype(float), level, level, 1.0 / (1.0 + 0.08 * mean)


def said(stored: tuple[np.ndarray, np.ndarray], features: np.ndarray) -> np.ndarray:
    """What networks add to the level of each row, one neuron after the other."""
    inputs, layers = stored
    a, b = mm_pack_v1.WIDE, mm_pack_v1.NARROW
    result = []
    for row in features:
        z = [
            0.0 if abs(v) > 1e29 else float(np.clip((v - c) * s, -4.0, 4.0))
            for v, c, s in zip(row, *inputs[:2], strict=True)
        ]
        total = 0.0
        for k, rest in enumerate(layers):
            first = inputs[2 + k * a : 2 + (k + 1) * a]
            wide = [max(float(first[i] @ np.array(z)) + rest[i], 0.0) for i in range(a)]
            narrow = []
            for j in range(b):
                inside = rest[a + a * b + j] + sum(wide[i] * rest[a + i * b + j] for i in range(a))
                narrow.append(max(inside, 0.0))
            last = rest[-b - 1 : -1]
            total += rest[-1] + sum(v * w for v, w in zip(narrow, last, strict=True))
        result.append(total / len(layers))
    return np.array(result)


@pytest.mark.parametrize("loops", [mm_pack_v1, compiled], ids=["plain", "compiled"])
def test_they_say_what_the_obvious_version_says(loops):
    rows = bent()
    stored = learn_networks(rows)
    sums = np.full(20, 3.0)
    loops.add_networks(rows[0][:20].astype(float), *mm_pack_v1.networks_of(*stored), sums)
    np.testing.assert_allclose(sums, 3.0 + said(stored, rows[0][:20]), rtol=1e-4, atol=1e-5)


def test_gradients_are_differences_of_the_deviance():
    rng = np.random.default_rng(1)
    networks = Networks.drawn(5, rng)
    z, base = rng.standard_normal((40, 5)).astype(np.float32), rng.normal(0.0, 0.5, 40).astype(np.float32)
    y, weight = rng.poisson(np.exp(base)).astype(np.float32), rng.uniform(0.5, 1.5, 40).astype(np.float32)

    def deviance() -> np.ndarray:
        """Of each network, up to what does not depend on weights."""
        first, start, second, middle, last, end = (part.astype(float) for part in networks.parts)
        each = np.maximum(z @ first + start, 0.0).reshape(40, mm_pack_v1.NETWORKS, -1).swapaxes(0, 1)
        e = base + ((np.maximum(each @ second + middle, 0.0) @ last) + end)[:, :, 0]
        return ((np.exp(e) - y * e) * weight).mean(1)

    found = networks.gradients(z, y, base, weight)
    for part, gradient in zip(networks.parts, found, strict=True):
        for at in rng.choice(part.size, min(5, part.size), replace=False):
            place = np.unravel_index(at, part.shape)
            kept = part[place]
            part[place] = kept + 1e-3
            above = deviance().sum()
            part[place] = kept - 1e-3
            below = deviance().sum()
            part[place] = kept
            np.testing.assert_allclose(gradient[place], (above - below) / 2e-3, rtol=0.02, atol=2e-4)


def test_they_find_what_bends():
    features, y, _, level, _ = bent(2000, seed=1)
    alone = np.exp(level)
    better = np.exp(level + said(learn_networks(bent(20_000)), features))
    truth = np.exp(level + 0.6 * np.sin(2.0 * features[:, 0]) * features[:, 1])
    assert np.abs(better - truth).sum() < 0.4 * np.abs(alone - truth).sum()
    assert np.abs(better - y).sum() < np.abs(alone - y).sum()


def test_rows_as_large_as_they_like_do_not_change_what_is_usual():
    features = bent()[0]
    odd = features.copy()
    odd[:10, 0] = 1e12  # a third of a per cent
    usual, other = usual_of(features), usual_of(odd)
    np.testing.assert_allclose(other[:, :3], usual[:, :3], rtol=0.05, atol=0.02)
    assert not usual[1, 3]  # what is not known never varies
    assert usual_of(np.full((10, 1), 5.0, np.float32))[1, 0] == 0.0


def test_units_of_sales_do_not_matter():
    features, y, offset, level, weight = bent()
    known = learn_networks((features, y, offset, level, weight))
    scaled = learn_networks((features, 1e-6 * y, offset, level + np.log(1e-6), weight))
    np.testing.assert_allclose(said(scaled, features[:50]), said(known, features[:50]), atol=0.02)


def test_one_row_moves_them_no_further_than_the_furthest():
    features, y, offset, level, weight = bent()
    z, spike = features[:, :3], y.copy()
    spike[7] = 1e9
    networks = Networks.drawn(3, np.random.default_rng(0))
    parts = [part.astype(np.float32) for part in (level, weight)]
    moved = [networks.gradients(z, one.astype(np.float32), *parts) for one in (y, spike)]
    far = max(np.abs(a - b).max() for a, b in zip(*moved, strict=True))
    assert far < 10.0 * networks_module.FURTHEST / len(z)
    assert learn_networks((features, spike, offset, level, weight))[0].shape == (2 + 128, 4)


@pytest.fixture(scope="module")
def shop() -> tuple[PooledModels, PackModel, object]:
    rng = np.random.default_rng(0)
    spec = Spec("D", 7, windows=2, known=("price",))
    price = np.where(np.arange(260) // 20 % 2 == 0, 2.0, 3.0)
    days = np.arange(260)
    histories = {
        f"s{i:02d}": rng.poisson(
            (20.0 + i) * (1 + 0.4 * np.sin(2 * np.pi * days / 7)) * np.where(price > 2, 0.5, 1)
        ).astype(float)
        for i in range(12)
    }
    rows = rows_of(histories, spec, price=price)
    learned = pool(rows, spec, AS_OF)
    return learned, train(rows, spec, AS_OF, pooled=learned).model, rows


def only_networks(model: PackModel) -> PackModel:
    weights = np.zeros_like(model.arrays["weights"])
    weights[:, PLACE] = 1.0
    return PackModel(model.index, {**model.arrays, "weights": weights, "factor": np.ones(len(model.series))})


def test_they_travel_in_packs(shop):
    learned, model, _ = shop
    assert learned.late.layers.shape == (mm_pack_v1.NETWORKS, mm_pack_v1.LAYERS)
    kept = PackModel.from_files(model.files())
    np.testing.assert_array_equal(kept.candidates(), model.candidates())
    again = PooledModels.from_files(learned.files())
    np.testing.assert_array_equal(again.late.inputs, learned.late.inputs)
    assert again.hash == learned.hash
    network, poisson = (model.candidates()[:, BUILT_IN.index(name)].mean(1) for name in ("network", "poisson"))
    np.testing.assert_allclose(network, poisson, rtol=0.25)


def test_one_alone_says_what_it_says_among_others(shop):
    _, model, _ = shop
    alone = model.select(["s03"])
    np.testing.assert_array_equal(alone.candidates()[0], model.candidates()[model.series.index("s03")])


def test_parts_add_up_and_a_price_is_told(shop):
    for one in ex.explanations(only_networks(shop[1])):
        np.testing.assert_allclose(one.parts.sum(1), one.y_hat, atol=1e-6)
        assert np.abs(one.of("day of week")).max() > 0.5
        assert np.isfinite(one.of("price")).all()


def test_along_the_way_of_a_straight_network_parts_are_its_slopes():
    usual = np.stack([np.zeros(3), np.ones(3)])
    first, between = np.zeros((3, 2)), np.array([[1.0], [0.0]])
    first[:, 0] = (1.0, -2.0, 0.0)
    ends = np.array([10.0, 0.0, 0.0, 0.5, 3.0])  # the first neuron is always on, and counts half
    added, base = mm_explain_v1.along_the_way(np.array([1.0, 2.0, 1e30]), usual, first, between, ends)
    np.testing.assert_allclose(added, [0.5, -2.0, 0.0])
    assert base == 8.0


@pytest.mark.parametrize("loops", [mm_pack_v1, compiled], ids=["plain", "compiled"])
def test_how_many_rows_are_asked_at_once_changes_no_more_than_rounding(loops):
    rows = bent()
    networks = mm_pack_v1.networks_of(*learn_networks(rows))
    whole = np.zeros(90)
    loops.add_networks(rows[0][:90].astype(float), *networks, whole)
    for n in (1, 2, 3, 5, 7, 8, 12, 13, 28, 31, 64):
        some = np.zeros(n)
        loops.add_networks(rows[0][:n].astype(float), *networks, some)
        np.testing.assert_allclose(some, whole[:n], rtol=1e-5, atol=1e-6)


def test_a_pack_and_pooled_models_from_before_give_them_no_weight(shop):
    learned, _, rows = shop
    files = learned.files()
    about = json.loads(files["pooled.json"])
    changed = array_files({"moments": learned.evidence.moments[:, :PLACE, :PLACE]})
    lost = ("_inputs.npy", "_layers.npy")
    about["sha256"] = {
        name: text for name, text in (about["sha256"] | sha256_of(changed)).items() if not name.endswith(lost)
    }
    kept = {name: data for name, data in files.items() if not name.endswith(lost)}
    old = PooledModels.from_files({**kept, **changed, "pooled.json": json.dumps(about).encode()})
    spec = learned.spec
    model = train(rows, spec, AS_OF, pooled=old).model
    assert not model.arrays["weights"][:, PLACE].any()
    medium = BUILT_IN.index("smoothing_medium")
    np.testing.assert_array_equal(model.candidates()[:, PLACE], model.candidates()[:, medium])
    arrays = {name: array for name, array in model.arrays.items() if name not in {"pool_inputs", "pool_layers"}}
    index = {**model.index, "candidates": list(BUILT_IN[:PLACE])}
    then = PackModel(index, {**arrays, "weights": np.array(model.arrays["weights"][:, :PLACE])})
    then = PackModel.from_files(then.files())
    assert then.predict(None).equals(model.predict(None))
    newer = shop[1].select(["s03"])
    both = PackModel.merge([then.select(["s01"]), newer])
    assert both.predict(None, series=["s01"]).equals(model.predict(None, series=["s01"]))
    assert both.predict(None, series=["s03"]).equals(newer.predict(None))


@pytest.mark.slow
def test_series_that_sell_seldom_do_without_them():
    rng = np.random.default_rng(4)
    histories = {f"s{i:02d}": rng.poisson(3.0, 300) * (rng.random(300) < 0.15) * 1.0 for i in range(20)}
    rows = rows_of(histories)
    learned = pool(rows, SPEC, AS_OF)
    assert (learned.evidence.moments[0, PLACE] == 10.0).all()
    assert (learned.evidence.moments[3, PLACE, PLACE]) < 10.0
    assert not train(rows, SPEC, AS_OF, pooled=learned).model.arrays["weights"][:, PLACE].any()


def test_what_is_stored_does_not_say_how_much_memory_an_older_pack_takes(shop):
    model = shop[1]
    arrays = {
        name: array for name, array in model.arrays.items() if not name.startswith(("pool_inputs", "pool_layers"))
    }
    arrays |= {"weights": arrays["weights"][:, :PLACE], "pool_beta": np.zeros((10**7, 0))}
    with pytest.raises(ValueError, match="pool_beta"):
        mm_pack_v1.own_arrays(arrays, {**model.index, "candidates": list(BUILT_IN[:PLACE])})


@pytest.mark.parametrize("name", ["pool_inputs", "pool_layers"])
def test_networks_of_another_size_are_refused(shop, name):
    model = shop[1]
    arrays = {**model.arrays, name: model.arrays[name][:, :-1]}
    with pytest.raises(ValueError, match=name):
        mm_pack_v1.own_arrays(arrays, dict(model.index))


@pytest.mark.slow
def test_odd_series_change_nothing_of_the_others():
    histories = {f"s{i:02d}": sales(300, 20.0 + i, seed=i) for i in range(14)}
    odd = {
        "constant": np.full(300, 7.0),
        "nothing": np.zeros(300),
        "huge": 1e12 * sales(300, 20.0, seed=40),
        "tiny": 1e-9 * sales(300, 20.0, seed=41),
        "one": np.r_[np.full(299, np.nan), 5.0],
        "shift": np.r_[sales(150, 20.0, seed=42), 1000.0 * sales(150, 20.0, seed=43)],
    }
    before = pool(rows_of(histories), SPEC, AS_OF)
    after = pool(rows_of({**histories, **odd}), SPEC, AS_OF)
    np.testing.assert_array_equal(after.late.inputs, before.late.inputs)
    np.testing.assert_array_equal(after.early.layers, before.early.layers)
