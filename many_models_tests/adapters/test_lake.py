"""The lakes: the contract over each of them, and what can happen to Delta tables on disk."""

from __future__ import annotations

import itertools
import subprocess
import time
from datetime import timedelta

import pyarrow as pa
import pytest

from many_models.adapters.lake.delta import DeltaLake
from many_models.adapters.lake.memory import MemoryLake
from many_models.errors import ConflictError, InputError, SettingsError, UnavailableError
from many_models.ports import Freed, Where
from many_models_tests.contracts.lake import DAY as START
from many_models_tests.contracts.lake import LakeContract, contents, row, rows
from many_models_tests.support.adapter_faults import ROWS, numbered, start

pytestmark = pytest.mark.slow


class TestMemoryLake(LakeContract):
    @pytest.fixture
    def make(self):
        return MemoryLake


class TestDeltaLake(LakeContract):
    @pytest.fixture
    def make(self, tmp_path):
        numbers = itertools.count()
        return lambda: DeltaLake(tmp_path / f"lake {next(numbers)}")


class Behind(DeltaLake):
    """A Delta lake whose writer looks at the table, and before it commits another commit comes."""

    def __init__(self, path, meanwhile):
        super().__init__(path)
        self._meanwhile = meanwhile

    def _open(self, table):
        there = super()._open(table)
        self._meanwhile()
        return there


def test_a_commit_that_came_first_to_the_same_rows_is_a_conflict(tmp_path):
    lake = DeltaLake(tmp_path)
    lake.replace("t", rows(row("a"), row("b")), Where(), ("pack",))
    only_a = Where(among={"pack": ["a"]})
    behind = Behind(tmp_path, lambda: lake.replace("t", rows(row("a", y=1.0)), only_a))
    with pytest.raises(ConflictError, match="table 't'"):
        behind.replace("t", rows(row("a", y=2.0)), only_a)
    assert contents(lake.read("t")) == contents(rows(row("a", y=1.0), row("b")))


def test_a_commit_to_another_partition_is_no_conflict(tmp_path):
    lake = DeltaLake(tmp_path)
    lake.replace("t", rows(row("a"), row("b")), Where(), ("pack",))
    behind = Behind(tmp_path, lambda: lake.replace("t", rows(row("b", y=1.0)), Where(among={"pack": ["b"]})))
    behind.replace("t", rows(row("a", y=2.0)), Where(among={"pack": ["a"]}))
    assert contents(lake.read("t")) == contents(rows(row("a", y=2.0), row("b", y=1.0)))


def test_of_two_who_make_the_same_table_one_is_told(tmp_path):
    lake = DeltaLake(tmp_path)
    behind = Behind(tmp_path, lambda: lake.replace("t", rows(row("a")), Where()))
    with pytest.raises(ConflictError, match="table 't'"):
        behind.replace("t", rows(row("b")), Where())
    assert contents(lake.read("t")) == contents(rows(row("a")))


def test_processes_write_their_partitions_side_by_side(tmp_path):
    lake = DeltaLake(tmp_path)
    lake.replace("t", pa.table({"pack": ["a", "b'"], "n": [0, 0]}), Where(), ("pack",))
    writers = [start(f"replace_packs({str(tmp_path)!r}, {pack!r}, 10)") for pack in ("a", "b'")]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert contents(lake.read("t")) == contents(pa.table({"pack": ["a", "b'"], "n": [10, 10]}))


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_leaves_the_old_rows_or_the_new(tmp_path):
    lake = DeltaLake(tmp_path)
    lake.replace("t", numbered(0), Where())
    for pause in (0.0, 0.017, 0.041):
        before = lake.version("t")
        with start(f"replace_for_ever({str(tmp_path)!r})") as writer:
            while lake.version("t") == before and writer.poll() is None:
                time.sleep(0.005)
            time.sleep(pause)
            writer.kill()
        left = lake.read("t")
        assert lake.version("t") > before
        assert len(set(left.column("n").to_pylist())) == 1
        assert sorted(left.column("at").to_pylist()) == list(range(ROWS))
    lake.replace("t", numbered(-1), Where())
    assert set(lake.read("t").column("n").to_pylist()) == {-1}


def test_a_full_disk_is_said_and_leaves_the_old_rows(tmp_path):
    lake = DeltaLake(tmp_path)
    version = lake.replace("t", numbered(1), Where())
    said, _ = start(f"replace_on_a_full_disk({str(tmp_path)!r})", stdout=subprocess.PIPE).communicate()
    assert said.startswith("UnavailableError")
    assert "table 't': no space left to write; nothing was changed" in said
    assert lake.version("t") == version
    assert set(lake.read("t").column("n").to_pylist()) == {1}


