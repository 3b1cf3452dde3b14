"""The settings that rows were copied with and that series were tried with: what they change is done again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from many_models.data import lake_tables
from many_models.data.ingest import first_copied
from many_models.errors import SettingsError
from many_models.keys import digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from many_models.ports import Lake
    from many_models.settings import Settings

COPIED_TAG = "many_models/copied_with"
LOOK_TAG = "many_models/look_at_all"  # a copy brought series of which the source has older rows that are not copied


def copied_with(settings: Settings, known: Sequence[str]) -> str:
    """A tag for the settings that the rows of raw_sales depend on: one digest for those that name series, one for the
    others. `known` are the covariates of the sales table.
    """
    data, source = settings.data, settings.source
    rows = (
        source.table,
        source.url,
        data.timestamp,
        data.target,
        sorted(known),
        data.frequency,
        data.negatives,
        sorted(data.aggregates.items()),
        data.timezone,
    )
    return f"{digest(data.keys)}-{digest(*rows)}"


def tried_with(settings: Settings) -> str:
    """A digest of the settings that a series may fail for: where they have changed, one that failed is tried again."""
    data = settings.data.model_dump(mode="json", exclude={"until", "look_back", "complete_share"})
    source, forecast, promotion = settings.source, settings.forecast, settings.promotion
    tables = source.table, source.covariates_table, source.attributes_table, *filter(None, [source.openings_table])
    return digest("tried", sorted(data.items()), forecast.model_dump_json(), promotion.model_dump_json(), *tables)


def refuse_other_names(before: str, settings: Settings, now: str) -> None:
    """Raise SettingsError where series would get other names: old and new ones would be side by side."""
    if before and before.partition("-")[0] != now.partition("-")[0]:
        raise SettingsError(
            f"data.keys are {', '.join(settings.data.keys)}, and raw_sales was copied with other keys, or with these "
            "in another order: every series would get another name. Set data.keys back, or start in a new folder "
            "(`many-models init FILE --into FOLDER`), or delete var/ and the Dagster instance to begin again here"
        )


def not_copied_so(tags: Mapping[str, Mapping[str, str]], now: str) -> set[str]:
    """The periods that were copied with other settings than `now`; none of those of an earlier version."""
    return {key for key, of in tags.items() if of.get(COPIED_TAG, now) != now}


def retire_vanished(lake: Lake) -> list[str]:
    """Mark as ended the series whose rows are all gone from raw_sales: renamed in the source, or deleted there."""
    import pyarrow as pa

    series = lake_tables.read_if_there(lake, lake_tables.SERIES)
    versions = lake_tables.read_if_there(lake, lake_tables.RAW_VERSIONS, columns=["series_id"])
    if series is None or versions is None:
        return []
    there = pc.is_in(series["series_id"], pc.unique(versions["series_id"]))
    gone = series.filter(pc.and_(series["active"], pc.invert(there)))
    if not gone.num_rows:
        return []
    values: dict[str, pa.Array] = {
        "active": pa.array([False] * gone.num_rows),
        "why": pa.array(["its rows are gone from the source"] * gone.num_rows),
        "digest": pa.array([""] * gone.num_rows),
    }
    for name, column in values.items():
        gone = gone.set_column(gone.column_names.index(name), name, column)
    names = gone["series_id"].to_pylist()
    lake_tables.upsert(lake, lake_tables.SERIES, gone, names, {"pack": sorted(set(gone["pack"].to_pylist()))})
    return names


def forget_before_start(lake: Lake, settings: Settings) -> None:
    """Delete the rows of years before `data.start`, which an earlier start had copied."""
    versions = lake_tables.read_if_there(lake, lake_tables.RAW_VERSIONS, columns=["year"])
    years: list[Any] = [] if versions is None else sorted(set(versions["year"].to_pylist()))
    early = [year for year in years if year < first_copied(settings).year]
    for table in (lake_tables.RAW_SALES, lake_tables.RAW_VERSIONS):
        if early:
            rows = lake.read(table.name, lake_tables.Filter(among={"year": early})).slice(0, 0)
            lake.replace(table.name, rows, lake_tables.Filter(among={"year": early}), table.partition_by)
