"""Users' scikit-learn regressors in packs: as skops files of trusted types, predicting wherever they are loaded."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import pickle
import subprocess
import sys
import zipfile
from datetime import timedelta

import numpy as np
import pyarrow.compute as pc
import pytest

from many_models.errors import IntegrityError
from many_models.forecasting import PackModel, Spec, train
from many_models.forecasting.pack import mm_pack_v1 as loader
from many_models.forecasting.pack.mm_sklearn_v1 import REGRESSORS, check, load
from many_models.forecasting.spec import Custom
from many_models_tests.contracts.registry import Spy
from many_models_tests.forecasting import histories
from many_models_tests.forecasting.histories import AS_OF, rows_of, sales

LONG = {f"s{i}": sales(230, 10.0 + 40 * i, seed=i) for i in range(3)}
KNOWN = {f"s{i}": y[:200] for i, y in enumerate(LONG.values())}
RIDGE = Custom("ridge", "sklearn.linear_model:Ridge", '{"alpha": 3.0}', 120.0)
TREES = Custom("trees_of_mine", "sklearn.ensemble:ExtraTreesRegressor", '{"n_estimators": 3, "max_depth": 4}', 120.0)
SPEC = Spec("D", 7, windows=2, candidates=("ridge", "trees_of_mine"), custom=(RIDGE, TREES))


@pytest.fixture(scope="module")
def model() -> PackModel:
    return train(rows_of(KNOWN, SPEC), SPEC, AS_OF).model


def with_file(model: PackModel, content: bytes) -> dict[str, bytes]:
    """The pack's files with another regressor in the place of that of s1, hashed as whoever plants it would."""
    file = model.fitted["s1"]["ridge"][0]
    files = {**model.files(), file: content}
    index = json.loads(files["index.json"])
    index["sha256"][file] = hashlib.sha256(content).hexdigest()
    return {**files, "index.json": json.dumps(index).encode()}


