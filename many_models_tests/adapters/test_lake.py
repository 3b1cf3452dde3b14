"""The lakes: the contract over each of them, and what can happen to Delta tables on disk."""

from __future__ import annotations

import itertools
import subprocess
import time
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from many_models.adapters.lake import delta_protocol
from many_models.adapters.lake.delta import DeltaLake
from many_models.adapters.lake.memory import MemoryLake
from many_models.errors import ConflictError, DamagedTableError, InputError, SettingsError, UnavailableError
from many_models.ports import Filter, VacuumResult
from many_models_tests.contracts.lake import DAY as START
from many_models_tests.contracts.lake import ODD, LakeContract, contents, row, rows
from many_models_tests.support.adapter_faults import ROWS, numbered, start

pytestmark = pytest.mark.slow
NEXT_DAY = START + timedelta(days=1)


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
    lake.replace("t", rows(row("a"), row("b")), Filter(), ("pack",))
    only_a = Filter(among={"pack": ["a"]})
    behind = Behind(tmp_path, lambda: lake.replace("t", rows(row("a", y=1.0)), only_a))
    with pytest.raises(ConflictError, match="table 't'"):
        behind.replace("t", rows(row("a", y=2.0)), only_a)
    assert contents(lake.read("t")) == contents(rows(row("a", y=1.0), row("b")))


def test_a_commit_to_another_partition_is_no_conflict(tmp_path):
    lake = DeltaLake(tmp_path)
    lake.replace("t", rows(row("a"), row("b")), Filter(), ("pack",))
    behind = Behind(tmp_path, lambda: lake.replace("t", rows(row("b", y=1.0)), Filter(among={"pack": ["b"]})))
    behind.replace("t", rows(row("a", y=2.0)), Filter(among={"pack": ["a"]}))
    assert contents(lake.read("t")) == contents(rows(row("a", y=2.0), row("b", y=1.0)))


def test_of_two_who_make_the_same_table_one_is_told(tmp_path):
    lake = DeltaLake(tmp_path)
    behind = Behind(tmp_path, lambda: lake.replace("t", rows(row("a")), Filter()))
    with pytest.raises(ConflictError, match="table 't'"):
        behind.replace("t", rows(row("b")), Filter())
    assert contents(lake.read("t")) == contents(rows(row("a")))


def test_processes_write_their_partitions_side_by_side(tmp_path):
    lake = DeltaLake(tmp_path)
    lake.replace("t", pa.table({"pack": ["a", "b'"], "n": [0, 0]}), Filter(), ("pack",))
    writers = [start(f"replace_packs({str(tmp_path)!r}, {pack!r}, 10)") for pack in ("a", "b'")]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert contents(lake.read("t")) == contents(pa.table({"pack": ["a", "b'"], "n": [10, 10]}))


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_leaves_the_old_rows_or_the_new(tmp_path):
    lake = DeltaLake(tmp_path)
    lake.replace("t", numbered(0), Filter())
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
    lake.replace("t", numbered(-1), Filter())
    assert set(lake.read("t").column("n").to_pylist()) == {-1}


def test_a_full_disk_is_said_and_leaves_the_old_rows(tmp_path):
    lake = DeltaLake(tmp_path)
    version = lake.replace("t", numbered(1), Filter())
    said, _ = start(f"replace_on_a_full_disk({str(tmp_path)!r})", stdout=subprocess.PIPE).communicate()
    assert said.startswith("UnavailableError")
    assert "table 't': no space left to write; nothing was changed" in said
    assert lake.version("t") == version
    assert set(lake.read("t").column("n").to_pylist()) == {1}


def test_a_table_whose_files_are_gone_is_an_error_not_an_empty_table(tmp_path):
    lake = DeltaLake(tmp_path)
    lake.replace("t", rows(row()), Filter())
    for file in tmp_path.rglob("*.parquet"):
        file.unlink()
    with pytest.raises(DamagedTableError, match="table 't'"):
        lake.read("t")


def test_a_table_whose_log_is_broken_is_an_error_not_a_missing_table(tmp_path):
    lake = DeltaLake(tmp_path)
    lake.replace("t", rows(row()), Filter())
    next(tmp_path.rglob("*.json")).write_text("{broken")
    for look in (lake.read, lake.version):
        with pytest.raises(DamagedTableError, match="table 't'"):
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
    with pytest.raises(InputError, match="not a name for a table"):
        DeltaLake(tmp_path).replace("x" * 300, rows(row()), Filter())


