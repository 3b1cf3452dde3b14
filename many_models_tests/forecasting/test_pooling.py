"""What series learn together: in groups, from attributes, from the user's own holidays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from many_models.errors import InputError, SettingsError
from many_models.forecasting import PackModel, PooledModels, Spec, pool, prepare, train
from many_models.forecasting.attributes import UNKNOWN, learn_attributes
from many_models.forecasting.pooling import sample_of
from many_models.forecasting.spec import BUILT_IN
from many_models_tests.forecasting.histories import AS_OF, SPEC, rows_of, sales, stamps, table

BY_ITEM = Spec("D", 7, windows=2, pool_by=(1,))
TREES = BUILT_IN.index("trees")
MANY = {f"s{i}__{item}": sales(430, 10.0 + 4 * i, seed=i + 10 * (item == "b")) for i in range(6) for item in ("a", "b")}
FEW = {"s0__c": sales(100, seed=9)}


@pytest.fixture(scope="module")
def rows():
    return rows_of(MANY | FEW, BY_ITEM)


@pytest.fixture(scope="module")
def by_item(rows):
    return pool(rows, BY_ITEM, AS_OF)


@pytest.mark.slow
def test_each_group_learns_by_itself_where_it_has_enough(by_item):
    assert sorted(by_item.groups) == ["a", "b"]
    late = [by_item.late, *(pair[1] for pair in by_item.groups.values())]
    assert len({one.beta.tobytes() for one in late}) == len({one.trees[5].tobytes() for one in late}) == 3


@pytest.mark.slow
def test_a_group_is_judged_by_nothing_of_the_others(rows, by_item):
    other = pc.ends_with(rows["series_id"], "__b")
    changed = rows.set_column(2, "y", pc.if_else(other, pc.multiply(rows["y"], 3.0), rows["y"]))
    one, two = by_item.groups["a"], pool(changed, BY_ITEM, AS_OF).groups["a"]
    assert all(x.beta.tobytes() == y.beta.tobytes() for x, y in zip(one, two, strict=True))
    assert all(x.trees[5].tobytes() == y.trees[5].tobytes() for x, y in zip(one, two, strict=True))


def test_models_of_groups_come_back_from_their_files(by_item):
    again = PooledModels.from_files(by_item.files())
    assert again.hash == by_item.hash
    assert sorted(again.groups) == ["a", "b"]
    assert again.groups["b"][1].beta.tobytes() == by_item.groups["b"][1].beta.tobytes()


def test_a_pack_holds_the_groups_of_its_series_and_each_series_has_its_own(rows, by_item):
    whole = train(rows, BY_ITEM, AS_OF, pooled=by_item).model
    assert whole.index["pools"] == [by_item.hash, f"{by_item.hash}/a", f"{by_item.hash}/b"]
    forecast = whole.predict(None)
    for name in ("s0__c", "s3__a", "s4__b"):
        alone = train(rows.filter(pc.equal(rows["series_id"], name)), BY_ITEM, AS_OF, pooled=by_item).model
        assert alone.files() == whole.select([name]).files(), name
        mine = forecast.filter(pc.equal(forecast["series_id"], name))
        assert PackModel.from_files(alone.files()).predict(None).equals(mine.combine_chunks())
    parts = [whole.select([name]) for name in whole.series]
    assert PackModel.merge(parts).predict(None).equals(forecast)


def test_a_sample_takes_of_each_group_in_turn():
    names = [f"s{i}__{item}" for item, n in (("a", 50), ("b", 3), ("c", 1)) for i in range(n)]
    taken = sample_of(names, 9, BY_ITEM)
    assert taken == sample_of(reversed(names), 9, BY_ITEM)
    items = [name[-1] for name in taken]
    assert (items.count("a"), items.count("b"), items.count("c")) == (5, 3, 1)
    assert set(sample_of(names, 9, BY_ITEM)) <= set(sample_of(names, 20, BY_ITEM))


def test_models_learned_in_other_groups_are_refused(rows, by_item):
    with pytest.raises(InputError, match="pool_by"):
        train(rows, Spec("D", 7, windows=2), AS_OF, pooled=by_item)


# --- attributes -------------------------------------------------------------------------------------------------------
def with_attributes(histories: dict[str, np.ndarray], fresh: dict[str, str | None], **known: np.ndarray) -> pa.Table:
    raw = table(histories, **known)
    kinds = pa.array([fresh[name] for name in raw["series_id"].to_pylist()], pa.string())
    sizes = pa.array([None if fresh[name] is None else len(fresh[name] or "") for name in raw["series_id"].to_pylist()])
    return raw.append_column("kind", kinds).append_column("size", pa.array(sizes, pa.float64()))


def test_attributes_become_columns_and_the_unknown_is_apart():
    raw = with_attributes({"a": sales(3), "b": sales(3), "c": sales(3)}, {"a": "dry", "b": "fresh", "c": None})
    found = learn_attributes(raw, ("kind", "size"))
    assert found.levels == {"kind": ("dry", "fresh"), "size": None}
    expected = np.array([[0, 1, 5], [1, 0, 3], [0, 0, UNKNOWN], [0, 0, UNKNOWN]], np.float32)
    assert (found.encode(raw, ["b", "a", "c", "new"]) == expected).all()


@pytest.mark.slow
def test_trees_split_on_attributes_and_packs_keep_them():
    """Promotions treble sales of what is fresh, and do nothing for what is dry; each series alone has seen few."""
    rng = np.random.default_rng(0)
    on = rng.random(80) < 0.15
    kinds = {f"{kind}{i:02d}": kind for i in range(32) for kind in ("fresh", "dry")}
    y = {name: rng.poisson((2.0 + i / 8) * np.where(on & (kind == "fresh"), 3.0, 1.0)).astype(float)
         for i, (name, kind) in enumerate(kinds.items())}  # fmt: skip
    y["twin"], kinds["twin"] = y["fresh00"], "dry"
    spec = Spec("D", 7, windows=2, known=("promo",), attributes=("kind", "size"))
    rows = prepare(with_attributes(y, kinds, promo=on.astype(float)), spec, AS_OF).rows
    pooled = pool(rows, spec, AS_OF)
    model = train(rows, spec, AS_OF, pooled=pooled).model
    trees = dict(zip(model.series, model.candidates()[:, TREES], strict=True))
    assert (trees["twin"] != trees["fresh00"]).any()
    again = PackModel.merge([PackModel.from_files(model.select([name]).files()) for name in model.series])
    assert (again.candidates() == model.candidates()).all()
    assert PooledModels.from_files(pooled.files()).attributes == pooled.attributes
    plain = Spec("D", 7, windows=2, known=("promo",))
    blind = train(rows, plain, AS_OF, pooled=pool(rows, plain, AS_OF)).model
    assert PackModel.merge([blind.select(["twin"]), model.select(["dry00"])]).candidates()[0] == pytest.approx(
        blind.select(["twin"]).candidates()[0]
    )


# --- the user's own holidays -----------------------------------------------------------------------------------------
def test_a_holiday_of_the_users_own_is_learned_and_forecast():
    ds = stamps(800)
    days = [str(day)[:10] for day in ds[::50]]
    y = sales(800, 20.0)
    y[::50] *= 3
    after = [AS_OF + timedelta(days=k) for k in range(1, 8)]
    own = tuple((day, "Founders' day") for day in [*days, str(after[3])[:10]])
    plain, mine = Spec("D", 7, windows=2), Spec("D", 7, windows=2, holidays=own)
    forecasts = [train(rows_of({"a": y}, spec), spec, AS_OF).model.predict(None)["y_hat"].to_numpy()
                 for spec in (plain, mine)]  # fmt: skip
    others = np.arange(7) != 3
    assert forecasts[1][3] > 1.6 * forecasts[0][3]
    assert forecasts[1][others] == pytest.approx(forecasts[0][others], rel=0.25)


def test_a_holiday_that_is_no_day_is_a_settings_error():
    with pytest.raises(SettingsError, match=r"'Ascension': '31\.12\.2024' is not a date"):
        Spec("D", 7, holidays=(("31.12.2024", "Ascension"),))


LEARN = """
import os, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:int(sys.argv[1])])
from many_models.forecasting import pool
from many_models_tests.forecasting.histories import AS_OF, SPEC, rows_of, sales
rows = rows_of({f"s-{i}": sales(900, 5.0 + i, seed=i) for i in range(25)})
print(*(pool(rows, SPEC, AS_OF, sample=25).hash for _ in range(2)))
"""


@pytest.mark.long(
    "forecasting/test_training.py::test_chunks_and_order_change_no_result",
    "forecasting/test_training.py::test_training_twice_gives_the_same_bytes",
)
def test_what_is_learned_is_the_same_at_first_and_later_and_on_one_core_or_more():
    learned = [
        subprocess.run([sys.executable, "-c", LEARN, cores], capture_output=True, text=True, check=True).stdout.split()
        for cores in ("1", str(os.cpu_count()))
    ]
    assert len({*learned[0], *learned[1]}) == 1, learned


@pytest.mark.parametrize("kept", [0, 10_000_000])
def test_what_is_learned_does_not_depend_on_how_many_rows_fit_into_memory(kept, monkeypatch):
    """Features are made once for each series that is kept, and once a sum for the others."""
    from many_models.forecasting import kernels, pooling

    rows = rows_of({f"a{i}": sales(200, 10.0 + i, seed=i) for i in range(3)}, SPEC)
    usual = pool(rows, SPEC, AS_OF, trees=False).files()
    made, features = [0], kernels.features

    def counted(*arguments: Any) -> None:
        made[0] += 1
        features(*arguments)

    monkeypatch.setattr(kernels, "features", counted)
    monkeypatch.setattr(pooling, "MOST_KEPT", kept)
    assert pool(rows, SPEC, AS_OF, trees=False).files() == usual
    once = 3 * (2 + 2 + 1)  # series: at two origins for the sums and for its own fit, and once for all windows
    assert made[0] == once if kept else made[0] > once


def test_pooled_models_of_an_earlier_release_are_those_that_training_needs(by_item):
    """Written by a release that kept less of them: read here, they would be other files, and are the same models."""
    from many_models.adapters.lake.memory import MemoryLake
    from many_models.data import lake_tables
    from many_models.tasks import read_pooled

    files = {name: data for name, data in by_item.files().items() if not name.endswith("_profile.npy")}
    about = json.loads(files["pooled.json"])
    about["sha256"] = {name: value for name, value in about["sha256"].items() if name in files}
    files["pooled.json"] = json.dumps(about, sort_keys=True).encode()
    lake = MemoryLake()
    rows = {"hash": ["of then"] * len(files), "file": list(files), "content": list(files.values())}
    lake.replace(lake_tables.POOLED.name, pa.table(rows), lake_tables.Filter())
    assert PooledModels.from_files(files).hash != by_item.hash
    assert read_pooled(lake, "of then", by_item.spec, AS_OF) is not None
    with pytest.raises(InputError, match="the lake holds pooled models of then, needed another"):
        read_pooled(lake, "another", by_item.spec, AS_OF)
