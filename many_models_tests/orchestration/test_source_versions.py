"""Periods of raw_sales: what is due is what a run then records, whatever the grain and the frequency."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from many_models.adapters.source.memory import MemorySource
from many_models.data.aggregation import period_of
from many_models.data.ingest import sales_table
from many_models.data.periods import complete_until, last_complete_day, period_of_key
from many_models.errors import PermanentError
from many_models.operations.day import Finished
from many_models.orchestration import source_state
from many_models.orchestration.due import StageState, Work
from many_models.orchestration.source_state import copied_until, looked_at_from, source_versions, versions_of_copy
from many_models.ports import DayCount
from many_models.settings import DataSettings, PartitionSettings, Settings

KINDS = [
    ("month", "MS"), ("month", "ME"), ("month", "D"), ("month", "W-SUN"), ("month", "QS"), ("month", "YS"),
    ("week", "W-MON"), ("week", "D"), ("week", "MS"), ("week", "W-SUN"), ("day", "MS"), ("day", "D"), ("day", "W-MON"),
    ("hour", "h"), ("day", "h"),
]  # fmt: skip


@dataclass
class Table:
    """Sales of three stores, and a fourth that opened late and reports at times."""

    grain: str
    frequency: str
    aggregate: str = ""
    rows: pd.DataFrame = field(init=False)

    def __post_init__(self) -> None:
        periods = {"h": 24 * 40, "D": 500, "W": 120}.get(self.frequency[0], 60)
        days = pd.date_range(end="2024-06-20", periods=periods, freq=self.frequency)
        stores = [("A", 0), ("B", 0), ("C", 0), ("D", periods // 2)]
        rng = np.random.default_rng(3)
        parts = [pd.DataFrame({"store": name, "date": days[since:], "sales": 1.0}) for name, since in stores]
        whole = pd.concat(parts)
        self.rows = whole.loc[(whole["store"] != "D") | (rng.random(len(whole)) < 0.7)]

    def settings(self) -> Settings:
        data = DataSettings(
            keys=["store"],
            frequency=self.frequency,
            start=date(2014, 1, 15),
            aggregate=self.aggregate,  # type: ignore[arg-type]
        )
        return Settings(data=data, partitions=PartitionSettings(grain=self.grain))  # type: ignore[arg-type]

    def source(self) -> MemorySource:
        return MemorySource({"sales": pa.Table.from_pandas(self.rows, preserve_index=False)})


@pytest.mark.slow
@pytest.mark.parametrize(("grain", "frequency"), KINDS)
@pytest.mark.parametrize("aggregate", ["", "sum"])
def test_nothing_is_due_at_the_next_look_after_it_was_copied(grain: str, frequency: str, aggregate: str):
    """A look from `look_back` periods before the newest copy sees the versions that copies of any periods record."""
    table = Table(grain, frequency, aggregate)
    settings, source = table.settings(), table.source()
    sales = sales_table(settings, [])
    every = source_versions(settings, source, sales, None)
    newest = max(period_of_key(grain, key) for key in every)  # type: ignore[arg-type]
    seen = source_versions(settings, source, sales, looked_at_from(settings, newest))
    assert seen
    assert seen.items() <= every.items()
    keys = sorted(seen)
    for picked in (keys, keys[-1:], keys[:1], [keys[0], keys[-1]]):
        starts = [period_of_key(grain, key) for key in picked]  # type: ignore[arg-type]
        recorded = versions_of_copy(settings, source, sales, starts)(None)
        assert {key: recorded.get(key) for key in picked} == {key: seen[key] for key in picked}


def test_a_weak_last_day_is_copied_under_the_version_that_it_was_due_at():
    """Judged by few days it is incomplete, by more it is complete: what is recorded may not hang on that."""
    table = Table("day", "D")
    settings = table.settings()
    busy = pd.date_range("2024-06-17", "2024-06-19")
    more = pd.DataFrame([{"store": f"x{at}", "date": day, "sales": 1.0} for day in busy for at in range(4)])
    source = MemorySource({"sales": pa.Table.from_pandas(pd.concat([table.rows, more]), preserve_index=False)})
    sales = sales_table(settings, [])
    due = source_versions(settings, source, sales, datetime(2024, 6, 1))
    starts = [datetime(2024, 6, 17), datetime(2024, 6, 20)]
    recorded = versions_of_copy(settings, source, sales, starts)(None)
    assert recorded["2024-06-20"] == due["2024-06-20"]


def test_rows_of_a_running_week_wait_until_it_is_over():
    table = Table("day", "W-MON", "sum")
    days = pd.date_range("2024-01-01", "2024-06-19")  # a Wednesday
    table.rows = pd.DataFrame({"store": "A", "date": days, "sales": 1.0})
    settings, source = table.settings(), table.source()
    sales = sales_table(settings, [])
    versions = source_versions(settings, source, sales, None)
    assert max(versions) == "2024-06-16"
    assert copied_until(settings, source, sales, [datetime(2024, 6, 10)]) == datetime(2024, 6, 17)


def complete(days: pd.DatetimeIndex, frequency: str, rows: int = 20) -> datetime:
    counts = [DayCount(day.to_pydatetime(), rows, "x") for day in days]
    as_of = last_complete_day(counts, 0.5, datetime(2100, 1, 1))
    assert as_of is not None
    return complete_until(counts, as_of, frequency, 0.5)


@pytest.mark.parametrize(
    ("stamps", "frequency", "until"),
    [
        ("W-MON", "W-MON", "2024-07-01"),
        ("W-SUN", "W-MON", "2024-07-01"),
        ("W-WED", "W-SUN", "2024-06-30"),
        ("MS", "MS", "2024-07-01"),
        ("ME", "MS", "2024-07-01"),
        ("BME", "ME", "2024-07-01"),
        ("BMS", "ME", "2024-07-01"),
        ("SMS", "MS", "2024-07-01"),
        ("QS", "QS", "2024-07-01"),
        ("MS", "QS", "2024-07-01"),
        ("YS", "YS", "2024-01-01"),
    ],
)
def test_sums_of_whole_periods_are_complete_with_their_last_stamp(stamps: str, frequency: str, until: str):
    end = "2023-12-31" if stamps == "YS" else "2024-06-30"
    days = pd.date_range(end=end, periods=40, freq=stamps)
    assert complete(days, frequency) == datetime.fromisoformat(until)


def test_a_week_whose_closed_sunday_is_all_that_is_left_is_complete():
    days = pd.date_range("2024-01-01", "2024-06-15")  # to a Saturday
    open_days = days[days.dayofweek < 6]
    assert complete(open_days, "W-MON") == datetime(2024, 6, 17)
    assert complete(open_days[:-1], "W-MON") == datetime(2024, 6, 10)
    assert complete(days, "W-MON") == datetime(2024, 6, 10)


def test_a_few_open_shops_on_sunday_complete_the_week_as_they_usually_do():
    days = pd.date_range("2024-01-01", "2024-06-16")  # to a Sunday
    counts = [DayCount(day.to_pydatetime(), 1 if day.dayofweek == 6 else 20, "x") for day in days]
    as_of = last_complete_day(counts, 0.5, datetime(2100, 1, 1))
    assert as_of == datetime(2024, 6, 15)
    assert complete_until(counts, as_of, "W-MON", 0.5) == datetime(2024, 6, 17)
    assert complete_until(counts[:-1], as_of, "W-MON", 0.5) == datetime(2024, 6, 10)


def test_rare_sales_do_not_complete_a_running_week():
    rng = np.random.default_rng(4)
    days = pd.date_range("2023-01-01", "2024-06-19")
    days = days[rng.random(len(days)) < 0.15]
    first, after = period_of(days[-1].to_pydatetime(), "W-MON")
    assert after - days[-1].to_pydatetime() > timedelta(days=1)
    assert complete(days, "W-MON", rows=1) == first


def test_until_in_a_week_takes_none_of_its_later_days():
    table = Table("day", "W-MON", "sum")
    table.rows = pd.DataFrame({"store": "A", "date": pd.date_range("2024-01-01", "2024-06-23"), "sales": 1.0})
    settings = table.settings()
    settings = settings.model_copy(update={"data": settings.data.model_copy(update={"until": datetime(2024, 6, 19)})})
    source, sales = table.source(), sales_table(settings, [])
    assert max(source_versions(settings, source, sales, None)) == "2024-06-16"
    assert copied_until(settings, source, sales, [datetime(2024, 6, 17)]) == datetime(2024, 6, 17)


def test_a_month_stamped_on_its_first_day_is_copied_while_it_runs():
    """Its partitions end with the clock's day all the same: later ones do not exist."""
    table = Table("day", "MS", "sum")
    months = pd.date_range("2020-01-01", "2024-06-01", freq="MS")
    table.rows = pd.DataFrame({"store": "A", "date": months, "sales": 1.0})
    settings = table.settings()
    settings = settings.model_copy(update={"data": settings.data.model_copy(update={"until": datetime(2024, 6, 9)})})
    source, sales = table.source(), sales_table(settings, [])
    assert max(source_versions(settings, source, sales, None)) == "2024-06-09"