def changed(data: bytes, change) -> bytes:
    """A skops file whose schema `change` has changed."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    schema = json.loads(parts["schema.json"])
    change(schema)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, part in {**parts, "schema.json": json.dumps(schema).encode()}.items():
            archive.writestr(name, part)
    return buffer.getvalue()


# --- what travels ---
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(REGRESSORS))
def test_each_regressor_of_the_list_comes_back_and_predicts_the_same(name):
    from sklearn.linear_model import Lasso, Ridge
    from sklearn.preprocessing import StandardScaler

    from many_models.forecasting.pack.skops_writer import packed

    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 4)).astype(np.float32)
    y = np.abs(x[:, 0] * 2 + x[:, 1] + 5)
    module, _, attribute = name.rpartition(".")
    made = getattr(importlib.import_module(module), attribute)
    options = {
        "VotingRegressor": {"estimators": [("a", Ridge()), ("b", Lasso())]},
        "TransformedTargetRegressor": {"regressor": Ridge(), "transformer": StandardScaler()},
        "Pipeline": {"steps": [("scale", StandardScaler()), ("fit", Ridge())]},
        "RandomForestRegressor": {"n_estimators": 5},
        "ExtraTreesRegressor": {"n_estimators": 5},
        "GradientBoostingRegressor": {"n_estimators": 10},
    }

    def fit():
        regressor = made(**options.get(attribute, {}))
        if "random_state" in regressor.get_params():
            regressor.set_params(random_state=7)
        return regressor.fit(x, y)

    fitted = fit()
    data = packed(fitted)
    check(data)
    again = load(data)
    assert type(again) is type(fitted)
    assert np.array_equal(again.predict(x), fitted.predict(x))
    assert packed(fit()) == data


@pytest.mark.slow
def test_what_was_fitted_forecasts_what_it_said_at_training(model):
    assert set(model.fitted) == set(LONG)
    assert {name for own in model.fitted.values() for name in own} == {"ridge", "trees_of_mine"}
    without = PackModel({name: value for name, value in model.index.items() if name != "fitted"}, model.arrays)
    assert model.predict(None)["y_hat"].to_pylist() == pytest.approx(without.predict(None)["y_hat"].to_pylist())


def test_after_fresh_observations_it_sees_what_training_would_have_shown_it(model):
    """The oracle: the rows of features that training makes, made of the history up to the later cutoff."""
    from many_models.forecasting.custom.parent import regressor_rows
    from many_models.forecasting.kernels import pack as compiled
    from many_models.forecasting.pack.model import _by_series, _past
    from many_models.forecasting.panel import build, layout_of

    days = 30
    later = AS_OF + timedelta(days=days)
    rows = rows_of(LONG, SPEC, later)
    layout = layout_of(SPEC, rows)
    end = int(loader.step_number(np.array([later], "datetime64[us]"), "D")[0])
    panel = build(rows, layout, later, end - days - 14, ahead=7)
    last = panel.periods - 1
    pack = loader.Pack(model.index, model.arrays, compiled, model.blobs)
    blocks = _by_series(rows, model.series, pack)
    for i, name in enumerate(model.series):
        shown, unit = regressor_rows(panel, layout, SPEC, i, np.array([last - days - 14, last]))
        assert unit == model.fitted[name]["ridge"][1]
        _, fresh, _ = pack.aligned(i, end, 1, {}, _past(blocks[name]))
        state, own, tail, codes = pack.roll(i, *fresh)
        _, calendar, hol, ph = pack.calendar(end, 7)
        y, code = np.r_[tail, np.zeros(7)], np.r_[codes, np.zeros(7, np.int8)]
        seen = pack.regressor_rows(unit, 7, state, own, y, code, len(tail) - 1, ph, hol, calendar, np.zeros((7, 1)))
        assert seen == pytest.approx(shown.ahead[-1], rel=1e-5, abs=1e-5)
        said = load(model.blobs[model.fitted[name]["ridge"][0]]).predict(shown.ahead[-1]) * unit
        candidates, _ = pack.candidates(i, 7, np.zeros((7, 0)), fresh)
        assert candidates[-2] == pytest.approx(np.clip(said, own[loader.LOW], own[loader.HIGH]), rel=1e-5)
    old = model.predict(None)["y_hat"].to_numpy()
    assert not np.allclose(model.predict(rows, later)["y_hat"].to_numpy(), old)


def test_beyond_its_horizon_the_medium_smoothing_stands_in(model):
    pack = loader.Pack(model.index, model.arrays, None, model.blobs)
    found, _ = pack.candidates(0, 12, np.zeros((12, 0)))
    assert (found[-2, 7:] == found[loader.FALLBACK_CANDIDATE, 7:]).all()
    assert not np.allclose(found[-2, :7], found[loader.FALLBACK_CANDIDATE, :7])


def test_selecting_and_merging_take_along_what_is_needed_and_no_more(model):
    without = train(rows_of({"other": sales(200, 30.0, seed=9)}), histories.SPEC, AS_OF).model
    merged = PackModel.from_files(PackModel.merge([model.select(["s2"]), without, model.select(["s0"])]).files())
    assert set(merged.fitted) == {"s0", "s2"}
    assert set(merged.blobs) == {file for own in merged.fitted.values() for file, _ in own.values()}
    whole = model.predict(None)
    for name in ("s0", "s2"):
        assert merged.predict(None, series=[name]).equals(whole.filter(pc.equal(whole["series_id"], name)))
    assert "mm_sklearn_v1.py" not in merged.select(["other"]).files()


def test_a_regressor_of_an_untrusted_type_travels_as_its_forecast():
    custom = Custom("own", "many_models_tests.forecasting.mine:OwnRidge", '{"alpha": 3.0}', 120.0)
    spec = Spec("D", 7, windows=2, candidates=("own",), custom=(custom,))
    made = train(rows_of({"s0": KNOWN["s0"]}, spec), spec, AS_OF).model
    assert made.arrays["weights"][0, -1] > 0.5
    assert not made.fitted
    assert set(made.files()) & {"mm_sklearn_v1.py"} == set()
    assert np.isfinite(made.arrays["path"]).all()


@pytest.mark.slow
def test_a_client_with_scikit_learn_and_skops_loads_it_without_our_package(model, tmp_path):
    for name, content in model.files().items():
        (tmp_path / name).write_bytes(content)
    frame = model.predict(None).to_pandas()
    frame[["series_id", "ds"]].to_pickle(tmp_path / "frame.pkl")
    code = (
        "import sys, pandas, json; sys.path = [p for p in sys.path if p]; sys.modules['many_models'] = None\n"
        "import mm_pack_v1\n"
        f"pack = mm_pack_v1._load_pyfunc({str(tmp_path)!r})\n"
        "assert not {'sklearn', 'skops', 'pickle5', 'joblib'} & set(sys.modules)\n"
        f"print(json.dumps(pack.predict(pandas.read_pickle({str(tmp_path / 'frame.pkl')!r}))['y_hat'].tolist()))"
    )
    env = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == pytest.approx(frame["y_hat"].tolist())


# --- what does not ---
def with_function(schema):
    schema["content"]["content"]["planted"] = {
        "__class__": "system", "__module__": "os", "__loader__": "FunctionNode", "__id__": 999, "content": {}
    }  # fmt: skip


def with_class(schema):
    schema["__module__"], schema["__class__"] = "subprocess", "Popen"


def with_trusted_name_in_an_odd_node(schema):
    schema["__loader__"] = "MethodNode"


def with_an_old_protocol(schema):
    schema["protocol"] = 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (with_function, "os.system"),
        (with_class, "subprocess.Popen"),
        (with_trusted_name_in_an_odd_node, "MethodNode"),
        (with_an_old_protocol, "protocol 0"),
    ],
)
def test_a_planted_type_is_refused_by_pack_series_and_type(model, change, says):
    data = changed(model.blobs[model.fitted["s1"]["ridge"][0]], change)
    with pytest.raises(IntegrityError) as raised:
        PackModel.from_files(with_file(model, data), "pack shop/7")
    for part in ("pack shop/7", "'s1'", "ridge", says):
        assert part in str(raised.value)


def test_a_planted_pickle_is_refused_and_never_loaded(model, tmp_path):
    mark = tmp_path / "mark"
    data = pickle.dumps(Spy(str(mark)))
    with pytest.raises(IntegrityError, match=r"pack shop/7.*'s1'.*no skops file"):
        PackModel.from_files(with_file(model, data), "pack shop/7")
    inside = changed(model.blobs[model.fitted["s1"]["ridge"][0]], lambda schema: None)
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(inside)) as archive:
        arrays = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, part in arrays.items():
            archive.writestr(name, data if name.endswith(".npy") else part)
    planted = PackModel.from_files(with_file(model, buffer.getvalue()), "pack shop/7")
    with pytest.raises(IntegrityError, match="'s1'"):
        planted.predict(None, series=["s1"])
    assert planted.predict(None, series=["s0"]).equals(model.predict(None, series=["s0"]))
    assert not mark.exists()


def test_in_scoring_a_regressor_that_does_not_forecast_fails_its_series_alone(model, tmp_path):
    from many_models.adapters.lake.memory import MemoryLake
    from many_models.data.pack_file import joined
    from many_models.ports import Chunk
    from many_models.tasks import ScoreTask

    def without_coefficients(schema):
        del schema["content"]["content"]["coef_"]

    data = changed(model.blobs[model.fitted["s1"]["ridge"][0]], without_coefficients)
    (tmp_path / "shop.pack").write_bytes(joined(with_file(model, data)))
    models = dict.fromkeys(model.series, ("shop/7", str(tmp_path / "shop.pack")))
    result = ScoreTask(MemoryLake(), SPEC, AS_OF, ("series",), models)(Chunk(0, "shop", model.series))
    (failure,) = result.failures
    assert failure.series_id == "s1"
    assert failure.permanent
    assert "pack shop/7" in failure.reason
    assert "ridge" in failure.reason
    assert set(result.tables["predictions"]["series_id"].to_pylist()) == {"s0", "s2"}


@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_a_file_that_is_missing_or_damaged_is_named(model, how):
    files = model.files()
    file = model.fitted["s1"]["ridge"][0]
    if how == "missing":
        del files[file]
    else:
        files[file] = files[file][:-3] + b"xyz"
    with pytest.raises(IntegrityError, match=rf"{file}.*'s1'"):
        PackModel.from_files(files)


# --- structure ---
def planted_nodes(data: bytes, change, fields: set[str]) -> bytes:
    """A skops file with `change` made to every array of nodes that has `fields`."""
    buffer, changes = io.BytesIO(), 0
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(buffer, "w") as out:
        for name in archive.namelist():
            part = archive.read(name)
            if name.endswith(".npy"):
                array = np.load(io.BytesIO(part))
                if fields <= set(array.dtype.names or ()):
                    change(array)
                    held = io.BytesIO()
                    np.save(held, array)
                    part, changes = held.getvalue(), changes + 1
            out.writestr(name, part)
    assert changes
    return buffer.getvalue()


def set_root(field: str, value: int):
    def change(nodes: np.ndarray) -> None:
        nodes[field][0] = value

    return change


def fitted(kind: str):
    from sklearn.ensemble import GradientBoostingRegressor, HistGradientBoostingRegressor, RandomForestRegressor
    from sklearn.tree import DecisionTreeRegressor

    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 4)).astype(np.float32)
    made = {
        "tree": DecisionTreeRegressor(max_depth=3, random_state=0),
        "forest": RandomForestRegressor(n_estimators=2, max_depth=3, random_state=0),
        "boosted": GradientBoostingRegressor(n_estimators=2, random_state=0),
        "histogram": HistGradientBoostingRegressor(max_iter=2, min_samples_leaf=5, random_state=0),
    }[kind]
    return made.fit(x, np.abs(x[:, 0] * 2 + x[:, 1] + 5))


FIELDS = {"histogram": ("left", "right", "feature_idx")}
OTHERS = ("left_child", "right_child", "feature")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tree", "forest", "boosted", "histogram"])
@pytest.mark.parametrize(("field", "value"), [(0, 0), (1, 0), (0, 30_000), (1, 30_000), (2, 4), (2, 9_000)])
def test_a_tree_in_a_circle_or_outside_of_itself_is_refused_before_it_predicts(kind, field, value):
    """Predicting with it would never end, or read memory that is not the model's."""
    from many_models.forecasting.pack.skops_writer import packed

    fields = FIELDS.get(kind, OTHERS)
    data = planted_nodes(packed(fitted(kind)), set_root(fields[field], value), set(fields))
    check(data)  # its types are all trusted
    with pytest.raises(ValueError, match="cannot be used: a tree"):
        load(data)


