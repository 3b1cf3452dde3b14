"""A Power BI project (PBIP) over the report views: a semantic model in TMDL and a report of three pages.

Generated from the views' definitions and the columns that the warehouse has, so that it cannot drift from them. Import
mode: Power BI's Direct Lake reads tables only, and these are views.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

import pyarrow as pa

from many_models.errors import MissingTableError
from many_models.ports import Filter
from many_models.reporting.naive import NAIVE
from many_models.reporting.views import WEEK, report_views

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from many_models.ports import Warehouse

NAME = "forecasts"
FACTS = "forecasts_and_actuals"
ADDED = "Value added over seasonal naive"
ITEMS, DAYS = "items", "days"
VIEWS = ("latest_forecasts", FACTS, "accuracy_by_series_week", "promotion_history")
SCHEMAS = "https://developer.microsoft.com/json-schemas/fabric"
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
    added = [ADDED] if ADDED in measures(views[FACTS].names) else []  # a warehouse of before has no naive
    model, report = f"{NAME}.SemanticModel", f"{NAME}.Report"
    tables = {name: _table(name, schema) for name, schema in views.items()}
    tables[ITEMS] = _items(keys)
    tables[DAYS] = _days()
    files = {
        f"{NAME}.pbip": _json(
            {"version": "1.0", "artifacts": [{"report": {"path": report}}], "settings": {"enableAutoRecovery": True}}
        ),
        f"{model}/definition.pbism": _json({"version": "4.2", "settings": {}}),
        f"{model}/definition/database.tmdl": "database\n\tcompatibilityLevel: 1604\n",
        f"{model}/definition/model.tmdl": _model(tables),
        f"{model}/definition/expressions.tmdl": _parameters(),
        f"{model}/definition/relationships.tmdl": _relationships(views),
        **{f"{model}/definition/tables/{name}.tmdl": text for name, text in tables.items()},
        f"{report}/definition.pbir": _json({"version": "4.0", "datasetReference": {"byPath": {"path": f"../{model}"}}}),
    }
    return files | {f"{report}/definition/{path}": _json(content) for path, content in _pages(keys, added).items()}


# --- The semantic model ---------------------------------------------------------------------------------------------
def _model(tables: Mapping[str, str]) -> str:
    lines = ["model Model", "\tculture: en-US", "\tdefaultPowerBIDataSourceVersion: powerBI_V3", ""]
    return "\n".join([*lines, *(f"ref table {_quoted(name)}" for name in tables)]) + "\n"


def _parameters() -> str:
    """What the user sets: where the warehouse is."""
    values = {"Server": "SERVER.sql.azuresynapse.net", "Database": "DATABASE", "Schema": "dbo"}
    meta = 'meta [IsParameterQuery=true, Type="Text", IsParameterQueryRequired=true]'
    return "\n".join(
        f'expression {name} = "{value}" {meta}\n\tlineageTag: {_tag(name)}\n' for name, value in values.items()
    )


def _table(name: str, schema: pa.Schema) -> str:
    lines = [f"table {_quoted(name)}", f"\tlineageTag: {_tag(name)}", ""]
    if name == FACTS:
        for measure, (formula, form) in measures(schema.names).items():
            lines += [f"\tmeasure {_quoted(measure)} = {formula}", f"\t\tformatString: {form}"]
            lines += [f"\t\tlineageTag: {_tag(name, measure)}", ""]
    for field in schema:
        lines += _column(name, field.name, _kind(field.type))
    lines += [
        f"\tpartition {_quoted(name)} = m",
        "\t\tmode: import",
        "\t\tsource =",
        "\t\t\t\tlet",
        "\t\t\t\t    Source = Sql.Database(Server, Database),",
        f'\t\t\t\t    Data = Source{{[Schema = Schema, Item = "{name}"]}}[Data]',
        "\t\t\t\tin",
        "\t\t\t\t    Data",
    ]
    return "\n".join(lines) + "\n"


def _column(table: str, name: str, kind: str) -> list[str]:
    lines = [f"\tcolumn {_quoted(name)}", f"\t\tdataType: {kind}"]
    lines += ["\t\tformatString: General Date"] if kind == "dateTime" else []
    lines += [f"\t\tlineageTag: {_tag(table, name)}"]
    return [*lines, "\t\tsummarizeBy: none", f"\t\tsourceColumn: {_quoted(name)}", ""]


def _items(keys: Sequence[str]) -> str:
    """A row per series, for slicers: the key parts' names are the user's."""
    names = ["series_id", *(key for key in keys if key != "series_id")]
    chosen = ", ".join(f"{_text(name)}, {_ref(FACTS, name)}" for name in names)
    return _calculated(ITEMS, names, "string", f"DISTINCT(SELECTCOLUMNS({_quoted(FACTS)}, {chosen}))")


def _days() -> str:
    ends = f"MIN({_ref(FACTS, 'ds')}), MAX({_ref(FACTS, 'ds')})"
    return _calculated(DAYS, ["Date"], "dateTime", f"CALENDAR({ends})")


def _calculated(table: str, names: Sequence[str], kind: str, formula: str) -> str:
    lines = [f"table {table}", f"\tlineageTag: {_tag(table)}", ""]
    for name in names:
        lines += [f"\tcolumn {_quoted(name)}", f"\t\tdataType: {kind}", f"\t\tlineageTag: {_tag(table, name)}"]
        lines += ["\t\tsummarizeBy: none", "\t\tisNameInferred", f"\t\tsourceColumn: {_quoted(f'[{name}]')}", ""]
    return (
        "\n".join([*lines, f"\tpartition {table} = calculated", "\t\tmode: import", f"\t\tsource = {formula}"]) + "\n"
    )


def measures(columns: Sequence[str]) -> dict[str, tuple[str, str]]:
    """The measures over FACTS: DAX and format. Both sums of an error are over rows that have forecast and actual."""
    y, y_hat, error = (_ref(FACTS, name) for name in ("y", "y_hat", "error"))
    both = f"FILTER({_quoted(FACTS)}, NOT ISBLANK({error}))"
    size = f"SUMX({both}, ABS({y}))"
    found = {
        "Forecast": (f"SUM({y_hat})", "#,0.0"),
        "Actual": (f"SUM({y})", "#,0.0"),
        "WAPE": (f"DIVIDE(SUMX({both}, ABS({error})), {size})", "0.0%"),
        "Bias": (f"DIVIDE(SUM({error}), {size})", "0.0%"),
    }
    if NAIVE in columns:
        naive = _ref(FACTS, NAIVE)
        known = f"FILTER({_quoted(FACTS)}, NOT ISBLANK({error}) && NOT ISBLANK({naive}))"
        of_naive, gain = f"ABS({y} - {naive})", f"ABS({y} - {naive}) - ABS({error})"
        found["WAPE of seasonal naive"] = f"DIVIDE(SUMX({known}, {of_naive}), SUMX({known}, ABS({y})))", "0.0%"
        found[ADDED] = f"DIVIDE(SUMX({known}, {gain}), SUMX({known}, ABS({y})))", "0.0%"
    for name in columns:
        if level := re.fullmatch(r"within(\d+)", name):
            found[f"Coverage {level[1]}"] = (f"AVERAGE({_ref(FACTS, name)})", "0.0%")
    return found


def _relationships(views: Mapping[str, pa.Schema]) -> str:
    found: list[str] = []
    for name, schema in views.items():
        found.append(_relationship(name, "series_id", ITEMS, "series_id"))
        if (day := next((one for one in ("ds", WEEK) if one in schema.names), "")) != "":
            found.append(_relationship(name, day, DAYS, "Date"))
    return "\n".join(found)


def _relationship(table: str, column: str, to: str, to_column: str) -> str:
    tag = _tag("relationship", table, column)
    ends = f"\tfromColumn: {_quoted(table)}.{_quoted(column)}\n\ttoColumn: {_quoted(to)}.{_quoted(to_column)}\n"
    return f"relationship {tag}\n{ends}"


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "dateTime"
    if pa.types.is_integer(kind):
        return "int64"
    return "double" if pa.types.is_floating(kind) else "boolean" if pa.types.is_boolean(kind) else "string"


def _quoted(name: str) -> str:
    """A name in TMDL and DAX: in quotes unless it is one word."""
    return name if re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) else "'" + name.replace("'", "''") + "'"


def _ref(table: str, column: str) -> str:
    return f"{_quoted(table)}[{column.replace(']', ']]')}]"


def _text(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'


def _tag(*names: str) -> str:
    """The same for the same names, so that a project that is generated again differs only where the views do."""
    return str(uuid5(NAMESPACE_URL, "/".join(("many_models", *names))))


# --- The report -----------------------------------------------------------------------------------------------------
def _pages(keys: Sequence[str], added: list[str]) -> dict[str, Any]:
    """Overview, items, accuracy; `added` is the measure of the value added, where there is one."""
    shown = [("items", key) for key in keys]
    over_time = {"Category": [(DAYS, "Date")], "Y": ["Forecast", "Actual"]}
    pages = {
        "overview": ("Overview", [
            ("forecast", "card", {"Values": ["Forecast"]}),
            ("actual", "card", {"Values": ["Actual"]}),
            ("wape", "card", {"Values": ["WAPE"]}),
            *(("added", "card", {"Values": [name]}) for name in added),
            ("over_time", "lineChart", over_time),
        ]),
        "items": ("Items", [
            *((f"slicer{at}", "slicer", {"Values": [field]}) for at, field in enumerate(shown)),
            ("over_time", "lineChart", over_time),
            ("table", "tableEx", {"Values": [*shown, "Forecast", "Actual"]}),
        ]),
        "accuracy": ("Accuracy", [
            ("by_item", "tableEx", {"Values": [*shown, "WAPE", "Bias", *added]}),
            ("by_week", "lineChart", {"Category": [("accuracy_by_series_week", WEEK)], "Y": ["WAPE", "Bias"]}),
        ]),
    }  # fmt: skip
    files: dict[str, Any] = {
        "version.json": {"$schema": f"{SCHEMAS}/item/report/definition/versionMetadata/1.0.0/schema.json",
                         "version": "2.0.0"},
        "report.json": {"$schema": f"{SCHEMAS}/item/report/definition/report/1.0.0/schema.json",
                        "themeCollection": {"baseTheme": {"name": "CY24SU10", "reportVersionAtImport": "5.61",
                                                          "type": "SharedResources"}}},
        "pages/pages.json": {"$schema": f"{SCHEMAS}/item/report/definition/pagesMetadata/1.0.0/schema.json",
                             "pageOrder": list(pages), "activePageName": next(iter(pages))},
    }  # fmt: skip
    for name, (title, visuals) in pages.items():
        files[f"pages/{name}/page.json"] = {
            "$schema": f"{SCHEMAS}/item/report/definition/page/1.0.0/schema.json",
            "name": name, "displayName": title, "displayOption": "FitToPage", "height": 720, "width": 1280,
        }  # fmt: skip
        for at, (visual, kind, roles) in enumerate(visuals):
            files[f"pages/{name}/visuals/{visual}/visual.json"] = _visual(visual, kind, roles, at)
    return files


def _visual(name: str, kind: str, roles: Mapping[str, Sequence[Any]], at: int) -> dict[str, Any]:
    small = kind in {"card", "slicer"}
    position = {"x": 20 + 310 * (at % 4), "y": 20, "width": 290, "height": 120}
    place = position if small else {"x": 20 if at % 2 else 650, "y": 160, "width": 610, "height": 540}
    state = {role: {"projections": [_projection(field) for field in fields]} for role, fields in roles.items()}
    return {
        "$schema": f"{SCHEMAS}/item/report/definition/visualContainer/1.0.0/schema.json",
        "name": name,
        "position": {**place, "z": at, "tabOrder": at},
        "visual": {"visualType": kind, "query": {"queryState": state}},
    }


def _projection(field: str | tuple[str, str]) -> dict[str, Any]:
    table, name = (FACTS, field) if isinstance(field, str) else field
    what = "Measure" if isinstance(field, str) else "Column"
    found = {what: {"Expression": {"SourceRef": {"Entity": table}}, "Property": name}}
    return {"field": found, "queryRef": f"{table}.{name}", "nativeQueryRef": name}


def _json(content: object) -> str:
    return json.dumps(content, indent=2) + "\n"
