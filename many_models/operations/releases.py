"""Human decisions about releases: approve, reject, roll back; and the proposal that waits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from many_models.system import utc_now

if TYPE_CHECKING:
    from many_models.ports import ProductionRegistry, Release
    from many_models.settings import Settings


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was said about a proposal. `changed` and `leaving` count series; None when it had been decided before."""

    proposal: str
    approved: bool
    actor: str
    live: str | None
    changed: int | None
    leaving: int | None


def roll_back(settings: Settings, release_id: str, actor: str = "", reason: str = "") -> Release:
    """Make a kept release live again, and tell lake and UI, so that what is due follows. Returns it.

    Raises InputError when there is no such release.
    """
    from many_models.promotion import approval
    from many_models.wiring import build_lake, build_production

    lake, production = build_lake(settings), build_production(settings)
    release = production.activate(release_id)
    approval.publish_champions(lake, release)
    now = utc_now().replace(microsecond=0)
    approval.log(lake, release, "rolled back", actor or _account(), reason, now)
    _report_check(settings, production)
    return release


def approve(settings: Settings, proposal: str, *, actor: str, reason: str, reject: bool) -> Verdict:
    """Approve or reject the release that waits; `proposal` "" for whichever does. Raises ConflictError for another."""
    from many_models.promotion.approval import Approver, proposal_summary
    from many_models.wiring import build_lake, build_production

    production = build_production(settings)
    approver = Approver(build_lake(settings), production, actor or _account(), reason)
    live = production.live()
    proposal = proposal or approver.proposal().release_id
    facts = proposal_summary(production.waiting(), live)
    if reject:
        approver.reject(proposal, utc_now().replace(microsecond=0))
    else:
        live = approver.approve(proposal)
    _report_check(settings, production)
    counts = [None, None]
    if facts.get("proposal") == proposal:
        counts = [int(facts["series_changed"]), int(facts["series_leaving"])]
    return Verdict(proposal, not reject, approver.actor, live.release_id if live else None, *counts)


def _report_check(settings: Settings, production: ProductionRegistry) -> None:
    from many_models.operations.day import open_instance
    from many_models.orchestration.approval_check import report_check
    from many_models.settings import dagster_home

    with open_instance(dagster_home(settings)) as instance:
        report_check(instance, production.waiting(), production.live())


def _account() -> str:
    import getpass

    return getpass.getuser()


def waiting_proposal(settings: Settings) -> dict[str, str | int]:
    """The release that waits for a human, in plain values. The registry is asked only where the lake's log has one."""
    from many_models.data import lake_tables
    from many_models.promotion.approval import proposal_summary
    from many_models.wiring import build_lake, build_production

    rows = lake_tables.records(build_lake(settings), lake_tables.RELEASE_LOG, columns=["release_id", "event"])
    decided = {row["release_id"] for row in rows if row["event"] in {"approved", "rejected"}}
    if not {row["release_id"] for row in rows if row["event"] == "proposed"} - decided:
        return {}
    production = build_production(settings)
    return proposal_summary(production.waiting(), production.live())
