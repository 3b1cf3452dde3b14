"""The whole day through real adapters and a real Dagster instance: first run, later days, corrections, bad series."""

from __future__ import annotations

import shutil
from datetime import date, timedelta
from typing import TYPE_CHECKING

import dagster as dg
import pandas as pd
import pytest
from deltalake import DeltaTable

from many_models.adapters.warehouse.serverless import ServerlessWarehouse
from many_models.data import row_checks
from many_models.errors import InputError, MissingTableError, PermanentError, SettingsError
from many_models.forecasting import datasets
from many_models.keys import SeriesKey
from many_models.operations.day import Day, open_instance
from many_models_tests.support.project import END, Project, make_project, sales, stages_of

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from many_models.orchestration import due

pytestmark = pytest.mark.slow


DAY_BEFORE = END - timedelta(days=3)


@pytest.fixture(scope="module")
def first_day(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = make_project(tmp_path_factory.mktemp("day") / "p", sales(), forecast={"trees": True})
    project.run(DAY_BEFORE)
    return project


@pytest.fixture
def project(first_day: Project, tmp_path: Path) -> Project:
    return Project(shutil.copytree(first_day.root, tmp_path / "p"))


def test_the_first_day_carries_every_series_from_the_source_to_the_warehouse(first_day: Project) -> None:
    assert first_day.partitions("predictions") == {f"s{s}__i{i}" for s in range(2) for i in range(3)}
    assert len(first_day.partitions("raw_sales")) == 117
    rows = first_day.warehouse("SELECT * FROM predictions")
    assert len(rows) == 6 * 7
    assert set(rows["cutoff_date"]) == {DAY_BEFORE.isoformat()}
    assert rows["y_hat"].notna().all()
    assert (rows["lo95"] <= rows["lo80"]).all()
    assert (rows["hi80"] <= rows["hi95"]).all()
    assert set(rows["store"]) == {"s0", "s1"}
    decisions = first_day.warehouse("SELECT action, rule FROM decisions")
    assert len(decisions) == 6
    trained = first_day.table("trained_models")
    assert (trained["wape"] < trained["baseline_wape"] + 0.05).all()


def test_every_table_of_the_lake_is_of_reader_1_and_writer_2(first_day: Project) -> None:
    """What Synapse's serverless pool and Power BI read: neither knows `timestampNtz`."""
    tables = sorted(log.parent for log in first_day.root.rglob("_delta_log"))
    found = {table.name: DeltaTable(str(table)).protocol() for table in tables}
    assert {"raw_sales", "predictions", "series", "trained_models"} <= set(found)
    assert {(one.min_reader_version, one.min_writer_version) for one in found.values()} == {(1, 2)}


def test_when_nothing_is_due_nothing_runs(project: Project) -> None:
    assert project.run(DAY_BEFORE) == []


def test_a_warehouse_that_records_no_load_is_loaded_once(project: Project) -> None:
    """A serverless pool reads the lake: what it does not record is not lost."""
    made = list[str]()
    pool = ServerlessWarehouse(f"sqlite:///{project.root / 'pool.db'}", lambda: made.append("views") or [])
    with open_instance(project.home) as instance:
        for until, stages in ((DAY_BEFORE, 0), (DAY_BEFORE + timedelta(days=1), 7)):
            reports = Day(project.settings(until), instance, resources={"warehouse": pool}).run()
            assert len(stages_of(reports)) == stages
    assert made == ["views"]


@pytest.mark.slow
def test_each_further_day_touches_what_is_due_and_nothing_else(project: Project) -> None:
    for ahead in (1, 2, 3):
        day = DAY_BEFORE + timedelta(days=ahead)
        done = stages_of(project.run(day))
        assert done == {
            "raw_sales": 1,
            "raw_covariates": 1,
            "store_item_datasets": 6,
            "trained_models": 6,
            "promoted_models": 6,
            "predictions": 6,
            "warehouse_predictions": 1,
        }
        assert project.run(day) == []
    accuracy = project.warehouse("SELECT * FROM accuracy")
    assert len(accuracy) == 6 * 3  # three earlier cutoffs have actuals by now
    assert accuracy["wape"].between(0, 1).all()
    assert project.warehouse("SELECT count(DISTINCT cutoff_date) AS n FROM predictions")["n"][0] == 4


@pytest.mark.slow
def test_a_corrected_row_retrains_its_own_series_only(project: Project) -> None:
    project.source(
        "UPDATE sales SET sales = sales + 40 WHERE store = 's1' AND item = 'i2' AND date = ?",
        [((DAY_BEFORE - timedelta(days=2)).isoformat(),)],
    )
    done = stages_of(project.run(DAY_BEFORE))
    assert done == {
        "raw_sales": 1,
        "store_item_datasets": 1,
        "trained_models": 1,
        "promoted_models": 1,
        "predictions": 1,
        "warehouse_predictions": 1,
    }


@pytest.mark.slow
def test_a_new_item_becomes_a_partition_with_a_recorded_fallback_on_its_first_day(project: Project) -> None:
    day = DAY_BEFORE + timedelta(days=1)
    project.source("INSERT INTO sales VALUES (?, ?, ?, ?)", [("s0", "new", day.isoformat(), 4.0)])
    project.run(day)
    assert "s0__new" in project.partitions("predictions")
    rows = project.warehouse("SELECT * FROM predictions WHERE item = 'new'")
    assert len(rows) == 7
    assert (rows["fallback"] != "").all()
    assert rows["y_hat"].notna().all()


@pytest.mark.slow
def test_the_same_days_run_again_from_the_ui_change_no_table(project: Project) -> None:
    before = project.contents()
    with open_instance(project.home) as instance:
        rerun(project, instance, "raw_sales", sorted(project.partitions("raw_sales"))[-10:])
        rerun(project, instance, "store_item_datasets", sorted(project.partitions("store_item_datasets")))
        rerun(project, instance, "warehouse_predictions", [DAY_BEFORE.isoformat()])
    for name, frame in project.contents().items():
        pd.testing.assert_frame_equal(frame, before[name], obj=name)


def rerun(
    project: Project, instance: dg.DagsterInstance, stage: due.Stage, keys: list[str], until: date = DAY_BEFORE
) -> None:
    from many_models.definitions import build
    from many_models.orchestration.automation import JOBS

    tags = {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}
    job = build(project.settings(until)).resolve_job_def(JOBS[stage])
    assert job.execute_in_process(instance=instance, tags=tags, raise_on_error=False).success


def test_a_run_over_two_stages_is_refused_before_any_work(project: Project) -> None:
    from many_models.definitions import build

    settings = project.settings(DAY_BEFORE)
    selection = dg.define_asset_job("both", dg.AssetSelection.assets("store_item_datasets", "trained_models"))
    definitions = dg.Definitions.merge(build(settings), dg.Definitions(jobs=[selection]))
    versions = project.table("store_item_datasets")
    with open_instance(project.home) as instance:
        job = definitions.resolve_job_def("both")
        result = job.execute_in_process(instance=instance, partition_key="s0__i0", raise_on_error=False)
        assert not result.success
        data = result.get_step_failure_events()[0].step_failure_data
        assert "Launch a backfill" in (data.user_failure_data.description or "")
    assert len(versions) == len(project.table("store_item_datasets"))


# --- A series fails alone -------------------------------------------------------------------------------------------
def weekly() -> pd.DataFrame:
    """Sundays of two years, and one series of each odd kind."""
    end = date(2024, 6, 30)
    weeks = [end - timedelta(weeks=back) for back in range(109, -1, -1)]
    rows = [("a", f"good{n}", day, 20.0 + n + (i * (3 + n)) % 7) for n in range(4) for i, day in enumerate(weeks)]
    rows += [("a", "too_large", day, 5e8 + i % 4) for i, day in enumerate(weeks)]
    rows += [("a", "short", day, 3.0) for day in weeks[-3:]]
    rows += [("a", "constant", day, 6.0) for day in weeks]
    rows += [("a", "zeros", day, 0.0) for day in weeks]
    rows += [("a", "new_today", end, 9.0)]
    rows += [("a", "ended", day, 8.0 + i % 3) for i, day in enumerate(weeks[:50])]
    return pd.DataFrame([(s, n, d.isoformat(), y) for s, n, d, y in rows], columns=["store", "item", "date", "sales"])


@pytest.fixture(scope="module")
def odd_series(tmp_path_factory: pytest.TempPathFactory) -> Generator[Project]:
    """A project with a series that datasets refuse: row checks let values up to 1e15 pass, datasets here up to 1e8."""
    assert row_checks.LARGEST_TARGET == 1e15  # a copy, made by the import above, which the patch must not reach
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "LARGEST", 1e8)
        yield _odd_series(tmp_path_factory)