def test_a_day_is_replaced_and_a_pack_is_read_without_touching_the_rest(tmp_path):
    lake = DeltaLake(tmp_path)
    packs = [f"p{at % 10}" for at in range(1000)]
    lake.replace("t", pa.table({"pack": packs, "n": list(range(1000))}), Filter(), ("pack",))
    for folder in tmp_path.glob("t/pack=*"):
        if folder.name != "pack=p3":
            for file in folder.iterdir():
                file.unlink()
    only = Filter(among={"pack": ["p3"]})
    assert lake.read("t", only).num_rows == 100
    lake.replace("t", pa.table({"pack": ["p3"], "n": [7]}), only)
    assert lake.read("t", only).column("n").to_pylist() == [7]


# --- History --------------------------------------------------------------------------------------------------------
def test_pruning_frees_what_is_old_and_leaves_what_readers_and_writers_in_flight_use(tmp_path):
    from deltalake import DeltaTable

    lake = DeltaLake(tmp_path)
    for n in range(20):
        lake.replace("t", rows(row("a", n=n), row("b", n=n)), Filter(), ("pack",))
    reader = DeltaTable(tmp_path / "t", version=18)
    about_to_be_committed = tmp_path / "t/pack=a/part-00000-of-a-writer.parquet"
    about_to_be_committed.write_bytes(b"not yet")
    assert lake.prune(timedelta(hours=1)) == VacuumResult()
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
        lake.replace("t", rows(row("a", day=day)), Filter(since=since, before=since + timedelta(1)), ("pack",))
    assert len(list((tmp_path / "t/pack=a").iterdir())) == 20
    before = lake.read("t")
    lake.prune(timedelta(0))
    assert len(list((tmp_path / "t/pack=a").iterdir())) == 1
    assert contents(lake.read("t")) == contents(before)


def test_a_table_written_while_it_is_pruned_is_left_for_the_next_time(tmp_path):
    lake = DeltaLake(tmp_path)
    for day in range(20):
        since = START + timedelta(day)
        lake.replace("t", rows(row("a", day=day)), Filter(since=since, before=since + timedelta(1)), ("pack",))
    behind = Behind(tmp_path, lambda: lake.replace("t", rows(row("a", y=9.0)), Filter()))
    behind.prune(timedelta(0))
    assert lake.read("t").column("y").to_pylist() == [9.0]


# --- The protocol of the tables -------------------------------------------------------------------------------------
def write_as_before(path, new: pa.Table, partition_by: tuple[str, ...] = ()) -> None:
    """As this package wrote tables before it kept times in UTC: with `timestampNtz`, reader 3 and writer 7."""
    write_deltalake(str(path), new, mode="append", partition_by=list(partition_by) or None)
    assert DeltaTable(str(path)).protocol().min_reader_version == 3


def protocol(path) -> tuple[int, int]:
    found = DeltaTable(str(path)).protocol()
    return found.min_reader_version, found.min_writer_version


@pytest.mark.parametrize("partition_by", [(), ("pack",)])
def test_tables_with_times_are_of_reader_1_and_writer_2(tmp_path, partition_by):
    lake = DeltaLake(tmp_path)
    lake.replace("t", rows(row()), Filter(), partition_by)
    wider = rows(row(day=1)).append_column("times", pa.array([[START]], pa.list_(pa.timestamp("us"))))
    lake.replace("t", wider.append_column("seen", pa.array([START], pa.timestamp("us"))), Filter(since=NEXT_DAY))
    assert protocol(tmp_path / "t") == (1, 2)
    assert lake.read("t").schema.field("seen").type == pa.timestamp("us")
    assert lake.read("t").schema.field("times").type.value_type == pa.timestamp("us")
    files = [pq.read_schema(file).field("ds").type for file in (tmp_path / "t").rglob("*.parquet")]
    assert {kind.tz for kind in files} == {"UTC"}


@pytest.mark.parametrize("partition_by", [(), ("pack",), ("pack", "n")])
def test_a_lake_of_before_is_read_written_and_migrated_by_upkeep(tmp_path, partition_by):
    names = [text for text in ODD if text]
    old = rows(*(row(text, day=at, n=at) for at, text in enumerate(names)))
    write_as_before(tmp_path / "t", old, partition_by)
    write_as_before(tmp_path / "t", rows(row("late", day=None, n=99)), partition_by)
    lake = DeltaLake(tmp_path)
    lake.replace("t", rows(row(names[0], day=0, n=-1)), Filter(before=NEXT_DAY), ("pack",))
    expected = contents(rows(row(names[0], day=0, n=-1), *(row(t, day=a, n=a) for a, t in enumerate(names) if a)))
    expected = sorted([*expected, *contents(rows(row("late", day=None, n=99)))])
    assert contents(lake.read("t")) == expected
    version = lake.version("t")
    lake.prune(timedelta(0))
    assert protocol(tmp_path / "t") == (1, 2)
    assert lake.version("t") > version
    assert contents(lake.read("t")) == expected
    assert lake.read("t").schema == rows().schema
    assert contents(lake.read("t", Filter(since=NEXT_DAY, before=NEXT_DAY + timedelta(1)))) == contents(
        rows(row(names[1], day=1, n=1))
    )
    lake.replace("t", rows(row(names[1], day=1, n=-2)), Filter(among={"pack": [names[1]]}))
    assert lake.read("t", Filter(among={"n": [-2]})).num_rows == 1
    lake.prune(timedelta(0))
    assert lake.prune(timedelta(0)) == VacuumResult()
    assert not list(tmp_path.rglob("utc-*/_delta_log/*"))


