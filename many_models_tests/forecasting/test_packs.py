"""Packs: files, selection, merging, fresh observations, and the loader without our package."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from many_models.errors import InputError, IntegrityError
from many_models.forecasting import PackModel, pool, train
from many_models.forecasting.pack import mm_pack_v1 as loader
from many_models.forecasting.pack.array_files import array_files
from many_models_tests.forecasting.histories import AS_OF, ODD, SPEC, rows_of, sales

LONG = {f"s{i}": sales(400, 5.0 + 10 * i, seed=i) for i in range(4)}


@pytest.fixture(scope="module")
def rows():
    return rows_of(LONG)


@pytest.fixture(scope="module")
def model(rows):
    return train(rows, SPEC, AS_OF, pooled=pool(rows, SPEC, AS_OF)).model


def test_saved_and_loaded_it_forecasts_the_same(model):
    assert PackModel.from_files(model.files()).predict(None).equals(model.predict(None))


@pytest.mark.parametrize("name", ["state.npy", "index.json", "weights.npy"])
def test_a_damaged_or_missing_file_is_named(model, name):
    files = model.files()
    damaged = {**files, name: files[name][:-3] + b"xyz"}
    with pytest.raises(IntegrityError, match=name.replace(".", r"\.")):
        PackModel.from_files(damaged)
    del files[name]
    with pytest.raises(IntegrityError, match=name.replace(".", r"\.")):
        PackModel.from_files(files)


def test_selecting_and_merging_keep_every_forecast(model, rows):
    unpooled = train(rows.filter(pc.equal(rows["series_id"], "s3")), SPEC, AS_OF).model
    merged = PackModel.merge([model.select(["s2"]), unpooled, model.select(["s0"])])
    assert merged.series == ("s2", "s3", "s0")
    whole = model.predict(None)
    for name in ("s0", "s2"):
        assert merged.predict(None, series=[name]).equals(whole.filter(pc.equal(whole["series_id"], name)))
    assert merged.predict(None, series=["s3"]).equals(unpooled.predict(None))
    again = PackModel.merge([merged.select(["s3"]), merged.select(["s0", "s2"])])
    assert again.predict(None, series=["s2"]).equals(merged.predict(None, series=["s2"]))


def test_packs_that_overlap_or_differ_in_layout_do_not_merge(model, rows):
    with pytest.raises(InputError, match="several packs"):
        PackModel.merge([model, model])
    from dataclasses import replace

    other = train(rows, replace(SPEC, horizon=5), AS_OF).model
    with pytest.raises(InputError, match="horizon"):
        PackModel.merge([model, other])


def test_fresh_observations_move_the_forecast_without_a_refit(model):
    fresh = {name: np.r_[y, sales(10, 5.0 + 10 * int(name[1]), seed=99)] for name, y in LONG.items()}
    later = AS_OF + timedelta(days=10)
    forecast = model.predict(rows_of(fresh, last=later), later)
    assert forecast["ds"].to_pylist()[0] == later + timedelta(days=1)
    assert not np.allclose(forecast["y_hat"].to_numpy(), model.predict(None)["y_hat"].to_numpy())


def test_rolling_a_state_forward_equals_having_learned_it_in_training(rows):
    """The state after training at a cutoff and ten fresh days is the state of a training ten days later."""
    early = AS_OF - timedelta(days=10)
    a, b = (train(rows, SPEC, cutoff).model for cutoff in (early, AS_OF))
    from many_models.forecasting.kernels import pack as compiled
    from many_models.forecasting.pack.model import _by_series, _past

    pack = loader.Pack(a.index, a.arrays, compiled)
    blocks = _by_series(rows, a.series, pack)
    for i, name in enumerate(a.series):
        end = int(b.arrays["cutoff"][i])
        _, fresh, _ = pack.aligned(i, end, 1, {}, _past(blocks[name]))
        state, _, tail, codes = pack.roll(i, *fresh)
        own, unit = b.arrays["state"][i], a.arrays["own"][i][loader.UNIT] / b.arrays["own"][i][loader.UNIT]
        m = 7
        assert state[4 + m : 8 + m] == pytest.approx(own[4 + m : 8 + m])  # log levels know no unit
        assert state[0:4] * unit == pytest.approx(own[0:4])
        assert (tail == b.arrays["tail_y"][i]).all()
        assert (codes == b.arrays["tail_code"][i]).all()


def test_rows_that_models_have_seen_do_not_move_their_forecasts(model, rows):
    earlier = train(rows.filter(pc.equal(rows["series_id"], "s3")), SPEC, AS_OF - timedelta(days=20)).model
    merged = PackModel.merge([model.select(["s0", "s1"]), earlier])
    assert merged.trained_until(["s0", "s1"]) == AS_OF
    assert merged.trained_until(["s0", "s3"]) == AS_OF - timedelta(days=20)
    newer = rows.filter(pc.greater(rows["ds"], merged.trained_until(["s0", "s3"])))
    assert 0 < newer.num_rows < rows.num_rows
    both = ["s0", "s3"]
    assert merged.predict(newer, AS_OF, series=both).equals(merged.predict(rows, AS_OF, series=both))
    nothing = rows.slice(0, 0).select(["series_id"])
    assert merged.predict(nothing, AS_OF, series=["s1"]).equals(merged.predict(rows, AS_OF, series=["s1"]))


def test_a_cutoff_before_training_and_an_unknown_series_are_refused(model, rows):
    with pytest.raises(InputError, match="before its training cutoff"):
        model.predict(rows, AS_OF - timedelta(days=1))
    with pytest.raises(InputError, match="nobody"):
        model.predict(None, series=["nobody"])


def test_bounds_are_ordered_and_wider_ones_hold_narrower_ones():
    forecast = train(rows_of(ODD), SPEC, AS_OF).model.predict(None).to_pandas()
    for low, high in (("lo95", "lo80"), ("lo80", "y_hat"), ("y_hat", "hi80"), ("hi80", "hi95")):
        assert (forecast[low] <= forecast[high]).all()
    assert np.isfinite(forecast[["lo95", "hi95"]].to_numpy()).all()
    assert (forecast["lo95"] >= 0).all()


@pytest.mark.slow
def test_the_loader_works_where_our_package_is_not(model, tmp_path):
    for name, content in model.files().items():
        (tmp_path / name).write_bytes(content)
    frame = model.predict(None).to_pandas()
    frame[["series_id", "ds"]].to_pickle(tmp_path / "frame.pkl")
    code = (
        "import sys, pandas, json; sys.path = [p for p in sys.path if p]; import mm_pack_v1\n"
        f"pack = mm_pack_v1._load_pyfunc({str(tmp_path)!r})\n"
        f"out = pack.predict(pandas.read_pickle({str(tmp_path / 'frame.pkl')!r}))\n"
        "assert not {'numba', 'many_models', 'lightgbm', 'sklearn'} & set(sys.modules)\n"
        "print(json.dumps({'y': out['y_hat'].tolist(), 'columns': list(out.columns)}))"
    )
    env = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["y"] == pytest.approx(frame["y_hat"].tolist())
    assert answer["columns"] == list(frame.columns)


@pytest.fixture(scope="module")
def with_known():
    """A model with a number and a word as known covariates, its rows, and what is known of the week after."""
    rng = np.random.default_rng(5)
    known = {"price": rng.normal(2.0, 0.1, 400), "promo": np.array(["none", "half"])[rng.integers(2, size=400)]}
    spec = replace(SPEC, known=("price", "promo"))
    rows = rows_of(LONG, spec, **known)
    days = pa.array([AS_OF + timedelta(days=step + 1) for _ in LONG for step in range(7)], pa.timestamp("us"))
    future = pa.table(
        {
            "series_id": [name for name in LONG for _ in range(7)],
            "ds": days,
            "price": pa.array([None, 2.1, 2.0, None, 1.9, 2.0, None] * len(LONG), pa.float64()),
            "promo": ["half", None, "none", "half", "half", None, "none"] * len(LONG),
        }
    )
    return train(rows, spec, AS_OF).model, rows, future


def test_tables_and_mlflow_see_the_same_known_covariates(with_known):
    model, _, future = with_known
    expected = model.predict(None, future=future).to_pandas()
    pack = loader.read(model.files())
    found = pack.predict(future.to_pandas())
    assert found["y_hat"].to_numpy() == pytest.approx(expected["y_hat"].to_numpy())
    assert found["known_repeated"].tolist() == expected["known_repeated"].tolist()
    assert 0 < sum(found["known_repeated"]) < len(found)


def test_covariates_of_other_periods_say_nothing_of_the_horizon(with_known):
    """Rows beyond the horizon alone are as good as no table: what is not given is taken as usual and flagged."""
    model, rows, future = with_known
    beyond = future.set_column(1, "ds", pc.add(future["ds"], pa.scalar(timedelta(days=30))))
    assert model.predict(None, future=beyond).equals(model.predict(None))
    assert all(model.predict(None, future=beyond)["known_repeated"].to_pylist())
    last = rows.filter(pc.equal(rows["ds"], pa.scalar(AS_OF, pa.timestamp("us"))))
    assert model.predict(last, AS_OF, future=beyond).equals(model.predict(None))


def test_an_array_file_holds_plain_numbers_and_nothing_else(tmp_path):
    """What is not a plain array of the size that its header says is refused, whatever numpy would make of it."""
    good = array_files({"a": np.arange(6.0).reshape(2, 3)})["a.npy"]
    assert (loader.array_of(good, "a.npy") == np.arange(6.0).reshape(2, 3)).all()
    assert loader.array_of(array_files({"a": np.zeros((0, 4), np.int8)})["a.npy"], "a.npy").shape == (0, 4)
    odd = {"objects": np.array([{}]), "words": np.array(["a"]), "columns": np.asfortranarray(np.ones((2, 3)))}
    for name, array in {**odd, "big_endian": np.ones(3, ">f8")}.items():
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(ValueError, match=f"{name}.npy is not a plain array"):
            loader.array_of((tmp_path / f"{name}.npy").read_bytes(), f"{name}.npy")
    for content in (b"", good[:5], good[:40], b"\x93NUMPY\x02" + good[7:], good.replace(b"descr", b"descr("), good * 2):
        with pytest.raises(ValueError, match=r"^a\.npy (is|has) "):
            loader.array_of(content, "a.npy")


def test_a_pack_from_before_there_were_attributes_is_read(model):
    files = model.select(["s0"]).files()
    del files["static.npy"]
    index = json.loads(files["index.json"])
    del index["sha256"]["static.npy"]
    files["index.json"] = json.dumps(index).encode()
    old = PackModel.from_files(files)
    assert old.predict(None)["y_hat"].to_numpy() == pytest.approx(
        model.predict(None, series=["s0"])["y_hat"].to_numpy()
    )


def test_trees_as_arrays_sum_to_what_the_booster_says():
    import lightgbm

    from many_models.forecasting.trees import tree_arrays

    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 4))  # noqa: N806
    booster = lightgbm.train(
        {"num_leaves": 7, "verbosity": -1, "num_threads": 1}, lightgbm.Dataset(X, X[:, 0] * X[:, 1]), 12
    )
    trees = tree_arrays(booster.dump_model())
    mine = np.zeros(50)
    loader.add_trees(X[:50], *trees, mine)
    assert mine.tolist() == pytest.approx(booster.predict(X[:50]).tolist())
