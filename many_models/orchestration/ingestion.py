"""Periods that an existing pipeline loads into the source first: which are awaited, and whether they came."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from many_models.data.periods import next_period, period_key, period_of_key, period_start, period_starts
from many_models.errors import InputError
from many_models.keys import digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    import dagster as dg

    from many_models.data.periods import Grain
    from many_models.ports import Ingestion
    from many_models.settings import Settings


def awaited(settings: Settings, wanted: Mapping[str, str], now: datetime) -> dict[str, str]:
    """Partition key → version of the periods that ended before `now` and that the source has not got yet.

    None without a pipeline, and none before the source's first row: the history is loaded by a backfill.
    """
    if not settings.data_factory.pipeline or not wanted:
        return {}
    grain: Grain = settings.partitions.grain
    last = period_start(grain, now) - timedelta(microseconds=1)
    if settings.data.until is not None:
        last = min(last, settings.data.until)
    first = next_period(grain, period_of_key(grain, list(wanted)[-1]))
    keys = [period_key(grain, start) for start in period_starts(grain, first, last)]
    return {key: digest("awaited", key) for key in keys}


def keys_to_ingest(keys: Sequence[str], held: Mapping[str, str], *, by_hand: bool) -> list[str]:
    """The keys whose periods the pipeline is to load: all of them when a person started the run, else
    those of which the source holds nothing (`held`, key → version).
    """
    return [key for key in keys if by_hand or held.get(key, digest()) == digest()]


def run_ingestion(
    context: dg.AssetExecutionContext, settings: Settings, ingestion: Ingestion, keys: Sequence[str]
) -> None:
    """Run the pipeline for the period of each of `keys`, one after the other."""
    for number, key in enumerate(keys, 1):
        said = ingestion.run(period_of_key(settings.partitions.grain, key))
        context.log.info(f"{number} of {len(keys)} periods brought: {said}")


def require_landed(settings: Settings, keys: Sequence[str], held: Mapping[str, str]) -> None:
    """Raise InputError when a period that was brought is not in the source as a complete one, or before one."""
    if missing := [key for key in keys if key not in held]:
        newest = list(held)[-1] if held else "none"
        raise InputError(
            f"pipeline {settings.data_factory.pipeline!r} succeeded for {', '.join(missing[:3])}, but the newest "
            f"complete period of table {settings.source.table!r} is {newest}: see what the pipeline wrote"
        )
