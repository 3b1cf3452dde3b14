"""Packs whose hashes are right and whose content is not: every reader names what is wrong before it computes."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from many_models.data.pack_file import in_memory, joined, parted
from many_models.data.release_index import PackId
from many_models.errors import IntegrityError
from many_models.forecasting import PackModel, Spec, pool, pooling, prepare, train, trees
from many_models.forecasting.pack import mm_pack_v1 as loader
from many_models.serving.loaded_pack import LoadedPack
from many_models_tests.forecasting.histories import AS_OF, SPEC, rows_of, sales


@pytest.fixture(scope="module")
def model() -> PackModel:
    """Four series with trees."""
    rows = rows_of({f"s{i}": sales(400, 5.0 + 10 * i, seed=i) for i in range(4)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pooling, "LEAST_TREE_ROWS", 100)
        patch.setattr(trees, "FIT_ROUNDS", 20)
        patch.setattr(trees, "LEVEL_ROUNDS", 20)
        learned = pool(rows, SPEC, AS_OF)
    trained = train(rows, SPEC, AS_OF, pooled=learned).model
    assert len(trained.arrays["root"]) > 2
    return trained


def inner(model: PackModel) -> int:
    """A node in the middle that has children."""
    nodes = np.flatnonzero(np.asarray(model.arrays["feature"], int) >= 0)
    return int(nodes[len(nodes) // 2])


def changed(model: PackModel, name: str, place: object, value: object) -> PackModel:
    """The pack with another number at `place` of an array; stored, its hashes are right."""
    array = np.array(model.arrays[name])
    array[place] = value  # type: ignore[call-overload]
    return PackModel(model.index, {**model.arrays, name: array})


def load_to_serve(files: dict[str, bytes]) -> LoadedPack:
    block = in_memory(joined(files))
    return LoadedPack(PackId("pack/1", "0" * 64), block, parted(memoryview(block)))


def require_refused(model: PackModel, match: str) -> None:
    files = model.files()
    for read in (lambda: PackModel.from_files(files, "pack/1"), lambda: load_to_serve(files)):
        with pytest.raises(IntegrityError, match=match) as error:
            read()
        assert "pack/1" in str(error.value)


def test_a_sound_pack_is_read_and_served(model: PackModel) -> None:
    assert PackModel.from_files(model.files()).series == model.series
    assert load_to_serve(model.files()).series == model.series


@pytest.mark.parametrize("name", ["left", "right"])
@pytest.mark.parametrize("where", ["itself", "its parent", "before all", "after all", "the next tree"])
def test_a_tree_that_runs_in_a_circle_or_outside_is_refused(model: PackModel, name: str, where: str) -> None:
    node, roots = inner(model), np.asarray(model.arrays["root"], int)
    target = {"itself": node, "its parent": node - 1, "before all": -7, "after all": 2**30,
              "the next tree": int(roots[roots > node][0])}[where]  # fmt: skip
    require_refused(changed(model, name, node, target), rf"{name}\.npy: a child")


def test_a_feature_that_the_trees_do_not_see_is_refused(model: PackModel) -> None:
    width = model.arrays["pool_beta"].shape[1] + loader.EXTRA + loader.BESIDE
    width += 2 * int(model.arrays["conf"][loader.COVARIATES]) + loader.COURSE
    assert np.asarray(model.arrays["feature"]).max() < width
    require_refused(changed(model, "feature", inner(model), width), r"feature\.npy")


@pytest.mark.parametrize("root", [1, -1, 2**30])
def test_a_root_that_is_elsewhere_is_refused(model: PackModel, root: int) -> None:
    require_refused(changed(model, "root", 0, root), r"root\.npy")


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        ("pool", 0, 5), ("pool", 0, -1), ("tail_code", (0, 0), 9), ("cutoff", 0, 10**12), ("cutoff", 0, 5 * 10**6),
        ("root_count", 0, 10**6), ("tree_count", 0, -3), ("holiday_slots", 0, 1000),
        ("conf", loader.YEAR, 0), ("conf", loader.YEAR, np.nan), ("conf", loader.SEASON, 0),
        ("conf", loader.SEASON, 1e9), ("conf", loader.SEASON, 6), ("conf", loader.TAIL, 10_000),
        ("conf", loader.CALENDAR, 40), ("conf", loader.COVARIATES, 30), ("conf", loader.SLOTS, 500),
        ("conf", loader.HALF, 300), ("conf", loader.HORIZON, 6), ("conf", loader.WINDOW, 0.5), ("conf", 0, 0.0),
    ],
)  # fmt: skip
def test_a_place_or_size_beyond_its_bounds_is_refused(model: PackModel, name: str, place: object, value: float) -> None:
    require_refused(changed(model, name, place, value), name.replace("_", "_") + r"|calendar|shape|tree_count")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*loader.PER_SERIES, *loader.SHARED, *loader.PER_POOL, *loader.TREES])
@pytest.mark.parametrize("how", ["one row fewer", "one more axis", "texts"])
def test_an_array_of_another_shape_or_kind_is_refused(model: PackModel, name: str, how: str) -> None:
    array = np.asarray(model.arrays[name])
    wrong = {"one row fewer": array[:-1], "one more axis": array[..., None], "texts": array.astype("S3")}[how]
    require_refused(PackModel(model.index, {**model.arrays, name: wrong}), f"{name}|npy")


@pytest.mark.parametrize("name", ["state", "coef", "smear", "own", "weights", "binary", "quantiles", "pool_shape"])
@pytest.mark.parametrize("by", [-1, 1])
def test_an_array_of_another_width_is_refused(model: PackModel, name: str, by: int) -> None:
    array = np.asarray(model.arrays[name])
    wrong = array[..., :-1] if by < 0 else np.concatenate([array, array[..., :1]], -1)
    require_refused(PackModel(model.index, {**model.arrays, name: wrong}), rf"{name}\.npy")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("series", "s0"), ("series", ["s0", "s0", "s2", "s3"]), ("series", [1, 2, 3, 4]), ("series", ["s0"]),
        ("horizon", "seven"), ("horizon", 0), ("horizon", 10**9), ("horizon", True), ("horizon", None),
        ("frequency", 7), ("frequency", "fortnight"), ("frequency", "W-NEVER"), ("frequency", None),
        ("levels", [80]), ("levels", "80"), ("levels", [80, -5]), ("levels", [[80], 95]), ("levels", None),
        ("known", ["price"]), ("known", [["price"]]), ("levels_of", [10**9]), ("levels_of", [-1]), ("levels_of", 3),
        ("fallback", []), ("fallback", [1, 2, 3, 4]), ("fallback", {"s0": ""}),
        ("candidates", []), ("candidates", ["mean"]), ("candidates", None), ("pools", []), ("pools", 1),
        ("slots", []), ("slots", {"s0": {"price": {"a": 99}}}), ("slots", {"s0": ["price"]}),
        ("fitted", {"nobody": {}}), ("fitted", {"s0": {"mean": ["x.skops", 1.0]}}), ("fitted", ["s0"]),
    ],
)  # fmt: skip
def test_an_odd_index_is_refused(model: PackModel, name: str, value: object) -> None:
    require_refused(PackModel({**model.index, name: value}, model.arrays), name + r"|shape|covariate|fallback")


@pytest.mark.parametrize("name", ["series", "horizon", "frequency", "levels", "known", "slots", "candidates", "pools"])
def test_an_index_without_a_name_is_refused(model: PackModel, name: str) -> None:
    files = model.files()
    index = {key: value for key, value in json.loads(files["index.json"]).items() if key != name}
    files["index.json"] = json.dumps(index).encode()
    for read in (lambda: PackModel.from_files(files), lambda: load_to_serve(files)):
        with pytest.raises(IntegrityError, match=name):
            read()


@pytest.mark.slow
@pytest.mark.parametrize("frequency", ["h", "D", "B", "W-SUN", "W-MON", "MS", "ME", "QS", "YS"])
@pytest.mark.parametrize("country", ["", "DE"])
def test_what_training_stores_is_sound_at_every_frequency(frequency: str, country: str) -> None:
    spec = Spec(frequency, 3, windows=1, country=country)
    number = loader.step_number(np.array(["2024-01-01"], "datetime64[us]"), frequency)[0]
    days = loader.stamps(np.arange(number - 120, number), frequency)
    rows = pa.table({"series_id": ["a"] * 120, "ds": pa.array(days, pa.timestamp("us")), "y": np.arange(120) % 9 + 1.0})
    prepared = prepare(rows, spec, days[-1].item())
    assert PackModel.from_files(train(prepared.rows, spec, days[-1].item()).model.files()).series == ("a",)
