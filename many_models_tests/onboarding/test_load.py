"""`many-models init` on strangers' tables: what is loaded, and how values are read."""

from __future__ import annotations

import gzip
import sqlite3
from contextlib import closing
from datetime import date, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from many_models.onboarding.load import load_file
from many_models.onboarding.readers import clean_names
from many_models.onboarding.value_types import infer_column, infer_type, parse
from many_models_tests.support.strange_tables import csv, looked_at, panel, rows_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


def test_a_compressed_file_is_loaded_whole_with_progress(tmp_path: Path) -> None:
    frame = panel("D", 700, store=range(10), item=range(20))[["time", "store", "item", "y"]]
    path = tmp_path / "train.csv.gz"
    with gzip.open(path, "wt") as file:
        frame.to_csv(file, index=False)
    found, told = looked_at(str(path)), list[tuple[int, int]]()
    loaded = load_file(str(path), tmp_path / "source.db", found, lambda *now: told.append(now))
    assert loaded.rows == len(frame) == told[-1][0] == told[-1][1]
    total = rows_of(tmp_path / "source.db", "SELECT count(*), sum(y), min(time), max(time) FROM sales")
    assert total == [(len(frame), frame["y"].sum(), "2023-01-02", "2024-12-01")]


def test_what_cannot_be_read_stays_as_it_is_and_broken_lines_are_counted(tmp_path: Path) -> None:
    days = [date(2024, 1, 1) + timedelta(days=n) for n in range(40)]
    lines = [f"{day},{store},{n}" for store in "ab" for n, day in enumerate(days)]
    lines[7] = "31.02.2024,a,7"
    lines[8] = "2024-01-09,a,sold out"
    lines[9] = "2024-01-10,a,"
    lines.insert(10, "2024-01-10,a,1,2,3")
    path = tmp_path / "dirty.csv"
    path.write_text("\ufeffdate,store,units\n" + "\n".join(lines) + "\n", encoding="utf-8")
    found = looked_at(str(path))
    loaded = load_file(str(path), tmp_path / "source.db", found)
    assert loaded.rows == 80
    assert "1 lines are left out" in loaded.notes[0]
    assert rows_of(tmp_path / "source.db")[7:10] == [
        ("31.02.2024", "a", 7),
        ("2024-01-09", "a", "sold out"),
        ("2024-01-10", "a", None),
    ]


def test_an_interrupted_load_leaves_the_old_table_and_a_second_one_replaces_it(tmp_path: Path) -> None:
    frame = panel("D", 60, store=["a", "b"]).rename(columns={"time": "date"})
    location, database = csv(tmp_path, frame), tmp_path / "source.db"
    found = looked_at(location)
    load_file(location, database, found)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE mine AS SELECT 1 AS one")

    def interrupt(_rows: int, _all: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_file(location, database, found, interrupt)
    assert len(rows_of(database)) == len(frame)
    load_file(location, database, found)
    assert len(rows_of(database)) == len(frame)
    assert rows_of(database, "SELECT * FROM mine") == [(1,)]


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\x00"), max_size=6)


@settings(max_examples=12)
@given(st.lists(CELLS, min_size=2, max_size=8, unique_by=lambda cell: cell.strip().casefold()))
def test_keys_of_a_csv_are_loaded_as_they_are_written(
    tmp_path_factory: pytest.TempPathFactory, keys: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("keys")
    frame = panel("D", 30, store=keys)[["store", "time", "y"]]
    location = csv(folder, frame, quoting=1)
    found = looked_at(location, keys=["store"], target="y", frequency="D")
    load_file(location, folder / "source.db", found)
    assert [row[0] for row in rows_of(folder / "source.db")] == list(frame["store"])


@given(st.floats(0, 1e6).map(lambda x: round(x, 2)), st.booleans())
def test_a_number_means_the_same_in_every_style(number: float, negative: bool) -> None:
    number = -number if negative else number
    english, german = f"{number:,.2f}", f"{number:,.2f}".translate(str.maketrans(",.", ".,"))
    for text, comma_first in ((english, False), (german, True), (f"{number:.2f}", False)):
        levels = pa.array([text] * 4)
        column_type = infer_type(levels, np.ones(4, np.int64), comma_first=comma_first, time_like=False)
        assert parse(levels, column_type)[0] == number


def test_names_are_made_distinct_for_sqlite() -> None:
    assert clean_names(["a", " A ", "", "a_2", "\ufeffb"]) == ["a", "A_2", "column_3", "a_2_2", "b"]


def test_text_with_a_few_numbers_is_text() -> None:
    assert infer_column("x", pa.chunked_array([["a1", "b2", "3"]])).kind == "text"
    assert infer_column("x", pa.chunked_array([pa.nulls(3)])).kind == "empty"
    assert infer_column("x", pa.chunked_array([["1", "2", "3"] * 9 + ["?"]])).unread == 1
