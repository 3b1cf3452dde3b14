"""What is known of series besides their sales: covariates of the future, attributes, holidays of the user's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from many_models.data.findings import of_contradictions
from many_models.errors import InputError, SettingsError
from many_models.keys import SeriesKey, digest, row_hashes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

    import numpy as np
    import pandas as pd
    import pyarrow as pa
    from numpy.typing import NDArray


def from_source(  # noqa: PLR0913  what a table means takes as many words
    raw: pa.Table,
    keys: Sequence[str],
    timestamp: str,
    known: Sequence[str],
    *,
    timezone: str = "",
    frequency: str = "D",
    told: list[str] | None = None,
) -> pa.Table:
    """The covariates table under inner names: those of `keys` that it has (string), `ds`, and `known`.

    A table without any of the keys says the same of all series. Numbers and flags become double, all else is text.
    `ds` is the stamp of its period of `frequency`, in local time (see `SalesTable.timezone`). Rows without a readable
    timestamp are left out, of several for the same keys and period the last one holds; where they differ, a sentence
    is added to `told`. Raises InputError when the timestamp or a covariate is not there.
    """
    import pyarrow as pa

    if missing := [name for name in (timestamp, *known) if name not in raw.column_names]:
        raise InputError(f"the covariates table lacks {', '.join(missing)}; it has {', '.join(raw.column_names)}")
    own = [name for name in keys if name in raw.column_names]
    for name in (*own, *known):
        column = raw[name].cast(pa.string()) if name in own else _number_or_text(raw[name])
        raw = raw.set_column(raw.column_names.index(name), name, column)
    frame = raw.select([*own, timestamp, *known]).to_pandas().rename(columns={timestamp: "ds"})
    frame["ds"] = _local(frame["ds"], timezone)
    frame["ds"] = _stamps(frame["ds"].to_numpy("datetime64[us]"), frequency)
    frame = frame.dropna(subset=["ds"])
    for name in own:
        frame[name] = frame[name].fillna("")
    if told is not None:
        told += of_contradictions(frame, own, known)
    frame = frame.drop_duplicates([*own, "ds"], keep="last")
    types = {name: raw.schema.field(name).type for name in (*own, *known)}
    fields = [*((name, types[name]) for name in own), ("ds", pa.timestamp("us")), *((n, types[n]) for n in known)]
    return pa.Table.from_pandas(frame, pa.schema(fields), preserve_index=False, safe=False)


_OFFSET = r"\s*(?:[zZ]|[-+]\d\d:?\d\d)\s*$"


def _local(column: pd.Series, timezone: str) -> pd.Series:
    """Moments in local time: those with a zone are converted to `timezone`; without one a text keeps its clock time."""
    import pandas as pd

    if pd.api.types.is_datetime64_any_dtype(column):
        moments = pd.to_datetime(column, utc=True)
        zoned = getattr(column.dt, "tz", None) is not None
        return (moments.dt.tz_convert(timezone) if zoned and timezone else moments).dt.tz_localize(None)
    texts = column.astype("string")
    with_offset = texts.str.match(r".*\d\d:\d\d.*" + _OFFSET).fillna(value=False).astype(bool)
    plain = texts.where(~with_offset, texts.str.replace(_OFFSET, "", regex=True))
    moments = pd.to_datetime(plain, errors="coerce", format="mixed", utc=True).dt.tz_localize(None)
    if timezone and with_offset.any():
        local = pd.to_datetime(texts[with_offset], errors="coerce", format="mixed", utc=True)
        moments = moments.copy()
        moments.loc[with_offset] = pd.Series(local).dt.tz_convert(timezone).dt.tz_localize(None)
    return moments


def _stamps(ds: NDArray[np.datetime64], frequency: str) -> NDArray[np.datetime64]:
    from many_models.data.aggregation import is_coarse, labels

    if is_coarse(frequency):
        return labels(ds, frequency)
    unit = "h" if frequency.lstrip("0123456789") in {"h", "H"} else "D"
    fine = frequency.endswith(("min", "s"))
    return ds if fine else ds.astype(f"datetime64[{unit}]").astype("datetime64[us]")


def versions(covariates: pa.Table, attributes: pa.Table | None, as_of: datetime | None) -> dict[str, str]:
    """What stands for the content of the covariates table (as `from_source` makes it) and of the attributes table.

    `past`: what datasets are made of, which is the covariates up to `as_of` and the attributes; `ahead`: the covariates
    after it. Neither depends on the order of rows.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    later = pc.greater(covariates["ds"], pa.scalar(as_of, pa.timestamp("us")))
    past = covariates.filter(pc.invert(later)) if as_of is not None else covariates.slice(0, 0)
    ahead = covariates.filter(later) if as_of is not None else covariates
    own = "" if attributes is None else content_of(attributes)
    return {"past": digest(content_of(past), own), "ahead": content_of(ahead)}


def content_of(rows: pa.Table) -> str:
    """What stands for the content of `rows`, in whatever order."""
    hashes = row_hashes(rows) if rows.num_rows else None
    return digest(rows.schema.to_string(), rows.num_rows, 0 if hashes is None else int(hashes.sum()))


def _number_or_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_boolean(kind):
        column = column.cast(pa.uint8())
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return column.cast(pa.float64() if numeric or pa.types.is_boolean(kind) else pa.string(), safe=False)


