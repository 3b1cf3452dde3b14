"""What every warehouse does."""

from __future__ import annotations

from datetime import datetime, timedelta

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from many_models.errors import InputError, MissingTableError
from many_models.ports import Filter, Warehouse, WarehousePart, WarehouseView
from many_models.reporting.actuals import with_week
from many_models.reporting.views import WEEK, report_views
from many_models_tests.contracts import Contract
from many_models_tests.contracts.lake import ODD, contents

CUTOFF = datetime(2017, 1, 1)
TEXTS = [*(text for text in ODD if text not in {"", "null"}), "select", "Ünï", "null"]
NOON = datetime(2026, 1, 2, 12)
KEY = ("series_id", "cutoff")
SCHEMA = pa.schema(
    [("series_id", pa.string()), ("cutoff", pa.timestamp("us")), ("step", pa.int64()), ("y_hat", pa.float64())]
)


def rows(*lines: tuple, schema: pa.Schema = SCHEMA) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(schema.names, line, strict=True)) for line in lines], schema=schema)


def row(series_id: str = "s", day: int = 0, step: int | None = 1, y_hat: float | None = 1.5) -> tuple:
    return (series_id, CUTOFF + timedelta(days=day), step, y_hat)


def part(
    new: pa.Table, where: Filter | None = None, table: str = "predictions", key: tuple[str, ...] = KEY
) -> WarehousePart:
    return WarehousePart(table, new, where or Filter(), key)


def of_day(day: int) -> Filter:
    return Filter(since=CUTOFF + timedelta(days=day), before=CUTOFF + timedelta(days=day + 1), column="cutoff")


