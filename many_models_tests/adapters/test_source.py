"""The sources: the contract over each of them, and what a column of SQLite can hold."""

from __future__ import annotations

import itertools
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from many_models.adapters.source import sqlite as sqlite_source
from many_models.adapters.source.memory import MemorySource
from many_models.adapters.source.sqlite import SqlSource
from many_models.errors import InputError, SettingsError, UnavailableError
from many_models.ports import SalesTable
from many_models_tests.contracts.source import DAY, SALES, SourceContract, row, rows, spelt, whole

DECLARED = {"string": "TEXT", "double": "REAL", "int64": "INTEGER", "timestamp[us]": "TIMESTAMP"}
PLAIN = SalesTable("sales", ("k",), "date", "y")


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def store(path, tables) -> str:
    """Arrow tables as a SQLite database, the way Python's own adapters spell times."""
    with sqlite3.connect(path) as database:
        for name, table in tables.items():
            kinds = ", ".join(f"{quoted(field.name)} {DECLARED[str(field.type)]}" for field in table.schema)
            database.execute(f"CREATE TABLE {quoted(name)} ({kinds})")
            columns = [
                column.cast(pa.string()) if pa.types.is_timestamp(column.type) else column for column in table.columns
            ]
            values = zip(*(column.to_pylist() for column in columns), strict=True)
            database.executemany(f"INSERT INTO {quoted(name)} VALUES ({', '.join('?' * table.num_columns)})", values)
    database.close()
    return f"sqlite:///{path}"


class TestMemorySource(SourceContract):
    @pytest.fixture
    def make(self):
        return MemorySource


class TestSqlSource(SourceContract):
    @pytest.fixture
    def make(self, tmp_path):
        numbers = itertools.count()
        return lambda tables: SqlSource(store(tmp_path / f"source {next(numbers)}.db", tables))


@pytest.fixture
def sqlite(tmp_path):
    """Makes a source of rows (k, date, y) of any values, in columns declared as told."""
    numbers = itertools.count()

    def make(lines, date="", y="", index="") -> SqlSource:
        path = tmp_path / f"{next(numbers)}.db"
        with sqlite3.connect(path) as database:
            database.execute(f"CREATE TABLE sales (k, date {date}, y {y})")
            database.executemany("INSERT INTO sales VALUES (?, ?, ?)", lines)
            database.execute(index)
        database.close()
        return SqlSource(f"sqlite:///{path}")

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    "declared", ["", "TEXT", "REAL", "INTEGER", "NUMERIC", "BLOB", "DATE", "BOOLEAN", "DECIMAL(10, 2)"]
)
@pytest.mark.parametrize("values", [[1.5, "oops", None], ["oops", 1.5, None], [None, None, "oops"], [b"\xff\x00", 2]])
def test_a_column_of_mixed_values_comes_whole_as_text(sqlite, declared, values):
    source = sqlite([(at, "2017-01-01", value) for at, value in enumerate(values)], y=declared)
    stored = {
        "1.5": "1.5",
        "oops": "oops",
        "None": None,
        repr(b"\xff\x00"): "FF00",
        "2": "2.0" if declared == "REAL" else "2",
    }
    found = {line["k"]: line["y"] for line in whole(source, PLAIN)}
    assert found == {str(at): stored[str(value)] for at, value in enumerate(values)}
    assert source.columns("sales")["y"] == "string"
    assert [count.rows for count in source.days(PLAIN)] == [sum(value is not None for value in values)]


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([None, 1, 2], "int64", [None, 1, 2]),
        ([None, 1, 2.5], "double", [None, 1.0, 2.5]),
        ([2.5, 1], "double", [2.5, 1.0]),
        ([None, None], "string", [None, None]),
    ],
)
def test_a_column_is_what_its_values_are_wherever_a_null_or_an_integer_comes_first(sqlite, values, kind, expected):
    source = sqlite([(at, "2017-01-01", value) for at, value in enumerate(values)])
    assert source.columns("sales")["y"] == kind
    assert [line["y"] for line in whole(source, PLAIN)] == expected


