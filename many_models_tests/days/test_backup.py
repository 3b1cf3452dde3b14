"""A copy taken while a project runs, restored into another folder: the next day is what it would have been."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from datetime import timedelta
from threading import Thread
from typing import TYPE_CHECKING

import dagster as dg
import pandas as pd
import pytest
from click.testing import CliRunner

from many_models.cli.main import main
from many_models.errors import InputError, IntegrityError, SettingsError
from many_models.operations.backup import MANIFEST, back_up, restore
from many_models.operations.day import Day, Progress, open_instance
from many_models_tests.support.project import END, Project, sales, two_days

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

FIRST, SECOND = END - timedelta(days=1), END


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Project]:
    """A project after its first day, and after its second."""
    return two_days(tmp_path_factory.mktemp("backup"), sales(items=2))


def assert_day_equals(project: Project, wanted: Project) -> None:
    found, other = project.contents(), wanted.contents()
    assert set(found) == set(other)
    for name, frame in other.items():
        if name != "lake release_log":
            pd.testing.assert_frame_equal(found[name], frame, obj=name)


def restored(project: Project, copy: Path, into: Path) -> Project:
    """The copy in another folder, where the project's own folder is out of reach."""
    restore(copy, into)
    project.root.rename(project.root.with_name("out of reach"))
    return Project(into)


@pytest.mark.long("days/test_backup.py::test_a_copy_in_the_middle_of_a_stage_ends_the_day_equal")
def test_the_day_after_a_restore_is_what_it_would_have_been(days: tuple[Project, Project], tmp_path: Path) -> None:
    project = Project(shutil.copytree(days[0].root, tmp_path / "p"))
    with open_instance(project.home) as instance:
        under_way = instance.add_run(dg.DagsterRun(job_name="one", status=dg.DagsterRunStatus.STARTED))
    back_up(project.settings(), project.home, tmp_path / "copy")
    again = restored(project, tmp_path / "copy", tmp_path / "q")
    with open_instance(again.home) as instance:
        held = instance.get_run_by_id(under_way.run_id)
        assert held is not None
        assert held.status == dg.DagsterRunStatus.FAILURE
    again.run(SECOND)
    assert_day_equals(again, days[1])
    for database in ("staging", "production"):
        with closing(sqlite3.connect(again.root / f"var/registry/{database}.db")) as connection:
            assert str(tmp_path / "p") not in "\n".join(connection.iterdump())


@pytest.mark.long("days/test_backup.py::test_a_copy_in_the_middle_of_a_stage_ends_the_day_equal")
def test_a_copy_between_two_stages_ends_the_day_equal(days: tuple[Project, Project], tmp_path: Path) -> None:
    """After three stages of one day: each copy is restored, and its day goes on."""
    project = Project(shutil.copytree(days[0].root, tmp_path / "p"))
    stages = ["raw_sales", "trained_models", "promoted_models"]

    def copy(report) -> None:
        if report.stage in stages:
            back_up(project.settings(), project.home, tmp_path / "copies" / report.stage)

    with open_instance(project.home) as instance:
        Day(project.settings(SECOND), instance, Progress(report=copy)).run()
    project.root.rename(project.root.with_name("out of reach"))
    for stage in stages:
        restore(tmp_path / "copies" / stage, tmp_path / stage)
        again = Project(tmp_path / stage)
        again.run(SECOND)
        assert_day_equals(again, days[1])


def test_a_copy_in_the_middle_of_a_stage_ends_the_day_equal(days: tuple[Project, Project], tmp_path: Path) -> None:
    """Taken by another thread from the moment on when training has begun."""
    project = Project(shutil.copytree(days[0].root, tmp_path / "p"))
    settings, copying = project.settings(), list[Thread]()

    def begin(stage: str, _: int) -> None:
        if stage == "trained_models":
            copying.append(Thread(target=back_up, args=(settings, project.home, tmp_path / "copy")))
            copying[0].start()

    with open_instance(project.home) as instance:
        Day(project.settings(SECOND), instance, Progress(stage=begin)).run()
    copying[0].join()
    again = restored(project, tmp_path / "copy", tmp_path / "q")
    again.run(SECOND)
    assert_day_equals(again, days[1])


def test_a_copy_that_was_changed_is_not_restored(days: tuple[Project, Project], tmp_path: Path) -> None:
    project = days[0]
    copied = back_up(project.settings(), project.home, tmp_path / "copy")
    assert not [name for name in copied if "cache" in name]
    (tmp_path / "copy" / copied[-1]).write_bytes(b"other")
    with pytest.raises(IntegrityError, match="nothing was restored"):
        restore(tmp_path / "copy", tmp_path / "q")
    assert not (tmp_path / "q").exists()
    (tmp_path / "copy" / MANIFEST).unlink()
    with pytest.raises(InputError, match="not a backup"):
        restore(tmp_path / "copy", tmp_path / "q")


def test_a_folder_that_is_not_empty_is_refused(days: tuple[Project, Project], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    project = days[0]
    done = CliRunner().invoke(main, ["backup", str(tmp_path), "--config", str(project.root / "many_models.toml")])
    assert done.exit_code == 1
    assert done.stderr.startswith(f"error: {tmp_path} is not empty")
    with pytest.raises(InputError, match="inside the project"):
        back_up(project.settings(), project.home, project.root / "copy")


def test_a_source_outside_of_the_project_is_not_copied(days: tuple[Project, Project], tmp_path: Path) -> None:
    """It has its own backup. The restored project reads it where it is."""
    project = Project(shutil.copytree(days[0].root, tmp_path / "p"))
    source, settings = tmp_path / "elsewhere" / "sales.db", project.root / "many_models.toml"
    source.parent.mkdir()
    shutil.move(project.root / "sales.db", source)
    settings.write_text(settings.read_text().replace("sqlite:///sales.db", f"sqlite:///{source}"))
    content = source.read_bytes()
    copied = back_up(project.settings(), project.home, tmp_path / "copy")
    assert "sales.db" in back_up(days[0].settings(), days[0].home, tmp_path / "of a whole project")
    assert not [path for path in (tmp_path / "copy").rglob("*") if path.name == source.name]
    assert not [name for name in copied if source.name in name]
    again = restored(project, tmp_path / "copy", tmp_path / "q")
    assert again.settings().source.url == f"sqlite:///{source}"
    assert source.read_bytes() == content


def test_a_service_is_backed_up_by_its_own_means(days: tuple[Project, Project], tmp_path: Path) -> None:
    settings = days[0].settings()
    far = settings.model_copy(update={"warehouse": settings.warehouse.model_copy(update={"url": "postgresql://h/d"})})
    with pytest.raises(SettingsError, match=r"h/d is a service.*docs/backup\.md"):
        back_up(far, days[0].home, tmp_path / "copy")
