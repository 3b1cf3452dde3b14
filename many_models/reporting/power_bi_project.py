"""A Power BI project (PBIP) over the report views: a semantic model in TMDL and a report of three pages.

Generated from the views' definitions and the columns that the warehouse has, so that it cannot drift from them. Import
mode: these are views, and Direct Lake reads tables (`power_bi_direct_lake`).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from many_models.errors import MissingTableError
from many_models.ports import Filter
from many_models.reporting import tmdl
from many_models.reporting.naive import NAIVE
from many_models.reporting.views import WEEK, report_views

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from many_models.ports import Warehouse

NAME = "forecasts"
FACTS = "forecasts_and_actuals"
ADDED = "Value added over seasonal naive"
ITEMS, DAYS = "items", "days"
VIEWS = ("latest_forecasts", FACTS, "accuracy_by_series_week", "promotion_history")
SCHEMAS = "https://developer.microsoft.com/json-schemas/fabric"
PARAMETERS = {"Server": "SERVER.sql.azuresynapse.net", "Database": "DATABASE", "Schema": "dbo"}
NONE = Filter(among={"series_id": []})


def schemas(warehouse: Warehouse, keys: Sequence[str]) -> dict[str, pa.Schema]:
    """The columns of the report views in `warehouse`. Raises MissingTableError before the first load."""
    tables: dict[str, pa.Schema] = {}
    for table in ("predictions", "actuals", "decisions"):
        try:
            tables[table] = warehouse.read(table, NONE).schema
        except MissingTableError:
            if table != "decisions":  # which come with the first promotion
                raise
    found: dict[str, pa.Schema] = {}
    for view in report_views(keys, {name: schema.names for name, schema in tables.items()}):
        if view.name in VIEWS:
            known = {field.name: field.type for name in view.tables for field in tables[name]}
            names = warehouse.read(view.name, NONE).column_names
            found[view.name] = pa.schema([(name, known.get(name) or _computed(name)) for name in names])
    return found


def _computed(name: str) -> pa.DataType:
    return pa.int64() if name == "periods" else pa.date32() if name == WEEK else pa.float64()


def project(keys: Sequence[str], views: Mapping[str, pa.Schema]) -> dict[str, str]:
    """The project's files: path → text. `views` are those of `schemas`, `keys` the user's names of key parts."""
    tables = {name: _table(name, schema) for name, schema in views.items()}
    tables[ITEMS] = _items(keys)
    tables[DAYS] = _days()
    model = {
        "model.tmdl": tmdl.model(tables),
        "expressions.tmdl": tmdl.parameters(PARAMETERS),
        "relationships.tmdl": _relationships(views),
        **{f"tables/{name}.tmdl": text for name, text in tables.items()},
    }
    return files_of(
        model, Fields(FACTS, (DAYS, "Date"), ("accuracy_by_series_week", WEEK)), keys, measures(views[FACTS].names)
    )


@dataclass(frozen=True, slots=True)
class Fields:
    """Where the report's visuals find what they show: the table of the measures, and (table, column) of its axes."""

    facts: str
    day: tuple[str, str]
    week: tuple[str, str]


def files_of(model: Mapping[str, str], fields: Fields, keys: Sequence[str], there: Container[str]) -> dict[str, str]:
    """A whole project: path → text, from the model's definition and the names of the measures that are `there`."""
    folder, report = f"{NAME}.SemanticModel", f"{NAME}.Report"
    files = {
        f"{NAME}.pbip": _json(
            {"version": "1.0", "artifacts": [{"report": {"path": report}}], "settings": {"enableAutoRecovery": True}}
        ),
        f"{folder}/definition.pbism": _json({"version": "4.2", "settings": {}}),
        f"{folder}/definition/database.tmdl": "database\n\tcompatibilityLevel: 1604\n",
        **{f"{folder}/definition/{path}": text for path, text in model.items()},
        f"{report}/definition.pbir": _json(
            {"version": "4.0", "datasetReference": {"byPath": {"path": f"../{folder}"}}}
        ),
    }
    added = [ADDED] if ADDED in there else []  # a warehouse of before has no naive
    pages = _pages(fields, keys, added)
    return files | {f"{report}/definition/{path}": _json(content) for path, content in pages.items()}


