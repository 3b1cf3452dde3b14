"""The asset check that fails while a release waits for a human."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from many_models.promotion.approval import proposal_summary

if TYPE_CHECKING:
    from many_models.orchestration.stage_run import Metadata
    from many_models.ports import Release


CHECK = "approved"
DESCRIPTION = "No release waits for `many-models approve`."
PROMOTED = dg.AssetKey("promoted_models")


def check_result(waiting: Release | None, live: Release | None) -> dg.AssetCheckResult:
    """The check as a run of promoted_models reports it."""
    return dg.AssetCheckResult(
        passed=waiting is None,
        asset_key=PROMOTED,
        check_name=CHECK,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=_metadata(waiting, live),
    )


def report_check(instance: dg.DagsterInstance, waiting: Release | None, live: Release | None) -> None:
    """Report the check from a command, outside of any run."""
    instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            asset_key=PROMOTED,
            check_name=CHECK,
            passed=waiting is None,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={name: dg.MetadataValue.text(str(value)) for name, value in _metadata(waiting, live).items()},
        )
    )


def _metadata(waiting: Release | None, live: Release | None) -> Metadata:
    told: Metadata = dict(proposal_summary(waiting, live))
    told["live"] = live.release_id if live else "none"
    if live is not None and live.approval is not None:
        told |= {"approved_by": live.approval.actor, "approved_because": live.approval.reason}
    return told
