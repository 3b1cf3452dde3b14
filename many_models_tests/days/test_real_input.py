"""Public tables of real sales, from file to warehouse, with the settings in examples/.

The first day is that of the whole table; further days are those of a part of it: there the size is not the point.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from many_models.orchestration.due import STAGES
from many_models_tests.support import public_tables

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CORES, PATIENCE = 2, 1500
MINUTES_ALLOWED = 3
HORIZON = 28
ONE_AFTER_THE_OTHER = """
import json, sys
from many_models.cli.main import main

for words in json.loads(sys.argv[1]):
    main(words, standalone_mode=False)
"""
PER_SERIES = ("store_item_datasets", "trained_models", "promoted_models", "predictions")

pytestmark = [
    pytest.mark.long(
        "onboarding/test_guess.py::test_the_example_settings_say_what_init_guesses",
        "days/test_day.py::test_each_further_day_touches_what_is_due_and_nothing_else",
        "days/test_known_of_series.py::test_a_day_with_all_of_it",
    ),
    pytest.mark.timeout(3 * PATIENCE),
    pytest.mark.public_tables,
]


@dataclass(frozen=True)
class Day:
    """What `many-models run --json` printed, and the processor time that it and its workers took."""

    printed: dict[str, object]
    cpu_seconds: float

    @property
    def stages(self) -> dict[str, tuple[int, int, int]]:
        """Stage → keys, done, failed; a stage that ran twice fails."""
        rows = self.printed["stages"]
        names = [row["stage"] for row in rows]
        assert names == [stage for stage in STAGES if stage in names]
        return {row["stage"]: (row["keys"], row["done"], row["failed"]) for row in rows}


@dataclass(frozen=True)
class Folder:
    """A folder in which a person types commands."""

    path: Path

    def command(self, *words: str) -> tuple[str, float]:
        """What the command prints, and the processor time that it and its workers took."""
        return self.commands([*words])

    def commands(self, *typed: list[str]) -> tuple[str, float]:
        """The same of several commands, one after the other in one process, which imports everything once."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-c", ONE_AFTER_THE_OTHER, json.dumps(typed)],
            cwd=self.path,
            env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent)},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def run(self, until: str = "") -> Day:
        printed, seconds = self.command("run", "--json", *(["--until", until] if until else []))
        day = Day(json.loads(printed), seconds)
        took = {row["stage"]: round(row["seconds"], 1) for row in day.printed["stages"]}
        scores = {name: day.printed.get(name) for name in ("wape", "seasonal_naive_wape")}
        print(f"{self.path.name} until {until or 'the end'}: {took}, {seconds:.0f} s of processor time, {scores}")  # noqa: T201  for those who measure: pytest -s
        return day

    def days(self, *untils: str) -> list[Day]:
        """One day after the other, in one process; "": until the data's own clock ends."""
        typed = [["run", "--json", *(["--until", until] if until else [])] for until in untils]
        printed, seconds = self.commands(*typed)
        decoder, found = json.JSONDecoder(), list[Day]()
        while printed := printed.strip():
            told, end = decoder.raw_decode(printed)
            found.append(Day(told, seconds))
            printed = printed[end:]
        assert len(found) == len(untils)
        return found

    def warehouse(self, query: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.path / "var/warehouse.db")) as database:
            return database.execute(query).fetchall()


def made_from(file: str, example: str, folder: Path) -> Folder:
    """A folder as the example's head says it is made."""
    folder.mkdir()
    made = Folder(folder)
    made.command("init", str(public_tables.folder() / file))
    shutil.copy(EXAMPLES / example, folder / "many_models.toml")
    return made


def part_of(whole: Folder, which: str, folder: Path) -> Folder:
    """A folder with the settings of `whole` and those of its sales of which the SQL condition `which` is true."""
    folder.mkdir()
    shutil.copy(whole.path / "many_models.toml", folder)
    shutil.copy(whole.path / "sales.db", folder)
    with closing(sqlite3.connect(folder / "sales.db")) as database, database:
        database.execute(f"DELETE FROM sales WHERE NOT ({which})")
    return Folder(folder)


@pytest.fixture(scope="module")
def store_item(tmp_path_factory: pytest.TempPathFactory) -> tuple[Folder, Day]:
    folder = tmp_path_factory.mktemp("real") / "store_item"
    made = made_from("store_item/train.csv.gz", "store_item.toml", folder)
    return made, made.run("2017-12-29")


@pytest.fixture(scope="module")
def m5_tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Folder, Day]:
    folder = tmp_path_factory.mktemp("real") / "m5_tiny"
    made = made_from("m5_tiny/tiny_m5.parquet", "m5_tiny.toml", folder)
    return made, made.run("2016-04-23")


def test_all_500_series_are_trained_and_promoted_or_kept_with_a_reason(store_item: tuple[Folder, Day]) -> None:
    folder, day = store_item
    assert set(day.stages) == set(STAGES)
    assert {day.stages[stage] for stage in PER_SERIES} == {(500, 500, 0)}
    decisions = folder.warehouse("SELECT series_id, action, reason FROM decisions")
    assert len({series for series, _, _ in decisions}) == 500
    assert {action for _, action, _ in decisions} <= {"promote", "keep"}
    assert all(reason for _, action, reason in decisions if action == "keep")
    assert day.printed["active_series"] == 500
    assert not day.printed["set_aside"]
    assert not day.printed.get("quarantined")


