"""Which release is live against what the lake was told: production that has gone back is found and followed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from many_models.data import lake_tables
from many_models.orchestration import lake_marks
from many_models.ports import Filter
from many_models.promotion import approval

if TYPE_CHECKING:
    import dagster as dg

    from many_models.ports import Lake, ProductionRegistry


def told_release(lake: Lake) -> str:
    """The release that the lake's champions are of; "" before the first."""
    rows = lake_tables.read_if_there(lake, lake_tables.CHAMPIONS, columns=["release_id"])
    return str(rows["release_id"][0].as_py()) if rows is not None and rows.num_rows else ""


@dataclass(frozen=True, slots=True)
class GoneBack:
    """The release that is `live` is older than the one that the lake was `told` of; `forgotten`: production does not
    know that one any more.
    """

    told: str
    live: str
    forgotten: bool

    def __str__(self) -> str:
        if self.forgotten:
            live = self.live or "none"
            return f"production does not know release {self.told}, which the lake's champions are of; live is {live}"
        return f"release {self.live} is live, and the lake's champions are of {self.told}, which is newer"


def gone_back(lake: Lake, production: ProductionRegistry) -> GoneBack | None:
    """How production has gone back; None where it has not: a release that was only just published is newer."""
    told, live = told_release(lake), production.live_id()
    if not told or told == live:
        return None
    kept = {release.release_id: release for release in production.releases()}
    if told not in kept:
        return GoneBack(told, live, forgotten=True)
    if live in kept and kept[live].previous != told and kept[live].created_at < kept[told].created_at:
        return GoneBack(told, live, forgotten=False)
    return None


def follow_release(instance: dg.DagsterInstance, lake: Lake, production: ProductionRegistry) -> list[str]:
    """Where production has gone back: tell the lake what is live now; where production does not know the newer release
    any more, have promotion decide again, too. Returns what was done.
    """
    found = gone_back(lake, production)
    if found is None:
        return []
    live = production.live()
    if live is not None:
        approval.publish_champions(lake, live)
    elif (there := lake_tables.read_if_there(lake, lake_tables.CHAMPIONS)) is not None:
        lake.replace(lake_tables.CHAMPIONS.name, there.slice(0, 0), Filter())
    if found.forgotten:
        lake_marks.take_back(instance, ["promoted_models"])
    done = "promotion decides again" if found.forgotten else "predictions follow it"
    return [f"{found}: {done}"]
