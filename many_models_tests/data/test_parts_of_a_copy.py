"""A first copy of many rows is made in parts of whole days; the lake holds what one copy would have put there."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from many_models.adapters.lake.memory import MemoryLake
from many_models.adapters.source.memory import MemorySource
from many_models.data import ingest as ingesting
from many_models.data.ingest import Ingest, copy_spans, sales_table
from many_models.errors import InputError
from many_models.settings import DataSettings, Settings

START, END = datetime(2025, 3, 1), datetime(2025, 5, 30)
TABLES = ("raw_sales", "raw_versions", "quarantine", "series_keys")


def sales(hours: int) -> pa.Table:
    """Three stores with a row each so many hours, some of them twice, some without a number."""
    draw = random.Random(7)
    times = [START + timedelta(hours=at) for at in range(0, 24 * (END - START).days, hours)]
    rows = [(store, time, draw.choice(["1", "2.5", "x", "-3"])) for time in times for store in "abc"]
    rows += draw.sample(rows, 20)
    draw.shuffle(rows)
    store, time, sold = zip(*rows, strict=True)
    return pa.table({"store": store, "date": pa.array(time, pa.timestamp("us")), "sales": sold})


def ingest_of(rows: pa.Table, lake: MemoryLake, frequency: str) -> Ingest:
    settings = Settings(data=DataSettings(keys=["store"], frequency=frequency, start=START.date()))
    return Ingest(settings, MemorySource({"sales": rows}), lake, sales_table(settings, rows.column_names), {}, END)


def contents(lake: MemoryLake) -> dict[str, list[object]]:
    return {name: sorted(map(str, lake.read(name).to_pylist())) for name in TABLES}


@pytest.mark.parametrize(("frequency", "hours"), [("D", 24), ("h", 1), ("D", 6)])
@pytest.mark.parametrize("most", [1, 50, 10_000])
def test_parts_hold_what_the_whole_holds(frequency: str, hours: int, most: int, monkeypatch: pytest.MonkeyPatch):
    rows = sales(hours)
    whole, parted = MemoryLake(), MemoryLake()
    copy = ingest_of(rows, whole, frequency)
    copy.copy_span(START, END, copy.read_span(START, END))
    monkeypatch.setattr(ingesting, "PART_ROWS", most)
    copy = ingest_of(rows, parted, frequency)
    parts = copy.parts(START, END, rows)
    assert parts[0][0] == START
    assert parts[-1][1] == END
    assert all(one[1] == next_[0] for one, next_ in pairwise(parts))
    assert sum(copy.within(rows, *part).num_rows for part in parts) == rows.num_rows
    assert (len(parts) > 1) == (rows.num_rows > most)
    said = list[str]()
    copied, _ = copy_spans(copy, [(START, END)], said.append)
    numbered = [f"span 1 of 1, part {at} of {len(parts)}" for at in range(1, len(parts) + 1)]
    assert [text.split(":")[0] for text in said] == (numbered if len(parts) > 1 else ["span 1 of 1"])
    assert sum(copied.values()) == parted.read("raw_sales").num_rows
    assert contents(parted) == contents(whole)
    assert pc.sum(parted.read("raw_versions")["rows"]).as_py() == parted.read("raw_sales").num_rows


def test_what_the_lake_holds_is_replaced_or_refused_whole(monkeypatch: pytest.MonkeyPatch):
    rows, lake = sales(24), MemoryLake()
    monkeypatch.setattr(ingesting, "PART_ROWS", 10)
    copy = ingest_of(rows, lake, "D")
    said = list[str]()
    copy_spans(copy, [(START, END)], said.append)
    assert len(said) > 1
    before = contents(lake)
    late = rows.filter(pc.greater(rows["date"], pa.scalar(END - timedelta(days=9), pa.timestamp("us"))))
    again = ingest_of(late, lake, "D")
    assert again.parts(START, END, late) == [(START, END)]
    with pytest.raises(InputError, match="Nothing was changed"):
        copy_spans(again, [(START, END)], print)
    assert contents(lake) == before


def test_periods_of_several_days_are_not_parted(monkeypatch: pytest.MonkeyPatch):
    rows = sales(24)
    monkeypatch.setattr(ingesting, "PART_ROWS", 10)
    copy = ingest_of(rows, MemoryLake(), "W-MON")
    assert copy.parts(START, END, rows) == [(START, END)]
