"""Files as a source: the contract over Parquet, CSV and Delta, and what landing files do."""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import replace
from datetime import timedelta

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from many_models.adapters.source.files import FilesSource
from many_models.data.row_checks import check_rows
from many_models.errors import InputError, MissingTableError, UnavailableError
from many_models.ports import SalesTable
from many_models_tests.contracts.source import DAY, SourceContract, alike, prints, row, rows, whole

NUMBERS = SalesTable("sales", ("store", "item"), "date", "sold", ("price",))
clock = itertools.count(1_700_000_000)


def land(folder, name: str, table: pa.Table, at: int | None = None) -> None:
    """A file of `table` by the format that its name says, newer than those before it."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".csv"):
        pyarrow.csv.write_csv(table, path)
    else:
        pq.write_table(table, path)
    when = next(clock) if at is None else at
    os.utime(path, (when, when))


def numbers(*lines: tuple) -> pa.Table:
    return rows(*lines).drop_columns(["event"])


class TestParquetSource(SourceContract):
    @pytest.fixture
    def make(self, tmp_path):
        numbers = itertools.count()

        def made(tables):
            place = tmp_path / f"landing {next(numbers)}"
            place.mkdir()
            for name, table in tables.items():
                land(place, f"{name}/part-0.parquet", table)
            return FilesSource(str(place))

        return made


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_files_of_each_format_and_depth_are_one_table(tmp_path, kind):
    land(tmp_path, f"sales/2017/01/01/a.{kind}", numbers(row(sold=1.5)))
    land(tmp_path, f"sales/2017/01/02/a.{kind}", numbers(row(day=1, sold=2.5), row("t", day=1, sold=3.5)))
    for name in ("sales/_SUCCESS", "sales/_temporary/0/b.parquet", "sales/.x.parquet", "sales/c.parquet.tmp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"half")
    source = FilesSource(str(tmp_path))
    assert [(count.day, count.rows) for count in source.days(NUMBERS)] == [(DAY, 1), (DAY + timedelta(1), 2)]
    assert sorted(line["sold"] for line in whole(source, NUMBERS)) == [1.5, 2.5, 3.5]


def test_a_delta_table_is_read_as_the_others(tmp_path):
    write_deltalake(str(tmp_path / "sales"), numbers(row(sold=1.5), row(day=1, sold=2.5)))
    source = FilesSource(str(tmp_path))
    assert sorted(line["sold"] for line in whole(source, NUMBERS)) == [1.5, 2.5]
    write_deltalake(str(tmp_path / "sales"), numbers(row(day=2, sold=3.5)), mode="append")
    assert [count.rows for count in source.days(NUMBERS)] == [1, 1, 1]


def test_a_file_that_comes_late_changes_the_days_it_belongs_to_and_no_others(tmp_path):
    land(tmp_path, "sales/a.parquet", numbers(*(row(day=day, sold=float(day)) for day in range(5))))
    source = FilesSource(str(tmp_path))
    before = prints(source, sales=NUMBERS)
    land(tmp_path, "sales/late.parquet", numbers(row("late", day=2, sold=9.0)))
    after = prints(source, sales=NUMBERS)
    assert {day for day in after if after[day] != before.get(day)} == {DAY + timedelta(2)}
    assert source.days(NUMBERS)[2].rows == 2


AGAIN = ["sales/a.parquet", "sales/b.parquet", "sales/0.parquet"]


@pytest.mark.parametrize("again", AGAIN)
def test_a_file_that_is_delivered_again_under_any_name_is_there_once(tmp_path, again):
    first = numbers(row("s", day=0, sold=1.0), row("t", day=0, sold=2.0), row("s", day=1, sold=3.0))
    land(tmp_path, "sales/a.parquet", first)
    source = FilesSource(str(tmp_path))
    before = prints(source, sales=NUMBERS)
    land(tmp_path, again, first)
    assert alike(whole(source, NUMBERS)) == alike(first.to_pylist())
    assert prints(source, sales=NUMBERS) == before


@pytest.mark.parametrize("again", AGAIN)
def test_a_corrected_row_is_the_sale_and_what_it_corrects_is_set_aside(tmp_path, again):
    """At the same path it replaces; under another name, where it may be another till's, what differs is told."""
    land(tmp_path, "sales/a.parquet", numbers(row("s", sold=1.0), row("t", sold=2.0), row("s", day=1, sold=3.0)))
    land(tmp_path, again, numbers(row("s", sold=7.0), row("t", sold=2.0), row("s", day=1, sold=3.0)))
    checked = check(tmp_path, NUMBERS)
    assert sorted(checked.rows["y"].to_pylist()) == [2.0, 3.0, 7.0]
    set_aside = [] if again == "sales/a.parquet" else [1.0]
    assert [json.loads(text)["sold"] for text in checked.quarantined["row"].to_pylist()] == set_aside
    assert checked.quarantined["reason"].to_pylist() == ["duplicate"] * len(set_aside)


