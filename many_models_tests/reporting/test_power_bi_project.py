"""The Power BI project: TMDL that reads, fields that are there, and views that the warehouse has."""

from __future__ import annotations

import json
import re

import pyarrow as pa
import pytest

from many_models.adapters.warehouse.memory import MemoryWarehouse
from many_models.errors import MissingTableError, SettingsError
from many_models.operations.setup import power_bi_files
from many_models.reporting import power_bi_direct_lake as direct_lake
from many_models.reporting.power_bi_project import ADDED, DAYS, FACTS, ITEMS, VIEWS, measures, project, schemas
from many_models.settings import Settings
from many_models_tests.contracts.warehouse import REPORT_KEYS, part, reported

NAME = r"(?:[A-Za-z_]\w*|'(?:[^']|'')+')"
# What a line may be, by its depth in tabs: the part of TMDL's grammar that the project uses (Microsoft's page
# "Tabular Model Definition Language (TMDL)": objects, properties, expressions, ref, multi-line expressions).
GRAMMAR = {
    0: rf"(table {NAME}|model Model|database|ref table {NAME}|relationship [0-9a-f-]{{36}}|expression {NAME} =( .+)?)",
    1: rf"(lineageTag: [0-9a-f-]{{36}}|measure {NAME} = .+|column {NAME}|culture: en-US"
    rf"|partition {NAME} = (m|calculated|entity)"
    rf"|compatibilityLevel: \d+|defaultPowerBIDataSourceVersion: powerBI_V3|(from|to)Column: {NAME}\.{NAME})",
    2: rf"(lineageTag: [0-9a-f-]{{36}}|dataType: (string|int64|double|dateTime|boolean)|formatString: .+"
    rf"|summarizeBy: none"
    rf"|sourceColumn: {NAME}|isNameInferred|mode: (import|directLake)|source( =( .+)?)?|let"
    rf"|    database = Sql.Database\(Server, Database\)"
    r"|in|    database)",
    3: rf"(entityName: {NAME}|schemaName: {NAME}|expressionSource: {NAME})",
    4: r".+",  # M
}


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    warehouse, _ = reported(MemoryWarehouse)
    return project(REPORT_KEYS, schemas(warehouse, REPORT_KEYS))


def plainly(name: str) -> str:
    return name[1:-1].replace("''", "'") if name.startswith("'") else name


def fields(made: dict[str, str]) -> dict[str, set[str]]:
    """Table → its columns and measures."""
    found: dict[str, set[str]] = {}
    for path, text in made.items():
        if "/tables/" in path:
            table = plainly(re.match(rf"table ({NAME})", text)[1])
            found[table] = {
                plainly(name) for name in re.findall(rf"^\t(?:column|measure) ({NAME})", text, re.MULTILINE)
            }
    return found


def shown_in(made: dict[str, str]) -> list[tuple[str, str]]:
    """Table and field of all that visuals show."""
    found: list[tuple[str, str]] = []
    for path, content in made.items():
        if path.endswith("visual.json"):
            for role in json.loads(content)["visual"]["query"]["queryState"].values():
                for one in role["projections"]:
                    (field,) = one["field"].values()
                    found.append((field["Expression"]["SourceRef"]["Entity"], field["Property"]))
    return found


def unread(text: str) -> list[str]:
    """The lines that the grammar does not know."""
    lines = [line for line in text.splitlines() if line]
    depths = [len(line) - len(line.lstrip("\t")) for line in lines]
    return [
        line
        for line, depth in zip(lines, depths, strict=True)
        if depth not in GRAMMAR or not re.fullmatch(GRAMMAR[depth], line.lstrip("\t"))
    ]


def test_every_file_of_the_model_is_tmdl(made):
    texts = {path: text for path, text in made.items() if path.endswith(".tmdl")}
    assert len(texts) == len(VIEWS) + 6
    assert {path: bad for path, text in texts.items() if (bad := unread(text))} == {}


@pytest.mark.parametrize(
    "bad",
    ["table two words\n", "table t\n\tcolum a\n", "table t\n  column a\n", "table t\n\tcolumn a\n\t\tdataType: text\n"],
)
def test_what_is_no_tmdl_is_noticed(bad):
    assert unread(bad)


def test_every_table_is_a_view_of_the_warehouse_with_its_columns(made):
    warehouse, _ = reported(MemoryWarehouse)
    for view in VIEWS:
        text = made[f"forecasts.SemanticModel/definition/tables/{view}.tmdl"]
        assert f'Item = "{view}"' in text
        assert fields(made)[view] >= set(warehouse.read(view).column_names)
    assert set(fields(made)) == {*VIEWS, ITEMS, DAYS}


