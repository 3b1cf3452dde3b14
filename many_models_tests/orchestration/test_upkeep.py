"""Upkeep deletes what is superseded and nothing else; what is due and what is live is as before."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from many_models.definitions import build
from many_models.errors import UnavailableError
from many_models.operations.day import open_instance
from many_models.orchestration import upkeep
from many_models.orchestration.event_log import retention
from many_models.wiring import build_lake, build_production, build_staging
from many_models_tests.support.project import END, Project, make_project, sales

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def three_days(tmp_path_factory: pytest.TempPathFactory) -> Project:
    registry = {"keep_releases": 1, "keep_versions": 1}
    root = tmp_path_factory.mktemp("upkeep") / "p"
    project = make_project(root, sales(stores=1, items=2, days=60), registry=registry)
    for back in (2, 1, 0):
        project.run(END - timedelta(days=back))
    return project


def checks_of(project: Project) -> tuple[dict[str, object], int]:
    """What the checks of raw_sales said last, and how many of their plans stand for a partition."""
    keys = [dg.AssetCheckKey(dg.AssetKey("raw_sales"), name) for name in ("quarantine", "volume", "schema")]
    with open_instance(project.home) as instance:
        said = instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    with closing(sqlite3.connect(project.home / "history/runs/index.db")) as index:
        (planned,) = index.execute(
            "SELECT count(*) FROM asset_check_executions WHERE execution_status = 'PLANNED' AND partition IS NOT NULL"
        ).fetchone()
    return {key.name: (found.status, found.run_id) for key, found in said.items()}, planned


@pytest.mark.long(
    "orchestration/test_upkeep.py::test_a_part_that_fails_is_listed_and_the_others_are_done",
    "orchestration/test_event_retention.py::test_pruning_leaves_runs_and_graphql_answers_about_assets_as_they_were",
    "adapters/test_registry_publishing.py::test_pruning_deletes_rows_files_and_runs_for_good",
)
def test_the_job_deletes_what_is_superseded_and_the_next_day_runs_as_ever(three_days: Project, monkeypatch) -> None:
    project, settings = three_days, three_days.settings(END)
    prune, lake_prune = retention.prune_events, type(build_lake(settings)).prune
    in_a_month = datetime.now(UTC) + timedelta(days=30)
    monkeypatch.setattr(retention, "prune_events", lambda instance, _, own: prune(instance, in_a_month, own))
    monkeypatch.setattr(type(build_lake(settings)), "prune", lambda lake, _: lake_prune(lake, timedelta(0)))
    vacuum, vacuumed = retention._vacuum_file, list[str]()
    monkeypatch.setattr(retention, "_vacuum_file", lambda log, name: (vacuumed.append(name), vacuum(log, name)))
    before, live = project.contents(), build_production(settings).live()
    shown_before, planned_before = checks_of(project)
    assert planned_before == 5 * 60
    with open_instance(project.home) as instance:
        result = build(settings).resolve_job_def(upkeep.JOB).execute_in_process(instance=instance)
        assert result.success
        (shown,) = [event.event_specific_data.metadata for event in result.all_events if event.is_successful_output]
        for part in ("events", "lake", "production", "staging"):
            assert shown[f"{part} deleted"].value > 0, part
    assert checks_of(project) == (shown_before, 0)
    assert "index" in vacuumed  # the run that prunes is in flight itself
    after = project.contents()
    assert all(frame.equals(after[name]) for name, frame in before.items())
    assert build_production(settings).live() == live
    assert len(build_production(settings).releases()) == 1
    assert project.run(END) == []
    project.source("INSERT INTO sales SELECT store, item, date(date, '+1 day'), sales FROM sales WHERE date = ?",
                   [(END.isoformat(),)])  # fmt: skip
    assert [report.failed for report in project.run(END + timedelta(days=1))] == [0] * 7


def test_a_part_that_fails_is_listed_and_the_others_are_done(three_days: Project, monkeypatch) -> None:
    settings = three_days.settings(END)
    production = build_production(settings)

    def away(*_: object) -> None:
        raise UnavailableError("the production registry does not answer")

    monkeypatch.setattr(type(production), "releases", away)
    with open_instance(three_days.home) as instance:
        done = upkeep.run_maintenance(settings, instance, build_lake(settings), build_staging(settings), production)
    assert "staging" in done.errors  # what it may not delete is not known
    assert {"events", "lake"} <= set(done.deleted)