def hourly(last: str, grain: str) -> tuple[Settings, MemorySource]:
    """Two stores that report each hour up to `last`."""
    table = Table(grain, "h")
    hours = pd.date_range("2024-05-01", last, freq="h")
    table.rows = pd.concat([pd.DataFrame({"store": name, "date": hours, "sales": 1.0}) for name in "AB"])
    return table.settings(), table.source()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("grain", "last", "newest"),
    [
        (
            "hour",
            "2024-06-20 13:00",
            "2024-06-20-13:00",
        ),  # most hours of the day are there: up to the last that is over
        ("hour", "2024-06-20 11:00", "2024-06-20-13:00"),  # and two hours without a row are silent ones
        ("hour", "2024-06-20 05:00", "2024-06-19-23:00"),  # a day with few of its hours waits
        ("hour", "2024-06-19 23:00", "2024-06-19-23:00"),
        ("day", "2024-06-20 13:00", "2024-06-19"),  # a day that runs is no partition
        ("day", "2024-06-19 23:00", "2024-06-19"),
        ("day", "2024-06-19 03:00", "2024-06-18"),
    ],
)
def test_hourly_sales_are_due_up_to_the_last_hour_that_is_over(
    grain: str, last: str, newest: str, monkeypatch: pytest.MonkeyPatch
):
    """At ten past two, and never hours that are still to come: they have no partition that a run could be of."""
    monkeypatch.setattr(source_state, "now", lambda _: datetime(2024, 6, 20, 14, 10))
    settings, source = hourly(last, grain)
    sales = sales_table(settings, [])
    first, seen = (source_state.first_periods(settings, source, sales), source_versions(settings, source, sales, None))
    assert max(first) == max(seen) == newest
    starts = [period_of_key(grain, key) for key in sorted(seen)[-3:]]  # type: ignore[arg-type]
    recorded = versions_of_copy(settings, source, sales, starts)(None)
    assert {key: recorded[key] for key in sorted(seen)[-3:]} == {key: seen[key] for key in sorted(seen)[-3:]}


