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
KEYS: dict[str, object] = {"data": {"keys": ["store", "item"]}}


@pytest.fixture
def lake() -> MemoryLake:
    return MemoryLake()


def settings(every: int = 7, *, retrain: bool = False) -> Settings:
    return Settings.model_validate({
        **KEYS, "forecast": {"refit_every": every},
        "drift": {"watch": retrain, "retrain": retrain},
    })  # fmt: skip


def spans(made: Settings, lake: MemoryLake, monkeypatch: pytest.MonkeyPatch, ahead: int = 0) -> dict[str, str]:
    monkeypatch.setattr(refits.lake_tables, "lake_as_of", lambda _: DAY + timedelta(days=ahead))
    return refits.refit_spans(made, lake, SERIES)


def test_by_default_a_series_is_fitted_each_week(lake: MemoryLake, monkeypatch: pytest.MonkeyPatch) -> None:
    assert spans(Settings(), lake, monkeypatch) == spans(settings(7), lake, monkeypatch) != {}


def test_every_new_row_refits_by_setting_and_where_a_users_forecaster_competes(
    lake: MemoryLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = {"custom": {"mine": {"use": "m:F"}}}
    assert spans(settings(1), lake, monkeypatch) == {}
    assert spans(Settings.model_validate({"forecast": mine}), lake, monkeypatch) == {}
    alone = Settings.model_validate({"forecast": {**mine, "candidates": ["seasonal_naive"]}})
    assert spans(alone, lake, monkeypatch) != {}
    of = Upstream(settings(1))
    assert of.trained("a", "pooled", "") != of.trained("b", "pooled", "")


def test_what_does_not_wait_for_the_end_of_a_span(lake: MemoryLake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changed settings, new pooled models; a new series has none of the old ones' versions."""
    before = spans(settings(), lake, monkeypatch)
    span, of = before["s3__i1"], Upstream(settings())
    changed = Upstream(Settings.model_validate({**KEYS, "forecast": {"horizon": 14}}))
    versions = {of.trained(span, "pooled", ""), of.trained(span, "newer", ""), changed.trained(span, "pooled", "")}
    assert len(versions) == 3
    assert spans(Settings.model_validate({**KEYS, "forecast": {"refit_every": 14}}), lake, monkeypatch) != before
    monkeypatch.setattr(refits, "packs_of", lambda *_: {"s3": [*SERIES, "s3__new"]})
    assert spans(settings(), lake, monkeypatch)["s3__new"]


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
    """What had alarmed by the first cutoff that was watched, that night's models had seen."""
    before = spans(settings(retrain=True), lake, monkeypatch)
    for at, cutoffs in enumerate((["2024-06-01"], ["2024-05-31", "2024-06-01"])):
        rows = pa.table({
            "series_id": ["s3__i1", "s4__i1"] * len(cutoffs), "drifted": [True, False] * len(cutoffs),
            "alarmed_at": [DAY, DAY] * len(cutoffs), "cutoff_date": sorted(cutoffs * 2),
        })  # fmt: skip
        lake.replace("drift", rows, Filter())
        after = spans(settings(retrain=True), lake, monkeypatch)
        assert {name for name in SERIES if before[name] != after[name]} == ({"s3__i1"} if at else set())
    assert spans(settings(), lake, monkeypatch) == before
