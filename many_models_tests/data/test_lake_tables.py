"""Rows of many packs written with one commit; tables that are looked at once."""

from __future__ import annotations

from datetime import datetime

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from many_models.adapters.lake.memory import MemoryLake
from many_models.data.lake_tables import DATASETS, BufferedWriter, LakeTable, cached, records
from many_models.ports import Filter


def rows(**values: float) -> pa.Table:
    return pa.table(
        {"series_id": list(values), "y": list(values.values()), "pack": [name.split("_")[0] for name in values]}
    )


def test_packs_that_are_gathered_replace_their_series_in_one_commit_and_leave_the_others() -> None:
    lake = MemoryLake()
    lake.replace(DATASETS.name, rows(a_1=1.0, a_2=1.0, b_1=1.0, c_1=1.0), Filter(), DATASETS.partition_by)
    gathering = BufferedWriter(lake, DATASETS)
    gathering.add("a", rows(a_1=2.0), ["a_1"])
    gathering.add("b", rows(b_1=2.0, b_2=2.0), ["b_1", "b_2"])
    assert gathering.rows == 3
    gathering.write()
    found = {row["series_id"]: row["y"] for row in lake.read(DATASETS.name).to_pylist()}
    assert found == {"a_1": 2.0, "a_2": 1.0, "b_1": 2.0, "b_2": 2.0, "c_1": 1.0}
    assert lake.version(DATASETS.name) == 1
    gathering.write()
    assert lake.version(DATASETS.name) == 1


def test_a_look_fetches_each_table_once_and_sees_it_as_it_was() -> None:
    lake = MemoryLake()
    lake.replace("t", rows(a_1=1.0), Filter())
    look = cached(lake)
    seen = [look.version("t"), look.version("none"), look.read("t"), look.read("t", columns=["y"])]
    lake.replace("t", rows(a_1=2.0), Filter())
    lake.replace("none", rows(a_1=3.0), Filter())
    again = [look.version("t"), look.version("none"), look.read("t"), look.read("t", columns=["y"])]
    assert all(one is other for one, other in zip(seen, again, strict=True))
    assert look.read("t", Filter(among={"pack": ["a"]}))["y"].to_pylist() == [2.0]


TEXTS = st.one_of(st.none(), st.sampled_from(["", "a", "recipe" * 9, "ß"]))
MOMENTS = st.one_of(st.none(), st.datetimes(datetime(1990, 1, 1), datetime(2060, 1, 1)))


@given(st.lists(st.tuples(TEXTS, st.one_of(st.none(), st.integers(-5, 5)), MOMENTS), max_size=9), st.integers(1, 4))
def test_records_are_the_rows_and_equal_texts_are_held_once(values, size):
    schema = pa.schema([("text", pa.string()), ("n", pa.int64()), ("ds", pa.timestamp("us"))])
    rows = pa.table([list(column) for column in zip(*values, strict=True)] or [[], [], []], schema)
    lake = MemoryLake()
    lake.replace("t", pa.Table.from_batches(rows.to_batches(max_chunksize=size), schema), Filter())
    found = records(lake, LakeTable("t"))
    assert found == rows.to_pylist()
    assert len({id(row["text"]) for row in found}) == len({row["text"] for row in found})


def dated(cells: list[tuple[str, int, int]]) -> pa.Table:
    """Rows of (series, day of January, y)."""
    return pa.table({
        "series_id": pa.array([name for name, _, _ in cells], pa.string()),
        "ds": pa.array([datetime(2024, 1, day) for _, day, _ in cells], pa.timestamp("us")),
        "y": pa.array([y for _, _, y in cells], pa.int64()),
        "pack": pa.array([name[0] for name, _, _ in cells], pa.string()),
    })  # fmt: skip


NAMES = ["a1", "a2", "b1", "b2"]
CELLS = st.lists(st.tuples(st.sampled_from(NAMES), st.integers(1, 9)), unique=True, max_size=20)


@settings(deadline=None, max_examples=60)
@given(before=CELLS, more=CELLS, written=st.sets(st.sampled_from(NAMES)), since=st.dictionaries(st.sampled_from(NAMES),
       st.integers(1, 9)))  # fmt: skip
def test_rows_are_replaced_from_where_their_series_goes_on_and_nothing_else_is_touched(before, more, written, since):
    lake = MemoryLake()
    lake.replace(DATASETS.name, dated([(name, day, 0) for name, day in before]), Filter(), DATASETS.partition_by)
    fresh = [(n, day) for n, day in more if n in written and day > since.get(n, 0)]
    gathering = BufferedWriter(lake, DATASETS)
    for pack in ("a", "b"):
        if own := sorted(name for name in written if name[0] == pack):
            rows = dated([(name, day, 1) for name, day in fresh if name in own])
            starts = {name: datetime(2024, 1, since[name]) for name in own if name in since}
            gathering.add(pack, rows, own, starts)
    gathering.write()
    stays = [(name, day) for name, day in before if name not in written or day <= since.get(name, 0)]
    found = lake.read(DATASETS.name).to_pylist()
    assert sorted((row["series_id"], row["ds"].day, row["y"]) for row in found) == sorted(
        [(name, day, 0) for name, day in stays] + [(name, day, 1) for name, day in fresh]
    )
