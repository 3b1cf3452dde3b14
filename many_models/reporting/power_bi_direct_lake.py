"""A Power BI project over the tables of a Fabric Warehouse in Direct Lake mode, with the report of the import project.

Direct Lake takes tables alone: over a view it falls back to DirectQuery, and it has neither calculated tables and
columns nor relationships on times (Microsoft's page "Direct Lake overview": Considerations and limitations). So the
measures look the actual of a forecast up, row by row.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from many_models.errors import MissingTableError
from many_models.reporting import tmdl
from many_models.reporting.naive import NAIVE
from many_models.reporting.power_bi_project import ADDED, ITEMS, NONE, Fields, files_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from many_models.ports import Warehouse

FACTS = "predictions"
TABLES = {FACTS: FACTS, "actuals": "actuals", ITEMS: "series", "promotion_history": "decisions"}  # model → warehouse
PARAMETERS = {"Server": "SERVER.datawarehouse.fabric.microsoft.com", "Database": "WAREHOUSE"}
SOLD = "LOOKUPVALUE(actuals[y], actuals[series_id], predictions[series_id], actuals[ds], predictions[ds])"


def schemas(warehouse: Warehouse) -> dict[str, pa.Schema]:
    """The columns of the model's tables, by their names in the model. Raises MissingTableError before the first load;
    decisions come with the first promotion.
    """
    found: dict[str, pa.Schema] = {}
    for name, table in TABLES.items():
        try:
            found[name] = warehouse.read(table, NONE).schema
        except MissingTableError:
            if table != "decisions":
                raise
    return found


def project(keys: Sequence[str], tables: Mapping[str, pa.Schema], schema: str) -> dict[str, str]:
    """The project's files: path → text. `tables` are those of `schemas`, `schema` is the warehouse's."""
    found = measures(tables[FACTS].names)
    model = {
        "model.tmdl": tmdl.model(tables),
        "expressions.tmdl": f"{tmdl.parameters(PARAMETERS)}\n{_database()}",
        "relationships.tmdl": "\n".join(
            tmdl.relationship(name, "series_id", ITEMS, "series_id") for name in tables if name != ITEMS
        ),
        **{f"tables/{name}.tmdl": _table(name, columns, found, schema) for name, columns in tables.items()},
    }
    return files_of(model, Fields(FACTS, (FACTS, "ds"), (FACTS, "cutoff")), keys, found)


def _database() -> str:
    lines = ["expression DatabaseQuery =", "\t\tlet", "\t\t    database = Sql.Database(Server, Database)", "\t\tin"]
    return "\n".join([*lines, "\t\t    database", f"\tlineageTag: {tmdl.tag('DatabaseQuery')}"]) + "\n"


def _table(name: str, columns: pa.Schema, found: Mapping[str, tuple[str, str]], schema: str) -> str:
    lines = tmdl.head(name, found if name == FACTS else {}, columns)
    lines += [
        f"\tpartition {tmdl.quoted(name)} = entity",
        "\t\tmode: directLake",
        "\t\tsource",
        f"\t\t\tentityName: {TABLES[name]}",
        f"\t\t\tschemaName: {schema}",
        "\t\t\texpressionSource: DatabaseQuery",
    ]
    return "\n".join(lines) + "\n"


def measures(columns: Sequence[str]) -> dict[str, tuple[str, str]]:
    """The measures over predictions: DAX and format. Sums of an error are over rows that have forecast and actual."""
    y_hat, naive = tmdl.ref(FACTS, "y_hat"), tmdl.ref(FACTS, NAIVE)
    size = _sum("ABS(Sold)", y_hat)
    found = {
        "Forecast": (f"SUM({y_hat})", "#,0.0"),
        "Actual": (f"SUMX({FACTS}, {SOLD})", "#,0.0"),
        "WAPE": (f"DIVIDE({_sum(f'ABS({y_hat} - Sold)', y_hat)}, {size})", "0.0%"),
        "Bias": (f"DIVIDE({_sum(f'{y_hat} - Sold', y_hat)}, {size})", "0.0%"),
    }
    if NAIVE in columns:
        known = _sum("ABS(Sold)", y_hat, naive)
        gain = _sum(f"ABS({naive} - Sold) - ABS({y_hat} - Sold)", y_hat, naive)
        found["WAPE of seasonal naive"] = f"DIVIDE({_sum(f'ABS({naive} - Sold)', y_hat, naive)}, {known})", "0.0%"
        found[ADDED] = f"DIVIDE({gain}, {known})", "0.0%"
    for level in [name[2:] for name in columns if re.fullmatch(r"lo\d+", name) and f"hi{name[2:]}" in columns]:
        low, high = tmdl.ref(FACTS, f"lo{level}"), tmdl.ref(FACTS, f"hi{level}")
        within = _each(f"IF(Sold >= {low} && Sold <= {high}, 1, 0)", low, high)
        found[f"Coverage {level}"] = f"AVERAGEX({FACTS}, {within})", "0.0%"
    return found


def _each(value: str, *needed: str) -> str:
    """`value` of a row where its actual, `Sold`, and all that is `needed` are there."""
    lacks = " || ".join(f"ISBLANK({name})" for name in ("Sold", *needed))
    return f"VAR Sold = {SOLD} RETURN IF({lacks}, BLANK(), {value})"


def _sum(value: str, *needed: str) -> str:
    return f"SUMX({FACTS}, {_each(value, *needed)})"
