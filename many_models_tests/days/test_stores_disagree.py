"""One store set back a day, emptied or gone: `doctor` names it, `run` stops or mends it, and the day ends equal."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from datetime import timedelta
from functools import cache
from itertools import permutations
from typing import TYPE_CHECKING

import dagster as dg
import pandas as pd
import pytest
from click.testing import CliRunner

from many_models.cli.main import main
from many_models.data import lake_tables
from many_models.errors import IntegrityError
from many_models.operations import backup, doctor
from many_models.operations.day import Day, Progress, open_instance
from many_models.orchestration import lake_marks
from many_models.wiring import build_lake, build_production, build_staging, build_warehouse
from many_models_tests.support.project import END, Project, sales, two_days

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

pytestmark = pytest.mark.slow

FIRST, SECOND = END - timedelta(days=1), END


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Project]:
    """A project after its first day, and after its second."""
    return two_days(tmp_path_factory.mktemp("stores"), sales(items=2))


@pytest.fixture
def project(days: tuple[Project, Project], tmp_path: Path) -> Project:
    return Project(shutil.copytree(days[1].root, tmp_path / "p"))


def stores(project: Project) -> AbstractContextManager[doctor.Stores]:
    from contextlib import contextmanager

    @contextmanager
    def opened() -> Iterator[doctor.Stores]:
        settings = project.settings()
        ports = build_lake(settings), build_staging(settings), build_production(settings), build_warehouse(settings)
        with open_instance(project.home) as instance:
            yield doctor.Stores(instance, *ports)

    return opened()


def run(project: Project) -> list[str]:
    """A run of the second day; what it notes."""
    notes = list[str]()
    with open_instance(project.home) as instance:
        Day(project.settings(SECOND), instance, Progress(note=notes.append)).run()
    return notes


def assert_equal(project: Project, days: tuple[Project, Project], *, but: frozenset[str] = frozenset()) -> None:
    found, wanted = project.contents(), days[1].contents()
    assert set(found) == set(wanted)
    for name, frame in wanted.items():
        if name not in but:
            pd.testing.assert_frame_equal(found[name], frame, obj=name)


# what was decided is decided again, with the models that are live as what came before
AGAIN = frozenset({"lake decisions", "warehouse decisions", "lake release_log"})


# pooled models that are learned again at a later day are other ones, and so is what they take part in
LEARNED = AGAIN | {f"lake {name}" for name in ("pooled_models", "trained_models", "candidate_scores", "champions",
                                               "predictions")} | {"warehouse predictions"}  # fmt: skip


def assert_forecasts_all(project: Project, days: tuple[Project, Project]) -> None:
    """A forecast for each series and period, whatever its value."""
    query = "SELECT series_id, ds FROM predictions WHERE cutoff_date = (SELECT MAX(cutoff_date) FROM predictions)"
    found, wanted = (one.warehouse(f"{query} ORDER BY series_id, ds") for one in (project, days[1]))
    pd.testing.assert_frame_equal(found, wanted)


def test_stores_that_agree_have_no_findings(project: Project) -> None:
    with stores(project) as opened:
        assert doctor.examine(opened) == []
        assert doctor.mend(opened) == []
    assert run(project) == []


# --- the lake -------------------------------------------------------------------------------------------------------
def gone(project: Project, _: Project, table: str) -> None:
    shutil.rmtree(project.root / "var" / "lake" / table)


def set_back(project: Project, before: Project, table: str) -> None:
    gone(project, before, table)
    shutil.copytree(before.root / "var" / "lake" / table, project.root / "var" / "lake" / table)


def emptied(project: Project, before: Project, table: str) -> None:
    """Made again without a row."""
    rows = build_lake(project.settings()).read(table)
    gone(project, before, table)
    build_lake(project.settings()).replace(table, rows.slice(0, 0), lake_tables.Filter())


RAW, PREDICTED, CHAMPIONS = lake_tables.RAW_SALES.name, lake_tables.PREDICTIONS.name, lake_tables.CHAMPIONS.name
Damage = "Callable[[Project, Project, str], None]"


@pytest.mark.parametrize(("table", "damage"), [
    (RAW, gone), (RAW, set_back), (RAW, emptied), (PREDICTED, gone), (CHAMPIONS, set_back),
])  # fmt: skip
def test_a_run_stops_and_names_the_table_that_the_lake_has_lost(
    project: Project, days: tuple[Project, Project], table: str, damage: Damage
) -> None:
    damage(project, days[0], table)
    before = {name: len(frame) for name, frame in warehouse(project).items()}
    with pytest.raises(IntegrityError, match=rf"{table}.*doctor --mend"):
        run(project)
    assert {name: len(frame) for name, frame in warehouse(project).items()} == before


def warehouse(project: Project) -> dict[str, pd.DataFrame]:
    return {name: project.warehouse(f"SELECT * FROM {name}") for name in ("predictions", "actuals", "accuracy")}


@pytest.mark.parametrize(("table", "damage"), [
    (RAW, set_back), (PREDICTED, set_back), (CHAMPIONS, gone), (lake_tables.TRAINED.name, emptied),
])  # fmt: skip
def test_mended_a_table_of_the_lake_is_as_it_was(
    project: Project, days: tuple[Project, Project], table: str, damage: Damage
) -> None:
    damage(project, days[0], table)
    with stores(project) as opened:
        assert any(table in one.says for one in doctor.examine(opened))
        assert doctor.mend(opened)
        assert not lake_marks.lost(opened.instance, opened.lake)
    run(project)
    assert_equal(project, days, but=AGAIN if table == lake_tables.TRAINED.name else frozenset())


@pytest.mark.parametrize("damage", [gone, set_back])
def test_the_whole_lake_lost_is_made_again(project: Project, days: tuple[Project, Project], damage: Damage) -> None:
    for table in sorted(build_lake(project.settings()).tables()):
        damage(project, days[0], table)
    with stores(project) as opened:
        assert doctor.examine(opened)
        doctor.mend(opened)
    run(project)
    assert_equal(project, days, but=LEARNED | {"warehouse accuracy"})  # of forecasts that are gone
    assert_forecasts_all(project, days)


def test_a_run_that_is_started_in_the_ui_stops_too(project: Project, days: tuple[Project, Project]) -> None:
    from many_models.definitions import build
    from many_models.orchestration.automation import JOBS

    gone(project, days[0], lake_tables.RAW_SALES.name)
    with open_instance(project.home) as instance:
        job = build(project.settings(SECOND)).resolve_job_def(JOBS["raw_sales"])
        result = job.execute_in_process(instance=instance, partition_key=SECOND.isoformat(), raise_on_error=False)
        assert not result.success
    assert not (project.root / "var" / "lake" / lake_tables.RAW_SALES.name).exists()


# --- every pair of stores -------------------------------------------------------------------------------------------
PLACES = {"records": ["dagster"], "staging": ["var/registry/staging.db", "var/registry/staging"],
          "production": ["var/registry/production.db", "var/registry/production"],
          "warehouse": ["var/warehouse.db"]}  # fmt: skip
STORES: tuple[doctor.Store, ...] = ("records", "lake", "staging", "production", "warehouse", "serving")
HOW = ("gone", "set back", "emptied")
# store that was damaged → the stores that know better
WITNESSES: dict[str, set[str]] = {
    "records": {"lake", "warehouse"}, "lake": {"records"}, "staging": {"lake"},
    "production": {"lake"}, "warehouse": {"records"}, "serving": {"production"},
}  # fmt: skip
# what a run does without `doctor --mend`
RUN_ALONE = {"warehouse", "records"}
Examined = "Callable[[doctor.Store, str], tuple[list[doctor.Finding], list[str]]]"


@pytest.fixture(scope="module")
def examined(days: tuple[Project, Project], tmp_path_factory: pytest.TempPathFactory) -> Examined:
    """What `doctor` finds, and what `doctor --mend` tells, of a project with one store damaged."""

    @cache
    def examine(store: doctor.Store, how: str) -> tuple[list[doctor.Finding], list[str]]:
        project = Project(shutil.copytree(days[1].root, tmp_path_factory.mktemp("damaged") / "p"))
        if store == "lake":
            damage = {"gone": gone, "set back": set_back, "emptied": emptied}[how]
            for table in sorted(build_lake(project.settings()).tables()):
                damage(project, days[0], table)
        elif store == "serving":
            damage_packs(own_files(project, days[0]), how)
        else:
            lose(project, days[0], store, how)
        with stores(project) as opened:
            return doctor.examine(opened), doctor.mend(opened)

    return examine


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(("store", "other"), list(permutations(STORES, 2)))
def test_of_two_stores_the_damaged_one_is_named(examined: Examined, store: doctor.Store, other: str, how: str) -> None:
    """By comparison with `other` itself, or with the stores between the two; `other` is never blamed."""
    found, told = examined(store, how)
    assert {one.store for one in found} == {store}
    against = {str(one.against) for one in found}
    assert against
    assert against <= WITNESSES[store]
    if other in against:
        assert any(one.where == f"{store}, against {other}" and one.remedy for one in found)
    if store not in RUN_ALONE:
        assert told
    elif not told:
        assert all("the next run" in one.remedy for one in found)


def test_each_store_that_knows_better_says_so(examined: Examined) -> None:
    for store, witnesses in WITNESSES.items():
        named = {str(one.against) for how in HOW for one in examined(store, how)[0]}  # type: ignore[arg-type]
        assert named == witnesses


def test_the_command_names_both_stores_and_ends_with_1(project: Project, days: tuple[Project, Project]) -> None:
    lose(project, days[0], "warehouse", "gone")
    words = ["doctor", "--config", str(project.root / "many_models.toml")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(project.home))
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 1
        assert "warehouse, against records: it lacks 2 loads" in done.stderr
        (one,) = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)["findings"]
    assert (one["store"], one["against"]) == ("warehouse", "records")


# emptied is as gone to a run, but for what an MLflow store without a table does
@pytest.mark.parametrize(("store", "how"), [
    ("staging", "gone"), ("production", "gone"), ("production", "set back"), ("production", "emptied"),
    ("warehouse", "gone"), ("warehouse", "set back"), ("records", "gone"), ("records", "set back"),
])  # fmt: skip
def test_a_store_lost_is_found_and_the_day_ends_as_it_would_have(
    project: Project, days: tuple[Project, Project], store: str, how: str
) -> None:
    lose(project, days[0], store, how)
    with stores(project) as opened:
        if store == "staging":  # a run goes on with what is live
            doctor.mend(opened)
    run(project)
    assert_equal(project, days, but=LEARNED if store == "records" else AGAIN)
    assert_forecasts_all(project, days)
    with stores(project) as opened:
        assert doctor.examine(opened) == []


def test_the_sensors_have_promotion_decide_again_after_an_older_registry(
    project: Project, days: tuple[Project, Project]
) -> None:
    from many_models.definitions import build
    from many_models.orchestration.automation import JOBS, SENSORS

    lose(project, days[0], "production", "set back")
    settings = project.settings(SECOND)
    with open_instance(project.home) as instance:
        sensor = build(settings).get_repository_def().get_sensor_def(SENSORS["promoted_models"])
        asked = sensor(dg.build_sensor_context(instance, resources={"lake": build_lake(settings)}))
        assert isinstance(asked, dg.RunRequest)
        assert asked.job_name == JOBS["promoted_models"]


# --- what is served -------------------------------------------------------------------------------------------------
def own_files(project: Project, before: Project) -> Project:
    """The project with its registries leading to its own files: damage stays in it."""
    for name in ("staging", "production"):
        place = project.root / "var" / "registry"
        shutil.copytree(before.root / "var" / "registry" / name, place / name, dirs_exist_ok=True)
        backup._move_places(place / f"{name}.db", str(before.root), str(project.root))
    return project


@pytest.fixture
def moved(project: Project, days: tuple[Project, Project]) -> Project:
    return own_files(project, days[0])


def damage_packs(project: Project, how: str) -> None:
    """Of every pack of production; `set back` puts the files of another release in the place of those of each."""
    folders = [file.parent for file in (project.root / "var" / "registry" / "production").rglob("MLmodel")]
    held = {folder: {file.name: file.read_bytes() for file in (folder / "data").iterdir()} for folder in folders}
    for folder in folders:
        if how == "gone":
            shutil.rmtree(folder)
            continue
        pack = folder.name.rpartition("-")[0]
        others = (held[one] for one in folders if one.name.rpartition("-")[0] == pack)
        other = next(files for files in others if files != held[folder])
        for name, content in held[folder].items():
            spoilt = {"emptied": b"", "cut": content[:-1], "set back": other.get(name, b"")}[how]
            (folder / "data" / name).write_bytes(spoilt)


@pytest.mark.parametrize("how", ["gone", "emptied", "cut"])
def test_served_packs_that_are_lost_are_found_and_made_again(
    moved: Project, days: tuple[Project, Project], how: str
) -> None:
    damage_packs(moved, how)
    with stores(moved) as opened:
        assert {one.store for one in doctor.examine(opened)} == {"serving"}
        doctor.mend(opened)
    run(moved)
    assert_equal(moved, days, but=AGAIN)
    with stores(moved) as opened:
        assert doctor.examine(opened) == []


def test_a_lost_manifest_is_told_and_the_other_stores_are_mended(moved: Project) -> None:
    for file in (moved.root / "var" / "registry" / "production").rglob("manifest.json"):
        file.unlink()
    empty(moved.root / "var" / "warehouse.db")
    with stores(moved) as opened:
        told = doctor.mend(opened)
    assert any("production: not mended" in line and "roll back" in line for line in told)
    assert any("warehouse: the next run loads" in line for line in told)


def lose(project: Project, before: Project, store: str, how: str) -> None:
    for place in PLACES[store]:
        path = project.root / place
        if how == "emptied" and path.suffix == ".db":
            empty(path)
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        if how == "set back":
            source = before.root / place
            shutil.copytree(source, path) if source.is_dir() else shutil.copy(source, path)


def empty(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
        for (name,) in names.fetchall():
            if name != "alembic_version":
                connection.execute(f'DELETE FROM "{name}"')
