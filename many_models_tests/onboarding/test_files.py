"""Files as people have them: workbooks, wide tables, money and units, dates in parts, totals, encodings, archives."""

from __future__ import annotations

import bz2
import json
import lzma
import zipfile
from datetime import date, datetime
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from many_models.errors import InputError
from many_models.onboarding.cleaning import totals_in, without
from many_models.onboarding.files import open_file
from many_models.onboarding.grid import find_header, listed
from many_models.onboarding.layout import open_table
from many_models.onboarding.readers import head
from many_models.onboarding.value_types import infer_column, parse_times
from many_models.onboarding.workbooks import cells_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DAYS = [date(2024, 1, day) for day in range(1, 13)]
ROWS = [
    (store, item, day, 10 * number + 3)
    for store in ("Köln", "Ulm")
    for item in ("007", "12")
    for number, day in enumerate(DAYS)
]
NAMES = ["store", "item", "date", "units"]
RECORDS = [{"store": s, "item": i, "date": str(d), "units": u} for s, i, d, u in ROWS]


def text(separator: str = ",") -> str:
    return "\n".join(separator.join(map(str, row)) for row in [NAMES, *ROWS]) + "\n"


def read(path: Path, **how: object) -> list[tuple[object, ...]]:
    table, _ = head(open_table(path, **how), 10_000)  # pyright: ignore[reportArgumentType]
    return [tuple(row.values()) for row in table.to_pylist()]


def as_text(rows: Sequence[tuple[object, ...]]) -> list[tuple[str, ...]]:
    return [tuple(str(cell) for cell in row) for row in rows]


def workbook(
    path: Path, sheets: dict[str, Sequence[Sequence[object]]], merged: Sequence[tuple[object, ...]] = ()
) -> Path:
    import xlsxwriter

    book = xlsxwriter.Workbook(str(path))
    days = book.add_format({"num_format": "yyyy-mm-dd"})
    for name, rows in sheets.items():
        sheet = book.add_worksheet(name)
        for r, row in enumerate(rows):
            for c, cell in enumerate(row):
                if isinstance(cell, date):
                    sheet.write_datetime(r, c, datetime(cell.year, cell.month, cell.day), days)
                elif cell is not None:
                    sheet.write(r, c, cell)
        for top, left, bottom, right, value in merged:
            sheet.merge_range(top, left, bottom, right, value)
    book.close()
    return path


# --- Workbooks ------------------------------------------------------------------------------------------------------
def test_a_workbook_is_read_from_its_sheet_with_data_below_its_titles(tmp_path: Path) -> None:
    rows = [["Sales report"], [], NAMES, *ROWS]
    path = workbook(tmp_path / "book.xlsx", {"Notes": [["made by hand"]], "Sales": rows})
    reader = open_table(path)
    assert as_text(read(path)) == [(a, b, f"{c} 00:00:00", str(d)) for a, b, c, d in ROWS]
    head(reader, 10)
    assert "sheet 'Sales', with its header in row 3" in reader.readings[0].what


def test_sheets_with_the_same_columns_are_put_below_one_another(tmp_path: Path) -> None:
    halves = {store: [NAMES[1:], *[row[1:] for row in ROWS if row[0] == store]] for store in ("Köln", "Ulm")}
    rows = read(workbook(tmp_path / "book.xlsx", halves))
    assert [row[-1] for row in rows] == [row[0] for row in ROWS]
    assert read(tmp_path / "book.xlsx", sheet="Ulm")[0][0] == "007"
    with pytest.raises(InputError, match="no sheet 'Rom'; it has Köln, Ulm"):
        read(tmp_path / "book.xlsx", sheet="Rom")


def test_merged_cells_of_a_column_are_filled(tmp_path: Path) -> None:
    rows = [["item", "date", "units"], *[[None, day, 5] for day in DAYS]]
    path = workbook(tmp_path / "book.xlsx", {"S": rows}, merged=[(1, 0, len(DAYS), 0, "cake")])
    assert {row[0] for row in read(path)} == {"cake"}


def test_cells_of_several_kinds_are_texts_and_numbers_stay_whole() -> None:
    assert cells_of([7.0, 12.0, ""]).to_pylist() == [7, 12, None]
    assert cells_of(["007", 12.0]).to_pylist() == ["007", "12"]
    assert cells_of([date(2024, 1, 1), ""]).to_pylist() == [datetime(2024, 1, 1), None]


