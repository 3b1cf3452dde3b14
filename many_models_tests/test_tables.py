"""Rows of many packs written with one commit; tables that are looked at once."""

from __future__ import annotations

import pyarrow as pa

from many_models.adapters.lake_memory import MemoryLake
from many_models.ports import Where
from many_models.tables import DATASETS, Gathering, read_once


def rows(**values: float) -> pa.Table:
    return pa.table(
        {"series_id": list(values), "y": list(values.values()), "pack": [name.split("_")[0] for name in values]}
    )


def test_packs_that_are_gathered_replace_their_series_in_one_commit_and_leave_the_others() -> None:
    lake = MemoryLake()
    lake.replace(DATASETS.name, rows(a_1=1.0, a_2=1.0, b_1=1.0, c_1=1.0), Where(), DATASETS.partition_by)
    gathering = Gathering(lake, DATASETS)
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
    lake.replace("t", rows(a_1=1.0), Where())
    look = read_once(lake)
    seen = [look.version("t"), look.version("none"), look.read("t"), look.read("t", columns=["y"])]
    lake.replace("t", rows(a_1=2.0), Where())
    lake.replace("none", rows(a_1=3.0), Where())
    again = [look.version("t"), look.version("none"), look.read("t"), look.read("t", columns=["y"])]
    assert all(one is other for one, other in zip(seen, again, strict=True))
    assert look.read("t", Where(among={"pack": ["a"]}))["y"].to_pylist() == [2.0]
