"""What every source does."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from many_models.errors import InputError, MissingTableError
from many_models.ports import SalesTable, Source
from many_models_tests.contracts import Contract

DAY = datetime(2017, 1, 1)
SALES = SalesTable("sales", ("store", "item"), "date", "sold", ("price", "event"))
CHANGED = replace(SALES, changed="changed at")
SCHEMA = pa.schema(
    [
        ("store", pa.string()),
        ("item", pa.string()),
        ("date", pa.timestamp("us")),
        ("sold", pa.float64()),
        ("price", pa.float64()),
        ("event", pa.string()),
    ]
)

# how a timestamp is spelt, and what it is; None: no date
SPELLINGS: dict[str | None, datetime | None] = {
    "2017-01-01": DAY,
    "20170101": DAY,
    "2017-01-01 00:00:00": DAY,
    "2017-01-01T00:00:00": DAY,
    "2017-01-01 00:00": DAY,
    "2017-01-01 00:00:00.000": DAY,
    "2017-01-01 00:00:00 ": DAY,
    "2017-01-01 00:00\t\r\n": DAY,
    "2017-01-01T00:00:00Z": DAY,
    "2017-01-01T00:00:00+02:00": DAY,
    "2016-12-31 19:30-04:30": datetime(2016, 12, 31, 19, 30),
    "2017-01-01 13:14:15": DAY + timedelta(hours=13, minutes=14, seconds=15),
    "2017-01-01 00:00:00.123456": DAY + timedelta(microseconds=123456),
    "2017-01-01 00:00:00.123456789": DAY + timedelta(microseconds=123456),
    "2016-02-29": datetime(2016, 2, 29),
    "9999-12-31": datetime(9999, 12, 31),
    "0002-01-01": datetime(2, 1, 1),
    None: None,
    "": None,
    " ": None,
    "2017-02-29": None,
    "2017-13-01": None,
    "2017-01-32": None,
    "2017-1-1": None,
    "2017-01": None,
    "2017": None,
    "20171301": None,
    "01/02/2017": None,
    "31.12.2017": None,
    "2017-01-01 24:00:00": None,
    "2017-01-01 10:61": None,
    "2017-01-01T10": None,
    "2017-01-01x": None,
    "2017-01-01 10:00:00 noon": None,
    " 2017-01-01": None,
    "2017-01-01\n": None,
    "2017-01-01\0": None,
    "2017-01-01 10:00\0": None,
    "now": None,
    "12:30": None,
    "2457754.5": None,
    "1483228800": None,
    "0000-00-00": None,
    "0001-01-01": None,
    "0001-01-01T00:00:00+05:00": None,
    "\u0662\u0660\u0661\u0667-\u0660\u0661-\u0660\u0661": None,
    "NaT": None,
}


def rows(*lines: tuple) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(SCHEMA.names, line, strict=True)) for line in lines], schema=SCHEMA)


def row(
    store="s", item="i", day=0.0, sold: float | None = 1.0, price: float | None = 2.5, event: str | None = None
) -> tuple:
    return (store, item, DAY + timedelta(days=day), sold, price, event)


def whole(source: Source, sales: SalesTable = SALES) -> list[dict]:
    return [
        line
        for table in source.read(sales, datetime(1, 1, 1), datetime(9999, 12, 31, 23))
        for line in table.to_pylist()
    ]


def alike(lines: list[dict]) -> list[str]:
    return sorted(map(repr, lines))


def of_stores(lines: list[dict]) -> list[tuple[str, datetime]]:
    return sorted((line["store"], line["date"]) for line in lines)


def prints(source: Source, since: datetime | None = None, sales: SalesTable = SALES) -> dict[datetime, str]:
    return {count.day: count.fingerprint for count in source.days(sales, since)}


class SourceContract(Contract):
    """`make` makes a source of the tables it is given. `keeps_nul`: whether it can hold a text with a NUL;
    `keeps_infinity`: an infinite number; `keeps_emoji_names`: names beyond Unicode's first 65,536 characters.
    """

    keeps_nul = True
    keeps_infinity = True
    keeps_emoji_names = True
    examples = 40

    @pytest.fixture
    def make(self):
        raise NotImplementedError

    def test_it_is_a_source(self, make):
        assert isinstance(make({}), Source)

    def test_it_says_what_it_reaches(self, make):
        assert "1 tables" in make({"sales": rows(row())}).check()

    def test_columns_come_in_order_with_their_types(self, make):
        table = rows(row(event="x")).append_column("units", pa.array([3]))
        assert list(make({"t": table}).columns("t").items()) == [
            ("store", "string"),
            ("item", "string"),
            ("date", "timestamp[us]"),
            ("sold", "double"),
            ("price", "double"),
            ("event", "string"),
            ("units", "int64"),
        ]

    def test_a_missing_table_is_named_with_those_that_are_there(self, make):
        source = make({"other": rows(row())})
        for look in (
            lambda: source.columns("sales"),
            lambda: source.days(SALES),
            lambda: list(source.read(SALES, DAY, DAY)),
            lambda: source.read_undated(SALES),
            lambda: source.span(SALES, DAY, DAY),
            lambda: source.read_table("sales"),
        ):
            with pytest.raises(MissingTableError, match=r"'sales'.*'other'"):
                look()

    def test_missing_columns_are_named_with_those_that_are_there(self, make):
        source = make({"sales": rows(row()).drop_columns(["item", "price"])})
        for look in (
            lambda: source.days(SALES),
            lambda: list(source.read(SALES, DAY, DAY)),
            lambda: source.read_undated(SALES),
            lambda: source.read_table("sales", ["item", "price"]),
        ):
            with pytest.raises(
                InputError, match=r"'sales' has no column 'item', 'price'; it has 'store', 'date', 'sold', 'event'"
            ):
                look()

    def test_an_empty_table_has_no_days_and_no_rows(self, make):
        source = make({"sales": rows()})
        assert list(source.days(SALES)) == []
        assert whole(source) == []
        assert source.read_undated(SALES).to_pylist() == []
        assert source.read_table("sales").column_names == SCHEMA.names

    def test_rows_that_were_read_tell_their_days_or_nothing(self, make):
        table = rows(row(), row(day=1, sold=2.5), row(day=1, item="other"))
        source = make({"sales": table})
        numbers = SalesTable(SALES.table, SALES.keys, SALES.timestamp, SALES.target)
        read = pa.concat_tables(source.read(numbers, DAY, DAY + timedelta(days=9)))
        assert list(source.days_of(numbers, read)) == list(source.days(numbers))
        with_text = pa.concat_tables(source.read(SALES, DAY, DAY + timedelta(days=9)))
        assert source.days_of(SALES, with_text) is None

    def test_rows_come_with_the_columns_of_the_sales_table(self, make):
        source = make({"sales": rows(row(event="x")).append_column("more", pa.array([1]))})
        (found,) = source.read(SALES, DAY, DAY + timedelta(1))
        assert found.schema == SCHEMA
        assert found.to_pylist() == rows(row(event="x")).to_pylist()

    def test_values_come_as_they_are_good_or_bad(self, make):
        lines = [
            row(sold=None),
            row(sold=-1.0),
            row(sold=float("inf") if self.keeps_infinity else 7.0),
            row(sold=1e300),
            row(price=None),
            row(event=""),
        ]
        lines += [row("", "'"), row("a/b", 'q"q'), row("ü😀", "\n"), row("s"), row("s")]
        assert alike(whole(make({"sales": rows(*lines)}))) == alike(rows(*lines).to_pylist())

    def test_keys_come_as_text(self, make):
        table = pa.table(
            {
                "n": pa.array([1, None, -3]),
                "x": pa.array([2.0, None, 0.5]),
                "s": pa.array(["a", None, ""]),
                "date": pa.array([DAY] * 3),
                "y": [1.0, 2.0, 3.0],
            }
        )
        found = whole(make({"t": table}), SalesTable("t", ("n", "x", "s"), "date", "y"))
        assert sorted((line["n"], line["x"], line["s"], line["y"]) for line in found) == [
            ("", "", "", 2.0),
            ("-3", "0.5", "", 3.0),
            ("1", "2", "a", 1.0),
        ]

    def test_a_target_of_texts_comes_as_text(self, make):
        table = rows(row(), row()).set_column(3, "sold", pa.array(["12", "n/a"]))
        source = make({"sales": table})
        assert sorted(line["sold"] for line in whole(source)) == ["12", "n/a"]
        assert [count.rows for count in source.days(SALES)] == [2]

    def test_a_column_of_whole_numbers_is_of_integers(self, make):
        table = rows(row()).set_column(3, "sold", pa.array([2**62 + 1]))
        assert [line["sold"] for line in whole(make({"sales": table}))] == [2**62 + 1]

    @pytest.mark.parametrize(
        "name", ["two words", 'a"b', "a'b", "Größe 😀", "a.b", "select", "a;--", "[x]", "a`b", "%s", ":x", "?"]
    )
    def test_any_text_keeps_working_as_the_name_of_a_table_or_column(self, make, name):
        name = name if self.keeps_emoji_names else name.replace("😀", "€")
        names = [name + end for end in ("", "2", "3", "4", "5", "6")]
        source = make({name: rows(row(), row(day=3)).rename_columns(names)})
        sales = SalesTable(name, tuple(names[:2]), names[2], names[3], tuple(names[4:]))
        assert list(source.columns(name)) == names
        assert [count.rows for count in source.days(sales)] == [1, 1]
        (found,) = source.read(sales, DAY, DAY + timedelta(1))
        assert found.rename_columns(SCHEMA.names).to_pylist() == rows(row()).to_pylist()
        assert source.read_undated(sales).column_names == names
        assert source.read_table(name, names[:1]).column_names == names[:1]

    def test_days_are_counted_in_order(self, make):
        source = make({"sales": rows(row(day=5), row(day=0.999), row(day=0), row(day=-800), row(day=5))})
        assert [(count.day, count.rows) for count in source.days(SALES)] == [
            (DAY - timedelta(800), 1),
            (DAY, 2),
            (DAY + timedelta(5), 2),
        ]

    def test_days_since_are_whole_days_with_the_same_fingerprints(self, make):
        source = make({"sales": rows(*(row(day=day / 2, sold=day) for day in range(20)))})
        every = list(source.days(SALES))
        assert list(source.days(SALES, DAY + timedelta(days=3, hours=15))) == every[3:]
        assert list(source.days(SALES, DAY + timedelta(days=30))) == []

    def test_a_span_is_the_first_and_the_last_day_with_rows_within_some_days(self, make):
        source = make({"sales": rows(*(row(day=day) for day in (5.9, 0.5, -800, 12)))})
        days = [DAY + timedelta(days=at) for at in (-800, 0, 5, 12)]
        noon, long_ago, far = DAY + timedelta(hours=12), datetime(1, 1, 1), datetime(9999, 12, 31, 23)
        assert source.span(SALES, long_ago, far) == (days[0], days[3])
        assert source.span(SALES, noon, noon + timedelta(days=5)) == (days[1], days[2])
        assert source.span(SALES, noon + timedelta(days=13), far) is None
        assert make({"sales": rows()}).span(SALES, long_ago, far) is None

    def test_a_span_of_days_that_texts_spell_leaves_out_what_is_no_date(self, make):
        spelt = pa.array(["2017-01-03 23:59:59", "20170102", "no date", "", None])
        table = rows(row(), row(), row(), row(), row()).set_column(2, "date", spelt)
        found = make({"sales": table}).span(SALES, datetime(1, 1, 1), datetime(9999, 1, 1))
        assert found == (DAY + timedelta(days=1), DAY + timedelta(days=2))

    def test_ranges_are_half_open_to_the_microsecond(self, make):
        tick = 1 / 86_400_000_000
        source = make(
            {"sales": rows(row(day=-tick, sold=1), row(day=0, sold=2), row(day=1 - tick, sold=3), row(day=1, sold=4))}
        )
        assert sorted(
            line["sold"] for table in source.read(SALES, DAY, DAY + timedelta(1)) for line in table.to_pylist()
        ) == [2, 3]
        noon = DAY + timedelta(hours=12)
        assert [
            line["sold"] for table in source.read(SALES, noon, noon + timedelta(1)) for line in table.to_pylist()
        ] == [3, 4]

    @pytest.mark.slow
    def test_many_rows_come_in_tables_of_bounded_size(self, make):
        many = 100_003  # more than a table may have
        table = pa.table(
            {
                "k": pa.array(["a"] * many),
                "date": pa.array([DAY + timedelta(days=at % 700) for at in range(many)]),
                "y": pa.array(range(many), pa.float64()),
            }
        )
        source, sales = make({"t": table}), SalesTable("t", ("k",), "date", "y")
        tables = list(source.read(sales, datetime(1, 1, 1), datetime(9999, 1, 1)))
        assert len(tables) > 1
        assert max(map(len, tables)) <= 100_000
        assert len({table.schema for table in tables}) == 1
        assert sorted(value for table in tables for value in table.column("y").to_pylist()) == list(range(many))
        assert sum(count.rows for count in source.days(sales)) == many

    def test_a_table_is_read_whole_or_by_columns(self, make):
        table = pa.table({"date": pa.array([DAY, None]), "price": [1.5, None], "n": [1, 2], "open": ["x", None]})
        source = make({"prices": table})
        assert source.read_table("prices") == table
        assert source.read_table("prices", ["n", "date"]) == table.select(["n", "date"])

    @pytest.mark.parametrize("kinds", [{True}, {False}, {True, False}], ids=["dates", "no dates", "both"])
    def test_a_timestamp_that_is_text_is_a_date_or_is_not(self, make, kinds):
        """Each spelling has a row, with its number as the store."""
        texts = [text for text, moment in SPELLINGS.items() if (moment is not None) in kinds]
        texts = [text for text in texts if self.keeps_nul or "\0" not in (text or "")]
        lines = rows(*(row(str(number)) for number in range(len(texts))))
        source = make({"sales": lines.set_column(2, "date", pa.array(texts, pa.string()))})
        undated = source.read_undated(SALES)
        assert undated.schema == SCHEMA.set(2, pa.field("date", pa.string()))
        numbered = zip(lines.to_pylist(), texts, strict=True)
        assert alike(undated.to_pylist()) == alike(
            [line | {"date": text} for line, text in numbered if SPELLINGS[text] is None]
        )
        moments = {str(number): moment for number, text in enumerate(texts) if (moment := SPELLINGS[text])}
        assert of_stores(whole(source)) == sorted(moments.items())
        days = sorted({datetime(moment.year, moment.month, moment.day) for moment in moments.values()})
        assert [count.day for count in source.days(SALES)] == days
        for moment in set(moments.values()):
            day = datetime(moment.year, moment.month, moment.day)
            assert [count.day for count in source.days(SALES, moment)] == [other for other in days if other >= day]
        for day in days[: -1 if datetime(9999, 12, 31) in days else None]:
            for since, before in ((0, 1), (1, 9), (-9, 0)):
                first, end = day + timedelta(since), day + timedelta(before)
                found = [line for table in source.read(SALES, first, end) for line in table.to_pylist()]
                assert of_stores(found) == sorted((s, at) for s, at in moments.items() if first <= at < end)

    def test_days_are_counted_in_the_local_time_that_was_asked_for(self, make):
        """Midnight in Berlin, winter and summer, is the evening before in UTC; a day of 25 hours is one day."""
        texts = [
            *("2024-06-01T22:00:00Z", "2024-06-02T21:59:59+00:00", "2024-06-02T00:00:00+02:00", "2024-06-02 10:00"),
            *("2024-06-02", "2024-10-26T22:00:00Z", "2024-10-27T22:59:00Z"),
            *("2024-03-30T23:00:00Z", "2024-03-31T21:59:00Z"),
        ]
        table = rows(*(row(f"s{at}", sold=float(at)) for at in range(len(texts))))
        source = make({"sales": table.set_column(2, "date", pa.array(texts, pa.string()))})
        local = replace(SALES, timezone="Europe/Berlin")
        days = {count.day: count.rows for count in source.days(local)}
        assert days == {datetime(2024, 3, 31): 2, datetime(2024, 6, 2): 5, datetime(2024, 10, 27): 2}
        found = list(source.read(local, datetime(2024, 6, 2), datetime(2024, 6, 3)))
        assert sum(part.num_rows for part in found) == 5
        assert source.span(local, DAY, datetime(2025, 1, 1)) == (datetime(2024, 3, 31), datetime(2024, 10, 27))
        assert list(source.read(local, datetime(2024, 6, 1), datetime(2024, 6, 2))) == []

    def test_rows_without_a_target_are_not_counted_but_seen(self, make):
        """Rows of a plan have no target yet: no day is complete because of them, and their change is a change."""
        plan = rows(row(sold=1.0), row("s2", sold=None), row(day=1, sold=None, price=2.0))
        dearer = rows(row(sold=1.0), row("s2", sold=None), row(day=1, sold=None, price=3.0))
        first, second = make({"sales": plan}).days(SALES)
        assert [first.rows, second.rows] == [1, 0]
        assert make({"sales": dearer}).days(SALES)[1].fingerprint != second.fingerprint

    def test_an_integer_is_a_date_when_it_spells_one(self, make):
        table = rows(row(sold=1), row(sold=2), row(sold=3), row(sold=4))
        source = make({"sales": table.set_column(2, "date", pa.array([20170101, 20171301, 1483228800, None]))})
        assert [(line["date"], line["sold"]) for line in whole(source)] == [(DAY, 1)]
        assert [(line["date"], line["sold"]) for line in source.read_undated(SALES).to_pylist()] == [
            ("20171301", 2),
            ("1483228800", 3),
            (None, 4),
        ]

    @pytest.mark.slow
    def test_every_row_is_read_once_by_day_by_range_or_undated(self, make):
        @settings(max_examples=self.examples, deadline=None)
        @given(
            st.lists(spelt.filter(lambda text: self.keeps_nul or "\0" not in (text or "")), max_size=12),
            st.lists(st.datetimes(datetime(2016, 12, 1), datetime(2017, 2, 1)), max_size=3),
        )
        def read(texts: list[str | None], cuts: list[datetime]) -> None:
            table = rows(*(row(sold=float(at)) for at in range(len(texts)))).set_column(
                2, "date", pa.array(texts, pa.string())
            )
            source = make({"sales": table})
            bounds = [datetime(1, 1, 1), *sorted(cuts), datetime(9999, 12, 31, 23)]
            dated = []
            for since, before in pairwise(bounds):
                for found in source.read(SALES, since, before):
                    assert all(since <= moment < before for moment in found.column("date").to_pylist())
                    dated += found.column("sold").to_pylist()
            undated = source.read_undated(SALES).column("sold").to_pylist()
            assert sorted(dated + undated) == list(range(len(texts)))
            assert sum(count.rows for count in source.days(SALES)) == len(dated)

        read()

    @pytest.mark.parametrize(
        "changed",
        [
            row("a", "x", 0, sold=6),
            row("a", "x", 0, sold=None),
            row("a", "x", 0, sold=0),
            row("a", "x", 0, price=2.4999999),
            row("a", "x", 0, price=None),
            row("a", "x", 0, event="e"),
            row("a", "x", 0, event=""),
            row("ax", "", 0),
            row("x", "a", 0),
            row("b", "x", 0),
            row("a", "x", 0.5),
        ],
    )
    def test_a_fingerprint_tells_of_any_change_in_its_day_and_of_no_other(self, make, changed):
        def of(line: tuple) -> dict[datetime, str]:
            others = [row("b", "x", 0, sold=2), row("a", "x", 1)]
            return prints(make({"sales": rows(line, *others)}))

        before, after = of(row("a", "x", 0)), of(changed)
        assert before[DAY] != after[DAY]
        assert before[DAY + timedelta(1)] == after[DAY + timedelta(1)]

    def test_a_fingerprint_tells_when_two_rows_swap_their_values(self, make):
        one = prints(make({"sales": rows(row("a", sold=1), row("b", sold=2))}))
        assert one != prints(make({"sales": rows(row("a", sold=2), row("b", sold=1))}))

    def test_a_fingerprint_tells_of_a_row_that_came_twice_or_went(self, make):
        tables = [rows(row()), rows(row(), row()), rows(row(), row(), row()), rows(row(), row("b"))]
        assert len({prints(make({"sales": table}))[DAY] for table in tables}) == 4

    def test_a_fingerprint_tells_of_a_change_of_text_in_the_target(self, make):
        def of(*texts: str | None) -> str:
            table = rows(*[row()] * len(texts)).set_column(3, "sold", pa.array(texts, pa.string()))
            return prints(make({"sales": table}))[DAY]

        assert len({of("n/a"), of("?"), of(""), of(None)}) == 4

    @pytest.mark.parametrize("numbered", [False, True])
    def test_a_column_that_tells_what_changed_tells_of_late_and_corrected_rows_of_any_age(self, make, numbered):
        def written(*lines: tuple[tuple, int]) -> dict[datetime, str]:
            at = [day if numbered else DAY + timedelta(days=day, hours=3) for _, day in lines]
            table = rows(*(line for line, _ in lines)).append_column("changed at", pa.array(at))
            return prints(make({"sales": table}), sales=CHANGED)

        before = [(row(day=day), day) for day in range(100)]
        was = written(*before)
        assert [*was] == [DAY + timedelta(days=day) for day in range(100)]
        assert written(*before[::-1]) == was
        corrected = written((row(sold=7.0), 100), *before[1:])
        late = written(*before, (row(item="late", day=3), 100))
        gone = written(*before[:5], *before[6:])
        touched = {
            name: {day for day in was if new.get(day) != was[day]}
            for name, new in {"corrected": corrected, "late": late, "gone": gone}.items()
        }
        assert touched == {
            "corrected": {DAY},
            "late": {DAY + timedelta(days=3)},
            "gone": {DAY + timedelta(days=5)},
        }

    def test_a_column_that_tells_what_changed_is_not_read_and_has_to_be_there(self, make):
        table = rows(row(), row(day=1)).append_column("changed at", pa.array([1, 2]))
        source = make({"sales": table, "plain": rows(row())})
        (read,) = source.read(CHANGED, DAY, DAY + timedelta(days=1))
        assert read.column_names == list(CHANGED.columns)
        assert source.days_of(CHANGED, read) is None
        since = source.days(CHANGED, DAY + timedelta(days=1, hours=5))
        assert [count.day for count in since] == [DAY + timedelta(days=1)]
        with pytest.raises(InputError, match="'changed at'"):
            source.days(replace(CHANGED, table="plain"))

    def test_days_that_texts_spell_have_changed_rows_too(self, make):
        spelt = pa.array(["2017-01-01", "20170102", "no date"])
        table = rows(row(), row(), row()).set_column(2, "date", spelt).append_column("changed at", pa.array([1, 2, 3]))
        counted = make({"sales": table}).days(CHANGED)
        assert [(count.day, count.rows) for count in counted] == [(DAY, 1), (DAY + timedelta(days=1), 1)]

    def test_a_fingerprint_does_not_tell_of_the_order_of_rows(self, make):
        lines = [row(f"s{at % 3}", f"i{at % 5}", at % 2, sold=at / 7) for at in range(40)]
        assert prints(make({"sales": rows(*lines)})) == prints(make({"sales": rows(*reversed(lines))}))

    def test_a_fingerprint_does_not_tell_of_columns_that_are_not_read(self, make):
        one, two = (rows(row()).append_column("other", pa.array([value])) for value in (1, 2))
        assert prints(make({"sales": one})) == prints(make({"sales": two}))

    def test_a_fingerprint_depends_on_its_day_alone(self, make):
        day = rows(row(sold=3), row("b"))
        others = rows(row(day=1, sold=None, event="x"), row(day=2))
        assert prints(make({"sales": pa.concat_tables([day, others])}))[DAY] == prints(make({"sales": day}))[DAY]


spelt = st.one_of(
    st.sampled_from(list(SPELLINGS)),
    st.datetimes(datetime(2016, 12, 1), datetime(2017, 2, 1)).map(str),
    st.datetimes(datetime(2016, 12, 1), datetime(2017, 2, 1)).map(lambda moment: moment.isoformat(timespec="seconds")),
    st.dates().map(str),
    st.text(max_size=12),
)