def test_a_day_is_what_its_own_values_are(sqlite):
    source = sqlite([("a", "2017-01-01", 1), ("a", "2017-01-02", "oops"), ("a", "2017-01-05", 2.5)])
    (first,) = source.read(PLAIN, DAY - timedelta(9), DAY + timedelta(1))
    assert str(first.schema.field("y").type) == "string"  # the day after is looked at too, for the sake of zones
    (last,) = source.read(PLAIN, DAY + timedelta(4), DAY + timedelta(5))
    assert last.column("y").to_pylist() == [2.5]


def test_a_fingerprint_is_the_same_whatever_other_days_make_of_the_column(sqlite):
    lines = [("a", "2017-01-10", 1), ("b", "2017-01-10", 2.5), ("c", "2017-01-10", None)]
    plain = sqlite(lines).days(PLAIN)
    mixed = sqlite([("a", "2017-01-01", "oops"), *lines])
    assert list(mixed.days(PLAIN))[1:] == plain
    assert mixed.days(PLAIN, DAY + timedelta(9)) == plain


def test_a_fingerprint_tells_a_number_from_the_text_that_spells_it(sqlite):
    prints = {
        sqlite([("a", "2017-01-01", value), ("b", "2017-01-01", "text")]).days(PLAIN)[0].fingerprint
        for value in (1, "1", None, "", b"1", 2)
    }
    assert len(prints) == 6


@pytest.mark.parametrize("declared", ["", "TEXT", "NUMERIC", "DATE", "TIMESTAMP", "INTEGER", "REAL"])
def test_dates_of_every_spelling_are_read_side_by_side(sqlite, declared):
    dated = ["2017-01-01", "2017-01-01 00:00:00", "2017-01-01T00:00:00", "20170101"]
    undated = [None, "", "soon", b"2017-01-01", 17.5, 1483228800]
    if declared == "REAL":
        undated.append(dated.pop())  # 20170101.0
    source = sqlite([(at, value, 1) for at, value in enumerate([*dated, *undated])], date=declared)
    assert [count.rows for count in source.days(PLAIN)] == [len(dated)]
    assert {line["date"] for line in whole(source, PLAIN)} == {DAY}
    left = source.read_undated(PLAIN)
    assert left.num_rows == len(undated)
    assert left.column("date").to_pylist()[:4] == [None, "", "soon", "323031372D30312D3031"]


@pytest.mark.parametrize("before", [0, 3, 250_000])
@pytest.mark.slow
def test_text_that_is_no_utf8_costs_no_row(sqlite, before):
    lines = [(f"k{at}", "2017-01-01", float(at)) for at in range(before)]
    source = sqlite([*lines, ("nul\0x", "2017-01-01", 1), ("bad", "2017-01-02", 2), ("last", "soon", 3)])
    with sqlite3.connect(source._path) as database:
        database.execute("UPDATE sales SET k = CAST(x'636166E9' AS TEXT) WHERE k = 'bad'")
        database.execute("UPDATE sales SET date = CAST(x'636166E9' AS TEXT) WHERE k = 'last'")
    found = whole(source, PLAIN)
    assert len({line["k"] for line in found}) == len(found) == before + 2
    assert found[before:] == [
        {"k": "nul\0x", "date": DAY, "y": 1.0},
        {"k": "caf\\xe9", "date": DAY + timedelta(1), "y": 2.0},
    ]
    assert [count.rows for count in source.days(PLAIN)] == [before + 1, 1]
    assert source.read_undated(PLAIN).to_pylist() == [{"k": "last", "date": "caf\\xe9", "y": 3.0}]


def test_the_name_of_a_missing_column_is_not_taken_for_a_text(sqlite):
    source = sqlite([("a", "2017-01-01", 1)])
    with pytest.raises(InputError, match="'nope'"):
        source.days(SalesTable("sales", ("nope",), "date", "y"))


