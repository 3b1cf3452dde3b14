"""A history that begins within a week, month, quarter or year is copied from the beginning of that period."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from many_models.adapters.lake.memory import MemoryLake
from many_models.adapters.source.memory import MemorySource
from many_models.data.ingest import Ingest, sales_table
from many_models.orchestration.copied_settings import forget_before_start
from many_models.settings import DataSettings, Settings

END = datetime(2025, 1, 1)
FIRST = date(2023, 1, 30)


@pytest.mark.parametrize(
    ("frequency", "start", "label"),
    [
        ("MS", FIRST, datetime(2023, 1, 1)),
        ("ME", FIRST, datetime(2023, 1, 31)),
        ("QS", FIRST, datetime(2023, 1, 1)),
        ("YS", FIRST, datetime(2023, 1, 1)),
        ("W-WED", FIRST, datetime(2023, 1, 25)),
        ("W-MON", date(2023, 1, 1), datetime(2022, 12, 26)),  # the first week begins in a year of which no day is read
        ("D", FIRST, datetime(2023, 1, 30)),
    ],
)
def test_the_first_period_is_copied_whole(frequency: str, start: date, label: datetime):
    """One unit a day and store from `start` on: every one of them is in the lake, also after a second copy."""
    opening = datetime.combine(start, datetime.min.time())
    days = [opening + timedelta(days=day) for day in range((END - opening).days)]
    rows = pa.table(
        {"store": ["s"] * len(days), "date": pa.array(days, pa.timestamp("us")), "sales": [1.0] * len(days)}
    )
    settings = Settings(data=DataSettings(keys=["store"], frequency=frequency, start=start, aggregate="sum"))
    source, lake = MemorySource({"sales": rows}), MemoryLake()
    copy = Ingest(settings, source, lake, sales_table(settings, rows.column_names), {}, END)
    for _ in range(2):
        for year in range(start.year, END.year):
            span = copy.whole(max(opening, datetime(year, 1, 1)), datetime(year + 1, 1, 1))
            copy.copy_span(*span, copy.read_span(*span))
        forget_before_start(lake, settings)
        held = lake.read("raw_sales")
        assert pc.sum(held["y"]).as_py() == len(days)
        assert pc.min(held["ds"]).as_py() == label
    assert not lake.read("quarantine").num_rows