class WarehouseContract(Contract):
    """`make` makes a new, empty warehouse whenever it is called; its clock stands at `NOON`.

    What a database cannot keep at all has to be refused: `keeps_nul`, `keeps_infinity`,
    names over `longest_name` bytes.
    """

    keeps_nul = True
    keeps_infinity = True
    longest_name = 1000
    examples = 25

    @pytest.fixture
    def make(self):
        raise NotImplementedError

    def test_it_is_a_warehouse(self, make):
        assert isinstance(make(), Warehouse)

    def test_an_empty_warehouse_has_no_loads_and_says_so(self, make):
        warehouse = make()
        assert warehouse.loads() == {}
        assert "loads: 0" in warehouse.check()

    def test_a_missing_table_is_not_an_empty_one(self, make):
        warehouse = make()
        warehouse.load("a", "f", [part(rows(row()))])
        with pytest.raises(MissingTableError, match=r"'nope'.*'predictions'"):
            warehouse.read("nope")

    def test_what_is_loaded_is_read_and_recorded(self, make):
        warehouse = make()
        loaded = rows(row("a"), row("b", step=None, y_hat=None))
        other = pa.table({"name": ["x"], "n": [1]})
        assert warehouse.load("day 1", "f1", [part(loaded), part(other, table="other", key=("name",))]) == 3
        assert contents(warehouse.read("predictions")) == contents(loaded)
        assert warehouse.read("predictions").schema == SCHEMA
        assert contents(warehouse.read("other")) == contents(other)
        assert warehouse.loads() == {"day 1": "f1"}
        assert warehouse.read("loads").to_pylist() == [
            {"load": "day 1", "fingerprint": "f1", "rows": 3, "loaded_at": NOON}
        ]

    def test_run_twice_it_ends_the_same(self, make):
        warehouse = make()
        for fingerprint in ("f1", "f1", "f2"):
            warehouse.load("a", fingerprint, [part(rows(row("a"), row("b")), of_day(0))])
        assert contents(warehouse.read("predictions")) == contents(rows(row("a"), row("b")))
        assert warehouse.loads() == {"a": "f2"}
        assert warehouse.read("loads").num_rows == 1

    def test_only_the_rows_that_where_names_are_replaced(self, make):
        warehouse = make()
        warehouse.load("a", "f", [part(rows(row("a"), row("b"), row("a", 1)))])
        warehouse.load("b", "f", [part(rows(row("c")), of_day(0))])
        assert contents(warehouse.read("predictions")) == contents(rows(row("c"), row("a", 1)))
        assert contents(warehouse.read("predictions", of_day(1))) == contents(rows(row("a", 1)))
        warehouse.load("b", "f", [part(rows(), Filter(among={"series_id": ["a", "z"]}, column="cutoff"))])
        assert contents(warehouse.read("predictions")) == contents(rows(row("c")))

    def test_rows_are_counted_and_none_are_where_there_is_no_table(self, make):
        warehouse = make()
        assert warehouse.count("predictions", of_day(0)) == 0
        warehouse.load("a", "f", [part(rows(row("a"), row("b"), row("c", step=2), row("a", 1)))])
        first = Filter(among={"step": [1]})
        assert [warehouse.count("predictions", where) for where in (Filter(), of_day(0), of_day(1), of_day(2), first)] \
            == [4, 3, 1, 0, 3]  # fmt: skip

    def test_no_parts_are_a_recorded_load(self, make):
        warehouse = make()
        assert warehouse.load("a", "f", []) == 0
        assert warehouse.loads() == {"a": "f"}

    def test_no_rows_make_an_empty_table(self, make):
        warehouse = make()
        warehouse.load("a", "f", [part(rows())])
        assert warehouse.read("predictions").num_rows == 0
        assert warehouse.read("predictions").schema == SCHEMA

    def test_parts_of_one_table_are_loaded_one_after_the_other(self, make):
        warehouse = make()
        assert warehouse.load("a", "f", [part(rows(row("a"))), part(rows(row("b")), of_day(0))]) == 2
        assert contents(warehouse.read("predictions")) == contents(rows(row("b")))

    def test_new_columns_widen_the_table_and_lacking_ones_are_null(self, make):
        warehouse = make()
        warehouse.load("a", "f", [part(rows(row("a")))])
        wider = rows(row("b", 1)).drop_columns(["step"]).append_column('f"all', pa.array(["zero"]))
        warehouse.load("b", "f", [part(wider, of_day(1))])
        assert sorted(
            (line["series_id"], line["step"], line['f"all']) for line in warehouse.read("predictions").to_pylist()
        ) == [
            ("a", 1, None),
            ("b", None, "zero"),
        ]

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            (part(rows(row("a"), row("b", 1)), of_day(0)), "1 of 2 rows are outside"),
            (part(rows(row("a"), row("a"))), "1 keys occur twice.*'a'"),
            (part(rows((None, CUTOFF, 1, 1.0))), "'series_id' is null in 1 rows"),
            (
                part(rows(row("a")).set_column(2, "step", pa.array(["one"]))),
                "'step' is int64 there, the new rows have string",
            ),
            (
                part(rows(row("a")), key=("series_id",)),
                r"has the key \(series_id, cutoff\), the new rows \(series_id\)",
            ),
            (
                part(rows(row("old", 5, step=2)), Filter(among={"step": [2]})),
                r"key \(series_id, cutoff\) of rows outside",
            ),
            (part(rows(row("a")).append_column("new", pa.nulls(1))), "'new'.*cast"),
            (part(rows(row("a")).append_column("new", pa.array([[1]]))), "cannot keep columns 'new' .list"),
            (part(rows(row("a")), Filter(among={"nope": ["a"]})), "no column 'nope'"),
            (part(rows(row("a")), Filter(among={"series_id": [1]})), "'series_id' is string"),
            (part(rows(row("a")), table="loads"), "'loads' is where"),
            (part(pa.table({"a": [1]}), table="new", key=("b",)), "no column 'b'"),
            (part(pa.table({"a": [1]}), table="new", key=()), "without key"),
            (part(pa.table({"a": pa.array([2**64 - 1], pa.uint64())}), table="new", key=("a",)), "'new'"),
        ],
    )
    def test_a_part_that_cannot_be_loaded_is_refused_and_nothing_of_the_load_stays(self, make, wrong, said):
        warehouse = make()
        old = rows(row("old"), row("old", 5))
        warehouse.load("a", "f", [part(old)])
        fine = [part(rows(row("fine")), Filter(among={"series_id": ["fine"]})), part(rows(row()), table="fresh")]
        with pytest.raises(InputError, match=said):
            warehouse.load("b", "f", [*fine, wrong])
        assert contents(warehouse.read("predictions")) == contents(old)
        assert warehouse.read("predictions").schema == SCHEMA
        assert warehouse.loads() == {"a": "f"}
        for table in ("fresh", "new"):
            with pytest.raises(MissingTableError):
                warehouse.read(table)

    def test_a_number_that_is_none_is_kept_as_null(self, make):
        warehouse = make()
        warehouse.load("a", "f", [part(rows(row("a", y_hat=float("nan")), row("b", y_hat=1e308)))])
        found = {line["series_id"]: line["y_hat"] for line in warehouse.read("predictions").to_pylist()}
        assert found == {"a": None, "b": 1e308}

    @pytest.mark.parametrize("number", [float("inf"), float("-inf")])
    def test_an_infinite_number_is_kept_or_refused(self, make, number):
        warehouse = make()
        infinite = [part(rows(row("a", y_hat=number)))]
        if self.keeps_infinity:
            warehouse.load("a", "f", infinite)
            assert warehouse.read("predictions").column("y_hat").to_pylist() == [number]
        else:
            with pytest.raises(InputError, match=r"'y_hat'.*infinite"):
                warehouse.load("a", "f", infinite)
            assert warehouse.loads() == {}

    def test_a_text_with_a_nul_is_kept_or_refused(self, make):
        warehouse = make()
        odd = [part(rows(row("a\0b")))]
        if self.keeps_nul:
            warehouse.load("a", "f", odd)
            assert warehouse.read("predictions").column("series_id").to_pylist() == ["a\0b"]
            found = warehouse.read("predictions", Filter(among={"series_id": ["a\0b", "a"]}))
            assert found.num_rows == 1
        else:
            with pytest.raises(InputError, match=r"'series_id'.*NUL"):
                warehouse.load("a", "f", odd)
            assert warehouse.loads() == {}
            warehouse.load("a", "f", [part(rows(row("a")))])
            assert warehouse.read("predictions", Filter(among={"series_id": ["a\0b"]})).num_rows == 0

    def test_a_view_is_read_as_a_table_and_replaced(self, make):
        warehouse = make()
        warehouse.load("a", "f", [part(rows(row("a"), row("b", 1, y_hat=4.0)))])
        head = 'SELECT "series_id", SUM("y_hat") AS "y_hat"'
        tail = ' FROM {predictions} GROUP BY "series_id"'
        sums = WarehouseView("per series", head + tail, ("predictions",))
        wider = WarehouseView("per series", head + ', MAX("cutoff") AS "last"' + tail, ("predictions",))
        other = WarehouseView("per series", 'SELECT "step" FROM {predictions}', ("predictions",))
        for _ in range(2):
            warehouse.create_views([sums])
            assert contents(warehouse.read("per series")) == contents(
                pa.table({"series_id": ["a", "b"], "y_hat": [1.5, 4.0]})
            )
        warehouse.create_views([wider])
        assert warehouse.read("per series", Filter(among={"series_id": ["b"]})).column_names == [
            "series_id",
            "y_hat",
            "last",
        ]
        warehouse.load("b", "f", [part(rows(row("c")), of_day(0))])
        assert sorted(warehouse.read("per series").column("series_id").to_pylist()) == ["b", "c"]
        warehouse.create_views([other])
        assert warehouse.read("per series").to_pylist() == [{"step": 1}] * 2

    def test_a_view_of_what_is_not_there_is_an_error(self, make):
        with pytest.raises(InputError):
            make().create_views([WarehouseView("v", "SELECT * FROM {nope}", ("nope",))])

    def test_reports_show_the_newest_forecast_of_each_series(self, make):
        warehouse, loaded = reported(make)
        frame = loaded["predictions"].to_pandas()
        newest = frame[frame["cutoff"] == frame.groupby("series_id")["cutoff"].transform("max")]
        assert set(newest["cutoff"]) == {CUTOFF, CUTOFF + timedelta(days=7)}
        assert_same(warehouse.read("latest_forecasts"), newest)

    def test_reports_show_each_forecast_with_what_came_of_it(self, make):
        warehouse, loaded = reported(make)
        expected = compared(loaded)
        expected["error"] = expected["y_hat"] - expected["y"]
        assert expected["y"].isna().any()
        assert expected["within80"].isna().any()
        assert_same(warehouse.read("forecasts_and_actuals"), expected)

    @pytest.mark.parametrize(
        ("view", "by"),
        [
            ("accuracy_by_store", ["store"]),
            ('accuracy_by_it"em', ['it"em']),
            ("accuracy_by_week", [WEEK]),
            ("accuracy_by_series_week", ["series_id", "store", 'it"em', WEEK]),
        ],
    )
    def test_reports_count_accuracy_as_it_is_counted_by_hand(self, make, view, by):
        warehouse, loaded = reported(make)
        both = compared(loaded).dropna(subset=["y", "y_hat"])
        expected = []
        for names, group in both.groupby(by):
            y, forecast = group["y"], group["y_hat"]
            gap, size, error = (y - forecast).abs().sum(), y.abs().sum(), (forecast - y).sum()
            wape = gap / size if size else None
            expected.append(
                dict(zip(by, names, strict=True))
                | {"periods": len(y), "actual": y.sum(), "forecast": forecast.sum(), "abs_error": gap}
                | {"abs_actual": size, "wape": wape, "accuracy": 1 - wape if size else None}
                | {"bias": error / size if size else None, "cover80": group["within80"].mean()}
            )
        assert len(expected) > 1
        assert_same(warehouse.read(view), pd.DataFrame(expected))

    def test_reports_show_the_decisions_that_changed_something(self, make):
        warehouse, loaded = reported(make)
        frame = loaded["decisions"].to_pandas()
        assert_same(warehouse.read("promotion_history"), frame[frame["action"] != "keep"])

    def test_reports_follow_what_is_loaded_later(self, make):
        warehouse, _ = reported(make)
        views = report_views(REPORT_KEYS, {name: rows.column_names for name, rows in report_tables().items()})
        for _ in range(2):
            warehouse.create_views(views)
        schema = report_tables()["actuals"].schema
        last = report_tables()["actuals"].to_pylist()[-1]
        late = last | {"ds": CUTOFF + timedelta(days=14), "y": 100.0}
        new = pa.Table.from_pylist([late], schema=schema)
        where = Filter(since=late["ds"], before=late["ds"] + timedelta(days=1))
        before = sum(warehouse.read("accuracy_by_week").column("periods").to_pylist())
        warehouse.load("later", "f", [part(new, where, "actuals", ("series_id", "ds"))])
        assert sum(warehouse.read("accuracy_by_week").column("periods").to_pylist()) == before + 1

    def test_types_are_kept_as_their_widest(self, make):
        warehouse = make()
        loaded = pa.table(
            {
                "key": pa.array(["k"]).dictionary_encode(),
                "i8": pa.array([-1], pa.int8()),
                "i64": pa.array([2**63 - 1]),
                "f32": pa.array([0.5], pa.float32()),
                "f64": [1e-300],
                "bool": [False],
                "bytes": [b"\x00\xff"],
                "date": [CUTOFF.date()],
                "zoned": pa.array([CUTOFF], pa.timestamp("ms", "Europe/Berlin")),
                "ns": pa.array([CUTOFF + timedelta(microseconds=1)], pa.timestamp("ns")),
            }
        )
        warehouse.load("a", "f", [part(loaded, table="t", key=("key",))])
        found = warehouse.read("t")
        assert [str(kind) for kind in found.schema.types] == [
            *(
                "string",
                "int64",
                "int64",
                "double",
                "double",
                "bool",
                "binary",
                "date32[day]",
                "timestamp[us]",
                "timestamp[us]",
            )
        ]
        (line,) = found.to_pylist()
        (expected,) = loaded.to_pylist()
        assert line == expected | {"zoned": CUTOFF, "ns": CUTOFF + timedelta(microseconds=1)}

    def test_any_text_keeps_working_as_value(self, make):
        """All in one table, beside what is longer or shorter by one character: each is found, and goes, alone."""
        warehouse = make()
        names = list(dict.fromkeys(["", *(name for text in TEXTS for name in (text, text + "x", text[:1]))]))
        loaded = pa.table({"name": names, "other": names})
        warehouse.load("all", "f", [part(loaded, table="t", key=("name",))])
        for text in TEXTS:
            where = Filter(among={"name": [text], "other": [text, "nope"]})
            assert warehouse.read("t", where).to_pylist() == [{"name": text, "other": text}]
            warehouse.load(text, text, [part(loaded.slice(0, 0), where, "t", ("name",))])
        assert warehouse.loads() == {"all": "f", **{text: text for text in TEXTS}}
        assert set(warehouse.read("t").column("name").to_pylist()) == set(names) - set(TEXTS)

    @pytest.mark.parametrize("texts", [TEXTS[:-3], TEXTS[-3:]])
    def test_any_text_keeps_working_as_the_name_of_a_table_or_column(self, make, texts):
        """Names that differ in case alone are not in one warehouse: to some databases they are the same."""
        warehouse = make()
        assert len({text.casefold() for text in texts}) == len(texts)
        for text in texts:
            loaded = pa.table({text: ["a", "b"], "other": [1, 2]})
            if len(text.encode()) > self.longest_name:
                with pytest.raises(InputError, match="bytes"):
                    warehouse.load(text, "f", [part(loaded, table=text, key=(text,))])
                continue
            warehouse.load(text, "f", [part(loaded, table=text, key=(text,))])
            wider = loaded.append_column(text + "2", pa.array([1.5, 2.5])).slice(0, 1)
            warehouse.load(text, "g", [part(wider, Filter(among={text: ["a"]}), text, (text,))])
        for text in texts:
            if len(text.encode()) <= self.longest_name:
                found = warehouse.read(text, Filter(among={text: ["a"]}))
                assert found.to_pylist() == [{text: "a", "other": 1, text + "2": 1.5}]

    def test_ten_thousand_values_can_be_asked_for(self, make):
        warehouse = make()
        names = [f"s{at}" for at in range(10_000)]
        loaded = pa.table({"name": names, "n": list(range(10_000))})
        for _ in range(2):
            warehouse.load(
                "a", "f", [part(loaded, Filter(among={"name": names, "n": list(range(10_000))}), "t", ("name",))]
            )
        assert warehouse.read("t", Filter(among={"name": names[:9_000]})).num_rows == 9_000

    @pytest.mark.slow
    def test_any_sequence_of_loads_ends_like_a_dict_of_rows(self, make):
        @settings(max_examples=self.examples, deadline=None)
        @given(st.data())
        def sequence(data: st.DataObject) -> None:
            warehouse, model, record = make(), {}, {}
            for step in range(data.draw(st.integers(1, 6))):
                where = data.draw(wheres)
                new = {line[:2]: line for line in data.draw(lines) if named(line, where)}
                left = {key: line for key, line in model.items() if not named(line, where)}
                load = data.draw(st.sampled_from(["a", "b"]))
                if left.keys() & new.keys():
                    with pytest.raises(InputError, match="outside what is replaced"):
                        warehouse.load(load, str(step), [part(rows(*new.values()), where)])
                else:
                    assert warehouse.load(load, str(step), [part(rows(*new.values()), where)]) == len(new)
                    model, record = left | new, record | {load: str(step)}
                assert warehouse.loads() == record
                if record:
                    assert contents(warehouse.read("predictions")) == contents(rows(*model.values()))
                    asked = data.draw(wheres)
                    expected = rows(*(line for line in model.values() if named(line, asked)))
                    assert contents(warehouse.read("predictions", asked)) == contents(expected)

        sequence()


