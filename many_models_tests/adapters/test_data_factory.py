"""Data Factory fills the source: the pipeline is started per day, awaited, judged, and what landed is checked."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from many_models.adapters.source import data_factory as adapter
from many_models.adapters.source.data_factory import DataFactory, NoIngestion, Pipeline
from many_models.definitions import build
from many_models.errors import AccessError, InputError, PermanentError, SettingsError, UnavailableError
from many_models.keys import digest
from many_models.operations.day import Day, open_instance
from many_models.orchestration.ingestion import awaited, keys_to_ingest, require_landed
from many_models.ports import Ingestion
from many_models.settings import DataFactorySettings, DataSettings, Settings
from many_models.wiring import build_ingestion
from many_models_tests.stand_ins.data_factory_fake import FakeDataFactory, Run, data_factory
from many_models_tests.support.project import END, Project, make_project, sales

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

pytestmark = pytest.mark.slow
DAY = datetime(2024, 6, 30)
PLACE = {"subscription": "sub", "resource_group": "rg", "factory": "adf", "pipeline": "ingest"}
INGEST = Pipeline("sub", "rg", "adf", "ingest")


@pytest.fixture
def fake() -> Generator[FakeDataFactory]:
    with data_factory() as running:
        yield running


def factory(fake: FakeDataFactory, pipeline: Pipeline = INGEST, timeout: float = 30.0) -> DataFactory:
    return DataFactory(pipeline, fake.client, poll=0.01, timeout=timeout)


# --- The adapter ----------------------------------------------------------------------------------------------------
def test_the_pipeline_gets_the_day_and_is_awaited(fake):
    assert isinstance(factory(fake), Ingestion)
    assert factory(fake).run(DAY) == "pipeline ingest, run run-1: 2024-06-30 in 1 s"
    assert [(run.parameters, run.looks) for run in fake.runs] == [({"day": "2024-06-30"}, 3)]
    assert factory(fake).check() == "Data Factory adf: pipeline ingest"


def test_a_run_for_the_same_day_that_still_goes_is_joined_and_another_day_is_not(fake):
    fake.runs += [Run("other-day", {"day": "2024-06-29"}), Run("same-day", {"day": "2024-06-30"})]
    assert "run same-day" in factory(fake).run(DAY)
    assert len(fake.runs) == 2


@pytest.mark.parametrize(
    ("kind", "error"), [("UserError", InputError), ("SystemError", UnavailableError), ("", UnavailableError)]
)
def test_a_failed_run_says_which_activity_failed_and_whose_fault_it_was(fake, kind, error):
    def fail(run: Run) -> str:
        said = {"message": "Login failed", "failureType": kind}
        run.activity = {"activityName": "copy_sales", "status": "Failed", "error": said} if kind else None
        return "Failed"

    fake.ends = fail
    said = "activity copy_sales: Login failed" if kind else "the run's own message"
    with pytest.raises(error, match=f"pipeline ingest, run run-1 for 2024-06-30 failed: {said}"):
        factory(fake).run(DAY)


def test_a_cancelled_run_is_not_started_again_by_itself(fake):
    fake.ends = lambda _run: "Cancelled"
    with pytest.raises(PermanentError, match="ended as Cancelled: materialize raw_sales"):
        factory(fake).run(DAY)


def test_a_run_that_takes_too_long_is_cancelled(fake):
    fake.looks = 10_000
    with pytest.raises(UnavailableError, match=r"not done after 0\.05 s, and cancelled"):
        factory(fake, timeout=0.05).run(DAY)
    assert fake.cancelled == ["run-1"]


def test_a_wait_that_is_interrupted_cancels_the_run(fake, monkeypatch):
    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(adapter.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        factory(fake).run(DAY)
    assert fake.cancelled == ["run-1"]


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        (401, AccessError, "identity is not accepted"),
        (403, AccessError, "Data Factory Contributor"),
        (404, SettingsError, "no such pipeline in resource group rg"),
        (400, InputError, "refuses"),
        (503, UnavailableError, "planted"),
        (429, UnavailableError, "planted"),
    ],
)
def test_what_the_service_answers_becomes_an_error_of_ours(fake, status, error, said):
    fake.status = status
    for do in (lambda: factory(fake).run(DAY), factory(fake).check):
        with pytest.raises(error, match=rf"Data Factory adf, pipeline ingest.*{said}"):
            do()


def test_a_pipeline_that_is_not_there_is_named(fake):
    with pytest.raises(SettingsError, match="pipeline nope: there is no such pipeline"):
        factory(fake, replace(INGEST, name="nope")).check()


def test_a_service_that_is_away_is_unavailable(fake):
    fake.url = "http://127.0.0.1:9"
    with pytest.raises(UnavailableError, match="Data Factory adf"):
        factory(fake).check()


# --- Settings and decisions -----------------------------------------------------------------------------------------
def test_without_a_pipeline_nothing_is_brought_or_awaited():
    assert isinstance(build_ingestion(Settings()), NoIngestion)
    assert isinstance(NoIngestion(), Ingestion)
    assert "read as it is" in NoIngestion().run(DAY)
    assert awaited(Settings(), {"2024-06-01": "v"}, DAY) == {}


def test_a_pipeline_without_its_place_is_refused():
    with pytest.raises(ValueError, match="needs subscription, resource_group, factory"):
        DataFactorySettings(pipeline="ingest")
    assert isinstance(build_ingestion(Settings(data_factory=DataFactorySettings(**PLACE))), DataFactory)


def test_days_that_ended_and_that_the_source_has_not_got_are_awaited():
    settings = Settings(data_factory=DataFactorySettings(**PLACE))
    held = {"2024-06-27": "a", "2024-06-28": digest()}
    assert list(awaited(settings, held, datetime(2024, 7, 1, 6))) == ["2024-06-29", "2024-06-30"]
    assert awaited(settings, held, datetime(2024, 6, 29, 6)) == {}
    assert awaited(settings, {}, datetime(2024, 7, 1, 6)) == {}
    capped = settings.model_copy(update={"data": DataSettings(until=datetime(2024, 6, 29))})
    assert list(awaited(capped, held, datetime(2024, 7, 1, 6))) == ["2024-06-29"]


def test_what_the_source_holds_is_brought_again_only_by_hand():
    held = {"2024-06-27": "a", "2024-06-28": digest()}
    keys = ["2024-06-27", "2024-06-28", "2024-06-29"]
    assert keys_to_ingest(keys, held, by_hand=False) == keys[1:]
    assert keys_to_ingest(keys, held, by_hand=True) == keys


def test_a_day_that_did_not_land_is_named():
    settings = Settings(data_factory=DataFactorySettings(**PLACE))
    require_landed(settings, ["2024-06-28"], {"2024-06-28": digest(), "2024-06-29": "v"})
    with pytest.raises(InputError, match=r"'ingest' succeeded for 2024-06-30, but the newest .*'sales' is 2024-06-29"):
        require_landed(settings, ["2024-06-30"], {"2024-06-28": "u", "2024-06-29": "v"})


# --- Through Dagster ------------------------------------------------------------------------------------------------
class StopError(Exception):
    """Ends a day after raw_sales: the rest is not this file's."""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    rows = sales(stores=1, items=2, days=40)
    return make_project(tmp_path / "p", rows[rows["date"] < END.isoformat()], data_factory=PLACE)


