"""Partitions of stores instead of store-items: the same tables, and each series by itself within its store."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import dagster as dg
import pandas as pd
import pytest

from many_models.errors import SettingsError
from many_models.keys import SeriesKey
from many_models.operations.day import open_instance
from many_models.orchestration import partitions
from many_models.orchestration.event_log import history
from many_models.orchestration.stage_run import VERSION_TAG
from many_models.settings import Settings, load_settings
from many_models_tests.support.project import END, Project, make_project, sales, stages_of

if TYPE_CHECKING:
    from pathlib import Path

BY_STORE = {"by": ["store"]}
TRAINED = dg.AssetKey("trained_models")


def of(by: list[str], keys: list[str]) -> Settings:
    settings = Settings.model_validate({"partitions": {"by": by}, "data": {"keys": keys}})
    assert settings.partitions.by == by
    return settings


def test_a_partition_is_named_by_its_keys_in_their_order_and_escaped_as_series_are():
    series = SeriesKey(("a__b", "x", "_")).series_id
    keys = ["store", "item", "size"]
    assert partitions.partition_of(of([], keys), series) == series
    assert partitions.partition_of(of(["store"], keys), series) == SeriesKey(("a__b",)).series_id
    assert partitions.partition_of(of(["size", "store"], keys), series) == SeriesKey(("a__b", "_")).series_id
    assert partitions.partitions_of(of(["store"], ["store", "item"]), ["b__1", "a__1", "b__2"]) == {
        "b": ["b__1", "b__2"],
        "a": ["a__1"],
    }


def test_a_partition_of_something_else_than_keys_is_refused(tmp_path: Path) -> None:
    (tmp_path / "many_models.toml").write_text('[partitions]\nby = ["region"]\n')
    with pytest.raises(SettingsError, match=r"partitions\.by names region, but data\.keys are store, item"):
        load_settings(tmp_path / "many_models.toml")


def failed(project: Project, stage: str) -> dict[str, str]:
    with open_instance(project.home) as instance:
        return history.failed_partitions(instance, dg.AssetKey(stage))


@pytest.mark.long("days/test_grain.py::test_a_series_that_fails_within_its_store_fails_alone_and_is_listed")
def test_days_by_store_end_in_the_tables_of_days_by_store_item(tmp_path: Path) -> None:
    rows = sales(stores=2, items=2, days=60)
    by_item, by_store = (make_project(tmp_path / name, rows, partitions=how) for name, how in
                         (("item", {}), ("store", BY_STORE)))  # fmt: skip
    yesterday = END - timedelta(days=1)
    assert stages_of(by_store.run(yesterday)) == stages_of(by_item.run(yesterday))
    assert by_store.partitions("predictions") == {"s0", "s1"}
    correction = ("UPDATE sales SET sales = sales + 40 WHERE store = 's1' AND item = 'i0' AND date = ?",
                  [((END - timedelta(days=3)).isoformat(),)])  # fmt: skip
    for project in (by_item, by_store):
        project.source(*correction)
        assert stages_of(project.run(yesterday))["trained_models"] == 1
    assert by_store.run(yesterday) == []
    expected, found = by_item.contents(), by_store.contents()
    assert set(found) == set(expected)
    for name, frame in expected.items():
        pd.testing.assert_frame_equal(found[name], frame, obj=name)
    with open_instance(by_store.home) as instance:
        assert set(history.latest_tags(instance, TRAINED, [VERSION_TAG])) == {"s0__i0", "s0__i1", "s1__i0", "s1__i1"}
        assert instance.get_dynamic_partitions("store_items") == ["s0", "s1"]


@pytest.mark.slow
def test_a_series_that_fails_within_its_store_fails_alone_and_is_listed(tmp_path: Path, monkeypatch) -> None:
    from many_models import tasks
    from many_models.errors import SeriesError

    project = make_project(tmp_path / "p", sales(stores=2, items=2, days=60), partitions=BY_STORE)
    prepare = tasks.PrepareTask.__call__

    def poisoned(task, chunk):
        if "s1__i1" in chunk.series:
            raise SeriesError("s1__i1", "poison")
        return prepare(task, chunk)

    with monkeypatch.context() as patch:
        patch.setattr(tasks.PrepareTask, "__call__", poisoned)
        reports = project.run()
    first = next(report for report in reports if report.stage == "store_item_datasets")
    assert (first.keys, first.done, first.failed) == (4, 3, 1)
    (row,) = project.table("series_status").to_dict("records")
    assert (row["stage"], row["series_id"], row["reason"]) == ("store_item_datasets", "s1__i1", "poison")
    assert set(project.table("predictions")["series_id"]) == {"s0__i0", "s0__i1", "s1__i0"}
    assert project.partitions("predictions") == {"s0", "s1"}
    assert failed(project, "store_item_datasets") == {}
    assert project.run() == []
