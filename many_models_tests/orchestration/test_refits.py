"""When champions are fitted again: spans of days, a pack at a time, and sooner after an alarm."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import pairwise

import pyarrow as pa
import pytest

from many_models.adapters.lake.memory import MemoryLake
from many_models.orchestration import refits
from many_models.orchestration.upstream import Upstream
from many_models.ports import Filter
from many_models.settings import Settings

SERIES = [f"s{store}__i{item}" for store in range(12) for item in range(3)]
DAY = datetime(2024, 6, 1)


@pytest.fixture
def lake() -> MemoryLake:
    return MemoryLake()


def settings(every: int = 7, *, retrain: bool = False) -> Settings:
    return Settings.model_validate({
        "data": {"keys": ["store", "item"]}, "forecast": {"refit_every": every},
        "drift": {"watch": retrain, "retrain": retrain},
    })  # fmt: skip


def spans(made: Settings, lake: MemoryLake, monkeypatch: pytest.MonkeyPatch, ahead: int = 0) -> dict[str, str]:
    monkeypatch.setattr(refits.lake_tables, "lake_as_of", lambda _: DAY + timedelta(days=ahead))
    return refits.refit_spans(made, lake, SERIES)


def test_by_default_every_new_row_refits(lake: MemoryLake, monkeypatch: pytest.MonkeyPatch) -> None:
    assert spans(Settings(), lake, monkeypatch) == {}
    of = Upstream(Settings())
    assert of.trained("a", "pooled", "") != of.trained("b", "pooled", "")


def test_each_pack_is_refitted_once_in_a_span_and_not_all_on_one_day(
    lake: MemoryLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = [spans(settings(), lake, monkeypatch, ahead) for ahead in range(15)]
    refitted = [{name for name in SERIES if before[name] != after[name]} for before, after in pairwise(days)]
    for name in SERIES:
        assert sum(name in day for day in refitted) == 2, name
    for day in refitted:  # a pack's series go together
        assert all({f"{name[:-1]}{i}" for i in range(3)} <= day for name in day)
    assert sum(bool(day) for day in refitted) >= 6


def test_an_alarm_ends_the_span_of_its_own_series_only(lake: MemoryLake, monkeypatch: pytest.MonkeyPatch) -> None:
    before = spans(settings(retrain=True), lake, monkeypatch)
    rows = pa.table({
        "series_id": ["s3__i1", "s4__i1"], "drifted": [True, False], "alarmed_at": [DAY, DAY],
        "cutoff_date": ["2024-06-01"] * 2,
    })  # fmt: skip
    lake.replace("drift", rows, Filter())
    after = spans(settings(retrain=True), lake, monkeypatch)
    assert {name for name in SERIES if before[name] != after[name]} == {"s3__i1"}
    assert spans(settings(), lake, monkeypatch) == before