def _odd_series(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = make_project(
        tmp_path_factory.mktemp("odd") / "p",
        weekly(),
        data={"frequency": "W-SUN", "start": date(2022, 5, 1)},
        partitions={"grain": "week"},
        forecast={"horizon": 4, "windows": 2},
    )
    with open_instance(project.home) as instance:
        Day(project.settings(date(2024, 6, 23)), instance).run()
    return project


@pytest.mark.slow
def test_a_series_whose_data_raises_fails_alone_and_says_why(odd_series: Project) -> None:
    status = odd_series.table("series_status")
    assert status["series_id"].tolist() == ["a__too_large"]
    assert status["stage"].tolist() == ["store_item_datasets"]
    assert "needed a finite number below 1e+08" in status["reason"][0]
    assert status["permanent"].all()
    assert not status["set_aside"].any()
    with open_instance(odd_series.home) as instance:
        from many_models.orchestration.event_log.history import failed_partitions

        assert set(failed_partitions(instance, dg.AssetKey("store_item_datasets"))) == {"a__too_large"}
    assert "a__good0" in odd_series.partitions("predictions")


@pytest.mark.slow
def test_a_permanent_failure_starts_no_run_again_at_the_same_version(odd_series: Project) -> None:
    assert odd_series.run(date(2024, 6, 23)) == []


@pytest.mark.slow
def test_odd_series_get_a_recorded_fallback_and_ended_ones_no_forecast(odd_series: Project, tmp_path: Path) -> None:
    project = Project(shutil.copytree(odd_series.root, tmp_path / "p"))
    reports = project.run()
    assert {report.stage: report.failed for report in reports}["store_item_datasets"] == 1
    rows = project.warehouse("SELECT * FROM predictions WHERE cutoff_date = '2024-06-30'")
    fallback = rows.groupby("item")["fallback"].first().to_dict()
    assert fallback["good0"] == ""
    assert all(fallback[name] for name in ("short", "constant", "zeros", "new_today"))
    assert {"ended", "too_large"}.isdisjoint(fallback)
    assert (rows[rows["item"] == "zeros"]["y_hat"] == 0).all()
    assert (rows[rows["item"] == "constant"]["y_hat"] == 6).all()
    # the same permanent reason at new data: set aside, and no longer tried
    status = project.table("series_status")
    assert status["set_aside"].tolist() == [True]
    items = ("good0", "good1", "good2", "good3", "constant", "zeros", "too_large")
    project.source("INSERT INTO sales VALUES (?, ?, ?, ?)", [("a", item, "2024-07-07", 5.0) for item in items])
    reports = project.run()
    assert {report.stage: report.failed for report in reports}["store_item_datasets"] == 0
    assert stages_of(reports)["predictions"] == 8


@pytest.mark.long(
    "orchestration/test_failures.py::test_a_series_that_is_set_aside_is_tried_again_with_other_settings_alone",
    "orchestration/test_events.py::test_a_failed_series_that_succeeds_is_failed_no_more",
)
def test_materializing_a_series_that_was_set_aside_brings_it_back(odd_series: Project, tmp_path: Path) -> None:
    project = Project(shutil.copytree(odd_series.root, tmp_path / "p"))
    project.run()
    assert project.table("series_status")["set_aside"].tolist() == [True]
    project.source("DELETE FROM sales WHERE item = 'too_large'")
    good = weekly().query("item == 'good1'").assign(item="too_large")
    project.source("INSERT INTO sales VALUES (?, ?, ?, ?)", [tuple(row) for row in good.itertuples(index=False)])
    with open_instance(project.home) as instance:
        from many_models.definitions import build
        from many_models.orchestration.automation import JOBS

        definitions = build(project.settings())
        weeks = sorted(project.partitions("raw_sales"))
        tags = {"dagster/asset_partition_range_start": weeks[0], "dagster/asset_partition_range_end": weeks[-1]}
        assert definitions.resolve_job_def(JOBS["raw_sales"]).execute_in_process(instance=instance, tags=tags).success
        job = definitions.resolve_job_def(JOBS["store_item_datasets"])
        assert job.execute_in_process(instance=instance, partition_key="a__too_large").success
    assert project.table("series_status").empty
    project.run()
    assert len(project.warehouse("SELECT * FROM predictions WHERE item = 'too_large'")) == 4


# --- Bad input ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ("DROP TABLE sales", MissingTableError, "sales"),
        ("ALTER TABLE sales RENAME COLUMN item TO product", InputError, "item"),
    ],
)
def test_a_missing_table_or_column_is_one_clear_error_before_any_work(
    tmp_path: Path, change: str, error: type[Exception], says: str
) -> None:
    project = make_project(tmp_path / "p", sales(days=40))
    project.source(change)
    with pytest.raises(error, match=says):
        project.run()
    assert not (project.root / "var" / "lake").exists()