@pytest.mark.slow
def test_until_within_a_day_takes_none_of_its_later_hours():
    settings, source = hourly("2024-06-20 23:00", "hour")
    data = settings.data.model_copy(update={"until": datetime(2024, 6, 20, 14)})
    settings = settings.model_copy(update={"data": data})
    assert max(source_versions(settings, source, sales_table(settings, []), None)) == "2024-06-20-14:00"


def test_ten_silent_days_of_most_series_do_not_move_the_last_complete_day():
    """A look after the last copy saw seven full days and ten silent ones, and took silence for what is usual."""
    rows = [
        {"store": f"s{store}", "date": day, "sales": 1.0}
        for day in pd.date_range("2024-01-01", "2024-06-20")
        for store in range(10)
        if store < 4 or day <= pd.Timestamp("2024-06-10")
    ]
    settings = Table("day", "D").settings()
    source = MemorySource({"sales": pa.Table.from_pandas(pd.DataFrame(rows), preserve_index=False)})
    seen = source_versions(settings, source, sales_table(settings, []), looked_at_from(settings, datetime(2024, 6, 10)))
    assert max(seen) == "2024-06-10"


def test_a_plan_in_the_table_does_not_move_the_last_complete_day():
    days = [DayCount(datetime(2024, 1, 1) + timedelta(days=at), 10 if at < 50 else 0, "x") for at in range(200)]
    assert last_complete_day(days, 0.5, datetime(2025, 1, 1)) == datetime(2024, 2, 19)


def test_a_stage_that_is_due_again_at_the_same_version_is_refused_by_name():
    finished = Finished()
    work = Work("raw_sales", ("2024-06-01", "2024-07-01"))
    state = StageState("raw_sales", {"2024-06-01": "a", "2024-07-01": "b"}, {})
    finished.refuse_to_repeat(work, state)
    finished.add(work, state)
    finished.refuse_to_repeat(work, StageState("raw_sales", {"2024-06-01": "c", "2024-07-01": "d"}, {}))
    finished.refuse_to_repeat(Work("predictions", work.keys), StageState("predictions", dict(state.wanted), {}))
    with pytest.raises(PermanentError, match=r"raw_sales has just been run and is due again for 1 .* '2024-07-01'"):
        finished.refuse_to_repeat(work, StageState("raw_sales", {"2024-06-01": "c", "2024-07-01": "b"}, {}))