def test_the_warehouse_holds_28_days_of_each_of_the_500_series(store_item: tuple[Folder, Day]) -> None:
    folder, day = store_item
    assert day.printed["prediction_rows"] == 14_000
    query = "SELECT store, item, count(*), count(y_hat), min(ds), max(ds) FROM predictions {} GROUP BY store, item"
    rows = folder.warehouse(query.format("WHERE cutoff_date = '2017-12-29'"))
    assert len(rows) == 500
    assert {(int(store), int(item)) for store, item, *_ in rows} == {(s, i) for s in range(1, 11) for i in range(1, 51)}
    assert {(n, m) for _, _, n, m, _, _ in rows} == {(HORIZON, HORIZON)}
    assert {(first[:10], last[:10]) for *_, first, last in rows} == {("2017-12-30", "2018-01-26")}
    (crossed,) = folder.warehouse("SELECT count(*) FROM predictions WHERE NOT (lo95 <= lo80 AND hi80 <= hi95)")
    assert crossed == (0,)


def test_the_daily_run_needs_at_most_065_of_the_weekly_seasonal_naive(store_item: tuple[Folder, Day]) -> None:
    _, day = store_item
    assert 0.05 < day.printed["wape"] <= 0.65 * day.printed["seasonal_naive_wape"]


def test_the_first_day_needs_no_more_than_three_minutes_of_two_cores(store_item: tuple[Folder, Day]) -> None:
    _, day = store_item
    assert day.cpu_seconds < CORES * MINUTES_ALLOWED * 60


@pytest.fixture(scope="module")
def thirty(store_item: tuple[Folder, Day], tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Three items of each store."""
    return part_of(store_item[0], "CAST(item AS INTEGER) IN (1, 2, 7)", tmp_path_factory.mktemp("real") / "thirty")


def test_two_more_days_one_by_one_touch_what_is_due_and_nothing_else(thirty: Folder) -> None:
    """Champions take in new rows, and those of a store are fitted again each week: of two stores on the first day."""
    due = {"raw_sales": (1, 1, 0), "raw_covariates": (1, 1, 0), "warehouse_predictions": (1, 1, 0)}
    due |= dict.fromkeys(("store_item_datasets", "predictions"), (30, 30, 0))
    fitted = dict.fromkeys(("trained_models", "promoted_models"), (6, 6, 0))
    days = thirty.days("2017-12-29", "2017-12-30", "2017-12-30", "2017-12-31", "2017-12-31", "")
    first, *later = (day.stages for day in days)
    assert {first[stage] for stage in PER_SERIES} == {(30, 30, 0)}
    assert later == [due | fitted, {}, due, {}, {}]
    loaded = thirty.warehouse("SELECT cutoff_date, count(*) FROM predictions GROUP BY cutoff_date")
    assert sorted(loaded) == [("2017-12-29", 840), ("2017-12-30", 840), ("2017-12-31", 840)]
    scored = thirty.warehouse("SELECT cutoff, sum(periods) FROM accuracy GROUP BY cutoff ORDER BY cutoff")
    assert [(cutoff[:10], n) for cutoff, n in scored] == [("2017-12-29", 60), ("2017-12-30", 30)]


def test_a_corrected_sale_touches_its_own_series_only(thirty: Folder) -> None:
    with closing(sqlite3.connect(thirty.path / "sales.db")) as database, database:
        database.execute("UPDATE sales SET sales = sales + 1 WHERE store = '3' AND item = '7' AND date >= '2017-12-31'")
    assert thirty.run().stages == {
        "raw_sales": (1, 1, 0),
        **dict.fromkeys(("store_item_datasets", "predictions"), (1, 1, 0)),
        "warehouse_predictions": (1, 1, 0),
    }


def test_other_names_and_known_covariates_are_a_matter_of_settings(m5_tiny: tuple[Folder, Day]) -> None:
    folder, day = m5_tiny
    assert {day.stages[stage] for stage in PER_SERIES} == {(280, 280, 0)}
    active = day.printed["active_series"]
    assert 250 < active <= 280
    rows = folder.warehouse("SELECT store_id, item_id, count(y_hat) FROM predictions GROUP BY store_id, item_id")
    assert len(rows) == active
    assert {n for _, _, n in rows} == {HORIZON}
    assert day.printed["prediction_rows"] == active * HORIZON
    assert 0.3 < day.printed["wape"] <= 0.85 * day.printed["seasonal_naive_wape"]


def test_the_next_day_of_the_other_table_touches_what_is_due(
    m5_tiny: tuple[Folder, Day], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """On five of its items in all ten stores."""
    some = part_of(m5_tiny[0], "item_id LIKE 'HOBBIES_2_%'", tmp_path_factory.mktemp("real") / "hobbies")
    first, day, nothing = some.days("2016-04-23", "", "")
    active = day.printed["active_series"]
    assert {first.stages[stage] for stage in PER_SERIES} == {(50, 50, 0)}
    assert day.printed["as_of"].startswith("2016-04-24")
    assert day.stages["raw_sales"] == (1, 1, 0)
    assert {day.stages[stage] for stage in ("store_item_datasets", "predictions")} <= {(50, 50, 0), (active, active, 0)}
    assert 0 < day.stages["trained_models"][0] <= active / 5  # one of ten stores, and what has ended
    assert 0 < active <= first.printed["active_series"] + 1
    assert nothing.stages == {}
