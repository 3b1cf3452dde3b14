"""Rows of many packs written with one commit."""

from __future__ import annotations

import pyarrow as pa

from many_models.adapters.lake_memory import MemoryLake
from many_models.ports import Where
from many_models.tables import DATASETS, Gathering


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