@pytest.mark.parametrize("step", ["_copied", "_adds"])
def test_a_commit_while_a_table_is_migrated_is_kept(tmp_path, monkeypatch, step):
    write_as_before(tmp_path / "t", rows(row("a"), row("b")))
    lake, done = DeltaLake(tmp_path), getattr(delta_protocol, step)

    def meanwhile(*arguments):
        monkeypatch.undo()
        DeltaLake(tmp_path).replace("t", rows(row("a", n=7)), Filter(among={"pack": ["a"]}))
        return done(*arguments)

    monkeypatch.setattr(delta_protocol, step, meanwhile)
    for _ in range(2):
        lake.prune(timedelta(0))
        assert contents(lake.read("t")) == contents(rows(row("a", n=7), row("b")))
    assert protocol(tmp_path / "t") == (1, 2)


def test_predictions_of_a_day_lie_in_one_large_row_group(tmp_path):
    """As Power BI's Direct Lake reads them well: 10,000 series of 28 days are one file of one row group."""
    lake, count = DeltaLake(tmp_path), 280_000
    day = pa.table({"series_id": [f"s{at % 10_000}" for at in range(count)], "cutoff_date": ["2017-01-01"] * count})
    lake.replace("predictions", day, Filter(among={"cutoff_date": ["2017-01-01"]}), ("cutoff_date",))
    files = [pq.ParquetFile(file).metadata for file in tmp_path.rglob("*.parquet")]
    assert [(file.num_rows, file.num_row_groups) for file in files] == [(count, 1)]


DAMAGES = {
    "overwritten": lambda content: b"x" * len(content),
    "changed in a page": lambda content: content[:40] + b"\xa5" * 160 + content[200:],
    "cut": lambda content: content[: len(content) // 2],
    "emptied": lambda _: b"",
}


@pytest.mark.parametrize("how", [*DAMAGES, "gone"])
def test_a_damaged_file_is_named_and_can_be_put_aside(tmp_path, how):
    """The rows of other partitions stay readable, before and after."""
    lake = DeltaLake(tmp_path / "a lake")
    many = [row("a b", y=float(number)) for number in range(500)]
    lake.replace("t", rows(*many, row("c")), Filter(), ("pack",))
    file = next((tmp_path / "a lake" / "t").glob("pack=a*/*.parquet"))
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(DAMAGES[how](file.read_bytes()))
    only_c = Filter(among={"pack": ["c"]})
    assert lake.read("t", only_c).num_rows == 1
    with pytest.raises(DamagedTableError, match=rf"'t': the file .*{file.name} cannot be read .*doctor --mend"):
        lake.read("t")
    ((table, found),) = lake.damaged().items()
    assert (table, [name.rpartition("/")[2] for name in found]) == ("t", [file.name])
    lake.put_aside("t")
    assert lake.damaged() == {}
    assert contents(lake.read("t")) == contents(lake.read("t", only_c))
    assert lake.tables() == {"t"}
    assert len(list((tmp_path / "a lake" / "t" / "_damaged").glob("*"))) == (how != "gone")


def test_an_older_file_that_is_gone_damages_no_table(tmp_path):
    """What a reader of an older version misses is no damage of the newest: that reader tries again."""
    lake = DeltaLake(tmp_path)
    lake.replace("t", rows(row("a")), Filter())
    there = DeltaTable(str(tmp_path / "t"))
    lake.replace("t", rows(row("b")), Filter())
    (old,) = there.file_uris()
    Path(old).unlink()
    assert lake.damaged() == {}

    class Behind(DeltaLake):
        def _open(self, table):
            return stale.pop() if stale else super()._open(table)

    stale = [there]
    with pytest.raises(UnavailableError):
        Behind(tmp_path).read("t")


def test_a_damaged_log_is_named_and_its_table_can_be_put_aside(tmp_path):
    lake = DeltaLake(tmp_path)
    lake.replace("t", rows(row("a")), Filter())
    lake.replace("u", rows(row("a")), Filter())
    (log,) = (tmp_path / "t" / "_delta_log").glob("*.json")
    log.write_text("{")
    with pytest.raises(DamagedTableError, match=r"'t': its log in _delta_log"):
        lake.version("t")
    assert list(lake.damaged()) == ["t"]
    lake.put_aside("t")
    assert lake.version("t") is None
    assert lake.tables() == {"u"}
    assert lake.damaged() == {}