# --- Text files -----------------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("title.csv", ("Sales 2024;;;\n\nprinted today;;;\n" + text(";")).encode()),
        ("sep.csv", ("sep=;\n" + text(";")).encode()),
        ("utf16.csv", text("\t").encode("utf-16-le")),
        ("utf16be.csv", text("\t").encode("utf-16-be")),
        ("windows.csv", text(";").encode("cp1252")),
        ("packed.csv.xz", lzma.compress(text().encode())),
        ("packed.csv.bz2", bz2.compress(text().encode())),
        ("lines.jsonl", "\n".join(json.dumps(record) for record in RECORDS).encode()),
        ("doc.json", json.dumps({"n": 1, "rows": RECORDS}).encode()),
    ],
)  # fmt: skip
def test_text_files_of_every_form_say_the_same(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert as_text(read(tmp_path / name)) == as_text(ROWS)


def test_an_archive_and_a_folder_of_files_are_one_table(tmp_path: Path) -> None:
    folder = tmp_path / "stores"
    folder.mkdir()
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for store in ("Köln", "Ulm"):
            lines = ["item,date,units", *(f"{i},{d},{u}" for s, i, d, u in ROWS if s == store)]
            (folder / f"{store}.csv").write_text("\n".join(lines))
            archive.writestr(f"deep/{store}.csv", "\n".join(lines))
        archive.writestr("__MACOSX/._x.csv", "junk")
    (folder / "other.csv").write_text("a,b\n1,2\n")
    for path in (folder, tmp_path / "all.zip"):
        assert sorted(as_text(read(path))) == sorted((i, str(d), str(u), s) for s, i, d, u in ROWS)
    reader = open_table(folder)
    assert "files with other columns are left out: other.csv" in reader.notes


def test_letters_of_another_alphabet_are_read(tmp_path: Path) -> None:
    lines = ["магазин;дата;продажи", *(f"Северный склад;{day};{n}" for n, day in enumerate(DAYS * 20))]
    (tmp_path / "ru.csv").write_bytes("\n".join(lines).encode("cp1251"))
    assert read(tmp_path / "ru.csv")[0][0] == "Северный склад"


@pytest.mark.parametrize(("name", "content", "message"), [
    ("a.xlsx", b"PK\x03\x04 cut off", "damaged archive or workbook"),
    ("a.pdf", b"%PDF-1.7", "save its table as CSV or Excel"),
    ("a.gz", b"\x1f\x8b broken", "damaged gzip"),
    ("a.json", b"[1, 2", "not JSON"),
])  # fmt: skip
def test_what_cannot_be_read_says_what_it_is(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(tmp_path / name)


@pytest.mark.slow
def test_an_error_names_at_most_five_columns(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(",".join(f"column{n}" for n in range(400)) + "\n" + ",".join(["a"] * 400) + "\n")
    from many_models.onboarding.guess import infer_settings

    with pytest.raises(InputError, match=r"column0.* and 395 more") as told:
        infer_settings(str(tmp_path / "t.csv"))
    assert str(told.value).count("column") < 9
    assert listed(range(7)) == "0, 1, 2, 3, 4 and 2 more"


@pytest.mark.parametrize(("rows", "at"), [
    ([["a", "b"], ["1", "2"]], 0),
    ([["Report"], [], ["a", "b", "c"], ["1", "2", "3"], ["4", "5", "6"]], 2),
    ([["2024-01-01", "3"], ["2024-01-02", "4"]], -1),
    ([["store", "2024-01", "2024-02", "2024-03"], ["x", "1", "2", "3"]], 0),
    ([["land", "1960", "1961", "1962"], ["x", "1", "2", "3"]], 0),
    ([["x", "7", "5", "9"], ["y", "1", "2", "3"]], -1),
])  # fmt: skip
def test_the_header_is_found(rows: list[list[object]], at: int) -> None:
    assert find_header(rows) == at


# --- Layouts --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("columns", "days"), [
    (["2024-01-01", "2024-01-02", "2024-01-03"], [date(2024, 1, 1), date(2024, 1, 2), date(2024, 1, 3)]),
    (["2024-01", "2024-02", "2024-03"], [date(2024, 1, 1), date(2024, 2, 1), date(2024, 3, 1)]),
    (["Jan 2024", "Feb 2024", "Mar 2024"], [date(2024, 1, 1), date(2024, 2, 1), date(2024, 3, 1)]),
    (["202401", "202402", "202403"], [date(2024, 1, 1), date(2024, 2, 1), date(2024, 3, 1)]),
    (["sales_2024-01", "sales_2024-02", "sales_2024-03"], [date(2024, 1, 1), date(2024, 2, 1), date(2024, 3, 1)]),
    (["2024-W01", "2024-W02", "2024-W03"], [date(2024, 1, 1), date(2024, 1, 8), date(2024, 1, 15)]),
    (["2019", "2020", "2021"], [date(2019, 1, 1), date(2020, 1, 1), date(2021, 1, 1)]),
    (["31.01.2024", "29.02.2024", "31.03.2024"], [date(2024, 1, 31), date(2024, 2, 29), date(2024, 3, 31)]),
])  # fmt: skip
def test_a_column_for_each_period_becomes_a_row_for_each(tmp_path: Path, columns: list[str], days: list[date]) -> None:
    lines = [",".join(["store", "item", *columns]), "A,x,1,,3", "B,y,4,5,6"]
    (tmp_path / "wide.csv").write_text("\n".join(lines))
    found = sorted((row[0], row[2], int(str(row[3]))) for row in read(tmp_path / "wide.csv"))
    assert found == [
        ("A", days[0], 1),
        ("A", days[2], 3),
        *(("B", day, n) for day, n in zip(days, (4, 5, 6), strict=True)),
    ]
    reading = open_table(tmp_path / "wide.csv").readings[-1]
    assert len(reading.before) == len(reading.after) == 3


def test_numbered_columns_need_their_first_day(tmp_path: Path) -> None:
    columns = [f"d_{n}" for n in range(1, 9)]
    (tmp_path / "wide.csv").write_text(",".join(["id", *columns]) + "\n" + ",".join(["a", *map(str, range(8))]))
    assert "which day is d_1" in open_table(tmp_path / "wide.csv").readings[-1].question
    rows = read(tmp_path / "wide.csv", first=date(2011, 1, 29))
    assert (rows[0][1], rows[-1][1]) == (date(2011, 1, 29), date(2011, 2, 5))


def test_two_measures_a_period_become_two_columns(tmp_path: Path) -> None:
    columns = [f"{what} 2024-0{n}" for n in (1, 2, 3) for what in ("units", "price")]
    (tmp_path / "wide.csv").write_text(",".join(["id", *columns]) + "\na,1,10,2,20,3,30\n")
    table, _ = head(open_table(tmp_path / "wide.csv"), 10)
    assert table.column_names == ["id", "date", "units", "price"]
    assert as_text(read(tmp_path / "wide.csv"))[1] == ("a", "2024-02-01", "2", "20")


@pytest.mark.parametrize(("names", "row", "day"), [
    ("year,month", "2024,3", date(2024, 3, 1)),
    ("Jahr,Monat", "2024,März", date(2024, 3, 1)),
    ("year,month,day", "2024,2,29", date(2024, 2, 29)),
    ("year,week", "2024,10", date(2024, 3, 4)),
    ("year,quarter", "2024,Q2", date(2024, 4, 1)),
    ("Year", "2024", date(2024, 1, 1)),
])  # fmt: skip
def test_a_date_in_parts_becomes_one(tmp_path: Path, names: str, row: str, day: date) -> None:
    other = {"2024,3": "2024,4", "2024,März": "2024,Mai", "2024,2,29": "2024,2,28", "2024,10": "2024,11",
             "2024,Q2": "2024,Q3", "2024": "2025"}[row]  # fmt: skip
    (tmp_path / "t.csv").write_text(f"store,{names},units\na,{row},5\na,{other},6\n")
    table, _ = head(open_table(tmp_path / "t.csv"), 10)
    assert table["date"].to_pylist()[0] == day
    assert table.column_names == ["date", "store", "units"]


def test_months_beside_a_year_become_rows(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("store,Year,Jan,Feb,Mar,Apr,May,Jun\na,2023,1,2,3,4,5,6\na,2024,7,8,9,10,11,12\n")
    assert sorted((row[1], int(str(row[2]))) for row in read(tmp_path / "t.csv"))[6:8] == [
        (date(2024, 1, 1), 7),
        (date(2024, 2, 1), 8),
    ]


# --- Totals ---------------------------------------------------------------------------------------------------------
def test_totals_are_left_out_and_a_store_called_total_is_kept() -> None:
    table = pa.table(
        {"store": ["a", "b", "Grand Total"], "date": ["2024-01-01", "2024-01-01", ""], "y": ["1", "2", "3"]}
    )
    assert totals_in(table) == {"store": ("Grand Total",)}
    assert without(table, totals_in(table)).num_rows == 2
    days = [str(day) for day in DAYS]
    names = ["a"] * 12 + ["b"] * 12 + ["Total"] * 12
    series = pa.table(
        {"store": names, "date": days * 3, "y": [str(n) for n in [*range(12), *range(12), *range(0, 24, 2)]]}
    )
    assert totals_in(series) == {"store": ("Total",)}
    station = series.set_column(2, "y", pa.array(["5"] * 24 + ["3"] * 12))
    assert totals_in(station) == {}


# --- Values ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("texts", "values"), [
    (["$1,234.50", "$2.00", "-$3.10"], [1234.5, 2.0, -3.1]),
    (["1 234,5", "2,0", "3 000 000,1"], [1234.5, 2.0, 3000000.1]),
    (["1\u202f234", "987", "5\u00a0432"], [1234, 987, 5432]),
    (["12 pcs", "1 pc", "3 pcs"], [12, 1, 3]),
    (["12kg", "1.5kg", "3kg"], [12, 1.5, 3]),
    (["(5)", "7", "(1,200)"], [-5, 7, -1200]),
    (["5-", "7", "8-"], [-5, 7, -8]),
    (["1'234", "987", "12'000'000"], [1234, 987, 12000000]),
    (["\u22125", "7", "\u22128"], [-5, 7, -8]),
    (["1.234", "987", "12.000", "3.500", "700"], [1234, 987, 12000, 3500, 700]),
    (["1.234.567", "987", "12.000", "3.500.000"], [1234567, 987, 12000, 3500000]),
    (["EUR 5", "EUR 7", "EUR 1.50"], [5, 7, 1.5]),
])  # fmt: skip
def test_numbers_as_people_write_them(texts: list[str], values: list[float]) -> None:
    column = infer_column("x", pa.chunked_array([texts]))
    assert column.kind == "number"
    assert list(column.values) == values


