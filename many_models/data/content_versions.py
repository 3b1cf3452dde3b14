"""Content versions of series: per series and year an order-free hash of its raw rows, which sum up to its version."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from many_models.keys import row_hashes
from many_models.table_columns import RAW_VERSIONS, schema_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

SCHEMA = schema_of(RAW_VERSIONS)


def year_versions(rows: pa.Table) -> pa.Table:
    """One row (SCHEMA) per series and year of `rows` (series_id, pack, year, ds, y, and known covariates).

    `hash` is the sum, modulo 2^64 as int64, of a 64-bit hash of each row, so it does not depend on their order.
    """
    if rows.num_rows == 0:
        return SCHEMA.empty_table()
    content = rows.select([name for name in rows.column_names if name not in {"series_id", "pack", "year"}])
    hashes = row_hashes(content)
    series = rows["series_id"].combine_chunks().dictionary_encode()
    years, ds = rows["year"].to_numpy().astype(np.int64), rows["ds"].to_numpy()
    groups = series.indices.to_numpy().astype(np.int64) * (years.max() + 1 - years.min()) + years - years.min()
    if (groups[1:] < groups[:-1]).any():
        order = np.argsort(groups, kind="stable")
        groups, ds, hashes = groups[order], ds[order], hashes[order]
    else:
        order = np.arange(len(groups))
    starts = np.flatnonzero(np.concatenate([[True], groups[1:] != groups[:-1]]))
    of_group = rows.select(["series_id", "pack", "year"]).take(pa.array(order[starts]))
    stamps = ds.view(np.int64)
    summed = {
        "rows": np.diff(starts, append=len(groups)),
        "first": np.minimum.reduceat(stamps, starts),
        "last": np.maximum.reduceat(stamps, starts),
        "hash": np.add.reduceat(hashes.view(np.int64), starts),
    }
    for name, values in summed.items():
        of_group = of_group.append_column(name, pa.array(values).cast(SCHEMA.field(name).type))
    return of_group.select(SCHEMA.names).cast(SCHEMA).sort_by([("series_id", "ascending"), ("year", "ascending")])


def with_more(versions: pa.Table, more: pa.Table) -> pa.Table:
    """`versions` (SCHEMA) after rows have come whose own versions are `more`, and none has gone."""
    frame = pa.concat_tables([versions.select(SCHEMA.names), more]).to_pandas()
    groups = frame.groupby(["series_id", "year"], sort=True)
    result = groups.agg(
        pack=("pack", "first"), rows=("rows", "sum"), first=("first", "min"), last=("last", "max"), hash=("hash", "sum")
    ).reset_index()
    return pa.Table.from_pandas(result[SCHEMA.names], SCHEMA, preserve_index=False)


def series_versions(years: pa.Table) -> Mapping[str, tuple[int, int, datetime, datetime]]:
    """Series → (hash over all its years, rows, first ds, last ds)."""
    frame = years.to_pandas()
    groups = frame.groupby("series_id", sort=True)
    result = groups.agg(hash=("hash", "sum"), rows=("rows", "sum"), first=("first", "min"), last=("last", "max"))
    return {
        str(series): (int(row.hash), int(row.rows), row.first.to_pydatetime(), row.last.to_pydatetime())
        for series, row in zip(result.index, result.itertuples(index=False), strict=True)
    }
