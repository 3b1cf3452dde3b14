"""A copy that would take away more of the lake's rows than `data.max_loss` changes nothing and says so."""

from __future__ import annotations

from datetime import datetime, timedelta

import pyarrow as pa
import pytest

from many_models.adapters.lake.memory import MemoryLake
from many_models.adapters.source.memory import MemorySource
from many_models.data.ingest import Ingest, sales_table
from many_models.errors import InputError
from many_models.settings import DataSettings, Settings

START, END = datetime(2024, 1, 1), datetime(2024, 1, 11)


def ingest(lake: MemoryLake, stores: int, max_loss: float = 0.5) -> pa.Table:
    """Copy ten days of `stores` stores of two items each."""
    settings = Settings(data=DataSettings(max_loss=max_loss))
    names = [(f"s{store}", f"i{item}", day) for store in range(stores) for item in range(2) for day in range(10)]
    rows = pa.table({
        "store": [store for store, _, _ in names], "item": [item for _, item, _ in names],
        "date": pa.array([START + timedelta(days=day) for *_, day in names], pa.timestamp("us")),
        "sales": [float(day) for *_, day in names],
    })  # fmt: skip
    source = MemorySource({"sales": rows})
    sales = sales_table(settings, list(rows.column_names))
    copy = Ingest(settings, source, lake, sales, {"store": "text", "item": "text", "sales": "number"}, END)
    return copy.copy_span(START, END, copy.read_span(START, END))


def held(lake: MemoryLake) -> int:
    return lake.read("raw_sales").num_rows


@pytest.mark.parametrize("left", [0, 1, 4])
def test_a_source_that_lost_most_of_its_rows_is_not_copied(left: int) -> None:
    lake = MemoryLake()
    ingest(lake, 10)
    versions = lake.read("raw_versions")
    with pytest.raises(InputError, match=rf"holds 200 rows.*the source has {left * 20}.*MAX_LOSS=1"):
        ingest(lake, left)
    assert held(lake) == 200
    assert lake.read("raw_versions").equals(versions)


def test_it_is_copied_when_told_so() -> None:
    lake = MemoryLake()
    ingest(lake, 10)
    ingest(lake, 1, max_loss=1)
    assert held(lake) == 20


@pytest.mark.parametrize(("before", "after"), [(10, 5), (4, 0)])
def test_a_loss_within_the_bound_or_of_few_rows_is_a_correction(before: int, after: int) -> None:
    lake = MemoryLake()
    ingest(lake, before)
    ingest(lake, after)
    assert held(lake) == after * 20