def test_relationships_measures_and_visuals_name_fields_that_are_there(made):
    there = fields(made)
    text = made["forecasts.SemanticModel/definition/relationships.tmdl"]
    ends = re.findall(rf"(?:from|to)Column: ({NAME})\.({NAME})", text)
    assert len(ends) == 2 * (2 * len(VIEWS) - 1)  # promotion_history has no day
    named = [(plainly(table), plainly(column)) for table, column in ends]
    named += [
        (FACTS, name)
        for name in re.findall(rf"{FACTS}\[(\w+)\]", made[f"forecasts.SemanticModel/definition/tables/{FACTS}.tmdl"])
    ]
    named += shown_in(made)
    assert len(named) > 40
    assert [(table, name) for table, name in named if name not in there[table]] == []


def test_measures_follow_the_intervals():
    assert {"Coverage 80", "Coverage 95"} <= set(measures(["within80", "within95"]))
    assert set(measures([])) == {"Forecast", "Actual", "WAPE", "Bias"}
    assert "Coverage 80" not in measures([])


def test_value_added_is_measured_where_the_warehouse_has_the_naive():
    assert ADDED in measures(["naive"])
    plain = project(["series_id"], {FACTS: pa.schema([("y", pa.float64()), ("error", pa.float64())])})
    assert not [path for path, text in plain.items() if ADDED in text]
    assert [path for path, text in project(["series_id"], {FACTS: pa.schema([("naive", pa.float64())])}).items()
            if ADDED in text and "visual" in path]  # fmt: skip


# --- Direct Lake ----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def lake_model() -> dict[str, str]:
    warehouse, loaded = reported(MemoryWarehouse)
    series = loaded["predictions"].group_by(["series_id", *REPORT_KEYS]).aggregate([])
    warehouse.load("b", "f", [part(series, table="series", key=("series_id",))])
    return direct_lake.project(REPORT_KEYS, direct_lake.schemas(warehouse), "dbo")


def test_a_direct_lake_model_is_tmdl_of_tables_alone(lake_model):
    """Direct Lake has no views, no calculated tables or columns, and no relationships on times."""
    texts = {path: text for path, text in lake_model.items() if path.endswith(".tmdl")}
    assert {path: bad for path, text in texts.items() if (bad := unread(text))} == {}
    model = "\n".join(texts.values())
    assert re.findall(r"entityName: (\w+)", model) == ["predictions", "actuals", "series", "decisions"]
    assert not re.search(r"= calculated|mode: import|isNameInferred|CALENDAR", model)
    assert set(re.findall(r"fromColumn: \S+\.(\S+)", model)) == {"series_id"}


def test_visuals_and_measures_of_a_direct_lake_model_name_fields_that_are_there(lake_model):
    there = fields(lake_model)
    formulas = "".join(formula for formula, _ in direct_lake.measures(["naive", "lo80", "hi80"]).values())
    named = re.findall(r"(\w+)\[(\w+)\]", formulas)
    named += shown_in(lake_model)
    assert len(named) > 40
    assert [(table, name) for table, name in named if name not in there[table]] == []


def test_direct_lake_measures_what_the_import_model_does():
    assert set(direct_lake.measures(["naive", "lo80", "hi80"])) == set(measures(["naive", "within80"]))


def test_direct_lake_is_of_a_fabric_warehouse_alone():
    settings = Settings.model_validate({"source": {"table": "t"}, "data": {"keys": ["k"], "start": "2024-01-01"}})
    with pytest.raises(SettingsError, match='kind is "sql": leave --direct-lake out'):
        power_bi_files(settings, direct_lake=True)


def test_before_the_first_load_it_is_told():
    with pytest.raises(MissingTableError):
        schemas(MemoryWarehouse(), REPORT_KEYS)
    with pytest.raises(MissingTableError):
        direct_lake.schemas(MemoryWarehouse())


def test_types_are_those_of_the_columns():
    schema = pa.schema([("n", pa.int64()), ("y", pa.float64()), ("at", pa.timestamp("us")), ("on", pa.bool_())])
    text = project(["series_id"], {FACTS: schema})[f"forecasts.SemanticModel/definition/tables/{FACTS}.tmdl"]
    assert re.findall(r"dataType: (\w+)", text) == ["int64", "double", "dateTime", "boolean"]
