"""Partitions of several series: which series a partition holds, and what is recorded of each in its one event."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

import dagster as dg

from many_models.data import lake_tables
from many_models.data.periods import KEY_FORMATS, Grain, end_offset, period_start
from many_models.keys import SEPARATOR, SeriesKey, digest
from many_models.orchestration.event_log import history

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from many_models.ports import Lake
    from many_models.settings import Settings


def partition_of(settings: Settings, series_id: str) -> str:
    """The partition of a series: its own (`partitions.by` empty), or that of all series with the same key parts."""
    by, names = settings.partitions.by, settings.data.keys
    if not by:
        return series_id
    SeriesKey.parse(series_id, len(names))
    parts = series_id.split(SEPARATOR)  # as they are written there: see `keys.names_are_escaped`
    return SEPARATOR.join(part for name, part in zip(names, parts, strict=True) if name in by)


def partitions_of(settings: Settings, series: Iterable[str]) -> dict[str, list[str]]:
    """Partition → its series among `series`, both in order of first appearance."""
    found = defaultdict[str, list[str]](list)
    for name in series:
        found[partition_of(settings, name)].append(name)
    return dict(found)


def series_of(settings: Settings, lake: Lake, partitions: Sequence[str]) -> tuple[str, ...]:
    """The series of `partitions`, as the lake knows them, partition by partition; a partition without any as itself,
    so that it fails by name and is not passed over.
    """
    if not settings.partitions.by:
        return tuple(partitions)
    rows = lake_tables.records(lake, lake_tables.SERIES_KEYS, columns=["series_id"])
    held = partitions_of(settings, sorted(row["series_id"] for row in rows))
    return tuple(name for partition in partitions for name in held.get(partition, [partition]))


def board_page(settings: Settings, partition: str) -> str:
    """The path of the board's page about a partition of several series: a group's, or a list of items."""
    by = [name for name in settings.data.keys if name in settings.partitions.by]
    parts = SeriesKey.parse(partition, len(by)).parts
    if len(by) == 1:
        return f"/groups/{quote(by[0], safe='')}/{quote(parts[0], safe='')}"
    return "/items?" + urlencode({f"is.{name}": part for name, part in zip(by, parts, strict=True)})


def materialization(
    context: dg.AssetExecutionContext,
    partition: str,
    made: Mapping[str, Mapping[str, str]],
    failed: int,
    link: Mapping[str, dg.UrlMetadataValue],
) -> dg.AssetMaterialization:
    """The one event of a partition of several series; `made`: tag → series → its value; `link` to the board.

    What an earlier event says of series that are not in `made` stays said. The partition's own tags stand for all.
    """
    series = {name: dict(values) for name, values in made.items()}
    tags = {name: digest(sorted(values.items())) for name, values in series.items()}
    done = max(map(len, series.values()))
    metadata = {"series": done, "failed": failed, history.MEMBERS: dg.MetadataValue.json(series), **link}
    return dg.AssetMaterialization(context.asset_key, partition=partition, metadata=metadata, tags=tags)


def time_partitions(settings: Settings) -> dg.TimeWindowPartitionsDefinition:
    """The partitions of raw_sales in time, up to and with the running period."""
    grain: Grain = settings.partitions.grain
    first = period_start(grain, datetime.combine(settings.data.start, datetime.min.time()))
    crons: dict[Grain, str] = {"hour": "0 * * * *", "day": "0 0 * * *", "week": "0 0 * * 1", "month": "0 0 1 * *"}
    return dg.TimeWindowPartitionsDefinition(
        start=first,
        fmt=KEY_FORMATS[grain],
        cron_schedule=crons[grain],
        timezone=settings.dagster.timezone,
        end_offset=end_offset(grain),
    )
