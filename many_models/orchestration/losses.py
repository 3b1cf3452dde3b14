"""Series that would all leave at once: refused by promotion and predictions until someone says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from many_models.data import lake_tables
from many_models.data.losses import leaving_at_once

if TYPE_CHECKING:
    from collections.abc import Sequence

    from many_models.errors import SeriesFailure
    from many_models.ports import Lake, Release
    from many_models.settings import Settings


def ended_at_once(
    settings: Settings, lake: Lake, live: Release | None, keys: Sequence[str], kept: str
) -> tuple[frozenset[str], list[SeriesFailure]]:
    """The series of the live release that have ended, where they are more of it than `data.max_loss` allows, and a
    failure for those of `keys`; nothing where they are fewer, or where a person approves each release.

    Series that the settings exclude are not among them: there someone has said so.
    """
    import pyarrow.compute as pc

    series = lake_tables.read_if_there(lake, lake_tables.SERIES, columns=["series_id", "active"])
    if series is None or live is None or settings.promotion.approval:
        return frozenset(), []
    ended = set(series.filter(pc.invert(series["active"]))["series_id"].to_pylist())
    served = live.champions.keys() - set(settings.promotion.excluded)
    leaving, most = ended & served, settings.data.max_loss
    failures = leaving_at_once(leaving, len(served), most, kept)
    asked = set(keys)
    return frozenset(leaving if failures else ()), [failure for failure in failures if failure.series_id in asked]
