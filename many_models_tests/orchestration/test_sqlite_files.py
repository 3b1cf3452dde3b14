"""Dagster's SQLite files opened for less: what is copied is what the stock storage makes, and no event is lost."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from sqlalchemy import text

from many_models.orchestration.event_log import sqlite_files
from many_models.orchestration.event_log.sqlite_files import SqliteEvents


def everything_in(file: Path) -> tuple[object, ...]:
    """The journal's mode, the tables with their indexes, and all rows of a SQLite file."""
    with closing(sqlite3.connect(file)) as database:
        made = database.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()
        names = [name for kind, name, _ in made if kind == "table"]
        rows = {name: database.execute(f"SELECT * FROM {name}").fetchall() for name in names}
        return database.execute("PRAGMA journal_mode").fetchone(), made, rows


def opened(log: SqliteEventLogStorage, *runs: str) -> None:
    for run in runs:
        with log.run_connection(run):
            pass


def test_each_run_s_file_is_the_one_that_the_stock_storage_makes(tmp_path):
    stock, ours = tmp_path / "stock", tmp_path / "ours"
    opened(SqliteEventLogStorage(str(stock)), "a")
    opened(SqliteEvents(str(ours)), "a", "b", "c")
    expected = everything_in(stock / "a.db")
    assert expected[2]["alembic_version"]
    assert [everything_in(ours / f"{run}.db") for run in "abc"] == [expected] * 3
    assert {path.name for path in ours.iterdir() if path.suffix not in {".db-wal", ".db-shm"}} == {
        "a.db", "b.db", "c.db", "index.db"
    }  # fmt: skip


def test_a_process_has_the_stock_storage_make_one_file_for_all_runs_of_all_instances(tmp_path, monkeypatch):
    monkeypatch.setattr(SqliteEvents, "_made", b"")
    one, two, made = SqliteEvents(str(tmp_path / "1")), SqliteEvents(str(tmp_path / "2")), []
    stock = SqliteEventLogStorage._initdb
    monkeypatch.setattr(
        SqliteEventLogStorage,
        "_initdb",
        lambda self, engine, *index: (made.append(Path(engine.url.database).name), stock(self, engine, *index))[1],
    )
    opened(one, *"abc")
    opened(two, *"def")
    assert made == ["made.db"]


def test_a_file_that_another_process_has_made_meanwhile_keeps_its_rows(tmp_path, monkeypatch):
    log = SqliteEvents(str(tmp_path))
    opened(log, "a", "b")

    def slow(path: Path, content: bytes) -> bool:
        with SqliteEventLogStorage(str(tmp_path)).run_connection("c") as other:
            other.execute(text("INSERT INTO event_logs (run_id, event, timestamp) VALUES ('c', '{}', 0)"))
        return placed(path, content)

    placed = sqlite_files._placed
    monkeypatch.setattr(sqlite_files, "_placed", slow)
    with log.run_connection("c") as ours:
        assert ours.execute(text("SELECT run_id FROM event_logs")).fetchall() == [("c",)]


def test_where_links_are_refused_the_stock_storage_makes_each_file(tmp_path, monkeypatch):
    log = SqliteEvents(str(tmp_path))
    opened(log, "a", "b")
    monkeypatch.setattr(sqlite_files.os, "link", lambda *_: (_ for _ in ()).throw(PermissionError("no links")))
    opened(log, "c")
    assert everything_in(tmp_path / "c.db") == everything_in(tmp_path / "a.db")
    assert not list(tmp_path.glob(".*"))


def test_many_at_once_open_one_new_file(tmp_path):
    logs = [SqliteEvents(str(tmp_path)) for _ in range(4)]
    for log in logs:
        opened(log, "a", "b")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda log: opened(log, "c"), logs))
    assert everything_in(tmp_path / "c.db") == everything_in(tmp_path / "a.db")


def test_a_file_has_one_engine_however_often_it_is_opened(tmp_path, monkeypatch):
    log, made = SqliteEvents(str(tmp_path)), []
    opened(log, "a", "b")  # the first ones of a process make the file that others are copied from
    create = sqlite_files.create_engine
    monkeypatch.setattr(sqlite_files, "create_engine", lambda *a, **k: (made.append(a), create(*a, **k))[1])
    opened(log, "run-of-one-engine", "run-of-one-engine", "run-of-one-engine")
    assert len(made) == 1


@pytest.mark.parametrize("storage", [SqliteEvents, SqliteEventLogStorage])
def test_after_a_wipe_a_file_is_made_again(tmp_path, storage):
    log = storage(str(tmp_path))
    opened(log, "a", "b")
    log.wipe()
    opened(log, "a", "b")
    assert set(log.get_all_run_ids()) == {"a", "b"}
