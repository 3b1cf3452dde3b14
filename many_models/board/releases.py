"""The release that is live, and the proposal that waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from many_models.board import night
from many_models.data import lake_tables
from many_models.ports import Filter
from many_models.promotion.approval import LEAVES, changes, proposal_summary

if TYPE_CHECKING:
    from collections.abc import Collection

    from many_models.board.handed_in import Stores


def live_of(stores: Stores) -> dict[str, Any] | None:
    """The release that is live, without its champions."""
    release = stores.production.live()
    if release is None:
        return None
    approval = release.approval
    return {
        "release_id": release.release_id,
        "at": release.created_at,
        "actor": release.actor,
        "reason": release.reason,
        "series": len(release.champions),
        "approved_by": approval.actor if approval else "",
        "approved_why": approval.reason if approval else "",
    }


def waiting_of(stores: Stores) -> dict[str, Any] | None:
    """The proposal that waits, with both scores."""
    production = stores.production
    waiting = production.waiting()
    if waiting is None:
        return None
    where = Filter(among={"release_id": [waiting.release_id]})
    decisions = lake_tables.records(stores.lake, lake_tables.DECISIONS, where)
    live = production.live()
    return {
        **proposal_summary(waiting, live),
        **night.scores_of(decisions),
        "changes": changes(waiting, live),
        "decisions": decisions,
    }


def of_own(waiting: dict[str, Any] | None, own: Collection[str]) -> dict[str, Any] | None:
    """The proposal as one sees it who sees the series `own` alone: counts, scores and decisions are of these."""
    if waiting is None:
        return None
    changed = [staging for name, staging in waiting["changes"].items() if name in own]
    decisions = [row for row in waiting["decisions"] if row["series_id"] in own]
    leaving = sum(staging == LEAVES for staging in changed)
    return {
        **waiting,
        **night.scores_of(decisions),
        "decisions": decisions,
        "series_changed": len(changed) - leaving,
        "series_leaving": leaving,
        "reason": "",
        "first": "",
    }