def test_a_target_without_a_number_fails_with_its_name(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", sales(days=40), data={"target": "item", "keys": ["store"]})
    with pytest.raises(PermanentError, match="'i0', needed a number"):
        project.run()


def test_an_empty_table_is_said_to_be_empty(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", sales(days=1).head(0))
    with pytest.raises(InputError, match="no row"):
        project.run()


@pytest.mark.slow
def test_bad_rows_are_quarantined_with_their_reasons_and_the_rest_goes_on(tmp_path: Path) -> None:
    rows = sales(stores=1, items=1, days=60)
    rows["sales"] = rows["sales"].astype(object)
    first = rows.iloc[0]["date"]
    bad = [
        ("s0", "i0", first, 1.0),
        ("s0", "i0", "someday", 1.0),
        ("s0", "i0", "2099-01-01", 1.0),
        ("s0", "i1", first, None),
        ("s0", "i1", first, -4.0),
        ("s0", "i1", first, "many"),
    ]
    project = make_project(tmp_path / "p", pd.concat([rows, pd.DataFrame(bad, columns=rows.columns)]))
    project.run()
    reasons = project.table("quarantine")["reason"].value_counts().to_dict()
    assert reasons == {
        "duplicate": 1,
        "bad_timestamp": 1,
        "after_now": 1,
        "missing_target": 1,
        "negative": 1,
        "not_a_number": 1,
    }
    assert len(project.table("raw_sales")) == 60
    assert len(project.warehouse("SELECT * FROM predictions")) == 7


ODD_KEYS = ["a/b", "it's", '"q"', "🍓", "", "a__b", "_", "..", "a...b", "50 %", "x;y", "new\nline", "Käse", " edge "]


@pytest.mark.slow
def test_keys_of_any_character_come_through_to_the_warehouse_and_back(tmp_path: Path) -> None:
    base = sales(stores=1, items=1, days=40)
    rows = pd.concat([base.assign(store=ODD_KEYS[n % 3], item=key) for n, key in enumerate(ODD_KEYS)])
    project = make_project(tmp_path / "p", rows)
    project.run()
    found = project.warehouse("SELECT DISTINCT series_id, store, item FROM predictions")
    assert sorted(found["item"]) == sorted(ODD_KEYS)
    for row in found.itertuples():
        assert SeriesKey.parse(row.series_id).parts == (row.store, row.item)
    assert project.partitions("predictions") == set(found["series_id"])


def test_a_covariates_table_without_its_column_ends_the_day_at_once_and_says_so(tmp_path: Path) -> None:
    rows = sales(days=40).assign(price=2.0)
    project = make_project(
        tmp_path / "p", rows, source={"covariates_table": "plans"}, data={"known": ["price"], "start": date(2024, 5, 1)}
    )
    project.source("CREATE TABLE plans (store TEXT, item TEXT, date TEXT, cost REAL)")
    with pytest.raises(PermanentError, match="lacks price"):
        project.run()


@pytest.mark.slow
def test_known_covariates_of_the_future_come_from_their_table_and_repeated_ones_are_recorded(tmp_path: Path) -> None:
    rows = sales(stores=1, items=2).assign(price=2.0)
    project = make_project(tmp_path / "p", rows, source={"covariates_table": "plans"}, data={"known": ["price"]})
    project.source("CREATE TABLE plans (store TEXT, item TEXT, date TEXT, price REAL)")
    ahead = [(END + timedelta(days=step)).isoformat() for step in range(1, 8)]
    project.source("INSERT INTO plans VALUES (?, ?, ?, ?)", [("s0", "i0", day, 1.5) for day in ahead])
    project.run()
    found = project.warehouse(
        "SELECT item, min(known_repeated) AS least, max(known_repeated) AS most FROM predictions GROUP BY item"
    )
    assert found.to_dict("records") == [{"item": "i0", "least": 0, "most": 0}, {"item": "i1", "least": 1, "most": 1}]


@pytest.mark.long(
    "contracts/production_registry.py::test_a_rollback_restores_a_release_whole",
    "orchestration/test_outside.py::test_the_lake_follows_production_and_promotion_decides_again_where_the_newer_release_is_forgotten",
)
def test_after_a_rollback_the_older_release_serves_and_predictions_follow(project: Project) -> None:

    from many_models.operations.releases import roll_back
    from many_models.wiring import build_production

    day = DAY_BEFORE + timedelta(days=1)
    project.run(day)
    settings = project.settings(day)
    newest, oldest = build_production(settings).releases()
    roll_back(settings, oldest.release_id)
    assert stages_of(project.run(day)) == {"predictions": 6, "warehouse_predictions": 1}
    served = set(project.warehouse(f"SELECT DISTINCT model FROM predictions WHERE cutoff_date = '{day}'")["model"])
    assert served == {champion.ref for champion in oldest.champions.values()}
    assert newest.release_id != oldest.release_id


def test_a_series_that_no_stage_knows_fails_by_itself_and_says_what_to_do(project: Project) -> None:
    from many_models.definitions import build
    from many_models.orchestration.automation import JOBS

    with open_instance(project.home) as instance:
        instance.add_dynamic_partitions("store_items", ["nobody__knows"])
        job = build(project.settings(DAY_BEFORE)).resolve_job_def(JOBS["trained_models"])
        result = job.execute_in_process(instance=instance, partition_key="nobody__knows", raise_on_error=False)
        assert not result.success
    status = project.table("series_status")
    assert status["series_id"].tolist() == ["nobody__knows"]
    assert "materialize" in status["reason"][0]


def test_an_instance_of_another_project_is_refused(project: Project) -> None:
    shutil.rmtree(project.root / "var" / "lake")
    with pytest.raises(SettingsError, match="belongs to another project"):
        project.run(DAY_BEFORE)