def test_a_table_whose_files_are_gone_is_an_error_not_an_empty_table(tmp_path):
    lake = DeltaLake(tmp_path)
    lake.replace("t", rows(row()), Where())
    for file in tmp_path.rglob("*.parquet"):
        file.unlink()
    with pytest.raises(UnavailableError, match="table 't'"):
        lake.read("t")


def test_a_table_whose_log_is_broken_is_an_error_not_a_missing_table(tmp_path):
    lake = DeltaLake(tmp_path)
    lake.replace("t", rows(row()), Where())
    next(tmp_path.rglob("*.json")).write_text("{broken")
    for look in (lake.read, lake.version):
        with pytest.raises(UnavailableError, match="table 't'"):
            look("t")


def test_a_folder_that_is_no_table_is_not_listed(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "half_made").mkdir()
    (tmp_path / "half_made" / "part-0.parquet").write_bytes(b"PAR1")
    assert DeltaLake(tmp_path).tables() == frozenset()


def test_a_file_in_the_place_of_the_lake_is_an_error_not_an_empty_lake(tmp_path):
    (tmp_path / "lake").write_text("not a folder")
    with pytest.raises(SettingsError, match="no folder"):
        DeltaLake(tmp_path / "lake").tables()


def test_a_name_that_can_be_no_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="no name for a table"):
        DeltaLake(tmp_path).replace("x" * 300, rows(row()), Where())


def test_a_day_is_replaced_and_a_pack_is_read_without_touching_the_rest(tmp_path):
    lake = DeltaLake(tmp_path)
    packs = [f"p{at % 10}" for at in range(1000)]
    lake.replace("t", pa.table({"pack": packs, "n": list(range(1000))}), Where(), ("pack",))
    for folder in tmp_path.glob("t/pack=*"):
        if folder.name != "pack=p3":
            for file in folder.iterdir():
                file.unlink()
    only = Where(among={"pack": ["p3"]})
    assert lake.read("t", only).num_rows == 100
    lake.replace("t", pa.table({"pack": ["p3"], "n": [7]}), only)
    assert lake.read("t", only).column("n").to_pylist() == [7]


# --- History --------------------------------------------------------------------------------------------------------
def test_pruning_frees_what_is_old_and_leaves_what_readers_and_writers_in_flight_use(tmp_path):
    from deltalake import DeltaTable

    lake = DeltaLake(tmp_path)
    for n in range(20):
        lake.replace("t", rows(row("a", n=n), row("b", n=n)), Where(), ("pack",))
    reader = DeltaTable(tmp_path / "t", version=18)
    about_to_be_committed = tmp_path / "t/pack=a/part-00000-of-a-writer.parquet"
    about_to_be_committed.write_bytes(b"not yet")
    assert lake.prune(timedelta(hours=1)) == Freed()
    assert pa.table(reader.to_pyarrow_table()).column("n").to_pylist() == [18, 18]
    before = sum(path.stat().st_size for path in tmp_path.rglob("*.parquet"))
    freed = lake.prune(timedelta(0))
    left = [path for path in tmp_path.rglob("*.parquet") if "_delta_log" not in path.parts]
    assert len(left) == 2
    assert freed.files == 19 * 2 + 1
    assert freed.bytes == before - sum(path.stat().st_size for path in left)
    assert not about_to_be_committed.exists()
    assert lake.read("t").column("n").to_pylist() == [19, 19]


def test_many_small_files_of_a_partition_become_one_and_rows_keep_their_order(tmp_path):
    lake = DeltaLake(tmp_path)
    for day in range(20):
        since = START + timedelta(day)
        lake.replace("t", rows(row("a", day=day)), Where(since=since, before=since + timedelta(1)), ("pack",))
    assert len(list((tmp_path / "t/pack=a").iterdir())) == 20
    before = lake.read("t")
    lake.prune(timedelta(0))
    assert len(list((tmp_path / "t/pack=a").iterdir())) == 1
    assert contents(lake.read("t")) == contents(before)


def test_a_table_that_somebody_else_writes_while_it_is_pruned_is_left_for_the_next_time(tmp_path):
    lake = DeltaLake(tmp_path)
    for day in range(20):
        since = START + timedelta(day)
        lake.replace("t", rows(row("a", day=day)), Where(since=since, before=since + timedelta(1)), ("pack",))
    behind = Behind(tmp_path, lambda: lake.replace("t", rows(row("a", y=9.0)), Where()))
    behind.prune(timedelta(0))
    assert lake.read("t").column("y").to_pylist() == [9.0]
