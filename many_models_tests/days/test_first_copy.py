"""The first copy of a source: every period of it is wanted, without a look at every row beforehand."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from many_models.data.ingest import with_pack_and_year
from many_models.data.periods import last_complete_day
from many_models.operations.day import open_instance
from many_models.orchestration import source_state, stage_state
from many_models.ports import DayCount, SalesTable
from many_models.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

FIRST = datetime(2020, 1, 1)
SALES = SalesTable("sales", ("store", "item"), "date", "sales")


class Counted:
    """A source that only knows how many rows its days have, and remembers since when it was asked to count them."""

    def __init__(self, days: dict[datetime, int]) -> None:
        self.held = days
        self.asked: list[datetime | None] = []

    def days(self, sales: SalesTable, since: datetime | None = None) -> Sequence[DayCount]:
        self.asked.append(since)
        return [DayCount(day, rows, f"{rows}") for day, rows in sorted(self.held.items()) if not since or day >= since]

    def span(self, sales: SalesTable, since: datetime, until: datetime) -> tuple[datetime, datetime] | None:
        within = [day for day in self.held if since <= day <= until]
        return (min(within), max(within)) if within else None


def settings_until(until: datetime | None = None) -> Settings:
    keys = {"keys": ["store", "item"], "timestamp": "date", "target": "sales", "frequency": "D"}
    data = {**keys, "start": FIRST.date(), "until": until}
    return Settings.model_validate({"source": {"url": "sqlite:///sales.db", "table": "sales"}, "data": data})


@pytest.fixture
def settings() -> Settings:
    return settings_until()


def test_every_period_from_the_first_row_is_due_after_a_look_at_the_newest_days_only(tmp_path, settings):
    days = {FIRST + timedelta(days=at): 10 for at in range(100, 900) if at % 7}
    source = Counted(days | {datetime(9998, 12, 31): 3})
    with open_instance(tmp_path / "dagster") as instance:
        due = stage_state.raw_state(settings, instance, source, SALES).due()
    first, last = min(days), max(days)
    assert list(due) == [f"{first + timedelta(days=at):%Y-%m-%d}" for at in range((last - first).days + 1)]
    assert source.asked == [last - timedelta(days=60)]


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 30)), min_size=1, max_size=120), st.integers(0, 9))
def test_the_last_complete_day_is_the_one_that_a_look_at_all_days_finds(steps, spare):
    at, days = FIRST, dict[datetime, int]()
    for gap, rows in steps:
        days[at] = rows
        at += timedelta(days=gap)
    settings = settings_until(max(days) - timedelta(days=spare))
    source, share = Counted(days), settings.data.complete_share
    latest = source_state._latest(settings)
    whole = last_complete_day(source.days(SALES), share, latest)
    span = source.span(SALES, FIRST, latest)
    near = None if span is None else source_state._as_of_near(settings, source, SALES, FIRST, span[1])
    assert near == whole


def test_copied_rows_are_sorted_by_pack_series_and_time(settings):
    chance = np.random.default_rng(3)
    names = ["b__2", "a__10", "b__10", "a__2", "é__1"]
    stamps = [FIRST + timedelta(days=int(day)) for day in chance.permutation(400)]
    rows = pa.table(
        {
            "series_id": [name for _ in stamps for name in names],
            "ds": pa.array([stamp for stamp in stamps for _ in names], pa.timestamp("us")),
            "y": chance.normal(size=len(stamps) * len(names)),
        }
    )
    for table in (rows, rows.sort_by("ds"), rows.slice(0, 0)):
        found = with_pack_and_year(table, settings)
        wanted = table.sort_by([("series_id", "ascending"), ("ds", "ascending")])
        assert found.select(wanted.column_names) == wanted.combine_chunks()
        assert found["pack"].to_pylist() == [name.split("__")[0] for name in found["series_id"].to_pylist()]
        assert found["year"].to_pylist() == [stamp.year for stamp in found["ds"].to_pylist()]
