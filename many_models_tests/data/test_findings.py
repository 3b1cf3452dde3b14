"""What is told of names and plans: variants, empty names, contradictions, and what no forecast can use."""

from __future__ import annotations

from datetime import datetime

import pyarrow as pa
import pytest

from many_models.adapters.lake.memory import MemoryLake
from many_models.adapters.source.memory import MemorySource
from many_models.data import covariates, findings, lake_tables
from many_models.data.ingest import Ingest, sales_table
from many_models.orchestration.assets.raw_covariates import findings_of, read_covariates
from many_models.settings import DataSettings, Settings, SourceSettings

NEXT = datetime(2024, 7, 1)
KEYS = ["store", "item"]


def names(*parts: tuple[str, str]) -> pa.Table:
    return pa.table({"store": [store for store, _ in parts], "item": [item for _, item in parts]})


@pytest.mark.parametrize(
    ("one", "other"), [("abc", "ABC"), ("abc", "abc "), ("café", "cafe\u0301"), ("a b", "a  b"), ("①", "1")]
)
def test_names_that_look_like_one_are_told_once(one: str, other: str):
    told = findings.of_names(names(("A", one), ("B", other), ("A", "else")), KEYS)
    assert len(told) == 1
    assert told[0].startswith("names in item that differ in case, blanks or accents alone")
    assert repr(one) in told[0]
    assert repr(other) in told[0]


def test_rows_without_a_name_are_told_and_other_names_are_not():
    assert findings.of_names(names(("A", "x"), ("B", "y")), KEYS) == []
    (told,) = findings.of_names(names(("", "x"), ("B", "y")), KEYS)
    assert "rows without a store, be it null or an empty text, are one series" in told


def test_a_meaning_of_missing_rows_for_no_store_is_told():
    there = names(("A", "x"), ("B", "y"))
    assert findings.of_missing_at(there, KEYS[0], {"A": "zero"}) == []
    (told,) = findings.of_missing_at(there, KEYS[0], {"A": "zero", "b": "zero"})
    assert told.startswith(f"data.missing_at names 'b', and no series has such a {KEYS[0]}")


def ahead(*rows: tuple[str, str, object], known: str = "promo") -> pa.Table:
    columns = {"store": [row[0] for row in rows], "item": [row[1] for row in rows], known: [row[2] for row in rows]}
    raw = pa.table({**columns, "date": pa.array([NEXT] * len(rows), pa.timestamp("us"))})
    return covariates.from_source(raw, KEYS, "date", [known])


def test_a_plan_for_an_item_without_sales_or_with_another_name_is_told():
    series = [("A", "x"), ("A", "y")]
    assert findings.of_plan(ahead(("A", "x", 1)), KEYS, series, {}) == []
    told = findings.of_plan(ahead(("A", "x", 1), ("A", "Y ", 1), ("A", "z", 1)), KEYS, series, {})
    assert len(told) == 2
    assert "writes names differently" in told[0]
    assert "A / Y  = A / y" in told[0]
    assert "no sales yet and get no forecast until they sell: A / z" in told[1]


def test_a_level_that_only_the_future_has_is_told():
    (told,) = findings.of_plan(
        ahead(("A", "x", "flyer"), ("A", "y", "radio")), KEYS, [("A", "x"), ("A", "y")], {"promo": {"flyer"}}
    )
    assert told.startswith("promo has values in the future that it never had: 'radio'")


def test_rows_of_a_plan_that_contradict_each_other_are_told_and_repeated_ones_are_not():
    told = list[str]()
    raw = pa.table(
        {
            "item": ["x", "x", "y", "y"],
            "date": pa.array([NEXT] * 4, pa.timestamp("us")),
            "price": [1.0, 2.0, 3.0, 3.0],
        }
    )
    rows = covariates.from_source(raw, KEYS, "date", ["price"], told=told)
    assert rows["price"].to_pylist() == [2.0, 3.0]
    (text,) = told
    assert "contradict each other for 1 keys and periods, for example x, 2024-07-01: price 1.0; price 2.0" in text


def test_a_plan_in_the_sales_table_tells_all_of_it():
    past = [("A", "x", datetime(2024, 6, day), 1.0, "none") for day in range(1, 11)]
    plan = [("A", "x", datetime(2024, 6, 11), None, "none"), ("A", "x", datetime(2024, 6, 11), None, "flyer"),
            ("A", "new", datetime(2024, 6, 11), None, "none")]  # fmt: skip
    columns = list(zip(*past, *plan, strict=True))
    kinds = [pa.string(), pa.string(), pa.timestamp("us"), pa.float64(), pa.string()]
    fields = zip(["store", "item", "date", "sales", "promo"], columns, kinds, strict=True)
    raw = pa.table({name: pa.array(values, kind) for name, values, kind in fields})
    settings = Settings(source=SourceSettings(table="sales"), data=DataSettings(known=["promo"]))
    source, lake = MemorySource({"sales": raw}), MemoryLake()
    ingest = Ingest(settings, source, lake, sales_table(settings, raw.column_names), {"promo": "text"}, NEXT)
    ingest.copy_span(datetime(2024, 6, 1), datetime(2024, 6, 11), raw.slice(0, 10))
    told = list[str]()
    rows = read_covariates(settings, source, lake, told)
    told += findings_of(settings, source, lake, rows)
    assert [" ".join(text.split()[:3]) for text in told] == [
        "the covariates contradict", "the plan has", "promo has values",
    ]  # fmt: skip
    lake_tables.tell(lake, "raw_covariates", told)
    lake_tables.tell(lake, "raw_sales", ["other"])
    lake_tables.tell(lake, "raw_covariates", [])
    assert [row["text"] for row in lake_tables.records(lake, lake_tables.FINDINGS)] == ["other"]
