"""What every lake does."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from many_models.errors import ConflictError, InputError, MissingTableError
from many_models.ports import Filter, Lake, VacuumResult
from many_models_tests.contracts import Contract

ODD = [
    "a'b",
    'q"q',
    "a/b",
    "..",
    ".",
    "a__b",
    "%",
    "%41",
    "ü😀",
    "a b",
    ".hidden",
    "",
    "a+b",
    "日本 語",
    "a=b",
    "a,b;{}()",
    "\n\t",
    "NULL",
    "null",
    "x" * 80,
    "\\",
    "-- ;",
    "A",
]
DAY = datetime(2017, 1, 1)
SCHEMA = pa.schema(
    [("pack", pa.string()), ("item", pa.string()), ("ds", pa.timestamp("us")), ("n", pa.int64()), ("y", pa.float64())]
)


def rows(*lines: tuple, schema: pa.Schema = SCHEMA) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(schema.names, line, strict=True)) for line in lines], schema=schema)


def contents(table: pa.Table) -> list[str]:
    return sorted(map(repr, table.to_pylist()))


def row(
    pack: str = "p", item: str | None = "i", day: int | None = 0, n: int | None = 1, y: float | None = 1.5
) -> tuple:
    return (pack, item, None if day is None else DAY + timedelta(days=day), n, y)


class LakeContract(Contract):
    """`make` makes a new, empty lake whenever it is called."""

    @pytest.fixture
    def make(self):
        raise NotImplementedError

    def test_it_is_a_lake(self, make):
        assert isinstance(make(), Lake)

    def test_an_empty_lake_has_no_tables_and_says_so(self, make):
        lake = make()
        assert lake.tables() == frozenset()
        assert lake.version("t") is None
        assert "0 tables" in lake.check()

    def test_a_fingerprint_changes_whenever_its_table_does(self, make):
        lake, seen = make(), set[str]()
        assert lake.fingerprint("t") == ""
        for n in range(3):
            lake.replace("t", rows(row(n=n)), Filter())
            seen.add(lake.fingerprint("t"))
        lake.replace("t", rows(), Filter())
        seen.add(lake.fingerprint("t"))
        assert len(seen) == 4
        assert "" not in seen
        lake.replace("other", rows(row()), Filter())
        assert lake.fingerprint("t") in seen
        assert lake.fingerprint("t") == lake.fingerprint("t")

    def test_a_missing_table_is_not_an_empty_one(self, make):
        lake = make()
        lake.replace("there", rows(row()), Filter())
        with pytest.raises(MissingTableError, match=r"'nope'.*'there'"):
            lake.read("nope")

    def test_what_is_written_is_read(self, make):
        lake = make()
        written = rows(row(), row(item=None, day=None, n=None, y=None), row(y=float("nan")), row(item=""))
        version = lake.replace("t", written, Filter())
        assert lake.version("t") == version
        assert lake.tables() == {"t"}
        assert contents(lake.read("t")) == contents(written)
        assert lake.read("t").schema == SCHEMA

    def test_versions_grow(self, make):
        lake = make()
        versions = [lake.replace("t", rows(row(day=day)), Filter(since=DAY + timedelta(day))) for day in range(4)]
        assert versions == sorted(set(versions))

    def test_only_the_rows_that_where_names_are_replaced(self, make):
        lake = make()
        lake.replace("t", rows(row(day=0), row(day=1), row(day=2), row(day=None)), Filter(), ("pack",))
        where = Filter(among={"pack": ["p"]}, since=DAY + timedelta(1), before=DAY + timedelta(2))
        lake.replace("t", rows(row(day=1, y=7.0), row(day=1, y=8.0)), where)
        expected = rows(row(day=0), row(day=1, y=7.0), row(day=1, y=8.0), row(day=2), row(day=None))
        assert contents(lake.read("t")) == contents(expected)

    def test_no_rows_are_only_the_deletion(self, make):
        lake = make()
        lake.replace("t", rows(row("a"), row("b")), Filter(), ("pack",))
        lake.replace("t", rows(), Filter(among={"pack": ["a"]}))
        assert contents(lake.read("t")) == contents(rows(row("b")))
        lake.replace("t", rows(), Filter())
        assert lake.read("t").num_rows == 0
        assert lake.read("t").schema == SCHEMA

    def test_no_rows_make_an_empty_table(self, make):
        lake = make()
        lake.replace("t", rows(), Filter())
        assert lake.read("t").num_rows == 0
        assert lake.tables() == {"t"}

    def test_an_empty_list_of_values_names_no_rows(self, make):
        lake = make()
        lake.replace("t", rows(row()), Filter())
        nothing = Filter(among={"pack": []})
        assert lake.read("t", nothing).num_rows == 0
        lake.replace("t", rows(), nothing)
        assert lake.read("t").num_rows == 1

    def test_columns_come_as_asked(self, make):
        lake = make()
        lake.replace("t", rows(row()), Filter())
        found = lake.read("t", Filter(since=DAY), ["y", "pack"])
        assert found.column_names == ["y", "pack"]
        with pytest.raises(InputError, match=r"'nope'.*'pack'"):
            lake.read("t", None, ["nope"])

    def test_where_on_a_column_that_is_not_there_says_so(self, make):
        lake = make()
        lake.replace("t", rows(row()), Filter())
        for where in (Filter(among={"nope": ["a"]}), Filter(since=DAY, column="nope")):
            with pytest.raises(InputError, match="'nope'"):
                lake.read("t", where)
            with pytest.raises(InputError, match="'nope'"):
                lake.replace("t", rows(row()), where)

    def test_where_of_the_wrong_type_says_so(self, make):
        lake = make()
        lake.replace("t", rows(row()), Filter())
        for where in (Filter(among={"pack": [1]}), Filter(among={"n": ["1"]}), Filter(since=DAY, column="pack")):
            with pytest.raises(InputError, match=r"'pack'|'n'"):
                lake.read("t", where)

    def test_new_columns_are_null_in_older_rows_and_lacking_ones_in_new_rows(self, make):
        lake = make()
        lake.replace("t", rows(row(day=0)), Filter())
        wider = rows(row(day=1)).drop_columns(["n"]).append_column("price", pa.array([2.5]))
        lake.replace("t", wider, Filter(since=DAY + timedelta(1)))
        found = lake.read("t")
        assert found.column_names == [*SCHEMA.names, "price"]
        assert sorted((line["ds"], line["n"], line["price"]) for line in found.to_pylist()) == [
            (DAY, 1, None),
            (DAY + timedelta(1), None, 2.5),
        ]

    def test_columns_may_come_in_another_order(self, make):
        lake = make()
        lake.replace("t", rows(row(day=0)), Filter())
        lake.replace("t", rows(row(day=1)).select(["y", "n", "ds", "item", "pack"]), Filter(since=DAY + timedelta(1)))
        assert contents(lake.read("t")) == contents(rows(row(day=0), row(day=1)))

    def test_a_column_that_changes_its_type_is_refused_and_nothing_changes(self, make):
        lake = make()
        version = lake.replace("t", rows(row()), Filter())
        changed = rows(row()).set_column(3, "n", pa.array(["one"]))
        with pytest.raises(InputError, match="'n' is int64 there, the new rows have string"):
            lake.replace("t", changed, Filter())
        assert lake.version("t") == version
        assert contents(lake.read("t")) == contents(rows(row()))

    def test_an_all_null_column_takes_the_type_that_is_there(self, make):
        lake = make()
        lake.replace("t", rows(row()), Filter())
        lake.replace("t", rows(row()).set_column(3, "n", pa.nulls(1)), Filter())
        assert lake.read("t").column("n").type == pa.int64()
        with pytest.raises(InputError, match=r"'new'.*cast"):
            lake.replace("t", rows(row()).append_column("new", pa.nulls(1)), Filter())

    def test_rows_outside_where_are_refused_and_nothing_changes(self, make):
        lake = make()
        with pytest.raises(InputError, match="1 of 2 rows are outside"):
            lake.replace("t", rows(row("a"), row("b")), Filter(among={"pack": ["a"]}))
        assert lake.version("t") is None
        version = lake.replace("t", rows(row("a")), Filter())
        with pytest.raises(InputError, match="outside"):
            lake.replace("t", rows(row(day=None)), Filter(since=DAY))
        assert lake.version("t") == version

    def test_a_partition_has_a_name(self, make):
        lake = make()
        for pack in ("", None):
            with pytest.raises(InputError, match="'pack'"):
                lake.replace("t", rows((pack, "i", DAY, 1, 1.0)), Filter(), ("pack",))
        assert lake.tables() == frozenset()
        with pytest.raises(InputError, match="'nope'"):
            lake.replace("t", rows(row()), Filter(), ("nope",))

    def test_a_column_twice_is_refused(self, make):
        with pytest.raises(InputError, match="twice: 'a'"):
            make().replace("t", pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), Filter())

    @pytest.mark.parametrize("partition_by", [(), ("pack",), ("pack", "n")])
    def test_any_text_keeps_working_as_value_and_in_partitions(self, make, partition_by):
        lake = make()
        lake.replace(
            "t", rows(*(row(text, text, n=at) for at, text in enumerate(filter(None, ODD)))), Filter(), partition_by
        )
        for at, text in enumerate(filter(None, ODD)):
            where = Filter(among={"pack": [text], "item": [text, "other"]})
            assert contents(lake.read("t", where)) == contents(rows(row(text, text, n=at)))
            lake.replace("t", rows(row(text, text, n=-at)), where)
        assert contents(lake.read("t")) == contents(
            rows(*(row(text, text, n=-at) for at, text in enumerate(filter(None, ODD))))
        )

    @pytest.mark.parametrize("text", ODD)
    def test_any_text_keeps_working_as_the_name_of_a_table_or_column(self, make, text):
        lake = make()
        written = pa.table({text: ["a", "b"], "other": [1, 2]})
        lake.replace(text, written, Filter())
        lake.replace(text, written.slice(0, 1), Filter(among={text: ["a"]}))
        assert lake.tables() == {text}
        assert contents(lake.read(text, Filter(among={text: ["b"]}), [text])) == contents(pa.table({text: ["b"]}))

    def test_types_are_kept(self, make):
        lake = make()
        written = pa.table(
            {
                "i8": pa.array([1], pa.int8()),
                "i32": pa.array([1], pa.int32()),
                "f32": pa.array([1.5], pa.float32()),
                "bool": [True],
                "bytes": [b"\x00\xff"],
                "list": pa.array([[1.5, None]], pa.list_(pa.float64())),
                "date": pa.array([DAY.date()]),
            }
        )
        lake.replace("t", written, Filter())
        found = lake.read("t")
        assert found.to_pylist() == written.to_pylist()
        assert {name: found.schema.field(name).type for name in written.column_names if name != "list"} == {
            name: written.schema.field(name).type for name in written.column_names if name != "list"
        }

    def test_times_with_a_zone_are_kept_in_utc_without_it(self, make):
        lake = make()
        noon = datetime(2017, 7, 1, 12, tzinfo=ZoneInfo("Europe/Berlin"))
        written = pa.table({"zoned": pa.array([noon], pa.timestamp("us", "Europe/Berlin"))})
        for _ in range(2):
            lake.replace("t", written, Filter())
        assert lake.read("t") == pa.table({"zoned": pa.array([datetime(2017, 7, 1, 10)], pa.timestamp("us"))})

    def test_like_types_are_kept_as_one(self, make):
        lake = make()
        lake.replace("t", rows(row()), Filter())
        alike = rows(row(day=1)).cast(
            pa.schema(
                [
                    ("pack", pa.dictionary(pa.int32(), pa.string())),
                    ("item", pa.large_string()),
                    ("ds", pa.timestamp("ns")),
                    ("n", pa.int64()),
                    ("y", pa.float64()),
                ]
            )
        )
        lake.replace("t", alike, Filter(since=DAY + timedelta(1)))
        assert lake.read("t").schema == SCHEMA
        assert lake.read("t").num_rows == 2

    def test_moments_are_exact_to_the_microsecond(self, make):
        lake = make()
        tick = timedelta(microseconds=1)
        lake.replace("t", rows(*((("p", "i", DAY + at * tick, at, 0.0)) for at in (-1, 0, 1))), Filter())
        assert lake.read("t", Filter(since=DAY, before=DAY + tick)).column("n").to_pylist() == [0]

    def test_ten_thousand_values_can_be_asked_for(self, make):
        lake = make()
        names = [f"s{at}" for at in range(10_000)]
        written = pa.table({"series_id": names, "n": list(range(10_000))})
        lake.replace("t", written, Filter())
        lake.replace("t", written.slice(0, 5_000), Filter(among={"series_id": names[:5_000]}))
        assert lake.read("t", Filter(among={"series_id": names[:9_000]})).num_rows == 9_000
        assert lake.read("t").num_rows == 10_000

    def test_a_pickled_lake_reads_the_same(self, make):
        lake = make()
        lake.replace("t", rows(row()), Filter())
        copy = pickle.loads(pickle.dumps(lake))
        assert contents(copy.read("t")) == contents(rows(row()))
        assert copy.version("t") == lake.version("t")

    def test_writers_of_different_partitions_all_succeed(self, make):
        lake = make()
        packs = [f"p{at}" for at in range(4)]
        lake.replace("t", rows(*(row(pack, y=0.0) for pack in packs)), Filter(), ("pack",))

        def write(pack: str) -> None:
            for step in range(1, 6):
                lake.replace("t", rows(row(pack, y=float(step))), Filter(among={"pack": [pack]}))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, packs))
        assert contents(lake.read("t")) == contents(rows(*(row(pack, y=5.0) for pack in packs)))

    def test_of_writers_of_the_same_rows_each_succeeds_whole_or_is_told(self, make):
        lake = make()
        lake.replace("t", rows(row(n=-1)), Filter(), ("pack",))

        def write(n: int) -> int | None:
            try:
                lake.replace("t", rows(row(n=n), row(n=n)), Filter(among={"pack": ["p"]}))
            except ConflictError:
                return None
            return n

        with ThreadPoolExecutor(4) as pool:
            done = [n for n in pool.map(write, range(12)) if n is not None]
        left = lake.read("t").column("n").to_pylist()
        assert left[0] in done
        assert left == [left[0]] * 2

    def test_a_reader_sees_the_old_or_the_new_never_a_mixture(self, make):
        lake = make()
        lake.replace("t", rows(*[row(n=0)] * 50), Filter(), ("pack",))
        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(
                lambda: [lake.replace("t", rows(*[row(n=n)] * 50), Filter(among={"pack": ["p"]})) for n in range(1, 15)]
            )
            while not writing.done():
                seen = lake.read("t").column("n").to_pylist()
                assert seen == [seen[0]] * 50
            writing.result()

    @pytest.mark.parametrize("partition_by", [(), ("pack",), ("pack", "n")])
    def test_pruning_changes_no_row_whatever_the_partitions_are_called(self, make, partition_by):
        lake = make()
        names = [text for text in ODD if text]
        here = Filter(among={"pack": names})
        lake.replace("t", rows(*map(row, names)), here, partition_by)
        lake.replace("t", rows(*(row(text, y=float(at)) for at, text in enumerate(names))), here)
        for day in range(20):  # as raw_sales grows: a file a day
            here = Filter(among={"pack": names[:1]}, since=DAY + timedelta(day), before=DAY + timedelta(day + 1))
            lake.replace("t", rows(row(names[0], day=day)), here)
        lake.replace("none", rows(), Filter())
        before, schema = contents(lake.read("t")), lake.read("t").schema
        for _ in range(2):
            lake.prune(timedelta(0))
            assert contents(lake.read("t")) == before
        assert lake.read("t").schema == schema
        assert lake.tables() == {"t", "none"}
        assert lake.prune(timedelta(0)) == VacuumResult()
        lake.replace("t", rows(row(names[0])), Filter(among={"pack": names[:1]}))
        assert lake.read("t", Filter(among={"pack": names[:1]})).num_rows == 1

    def test_any_sequence_of_replaces_ends_like_a_list_of_rows(self, make):
        @settings(max_examples=25, deadline=None)
        @given(data=st.data(), partition_by=st.sampled_from([(), ("pack",)]))
        def sequence(data: st.DataObject, partition_by: tuple[str, ...]) -> None:
            lake, model = make(), []
            for step in range(data.draw(st.integers(1, 5))):
                where = data.draw(wheres)
                new = [line for line in data.draw(lines) if named(line, where)]
                lake.replace("t", rows(*new), where, partition_by)
                model = [line for line in model if not named(line, where)] + new
                assert contents(lake.read("t")) == contents(rows(*model)), step
                asked = data.draw(wheres)
                assert contents(lake.read("t", asked)) == contents(
                    rows(*(line for line in model if named(line, asked)))
                )

        sequence()


packs = st.sampled_from(["a", "b'", "c/%", "ü😀"])
items = st.sampled_from(["", "i", "'", '"', "I"])
numbers = st.sampled_from([0, 1, -1, 2**63 - 1, -(2**63)])
days = st.integers(-2, 2)
lines = st.lists(
    st.builds(
        row,
        packs,
        st.none() | items | st.text(max_size=3),
        st.none() | days,
        st.none() | numbers,
        st.none() | st.floats(-5, 5),
    ),
    max_size=8,
)
moments = st.none() | days.map(lambda day: DAY + timedelta(days=day))
among = st.fixed_dictionaries(
    {},
    optional={
        "pack": st.lists(packs, max_size=3),
        "item": st.lists(items, max_size=4),
        "n": st.lists(numbers, max_size=4),
    },
)
wheres = st.builds(Filter, among, moments, moments)


def named(line: tuple, where: Filter) -> bool:
    """The slow obvious meaning of `Filter`."""
    values = dict(zip(SCHEMA.names, line, strict=True))
    if any(values[name] is None or values[name] not in wanted for name, wanted in where.among.items()):
        return False
    moment = values["ds"]
    if where.since is not None and (moment is None or moment < where.since):
        return False
    return where.before is None or (moment is not None and moment < where.before)
