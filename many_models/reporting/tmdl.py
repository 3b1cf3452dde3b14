"""TMDL, the text form of Power BI's semantic models: names, columns, relationships and expressions.

Microsoft's page "Tabular Model Definition Language (TMDL)" is the source of the form.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from uuid import NAMESPACE_URL, uuid5

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def quoted(name: str) -> str:
    """A name in TMDL and DAX: in quotes unless it is one word."""
    return name if re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) else "'" + name.replace("'", "''") + "'"


def ref(table: str, column: str) -> str:
    """A column in DAX."""
    return f"{quoted(table)}[{column.replace(']', ']]')}]"


def text(value: str) -> str:
    """A string in DAX."""
    return '"' + value.replace('"', '""') + '"'


def tag(*names: str) -> str:
    """The same for the same names, so that a project that is generated again differs only where the tables do."""
    return str(uuid5(NAMESPACE_URL, "/".join(("many_models", *names))))


def data_type(kind: pa.DataType) -> str:
    """The TMDL data type of an Arrow type."""
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "dateTime"
    if pa.types.is_integer(kind):
        return "int64"
    return "double" if pa.types.is_floating(kind) else "boolean" if pa.types.is_boolean(kind) else "string"


def head(table: str, measures: Mapping[str, tuple[str, str]], columns: pa.Schema) -> list[str]:
    """The lines of a table up to its partition; `measures` are DAX and format by name."""
    lines = [f"table {quoted(table)}", f"\tlineageTag: {tag(table)}", ""]
    for name, (formula, form) in measures.items():
        lines += [f"\tmeasure {quoted(name)} = {formula}", f"\t\tformatString: {form}"]
        lines += [f"\t\tlineageTag: {tag(table, name)}", ""]
    for field in columns:
        lines += column(table, field.name, data_type(field.type))
    return lines


def column(table: str, name: str, kind: str) -> list[str]:
    """The lines of a column of the source."""
    lines = [f"\tcolumn {quoted(name)}", f"\t\tdataType: {kind}"]
    lines += ["\t\tformatString: General Date"] if kind == "dateTime" else []
    lines += [f"\t\tlineageTag: {tag(table, name)}"]
    return [*lines, "\t\tsummarizeBy: none", f"\t\tsourceColumn: {quoted(name)}", ""]


def relationship(table: str, name: str, to: str, to_column: str) -> str:
    """Many rows of `table` to one of `to`."""
    ends = f"\tfromColumn: {quoted(table)}.{quoted(name)}\n\ttoColumn: {quoted(to)}.{quoted(to_column)}\n"
    return f"relationship {tag('relationship', table, name)}\n{ends}"


def model(tables: Iterable[str]) -> str:
    """The file model.tmdl."""
    lines = ["model Model", "\tculture: en-US", "\tdefaultPowerBIDataSourceVersion: powerBI_V3", ""]
    return "\n".join([*lines, *(f"ref table {quoted(name)}" for name in tables)]) + "\n"


def parameters(values: Mapping[str, str]) -> str:
    """Parameters that the user sets, with what they are at first."""
    meta = 'meta [IsParameterQuery=true, Type="Text", IsParameterQueryRequired=true]'
    return "\n".join(
        f'expression {name} = "{value}" {meta}\n\tlineageTag: {tag(name)}\n' for name, value in values.items()
    )