@pytest.mark.slow
def test_sqlite_and_memory_read_any_spelling_alike(tmp_path):
    numbers = itertools.count()
    moments = st.datetimes(datetime(1990, 1, 1), datetime(2030, 1, 1))
    parts = st.tuples(
        st.one_of(
            st.dates().map(str),
            moments.map(lambda moment: f"{moment:%Y%m%d}"),
            moments.map(lambda moment: f"{moment:%Y-%m-%d}"),
        ),
        st.sampled_from(["", " ", "T", "t", "  "]),
        st.one_of(
            st.times().map(str),
            st.times().map(lambda at: f"{at:%H:%M}"),
            st.sampled_from(["", "24:00", "9:00", "12:00:60", "12:00:00.", "10:00\t", "10:00:00\0"]),
        ),
        st.sampled_from(["", ".5", ".123", ".1234567"]),
        st.sampled_from(
            ["", " ", "Z", "z", " Z", "+02:00", "-14:00", "+14:01", "+15:00", "+0200", "+02", " +02:00", "+02:60"]
        ),
    )

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.one_of(parts.map("".join), spelt), min_size=1, max_size=30))
    def same(texts: list[str | None]) -> None:
        table = rows(*(row(sold=float(at)) for at in range(len(texts)))).set_column(
            2, "date", pa.array(texts, pa.string())
        )
        one, two = SqlSource(store(tmp_path / f"{next(numbers)}.db", {"sales": table})), MemorySource({"sales": table})
        found, expected = ({texts[int(line["sold"])]: line["date"] for line in whole(source)} for source in (one, two))
        assert found.keys() == expected.keys()
        # SQLite converts zones to the millisecond
        assert all(abs(found[text] - expected[text]) < timedelta(milliseconds=1) for text in found)
        assert one.read_undated(SALES).to_pylist() == two.read_undated(SALES).to_pylist()

    same()


def test_sqlite_and_memory_give_the_same_fingerprints(tmp_path):
    table = rows(*(row(f"s{at % 3}", "i", at % 4, sold=at / 7, price=None, event="x" * (at % 2)) for at in range(50)))
    one, two = SqlSource(store(tmp_path / "source.db", {"sales": table})), MemorySource({"sales": table})
    assert list(one.days(SALES)) == list(two.days(SALES))


@pytest.mark.parametrize("plain", [True, False])
def test_one_day_of_an_indexed_table_does_not_read_the_others(sqlite, plain):
    source = sqlite([("a", "2017-01-01", 1)], index="CREATE INDEX by_date ON sales (date)")
    condition = sqlite_source._near("date", DAY, DAY + timedelta(1), plain=plain)
    plan = source._ask(f"EXPLAIN QUERY PLAN SELECT * FROM sales AS t WHERE {condition}")
    assert all("SCAN" not in detail for *_, detail in plan)
    assert any("by_date" in detail for *_, detail in plan)


def test_a_day_spelt_otherwise_is_noticed_when_it_comes(sqlite, tmp_path):
    source = sqlite([("a", "2017-01-01", 1)])
    assert [day.rows for day in source.days(PLAIN)] == [1]
    with closing(sqlite3.connect(next(tmp_path.rglob("*.db")))) as connection, connection:
        connection.execute("INSERT INTO sales VALUES ('a', '20170102', 2), ('a', '2017-01-03 04:05', 3), ('a', 'x', 4)")
    assert [(day.day.day, day.rows) for day in source.days(PLAIN)] == [(1, 1), (2, 1), (3, 1)]
    assert source.read_undated(PLAIN).num_rows == 1


def test_a_view_is_a_table_too(tmp_path):
    url = store(tmp_path / "source.db", {"sales": rows(row(), row(day=1, sold=2))})
    with sqlite3.connect(tmp_path / "source.db") as database:
        database.execute(
            "CREATE VIEW recent AS SELECT store, item, date AS \"the day\", sold FROM sales WHERE date > '2017-01-01~'"
        )
    source = SqlSource(url)
    assert "2 tables" in source.check()
    assert [count.day for count in source.days(SalesTable("recent", ("store", "item"), "the day", "sold"))] == [
        DAY + timedelta(1)
    ]