def test_files_of_several_tills_of_a_day_add_up_where_rows_are_aggregated(tmp_path):
    """Also where two tills have sold the same, to the row."""
    tills = (numbers(row("s", sold=1.0), row("t", sold=5.0)), numbers(row("s", sold=1.0)), numbers(row("s", sold=2.0)))
    for at, till in enumerate(tills):
        land(tmp_path, f"sales/till={at}/2017-01-01.parquet", till)
    summed = check(tmp_path, replace(NUMBERS, aggregate=(("sold", "sum"),)))
    assert dict(zip(summed.rows["series_id"].to_pylist(), summed.rows["y"].to_pylist(), strict=True)) == {
        "s__i": 4.0, "t__i": 5.0
    }  # fmt: skip
    alone = check(tmp_path, NUMBERS)
    assert sorted(alone.rows["y"].to_pylist()) == [2.0, 5.0]
    assert alone.reasons == {"duplicate": 1}


def check(folder, sales: SalesTable):
    """What the row check makes of the files."""
    raw = pa.concat_tables(FilesSource(str(folder)).read(sales, DAY, DAY + timedelta(9)))
    return check_rows(raw, sales, now=DAY + timedelta(99), negatives="allow", frequency="D")


def test_what_repeats_inside_one_file_stays_for_the_row_check(tmp_path):
    land(tmp_path, "sales/a.parquet", numbers(row(sold=1.0), row(sold=2.0)))
    assert sorted(line["sold"] for line in whole(FilesSource(str(tmp_path)), NUMBERS)) == [1.0, 2.0]


def test_folders_that_name_a_value_are_columns(tmp_path):
    for day in range(3):
        table = numbers(row(day=day, sold=float(day))).drop_columns(["date"])
        land(tmp_path, f"sales/date={(DAY + timedelta(day)).date()}/x.parquet", table)
    source = FilesSource(str(tmp_path))
    assert [(line["date"], line["sold"]) for line in whole(source, NUMBERS)] == [
        (DAY + timedelta(day), float(day)) for day in range(3)
    ]


def test_keys_of_a_csv_file_keep_their_zeros(tmp_path):
    (tmp_path / "sales.csv").write_text("store,item,date,sold,price\n007,010,2017-01-01,1,2\n,NA,20170102,2,3\n")
    found = whole(FilesSource(str(tmp_path)), NUMBERS)
    assert [(line["store"], line["item"]) for line in found] == [("007", "010"), ("", "NA")]
    assert [line["date"] for line in found] == [DAY, DAY + timedelta(1)]