# --- The semantic model ---------------------------------------------------------------------------------------------
def _table(name: str, schema: pa.Schema) -> str:
    lines = tmdl.head(name, measures(schema.names) if name == FACTS else {}, schema)
    lines += [
        f"\tpartition {tmdl.quoted(name)} = m",
        "\t\tmode: import",
        "\t\tsource =",
        "\t\t\t\tlet",
        "\t\t\t\t    Source = Sql.Database(Server, Database),",
        f'\t\t\t\t    Data = Source{{[Schema = Schema, Item = "{name}"]}}[Data]',
        "\t\t\t\tin",
        "\t\t\t\t    Data",
    ]
    return "\n".join(lines) + "\n"


def _items(keys: Sequence[str]) -> str:
    """A row per series, for slicers: the key parts' names are the user's."""
    names = ["series_id", *(key for key in keys if key != "series_id")]
    chosen = ", ".join(f"{tmdl.text(name)}, {tmdl.ref(FACTS, name)}" for name in names)
    return _calculated(ITEMS, names, "string", f"DISTINCT(SELECTCOLUMNS({tmdl.quoted(FACTS)}, {chosen}))")


def _days() -> str:
    ends = f"MIN({tmdl.ref(FACTS, 'ds')}), MAX({tmdl.ref(FACTS, 'ds')})"
    return _calculated(DAYS, ["Date"], "dateTime", f"CALENDAR({ends})")


def _calculated(table: str, names: Sequence[str], kind: str, formula: str) -> str:
    lines = [f"table {table}", f"\tlineageTag: {tmdl.tag(table)}", ""]
    for name in names:
        lines += [f"\tcolumn {tmdl.quoted(name)}", f"\t\tdataType: {kind}", f"\t\tlineageTag: {tmdl.tag(table, name)}"]
        lines += ["\t\tsummarizeBy: none", "\t\tisNameInferred", f"\t\tsourceColumn: {tmdl.quoted(f'[{name}]')}", ""]
    return (
        "\n".join([*lines, f"\tpartition {table} = calculated", "\t\tmode: import", f"\t\tsource = {formula}"]) + "\n"
    )


def measures(columns: Sequence[str]) -> dict[str, tuple[str, str]]:
    """The measures over FACTS: DAX and format. Both sums of an error are over rows that have forecast and actual."""
    y, y_hat, error = (tmdl.ref(FACTS, name) for name in ("y", "y_hat", "error"))
    both = f"FILTER({tmdl.quoted(FACTS)}, NOT ISBLANK({error}))"
    size = f"SUMX({both}, ABS({y}))"
    found = {
        "Forecast": (f"SUM({y_hat})", "#,0.0"),
        "Actual": (f"SUM({y})", "#,0.0"),
        "WAPE": (f"DIVIDE(SUMX({both}, ABS({error})), {size})", "0.0%"),
        "Bias": (f"DIVIDE(SUM({error}), {size})", "0.0%"),
    }
    if NAIVE in columns:
        naive = tmdl.ref(FACTS, NAIVE)
        known = f"FILTER({tmdl.quoted(FACTS)}, NOT ISBLANK({error}) && NOT ISBLANK({naive}))"
        of_naive, gain = f"ABS({y} - {naive})", f"ABS({y} - {naive}) - ABS({error})"
        found["WAPE of seasonal naive"] = f"DIVIDE(SUMX({known}, {of_naive}), SUMX({known}, ABS({y})))", "0.0%"
        found[ADDED] = f"DIVIDE(SUMX({known}, {gain}), SUMX({known}, ABS({y})))", "0.0%"
    for name in columns:
        if level := re.fullmatch(r"within(\d+)", name):
            found[f"Coverage {level[1]}"] = (f"AVERAGE({tmdl.ref(FACTS, name)})", "0.0%")
    return found


