"""The warehouses: the contract over each of them, and what can happen to a database."""

from __future__ import annotations

import itertools
import sqlite3
import subprocess
import time
from datetime import datetime

import pyarrow as pa
import pytest

from benchmarks.warehouse import extra_memory
from many_models.adapters.sql import dialects
from many_models.adapters.warehouse.memory import MemoryWarehouse
from many_models.adapters.warehouse.sql import SqlWarehouse
from many_models.errors import InputError, SettingsError, UnavailableError
from many_models.ports import Filter
from many_models_tests.contracts.warehouse import NOON, WarehouseContract, contents, of_day, part, row, rows
from many_models_tests.support.adapter_faults import ROWS, numbered, start


class TestMemoryWarehouse(WarehouseContract):
    @pytest.fixture
    def make(self):
        return lambda: MemoryWarehouse(clock=lambda: NOON)


@pytest.mark.slow
class TestSqlWarehouse(WarehouseContract):
    @pytest.fixture
    def make(self, tmp_path):
        numbers = itertools.count()
        return lambda: SqlWarehouse(f"sqlite:///{tmp_path}/new folder/{next(numbers)}.db", clock=lambda: NOON)


def url(folder) -> str:
    return f"sqlite:///{folder}/warehouse.db"


@pytest.mark.slow
def test_a_load_killed_at_any_moment_leaves_the_old_state(tmp_path):
    warehouse = SqlWarehouse(url(tmp_path))
    warehouse.load("0", "f", [part(numbered(0), table="t", key=("at",))])
    for pause in (0.0, 0.07):
        before = warehouse.loads()
        with start(f"load_for_ever({url(tmp_path)!r}, {len(before)})") as loader:
            while warehouse.loads() == before and loader.poll() is None:
                time.sleep(0.005)
            time.sleep(pause)
            loader.kill()
        left, loads = warehouse.read("t"), warehouse.loads()
        assert len(loads) > len(before)
        assert sorted(left.column("at").to_pylist()) == list(range(ROWS))
        assert set(left.column("n").to_pylist()) == {len(loads) - 1}
        assert left.column_names == ["n", "at", *(f"new_{n}" for n in range(1, len(loads)))]


@pytest.mark.slow
def test_a_full_disk_is_said_and_leaves_the_old_state(tmp_path):
    warehouse = SqlWarehouse(url(tmp_path))
    warehouse.load("0", "f", [part(rows(row()))])
    said, _ = start(f"load_on_a_full_disk({url(tmp_path)!r})", stdout=subprocess.PIPE).communicate()
    assert said.startswith("UnavailableError")
    assert "nothing was changed" in said
    assert warehouse.loads() == {"0": "f"}
    assert contents(warehouse.read("predictions")) == contents(rows(row()))


def test_a_locked_database_is_said_and_may_be_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(dialects, "LOCK_SECONDS", 0.2)
    warehouse = SqlWarehouse(url(tmp_path))
    warehouse.load("a", "f", [part(rows(row()))])
    other = sqlite3.connect(tmp_path / "warehouse.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(UnavailableError, match="locked"):
        warehouse.load("b", "f", [part(rows(row()))])
    assert contents(warehouse.read("predictions")) == contents(rows(row()))
    other.execute("ROLLBACK")
    assert warehouse.load("b", "f", [part(rows(row()))]) == 1


@pytest.mark.slow
def test_two_loaders_wait_for_each_other(tmp_path):
    loaders = [start(f"load_days({url(tmp_path)!r}, {n}, 10)") for n in range(2)]
    assert [loader.wait() for loader in loaders] == [0, 0]
    warehouse = SqlWarehouse(url(tmp_path))
    assert len(warehouse.loads()) == 20
    assert warehouse.read("predictions").num_rows == 20


def test_loads_are_recorded_with_the_wall_clock_in_utc_by_default(tmp_path):
    warehouse = SqlWarehouse(url(tmp_path))
    warehouse.load("a", "f", [])
    ((at,),) = sqlite3.connect(tmp_path / "warehouse.db").execute("SELECT loaded_at FROM loads").fetchall()
    assert abs((datetime.utcnow() - datetime.fromisoformat(at)).total_seconds()) < 60  # noqa: DTZ003 -- an oracle


def test_reports_find_a_primary_key_and_times_as_text(tmp_path):
    SqlWarehouse(url(tmp_path)).load("a", "f", [part(rows(row()), of_day(0))])
    database = sqlite3.connect(tmp_path / "warehouse.db")
    keys = database.execute("SELECT name FROM pragma_table_info('predictions') WHERE pk ORDER BY pk").fetchall()
    assert keys == [("series_id",), ("cutoff",)]
    assert database.execute("SELECT date(cutoff) FROM predictions").fetchall() == [("2017-01-01",)]


def test_a_table_that_others_made_can_be_read(tmp_path):
    SqlWarehouse(url(tmp_path)).load("a", "f", [])
    database = sqlite3.connect(tmp_path / "warehouse.db")
    database.execute("CREATE TABLE theirs (name VARCHAR(20), n INT, x REAL, d DECIMAL(10, 2), odd)")
    database.execute("INSERT INTO theirs VALUES ('a', 1, 1.5, 2, 'text')")
    database.commit()
    found = SqlWarehouse(url(tmp_path)).read("theirs", Filter(among={"n": [1]}))
    assert found.drop_columns("odd").to_pylist() == [{"name": "a", "n": 1, "x": 1.5, "d": 2.0}]


def test_a_file_that_is_no_database_is_an_error_not_an_empty_warehouse(tmp_path):
    (tmp_path / "warehouse.db").write_text("no database, but text that is long enough to be looked at" * 20)
    with pytest.raises(InputError, match="not a database"):
        SqlWarehouse(url(tmp_path)).loads()


@pytest.mark.parametrize("wrong", ["oracle://user:secret@host/db", "duckdb://user:secret@/file", "warehouse.db"])
def test_another_database_is_refused_without_its_password(wrong):
    with pytest.raises(SettingsError, match="sqlite:///") as error:
        SqlWarehouse(wrong)
    assert "secret" not in str(error.value)


@pytest.mark.slow
def test_a_day_of_ten_thousand_series_is_loaded_in_seconds(tmp_path):
    names = [f"store_{at % 100}__item_{at}" for at in range(10_000)]
    schema = pa.schema(
        [("series_id", pa.string()), ("cutoff", pa.timestamp("us")), ("step", pa.int64()), ("y_hat", pa.float64())]
    )
    lines = pa.table(
        [names * 28, [NOON] * 280_000, [step for step in range(28) for _ in names], [1.5] * 280_000], schema=schema
    )
    warehouse = SqlWarehouse(url(tmp_path))
    began = time.process_time()
    warehouse.load("a", "f", [part(lines, key=("series_id", "cutoff", "step"))])
    assert time.process_time() - began < 5


@pytest.mark.slow
def test_the_memory_that_a_load_adds_to_its_rows_does_not_grow_with_them():
    assert extra_memory(1_000) < 40
    assert extra_memory(20_000) < 40  # MB; the rows themselves are 80