def test_a_half_written_file_is_waited_for_and_named_and_read_once_it_is_whole(tmp_path):
    land(tmp_path, "sales/a.parquet", numbers(row()))
    land(tmp_path, "sales/b.parquet", numbers(row(day=1)))
    content = (tmp_path / "sales/b.parquet").read_bytes()
    source = FilesSource(str(tmp_path))
    for half in (content[:-10], b""):
        (tmp_path / "sales/b.parquet").write_bytes(half)
        for look in (lambda: source.days(NUMBERS), lambda: whole(source, NUMBERS), lambda: source.columns("sales")):
            with pytest.raises(UnavailableError, match=r"sales/b\.parquet: it is half written"):
                look()
    (tmp_path / "sales/b.parquet").write_bytes(content)
    assert len(whole(source, NUMBERS)) == 2


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("b.parquet", b"store,item\n", r"b\.parquet: it is not a Parquet file"),
        ("b.xlsx", b"PK", r"b\.xlsx is neither Parquet nor CSV by its name"),
        ("b.csv", b"store,item\n1,2,3\n", r"b\.csv: CSV parse error"),
    ],
)
def test_a_file_that_is_none_is_named_with_the_remedy(tmp_path, name, content, said):
    land(tmp_path, "sales/a.parquet", numbers(row()))
    (tmp_path / "sales" / name).write_bytes(content)
    with pytest.raises(InputError, match=said):
        FilesSource(str(tmp_path)).days(NUMBERS)


def test_a_file_of_another_schema_is_named_or_brought_to_the_common_one(tmp_path):
    land(tmp_path, "sales/a.parquet", numbers(row(sold=1.5)))
    whole_numbers = numbers(row(day=1)).set_column(3, "sold", pa.array([2])).select(["sold", "date", "item", "store"])
    land(tmp_path, "sales/b.parquet", whole_numbers)
    source = FilesSource(str(tmp_path))
    assert [(line["sold"], line["price"]) for line in whole(source, NUMBERS)] == [(1.5, 2.5), (2.0, None)]
    land(tmp_path, "sales/c.parquet", numbers(row(day=2)).drop_columns(["item"]))
    with pytest.raises(InputError, match=r"sales/c\.parquet has no column 'item', which the other files"):
        source.days(NUMBERS)


def test_a_file_gone_between_listing_and_reading_is_told(tmp_path, monkeypatch):
    land(tmp_path, "sales/a.parquet", numbers(row()))
    land(tmp_path, "sales/b.parquet", numbers(row(day=1)))
    source = FilesSource(str(tmp_path))
    listed = source._files

    def gone(table):
        found = listed(table)
        (tmp_path / "sales/b.parquet").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(source, "_files", gone)
    with pytest.raises(UnavailableError, match=r"sales/b\.parquet: it is gone since the files were listed; run again"):
        source.days(NUMBERS)


def test_only_row_groups_of_the_time_asked_for_are_read(tmp_path, monkeypatch):
    (tmp_path / "sales").mkdir()
    pq.write_table(numbers(*(row(day=day) for day in range(100))), tmp_path / "sales/a.parquet", row_group_size=10)
    asked: list[list[int]] = []
    read = pq.ParquetFile.read_row_groups

    def noted(self, groups, *arguments, **named):
        asked.append(groups)
        return read(self, groups, *arguments, **named)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", noted)
    found = list(FilesSource(str(tmp_path)).read(NUMBERS, DAY + timedelta(15), DAY + timedelta(25)))
    assert sum(map(len, found)) == 10
    assert asked == [[1, 2]]


def test_files_whose_statistics_tell_that_all_rows_are_dated_are_not_read_for_those_without(tmp_path, monkeypatch):
    undated = numbers(row(sold=3.0))
    undated = undated.set_column(2, "date", pa.array([None], undated.schema.field("date").type))
    land(tmp_path, "sales/a.parquet", numbers(row()))
    source = FilesSource(str(tmp_path))
    with monkeypatch.context() as patched:
        patched.setattr(pq.ParquetFile, "read_row_groups", None)
        assert source.read_undated(NUMBERS).num_rows == 0
    land(tmp_path, "sales/b.parquet", undated)
    assert source.read_undated(NUMBERS).to_pylist() == [
        {"store": "s", "item": "i", "date": None, "sold": 3.0, "price": 2.5}
    ]


def test_the_tables_that_are_there_are_named(tmp_path):
    land(tmp_path, "prices.csv", pa.table({"a": [1]}))
    land(tmp_path, "sales/a.parquet", numbers(row()))
    with pytest.raises(MissingTableError, match="'nope'; they have 'prices', 'sales'"):
        FilesSource(str(tmp_path)).columns("nope")
    assert FilesSource(str(tmp_path)).read_table("prices") == pa.table({"a": [1]})