def test_a_source_is_only_read(tmp_path):
    url = store(tmp_path / "source.db", {"sales": rows(row())})
    (tmp_path / "source.db").chmod(0o444)
    before = (tmp_path / "source.db").read_bytes()
    source = SqlSource(url)
    assert len(whole(source)) == len(source.days(SALES)) == 1
    assert (tmp_path / "source.db").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["source.db"]


def test_a_locked_database_is_an_error_not_an_empty_table(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_source, "LOCK_SECONDS", 0.1)
    source = SqlSource(store(tmp_path / "source.db", {"sales": rows(row())}))
    other = sqlite3.connect(tmp_path / "source.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    for look in (lambda: source.days(SALES), lambda: whole(source), source.check):
        with pytest.raises(UnavailableError, match="locked"):
            look()
    other.close()
    assert len(whole(source)) == 1


def test_a_database_that_is_not_there_is_not_made(tmp_path):
    source = SqlSource(f"sqlite:///{tmp_path}/nope.db")
    for look in (lambda: source.days(SALES), lambda: whole(source), source.check):
        with pytest.raises(SettingsError, match=r"no database at .*nope\.db"):
            look()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_said(tmp_path):
    (tmp_path / "sales.csv").write_text("date,store,item,sales\n2017-01-01,1,1,1\n" * 100)
    with pytest.raises(InputError, match="not a database"):
        SqlSource(f"sqlite:///{tmp_path}/sales.csv").check()


@pytest.mark.parametrize("url", ["postgresql://user:secret@host/db", "sqlite://", "sqlite:///:memory:", "sales.db", ""])
def test_a_url_that_is_not_supported_is_refused_without_its_password(url):
    with pytest.raises(SettingsError, match="sqlite:///path") as error:
        SqlSource(url)
    assert "secret" not in str(error.value)


def test_a_table_in_memory_may_change_between_looks():
    tables = {"sales": rows(row())}
    source = MemorySource(tables)
    tables["sales"] = rows(row(), row(day=1))
    assert len(source.days(SALES)) == 2


def test_zoned_timestamps_in_memory_come_in_utc_or_in_the_zone_asked_for():
    table = rows(row())
    for kind, moment in (
        (pa.timestamp("s", "Europe/Berlin"), DAY),
        (pa.timestamp("ns"), DAY),
        (pa.date32(), DAY.date()),
    ):
        source = MemorySource({"sales": table.set_column(2, "date", pa.array([moment], kind))})
        assert [line["date"] for line in whole(source)] == [DAY]
    source = MemorySource({"sales": table.set_column(2, "date", pa.array([DAY], pa.timestamp("s", "Europe/Berlin")))})
    (part,) = source.read(replace(SALES, timezone="Europe/Berlin"), DAY, DAY + timedelta(days=1))
    assert part["date"].to_pylist() == [DAY + timedelta(hours=1)]


@pytest.mark.slow
def test_a_million_rows_are_counted_in_seconds(tmp_path):
    with sqlite3.connect(tmp_path / "big.db") as database:
        database.execute("CREATE TABLE sales (store TEXT, item TEXT, date TEXT, sold REAL, price REAL, event TEXT)")
        database.execute(
            "WITH RECURSIVE n(at) AS (SELECT 0 UNION ALL SELECT at + 1 FROM n WHERE at < 999999) INSERT INTO sales "
            "SELECT 'store_' || at % 10, 'item_' || at % 500, date('2013-01-01', (at / 500) || ' days'), at % 77, 1.5, "
            "NULL FROM n"
        )
    source = SqlSource(f"sqlite:///{tmp_path}/big.db")
    began = time.process_time()
    assert len(source.days(SALES)) == 2000
    assert time.process_time() - began < 5