def _relationships(views: Mapping[str, pa.Schema]) -> str:
    found: list[str] = []
    for name, schema in views.items():
        found.append(tmdl.relationship(name, "series_id", ITEMS, "series_id"))
        if (day := next((one for one in ("ds", WEEK) if one in schema.names), "")) != "":
            found.append(tmdl.relationship(name, day, DAYS, "Date"))
    return "\n".join(found)


# --- The report -----------------------------------------------------------------------------------------------------
def _pages(at: Fields, keys: Sequence[str], added: list[str]) -> dict[str, Any]:
    """Overview, items, accuracy; `added` is the measure of the value added, where there is one."""
    shown = [("items", key) for key in keys]
    over_time = {"Category": [at.day], "Y": ["Forecast", "Actual"]}
    pages = {
        "overview": (
            "Overview",
            [
                ("forecast", "card", {"Values": ["Forecast"]}),
                ("actual", "card", {"Values": ["Actual"]}),
                ("wape", "card", {"Values": ["WAPE"]}),
                *(("added", "card", {"Values": [name]}) for name in added),
                ("over_time", "lineChart", over_time),
            ],
        ),
        "items": (
            "Items",
            [
                *((f"slicer{at}", "slicer", {"Values": [field]}) for at, field in enumerate(shown)),
                ("over_time", "lineChart", over_time),
                ("table", "tableEx", {"Values": [*shown, "Forecast", "Actual"]}),
            ],
        ),
        "accuracy": (
            "Accuracy",
            [
                ("by_item", "tableEx", {"Values": [*shown, "WAPE", "Bias", *added]}),
                ("by_week", "lineChart", {"Category": [at.week], "Y": ["WAPE", "Bias"]}),
            ],
        ),
    }
    files: dict[str, Any] = {
        "version.json": {
            "$schema": f"{SCHEMAS}/item/report/definition/versionMetadata/1.0.0/schema.json",
            "version": "2.0.0",
        },
        "report.json": {
            "$schema": f"{SCHEMAS}/item/report/definition/report/1.0.0/schema.json",
            "themeCollection": {
                "baseTheme": {"name": "CY24SU10", "reportVersionAtImport": "5.61", "type": "SharedResources"}
            },
        },
        "pages/pages.json": {
            "$schema": f"{SCHEMAS}/item/report/definition/pagesMetadata/1.0.0/schema.json",
            "pageOrder": list(pages),
            "activePageName": next(iter(pages)),
        },
    }
    for name, (title, visuals) in pages.items():
        files[f"pages/{name}/page.json"] = {
            "$schema": f"{SCHEMAS}/item/report/definition/page/1.0.0/schema.json",
            "name": name,
            "displayName": title,
            "displayOption": "FitToPage",
            "height": 720,
            "width": 1280,
        }
        for number, (visual, kind, roles) in enumerate(visuals):
            files[f"pages/{name}/visuals/{visual}/visual.json"] = _visual(at.facts, visual, kind, roles, number)
    return files


def _visual(facts: str, name: str, kind: str, roles: Mapping[str, Sequence[Any]], at: int) -> dict[str, Any]:
    small = kind in {"card", "slicer"}
    position = {"x": 20 + 310 * (at % 4), "y": 20, "width": 290, "height": 120}
    place = position if small else {"x": 20 if at % 2 else 650, "y": 160, "width": 610, "height": 540}
    state = {role: {"projections": [_projection(facts, field) for field in fields]} for role, fields in roles.items()}
    return {
        "$schema": f"{SCHEMAS}/item/report/definition/visualContainer/1.0.0/schema.json",
        "name": name,
        "position": {**place, "z": at, "tabOrder": at},
        "visual": {"visualType": kind, "query": {"queryState": state}},
    }


def _projection(facts: str, field: str | tuple[str, str]) -> dict[str, Any]:
    table, name = (facts, field) if isinstance(field, str) else field
    what = "Measure" if isinstance(field, str) else "Column"
    found = {what: {"Expression": {"SourceRef": {"Entity": table}}, "Property": name}}
    return {"field": found, "queryRef": f"{table}.{name}", "nativeQueryRef": name}


def _json(content: object) -> str:
    return json.dumps(content, indent=2) + "\n"