def test_trees_of_another_width_than_their_model_are_refused():
    from many_models.forecasting.pack.skops_writer import packed

    forest = fitted("forest")
    forest.estimators_[1] = forest.estimators_[1].fit(np.arange(60.0).reshape(12, 5), np.arange(12.0))
    with pytest.raises(ValueError, match=r"estimators of .* features in a model of 4"):
        load(packed(forest))


def test_support_vectors_that_do_not_fit_one_another_are_refused():
    from sklearn.svm import SVR

    from many_models.forecasting.pack.skops_writer import packed

    x = np.random.default_rng(0).normal(size=(40, 3))
    made = SVR().fit(x, x[:, 0] + 5)
    load(packed(made))
    made._dual_coef_ = made._dual_coef_[:, :3]
    with pytest.raises(ValueError, match="cannot be used: support vectors"):
        load(packed(made))


def test_promotion_refuses_a_pack_whose_regressor_runs_in_a_circle(model, tmp_path):
    """Its series is named, the other pack is drafted as it would be without."""
    from many_models.adapters.registry.memory import MemoryProduction, MemoryStaging
    from many_models.data.spooled_files import Spool
    from many_models.ports import PackUpload
    from many_models.promotion.drafting import Change, Drafting
    from many_models.settings import Settings

    file = model.fitted["s1"]["trees_of_mine"][0]
    circle = planted_nodes(model.blobs[file], set_root("left_child", 0), set(OTHERS))
    planted = PackModel(model.index, model.arrays, {**model.blobs, file: circle})
    assert PackModel.from_files(planted.files()).series == model.series  # its hashes and its types are right

    def draft(**packs):
        staging = MemoryStaging()
        uploads = [PackUpload(pack, {**stored.files()}, stored.series) for pack, stored in packs.items()]
        refs = {name: version.ref for version in staging.register("batch", uploads) for name in version.series}
        rows = {
            name: {"series_id": name, "staging": ref, "recipe": "r", "cutoff": AS_OF, "fallback": ""}
            for name, ref in refs.items()
        }
        settings = Settings.model_validate({"data": {"keys": ["store", "item"]}})
        change = Change.of(rows, {*rows}, [], None, None)
        return Drafting(settings, staging, MemoryProduction(), None, change, Spool(tmp_path)).draft(rows, "tester")

    def of(store: str, pack: PackModel) -> PackModel:
        fitted = {f"{store}__{name}": own for name, own in pack.fitted.items()}
        return PackModel(
            {**pack.index, "series": [f"{store}__{name}" for name in pack.series], "fitted": fitted},
            pack.arrays, pack.blobs,
        )  # fmt: skip

    alone, none = draft(b=of("b", model))
    assert not none
    both, failed = draft(a=of("a", planted), b=of("b", model))
    assert both.packs == alone.packs
    assert {one.series_id for one in failed} == {f"a__{name}" for name in model.series}
    for part in ("a/1", "'a__s1'", "trees_of_mine", "cannot be used: a tree", "train"):
        assert all(part in one.reason for one in failed), failed[0].reason
    assert all(one.permanent for one in failed)