def attributes_from_source(
    raw: pa.Table, keys: Sequence[str], names: Sequence[str], told: list[tuple[str, str]] | None = None
) -> pa.Table:
    """The attributes table under inner names: those of `keys` that it has (string), and `names`.

    Numbers and flags become double, all else is text. Rows about the same keys become one. Where they contradict each
    other the attribute is null, and `told` gets the keys and a sentence. Raises InputError when none of the keys or an
    attribute is there.
    """
    import pyarrow as pa

    own = [name for name in keys if name in raw.column_names]
    if missing := [name for name in names if name not in raw.column_names]:
        raise InputError(f"the attributes table lacks {', '.join(missing)}; it has {', '.join(raw.column_names)}")
    if not own:
        raise InputError(f"the attributes table has none of the keys {', '.join(keys)}: add one")
    for name in (*own, *names):
        column = raw[name].cast(pa.string()) if name in own else _number_or_text(raw[name])
        raw = raw.set_column(raw.column_names.index(name), name, column)
    rows = raw.select([*own, *names])
    once = rows.group_by(own).aggregate([])
    return rows if once.num_rows == rows.num_rows else _one_row_each(rows, own, names, [] if told is None else told)


def _one_row_each(rows: pa.Table, own: list[str], names: Sequence[str], told: list[tuple[str, str]]) -> pa.Table:
    """`rows` with one row for each value of the keys `own`: what their rows agree on, null where they do not."""
    import pyarrow as pa

    places = rows.to_pandas().groupby(own, dropna=False, sort=False)
    found = places.size().index.to_frame(index=False)
    for name in names:
        said = [[one for one in values if one is not None and one == one] for values in places[name].unique()]  # noqa: PLR0124 -- NaN
        for place, values in zip(found[own].itertuples(index=False), said, strict=True):
            if len(values) > 1:
                several = ", ".join(map(str, values))
                why = f"its rows of attributes give {name} several values ({several}); it stays empty until they agree"
                told.append((", ".join(map(str, place)), why))
        found[name] = [values[0] if len(values) == 1 else None for values in said]
    return pa.Table.from_pandas(found, rows.schema, preserve_index=False)


def with_attributes(
    rows: pa.Table, attributes: pa.Table | None, series: Sequence[str], keys: Sequence[str], names: Sequence[str]
) -> pa.Table:
    """`rows` with the columns `names` of `attributes` (as `attributes_from_source` makes them), null where unknown."""
    import pyarrow as pa

    if attributes is None:
        for name in names:
            rows = rows.append_column(name, pa.nulls(rows.num_rows, pa.float64()))
        return rows
    return rows.join(_joined(attributes, series, keys).select(["series_id", *names]), "series_id")


def read_holidays(path: Path) -> tuple[tuple[str, str], ...]:
    """Holidays of the user's own as (ISO date, name), from a CSV file with the columns `date` and `name`.

    Raises SettingsError that names the file and its line.
    """
    import csv
    from datetime import date

    if not path.is_file():
        raise SettingsError(f"there is no table of holidays {path}: data.holidays names a CSV file")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if missing := [name for name in ("date", "name") if name not in (reader.fieldnames or [])]:
            raise SettingsError(f"{path}: no column {', '.join(missing)}, needed date and name")
        found: list[tuple[str, str]] = []
        for row in reader:
            try:
                found.append((date.fromisoformat(row["date"].strip()).isoformat(), row["name"].strip()))
            except (ValueError, AttributeError) as error:
                raise SettingsError(
                    f"{path}, line {reader.line_num}: {row['date']!r} is not a date, write it as 2024-12-31"
                ) from error
    return tuple(sorted(set(found)))


def of_series(covariates: pa.Table, series: Sequence[str], keys: Sequence[str]) -> pa.Table:
    """The rows of `covariates` (as `from_source` makes them) for each of `series`: series_id, ds and the covariates."""
    joined = _joined(covariates, series, keys)
    rest = [name for name in joined.column_names if name not in {"series_id", "ds"}]
    return joined.select(["series_id", "ds", *rest])


def _joined(covariates: pa.Table, series: Sequence[str], keys: Sequence[str]) -> pa.Table:
    """The rows about each of `series`, by those of the keys that the table has."""
    import pyarrow as pa

    own = [name for name in keys if name in covariates.column_names]
    parts = [SeriesKey.parse(name, len(keys)).parts for name in series]
    named = pa.table(
        {
            "series_id": pa.array(list(series), pa.string()),
            **{name: pa.array([part[list(keys).index(name)] for part in parts], pa.string()) for name in own},
        }
    )
    if own:
        return covariates.join(named, own, join_type="inner").drop_columns(own)
    everywhere = pa.array([0] * covariates.num_rows), pa.array([0] * named.num_rows)
    left, right = covariates.append_column("all", everywhere[0]), named.append_column("all", everywhere[1])
    return left.join(right, ["all"], join_type="inner").drop_columns(["all"])


def fill(rows: pa.Table, covariates: pa.Table, known: Sequence[str]) -> pa.Table:
    """`rows` (series_id, ds, …) with their missing values of `known` taken from `covariates` (as `of_series` makes)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    joined = rows.join(covariates, ["series_id", "ds"], join_type="left outer", right_suffix="__covariate")
    for name in known:
        if name in rows.column_names and f"{name}__covariate" in joined.column_names:
            other = joined[f"{name}__covariate"].cast(joined[name].type)
            filled = pc.coalesce(joined[name], other)
            joined = joined.drop_columns([f"{name}__covariate"])
            joined = joined.set_column(joined.column_names.index(name), name, filled)
        elif name not in joined.column_names:
            joined = joined.append_column(name, pa.nulls(joined.num_rows, pa.float64()))
    return joined