REPORT_KEYS = ("store", 'it"em')


def report_tables() -> dict[str, pa.Table]:
    """Three series of 14 days forecast at two cutoffs: actuals that lack, that are zero, and intervals that lack."""
    series = {"a__x": ("a", "x"), "a__y": ("a", "y"), "b__x": ("b", "x")}
    predictions, actuals = [], []
    for number, (name, keys) in enumerate(series.items()):
        ids = {"series_id": name, **dict(zip(REPORT_KEYS, keys, strict=True))}
        for day in range(1, 14 if number else 12):
            ds = CUTOFF + timedelta(days=day)
            y = None if day == 3 else 0.0 if number == 2 and day < 9 else float((day * 7 + number) % 5)
            actuals.append(ids | {"ds": ds, "y": y})
        for cutoff in (0, 7) if number else (0,):
            for step in range(1, 8):
                ds = CUTOFF + timedelta(days=cutoff + step)
                y_hat = None if number == 1 and step == 2 else 1.0 + (step * 3 + number + cutoff) % 4
                low = None if y_hat is None or step == 5 else y_hat - 1
                high = None if low is None else y_hat + 1
                line = {"ds": ds, "cutoff": CUTOFF + timedelta(days=cutoff), "step": step, "y_hat": y_hat}
                naive = None if number == 0 and step == 4 else float((step + number) % 3)
                predictions.append(ids | line | {"lo80": low, "hi80": high, "naive": naive})
    names = [(name, pa.string()) for name in ("series_id", *REPORT_KEYS)]
    time, number = pa.timestamp("us"), pa.float64()
    decided = [
        {"series_id": name, **dict(zip(REPORT_KEYS, keys, strict=True)), "action": action, "cutoff": "c", "score": 0.5}
        for (name, keys), action in zip(series.items(), ("promote", "keep", "reject"), strict=True)
    ]
    shape = [
        ("ds", time),
        ("cutoff", time),
        ("step", pa.int64()),
        ("y_hat", number),
        ("lo80", number),
        ("hi80", number),
        ("naive", number),
    ]
    return {
        "predictions": pa.Table.from_pylist(predictions, pa.schema([*names, *shape])),
        "actuals": with_week(pa.Table.from_pylist(actuals, pa.schema([*names, ("ds", time), ("y", number)]))),
        "decisions": pa.Table.from_pylist(
            decided, pa.schema([*names, ("action", pa.string()), ("cutoff", pa.string()), ("score", number)])
        ),
    }


