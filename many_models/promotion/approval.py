"""Human approval of a release: what a proposal would change, the check that shows it, and the log of every switch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from many_models.data import lake_tables
from many_models.errors import ConflictError
from many_models.ports import Champion, Filter, PromotedSeries

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime

    from many_models.ports import Lake, ProductionRegistry, Release

LEAVES = ""


def changes(release: Release | None, live: Release | None) -> dict[str, str]:
    """Series → the staging version that `release` serves it with and `live` does not; LEAVES where it serves none."""
    if release is None:
        return {}
    before = live.champions if live else {}
    new = {n: c.staging for n, c in release.champions.items() if n not in before or before[n].staging != c.staging}
    return new | {name: LEAVES for name in before if name not in release.champions}


def carried_over(
    waiting: Release | None, live: Release | None, decided_anew: Collection[str], leaving: Collection[str]
) -> dict[str, Champion]:
    """What the next proposal takes from the one that waits: the series that won then, and are not decided again now."""
    if waiting is None:
        return {}
    drop = {*decided_anew, *leaving}
    return {
        name: waiting.champions[name]
        for name, staging in changes(waiting, live).items()
        if staging != LEAVES and name not in drop
    }


def promoted_of(champion: Champion) -> PromotedSeries:
    """A champion of a proposal, as the next draft names it."""
    return PromotedSeries(champion.series_id, champion.staging, champion.recipe, champion.cutoff, champion.fallback)


# --- what the UI and `status` show ----------------------------------------------------------------------------------
def proposal_summary(waiting: Release | None, live: Release | None) -> dict[str, str | int]:
    """The waiting proposal in plain values; empty when none waits."""
    if waiting is None:
        return {}
    changed = changes(waiting, live)
    leaving = sum(staging == LEAVES for staging in changed.values())
    return {
        "proposal": waiting.release_id,
        "made_by": waiting.actor,
        "made_at": waiting.created_at.isoformat(sep=" ", timespec="seconds"),
        "reason": waiting.reason,
        "series_changed": len(changed) - leaving,
        "series_leaving": leaving,
        "first": ", ".join(sorted(changed)[:10]),
        "approve": f"many-models approve {waiting.release_id} --why '…'",
    }


# --- saying yes or no -----------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Approver:
    """Whoever says yes or no, and why."""

    lake: Lake
    production: ProductionRegistry
    actor: str
    reason: str

    def proposal(self, release_id: str = "") -> Release:
        """The waiting proposal, which has to be `release_id` where that is given.

        Raises ConflictError when it is another or none, or when the run that made it has not written its decisions.
        """
        waiting = self.production.waiting()
        if waiting is None:
            raise ConflictError(
                f"no proposal waits for approval{f', {release_id} neither' if release_id else ''}: it was decided "
                "already, superseded, or never made; `many-models status` says what is live"
            )
        if release_id and waiting.release_id != release_id:
            raise ConflictError(f"{waiting.release_id} waits for approval, not {release_id}: look at it first")
        written = lake_tables.records(
            self.lake, lake_tables.DECISIONS, Filter(among={"release_id": [waiting.release_id]}), ["series_id"]
        )
        if not written and any(changes(waiting, self.production.live()).values()):
            raise ConflictError(
                f"the run that made {waiting.release_id} was cut off before it wrote its decisions down: "
                "let promoted_models run again first"
            )
        return waiting

    def approve(self, release_id: str) -> Release:
        """Make the proposal live, and tell the lake, so that what is due follows.

        Cut off anywhere, the same again completes it.
        """
        live = self.production.live()
        if live is None or live.release_id != release_id:
            self.proposal(release_id)
        release = self.production.approve(release_id, self.actor, self.reason)
        publish_champions(self.lake, release)
        if (approval := release.approval) is not None:
            log(self.lake, release, "approved", approval.actor, approval.reason, approval.at)
        return release

    def reject(self, release_id: str, now: datetime) -> Release:
        """Have the proposal wait no more."""
        proposal = self.proposal(release_id)
        self.production.reject(release_id, self.actor, self.reason)
        log(self.lake, proposal, "rejected", self.actor, self.reason, now)
        return proposal


# --- the lake's side ------------------------------------------------------------------------------------------------
def publish_champions(lake: Lake, release: Release) -> None:
    """Publish the champions of the release that is live now, which training and what is due may read."""
    lake.replace(lake_tables.CHAMPIONS.name, champions_table(lake, release), Filter())


def champions_table(lake: Lake, release: Release) -> pa.Table:
    """The champions of `release` for the lake, with the specs and scores that are known of their staging versions."""
    known = recorded_scores(lake)
    specs = {row["recipe"]: str(row["spec"]) for row in lake_tables.records(lake, lake_tables.RECIPES)}
    packs = {row["pack"] for row in lake_tables.records(lake, lake_tables.SERIES, columns=["pack"])}
    scored = ["series_id", "staging", "wape", "baseline_wape"]
    trained, _ = lake_tables.records_by_pack(lake, lake_tables.TRAINED, sorted(packs), scored)
    measured = {(row["series_id"], row["staging"]): row for row in trained}
    champions = [champion for _, champion in sorted(release.champions.items())]
    scores = [measured.get((one.series_id, one.staging)) or _same_version(known, one) for one in champions]
    schema, made = lake_tables.CHAMPIONS.schema, Champion.__dataclass_fields__
    columns = {name: [getattr(one, name) for one in champions] for name in schema.names if name in made}
    columns |= {name: [row.get(name) for row in scores] for name in ("wape", "baseline_wape")}
    columns["release_id"] = [release.release_id] * len(champions)
    columns["spec"] = [specs.get(one.recipe, "") for one in champions]
    return pa.table(columns, schema)


def _same_version(known: Mapping[str, Mapping[str, object]], champion: Champion) -> Mapping[str, object]:
    """What is known of the champion of a series if it is the same version, else nothing."""
    before = known.get(champion.series_id, {})
    return before if before.get("staging") == champion.staging else {}


def recorded_scores(lake: Lake) -> dict[str, dict[str, object]]:
    """Series → its row of the lake's champions: what its score was when it was promoted, and its spec."""
    columns = ["series_id", "staging", "spec", "wape", "baseline_wape"]
    return {row["series_id"]: row for row in lake_tables.records(lake, lake_tables.CHAMPIONS, columns=columns)}


def log(lake: Lake, release: Release, event: str, actor: str, reason: str, at: datetime) -> None:
    """Write down what happened to a release (proposed, published, approved, rejected, rolled back), once."""
    row = {
        "release_id": release.release_id,
        "event": event,
        "actor": actor,
        "reason": reason,
        "decided_at": at.isoformat(),
        "previous": release.previous,
        "series": len(release.champions),
    }
    where = Filter(among={"release_id": [release.release_id], "event": [event], "decided_at": [row["decided_at"]]})
    if lake_tables.records(lake, lake_tables.RELEASE_LOG, where, ["event"]):
        return
    rows = pa.Table.from_pylist([row], lake_tables.RELEASE_LOG.schema)
    lake.replace(lake_tables.RELEASE_LOG.name, rows, where)