@pytest.mark.parametrize("texts", [
    ["12A", "13A", "14A"], ["5 kg", "3 pcs", "2 l"], ["3k", "2k", "5M"], ["Store 1", "Store 2", "Store 3"],
    ["1-2", "3-4", "5-6"],
])  # fmt: skip
def test_names_and_mixed_units_are_no_numbers(texts: list[str]) -> None:
    assert infer_column("x", pa.chunked_array([texts])).kind == "text"


def test_decimals_with_three_places_stay_decimals() -> None:
    column = infer_column("x", pa.chunked_array([["1.234", "0.532", "12.100", "3.456"]]))
    assert list(column.values) == [1.234, 0.532, 12.1, 3.456]
    unclear = infer_column("x", pa.chunked_array([["1.234", "5.532", "12.100", "3.456"]]))
    assert (unclear.type.style, unclear.type.or_else) == ("plain", "comma")


def test_local_midnight_stays_the_day_that_is_written() -> None:
    texts = [
        "2024-06-02T00:00:00+02:00",
        "2024-12-01T00:00:00+01:00",
        "2024-06-02T00:00:00Z",
        "2024-06-02 09:30:00.5-0700",
    ]
    assert parse_times(pa.array(texts), "iso").astype(str).tolist() == [
        "2024-06-02T00:00:00.000000", "2024-12-01T00:00:00.000000", "2024-06-02T00:00:00.000000",
        "2024-06-02T09:30:00.500000",
    ]  # fmt: skip
    days = pd.Series(pd.date_range("2024-06-01", periods=3, tz="Europe/Berlin"))
    column = infer_column("t", pa.chunked_array([pa.array(days)]))
    assert column.type.style == "local"
    assert [str(value)[:10] for value in column.levels] == ["2024-06-01", "2024-06-02", "2024-06-03"]


def test_a_week_that_does_not_exist_is_no_date() -> None:
    found = parse_times(pa.array(["2025-W52", "2025-W53", "2026-W53", "2024-W00"]), "isoweek")
    assert np.isnat(found).tolist() == [False, True, False, True]


def test_days_of_excel_written_as_numbers() -> None:
    column = infer_column("date", pa.chunked_array([[45292, 45293, 45294, 45295, 45296, 45297]]), time_like=True)
    assert str(column.levels[0])[:10] == "2024-01-01"


@pytest.mark.parametrize("content", [b"\n", b"\n\n\n", b"\r\n", b" \n"])
def test_a_file_of_empty_lines_is_refused_by_name(tmp_path, content):
    (tmp_path / "sales.csv").write_bytes(content)
    with pytest.raises(InputError, match="needed a header and columns"):
        head(open_file(str(tmp_path / "sales.csv")), 10)