def reported(make) -> tuple[Warehouse, dict[str, pa.Table]]:
    """A warehouse with the report's tables and views, and the tables."""
    warehouse, loaded = make(), report_tables()
    keys = {"predictions": ("series_id", "cutoff", "ds"), "actuals": ("series_id", "ds"), "decisions": KEY}
    warehouse.load("a", "f", [part(rows, table=name, key=keys[name]) for name, rows in loaded.items()])
    warehouse.create_views(report_views(REPORT_KEYS, {name: rows.column_names for name, rows in loaded.items()}))
    return warehouse, loaded


def compared(loaded: dict[str, pa.Table]) -> pd.DataFrame:
    """The oracle: each forecast, looked up in the actuals one by one."""
    came = {(line["series_id"], line["ds"]): line for line in loaded["actuals"].to_pylist()}
    found = []
    for line in loaded["predictions"].to_pylist():
        actual = came.get((line["series_id"], line["ds"]), {})
        y, low, high = actual.get("y"), line["lo80"], line["hi80"]
        within = None if y is None or low is None else float(low <= y <= high)
        monday = line["ds"].date() - timedelta(days=line["ds"].weekday()) if actual else None
        found.append(line | {"y": y, WEEK: monday, "within80": within})
    return pd.DataFrame(found)


