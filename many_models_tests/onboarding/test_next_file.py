"""`many-models load`: tomorrow's file or plan into the source that `init` made."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from many_models.errors import InputError
from many_models.onboarding.guess import infer_settings
from many_models.onboarding.load import load_file
from many_models.onboarding.next_file import LOADS, LoadResult, load_next_file
from many_models.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = [date(2024, 1, 1) + timedelta(days=n) for n in range(60)]
HEAD = "store,item,date,units,promo"


def project(tmp_path: Path, lines: Sequence[str], **given: object) -> Settings:
    (tmp_path / "first.csv").write_text("\n".join([HEAD, *lines]))
    found = infer_settings(str(tmp_path / "first.csv"), now=NOW, **given)  # pyright: ignore[reportArgumentType]
    load_file(str(tmp_path / "first.csv"), tmp_path / "sales.db", found)
    (tmp_path / "many_models.toml").write_text(found.to_toml("sqlite:///sales.db"))
    return load_settings(tmp_path / "many_models.toml")


def units(item: str, n: int) -> int:
    return (7 * n + (3 if item == "8" else 0)) % 11 + 1


def first_lines() -> list[str]:
    return [
        f"{s},{i},{day},{units(i, n)},{int(n % 9 == 0)}"
        for s in ("a", "b")
        for i in ("007", "8")
        for n, day in enumerate(DAYS)
    ]


def loaded(tmp_path: Path, settings: Settings, lines: Sequence[str], head: str = HEAD, **how: bool) -> LoadResult:
    (tmp_path / "next.csv").write_text("\n".join([head, *lines]))
    return load_next_file(settings, str(tmp_path / "next.csv"), now=NOW, **how)


def rows(tmp_path: Path, query: str = "SELECT * FROM sales ORDER BY 1, 2, 3") -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(tmp_path / "sales.db")) as connection:
        return connection.execute(query).fetchall()


def counts(done: LoadResult) -> tuple[int, int, int, int]:
    return done.added, done.changed, done.same, done.refused_rows


@pytest.mark.slow
def test_the_next_days_are_added_and_a_second_load_changes_nothing(tmp_path: Path) -> None:
    settings = project(tmp_path, first_lines())
    lines = [
        "a,007,2024-03-01,5,0",
        "a,8,2024-03-01,6,0",
        "a,007,2024-02-29,99,0",
        f"b,8,2024-02-29,{units('8', 59)},0",
    ]
    done = loaded(tmp_path, settings, lines)
    assert counts(done) == (2, 1, 1, 0)
    after = rows(tmp_path)
    assert ("a", "007", "2024-02-29", 99, 0) in after
    assert len(after) == 242
    assert counts(loaded(tmp_path, settings, lines)) == (0, 0, 4, 0)
    assert rows(tmp_path) == after
    assert len(rows(tmp_path, f"SELECT * FROM {LOADS}")) == 2


@pytest.mark.slow
def test_rows_that_the_settings_do_not_allow_are_refused_by_kind(tmp_path: Path) -> None:
    settings = project(tmp_path, first_lines())
    bad = [
        "a,007,soon,5,0", "a,,2024-03-01,5,0", "a,007,2024-03-02,n/a,0", "a,007,2024-03-03,-4,0",
        "a,007,2027-03-03,4,0",
        "a,007,2019-01-01,4,0", "b,8,2024-03-04,1,0", "b,8,2024-03-04,2,0", "b,8,2024-03-05,7,0",
    ]  # fmt: skip
    done = loaded(tmp_path, settings, bad)
    assert counts(done) == (1, 0, 0, 8)
    assert {reason.split(",")[0].split(" (")[0] for reason in done.refused} == {
        "no date in date that is understood", "no item", "units is not a number", "units is below zero",
        "dated later than now", "before data.start", "rows of the file that contradict each other",
    }  # fmt: skip
    assert done.refused["no item"].text == "store a, item , date 2024-03-01, units 5, promo 0"
    assert len(rows(tmp_path)) == 241


@pytest.mark.slow
def test_a_check_changes_nothing(tmp_path: Path) -> None:
    settings, lines = project(tmp_path, first_lines()), ["a,007,2024-03-01,5,0"]
    before = rows(tmp_path)
    assert counts(loaded(tmp_path, settings, lines, check=True)) == (1, 0, 0, 0)
    assert rows(tmp_path) == before


@pytest.mark.slow
def test_a_plan_goes_into_its_table_and_the_last_one_holds(tmp_path: Path) -> None:
    plan = [f"{s},{i},2024-03-0{n},,1" for s in ("a", "b") for i in ("007", "8") for n in (1, 2)]
    settings = project(tmp_path, [*first_lines(), *plan])
    assert settings.source.covariates_table == "sales_plan"
    assert len(rows(tmp_path, "SELECT * FROM sales_plan")) == 8
    done = loaded(tmp_path, settings, ["a,007,2024-03-01,,0", "a,007,2024-03-03,,1", "a,8,2024-02-29,9,0"])
    assert (counts(done), done.plan_rows) == ((1, 2, 0, 0), 2)
    assert rows(
        tmp_path, "SELECT promo FROM sales_plan WHERE date = '2024-03-01' AND item = '007' AND store = 'a'"
    ) == [(0,)]
    done = loaded(tmp_path, settings, ["a,8,2024-03-04,1"], "store,item,date,promo", plan=True)
    assert (done.added, done.plan_table) == (1, "sales_plan")
    contradicting = loaded(
        tmp_path, settings, ["a,8,2024-03-05,1", "a,8,2024-03-05,0"], "store,item,date,promo", plan=True
    )
    assert counts(contradicting) == (0, 0, 0, 2)


@pytest.mark.slow
def test_names_written_differently_and_new_series_are_told(tmp_path: Path) -> None:
    settings = project(tmp_path, first_lines())
    done = loaded(tmp_path, settings, ["A ,007,2024-03-01,5,0", "c,007,2024-03-01,5,0"], "Store,ITEM,date,units,promo")
    assert done.new_series == ["c__007"]
    assert any("'A ' = 'a'" in note for note in done.notes)
    assert any("Store is store" in note for note in done.notes)
    assert rows(tmp_path, "SELECT store FROM sales WHERE date = '2024-03-01'") == [("a",), ("c",)]


@pytest.mark.slow
def test_a_missing_column_and_another_source_are_errors(tmp_path: Path) -> None:
    settings = project(tmp_path, first_lines())
    with pytest.raises(InputError, match="no column units, which the settings name; it has store, item, date, promo"):
        loaded(tmp_path, settings, ["a,8,2024-03-04,1"], "store,item,date,promo")
    source = settings.source.model_copy(update={"url": "postgresql://db/sales"})
    with pytest.raises(InputError, match="a database that others fill"):
        loaded(tmp_path, settings.model_copy(update={"source": source}), ["a,8,2024-03-04,1,1"])


@pytest.mark.slow
def test_numbers_and_dates_are_read_as_in_the_first_file(tmp_path: Path) -> None:
    """1.234 alone could be a decimal, and 02/03/2024 the second of March."""
    lines = [f"{s},8,{day:%m/%d/%Y},{n + 1}.{n:03},0" for s in ("a", "b") for n, day in enumerate(DAYS)]
    settings = project(tmp_path, [*lines, "a,8,03/01/2024,987,0", "b,8,03/01/2024,1.234.567,0"])
    done = loaded(tmp_path, settings, ["a,8,03/02/2024,1.234,0"])
    assert counts(done) == (1, 0, 0, 0)
    assert rows(tmp_path, "SELECT units FROM sales WHERE date = '2024-03-02'") == [(1234,)]


@pytest.mark.slow
def test_receipts_are_added_once_however_often_they_are_loaded(tmp_path: Path) -> None:
    lines = [f"a,8,{day},{units},0" for day in DAYS for units in (1, 1, 2, 3)]
    settings = project(tmp_path, lines, keys=("store", "item"), known=())
    assert settings.data.aggregate == "sum"
    more = ["a,8,2024-03-01,4,0", "a,8,2024-03-01,4,0", "a,8,2024-02-29,1,0"]
    assert counts(loaded(tmp_path, settings, more)) == (2, 0, 1, 0)
    assert counts(loaded(tmp_path, settings, more)) == (0, 0, 3, 0)
    assert rows(tmp_path, "SELECT sum(units) FROM sales WHERE date >= '2024-02-29'") == [(15,)]
