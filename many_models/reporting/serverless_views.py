"""The lake as views of a Synapse serverless SQL pool, by OPENROWSET: what reports read where no warehouse is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import pyarrow as pa

from many_models.data import lake_tables
from many_models.errors import InputError, SettingsError
from many_models.keys import quoted
from many_models.ports import Filter
from many_models.reporting.views import WEEK, report_views

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from many_models.ports import Lake

TEXT = "VARCHAR(4000) COLLATE Latin1_General_100_BIN2_UTF8"
MONDAY = 'CAST(DATEADD(day, -(DATEDIFF(day, CAST(\'1900-01-01\' AS DATE), r."ds") % 7), r."ds") AS DATE)'


def serverless_views(place: str, keys: Sequence[str], lake: Lake) -> list[str]:
    """The statements that make `predictions`, `actuals`, `decisions` and the report views over the lake at `place`.

    `place` is `abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/FOLDER`; each statement is its own batch and may be
    run again. Raises SettingsError for another place, InputError before the first predictions.
    """
    if lake.version(lake_tables.PREDICTIONS.name) is None:
        raise InputError("the lake has no predictions yet: run `many-models run` first")
    none = Filter(among={"cutoff_date": []})
    names = [name for name in keys if name != "series_id"]
    bases = {
        "predictions": _base(place, lake_tables.PREDICTIONS.name, names, lake.read(lake_tables.PREDICTIONS.name, none))
    }
    actuals = pa.schema([("series_id", pa.string()), ("ds", pa.timestamp("us")), ("y", pa.float64())]).empty_table()
    bases["actuals"] = _base(place, lake_tables.RAW_SALES.name, names, actuals, {WEEK: MONDAY})
    if (decisions := lake_tables.read_if_there(lake, lake_tables.DECISIONS, none)) is not None:
        bases["decisions"] = _base(place, lake_tables.DECISIONS.name, names, decisions)
    made = [f"CREATE OR ALTER VIEW dbo.{quoted(name)} AS {query}" for name, (query, _) in bases.items()]
    for view in report_views(keys, {name: columns for name, (_, columns) in bases.items()}):
        query = view.query
        for name in view.tables:
            query = query.replace(f"{{{name}}}", f"dbo.{quoted(name)}")
        made.append(f"CREATE OR ALTER VIEW dbo.{quoted(view.name)} AS {query}")
    return made


def _base(
    place: str, table: str, keys: Sequence[str], rows: pa.Table, more: Mapping[str, str] | None = None
) -> tuple[str, list[str]]:
    """The query that reads `table`, typed as `rows` are, with the key parts of its series; and its columns."""
    kinds = {field.name: _sql_type(field.type) for field in rows.schema}
    series = dict.fromkeys(("series_id", *keys), TEXT)
    chosen = [f"r.{quoted(name)}" for name in kinds]
    chosen[1:1] = [f"k.{quoted(key)}" for key in keys]
    computed = more or {}
    chosen += [f"{value} AS {quoted(name)}" for name, value in computed.items()]
    query = (
        f"SELECT {', '.join(chosen)} FROM {_openrowset(place, table, kinds)} AS r "  # noqa: S608 -- quoted
        f"INNER JOIN {_openrowset(place, lake_tables.SERIES_KEYS.name, series)} AS k "
        'ON k."series_id" = r."series_id"'
    )
    return query, [*kinds, *keys, *computed]


def _openrowset(place: str, table: str, kinds: Mapping[str, str]) -> str:
    columns = ", ".join(f"{quoted(name)} {kind}" for name, kind in kinds.items())
    return f"OPENROWSET(BULK '{_address(place)}/{table}/', FORMAT = 'DELTA') WITH ({columns})"


def _address(place: str) -> str:
    parts = urlsplit(place)
    if parts.scheme not in {"abfss", "abfs"} or not parts.username:
        raise SettingsError(
            f"[lake] path is {place}; a serverless pool reads a lake at "
            "abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/FOLDER only"
        )
    folder = "/".join(filter(None, [parts.username, quote(parts.path.strip("/"))])).replace("'", "''")
    return f"https://{parts.hostname}/{folder}"


def _sql_type(kind: pa.DataType) -> str:
    if pa.types.is_floating(kind):
        return "FLOAT"
    if pa.types.is_int64(kind):
        return "BIGINT"
    if pa.types.is_integer(kind):
        return "INT"
    if pa.types.is_boolean(kind):
        return "BIT"
    if pa.types.is_timestamp(kind):
        return "DATETIME2(6)"
    return "DATE" if pa.types.is_date(kind) else TEXT