def assert_same(found: pa.Table, expected: pd.DataFrame) -> None:
    """Equal but for order and rounding; SQLite has dates and times as text in what a view computes."""

    def plainly(frame: pd.DataFrame) -> pd.DataFrame:
        frame = frame.copy()
        for name in frame.columns:
            if name in {"ds", "cutoff", WEEK} and frame[name].astype(str).str.match(r"\d{4}-|None|NaT|nan").all():
                frame[name] = pd.to_datetime(frame[name])
            elif name not in {"ds", "cutoff", WEEK} and frame[name].dtype.kind in "fiu":
                frame[name] = frame[name].astype(float)
        frame = frame[sorted(frame.columns)]
        order = [name for name in ("series_id", *REPORT_KEYS, "cutoff", "ds", WEEK) if name in frame.columns]
        return frame.sort_values(order, ignore_index=True)

    pd.testing.assert_frame_equal(plainly(found.to_pandas()), plainly(expected), check_dtype=False)


names = st.sampled_from(["a", "A", "b'", "ü😀", ""])
days = st.integers(-2, 2)
steps = st.sampled_from([0, 1, 2**63 - 1])
numbers = st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False).map(
    lambda y: y + 0.0
)  # the port promises no sign of zero
lines = st.lists(st.builds(row, names, days, st.none() | steps, st.none() | numbers), max_size=8)
moments = st.none() | days.map(lambda day: CUTOFF + timedelta(days=day))
wheres = st.builds(
    lambda among, since, before: Filter(among, since, before, "cutoff"),
    st.fixed_dictionaries({}, optional={"series_id": st.lists(names, max_size=4), "step": st.lists(steps, max_size=3)}),
    moments,
    moments,
)


def named(line: tuple, where: Filter) -> bool:
    """The slow obvious meaning of `Filter`."""
    values = dict(zip(SCHEMA.names, line, strict=True))
    among = all(values[name] is not None and values[name] in wanted for name, wanted in where.among.items())
    since = where.since is None or values["cutoff"] >= where.since
    return among and since and (where.before is None or values["cutoff"] < where.before)