def copied(project: Project, until: date, resources: dict[str, object]) -> list[str]:
    """Run raw_sales for what is due until then; returns the errors of its runs."""
    with open_instance(project.home) as instance:
        day = Day(project.settings(until), instance, resources=resources)

        def after_raw(report) -> None:
            if report.stage != "raw_sales" or not report.error:
                raise StopError

        day.progress.report = after_raw
        try:
            day.run()
        except StopError:
            return []
        except PermanentError as error:
            return [str(error)]
        return []


@pytest.mark.slow
def test_the_day_that_is_awaited_is_brought_validated_and_copied(fake, project):
    def land(run: Run) -> str:
        project.source(
            "INSERT INTO sales VALUES (?, ?, ?, ?)", [("s0", f"i{i}", run.parameters["day"], 5.0) for i in range(2)]
        )
        return "Succeeded"

    resources: dict[str, object] = {"ingestion": factory(fake)}
    (said,) = copied(project, END, resources)
    assert "succeeded for 2024-06-30, but the newest complete period of table 'sales' is 2024-06-29" in said
    assert END.isoformat() not in project.partitions("raw_sales")

    fake.ends = land
    assert copied(project, END, resources) == []
    assert [run.parameters["day"] for run in fake.runs] == [END.isoformat()] * 2
    assert END.isoformat() in project.partitions("raw_sales")
    assert (END - timedelta(days=39)).isoformat() in project.partitions("raw_sales")


@pytest.mark.slow
def test_a_day_that_is_materialized_by_hand_is_brought_again(fake, project):
    key = (END - timedelta(days=1)).isoformat()
    settings = project.settings(END)
    with open_instance(project.home) as instance:
        definitions = build(settings, {"ingestion": factory(fake)})
        job = definitions.resolve_job_def("ingest_sales")
        result = job.execute_in_process(
            instance=instance, partition_key=key, asset_selection=[dg.AssetKey("raw_sales")]
        )
    assert result.success
    assert [run.parameters for run in fake.runs] == [{"day": key}]
