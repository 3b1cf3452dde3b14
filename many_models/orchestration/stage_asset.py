"""What every stage's asset has in common: one name for asset, pool, checks and backfill policy, and the owner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import dagster as dg

from many_models.orchestration.freshness import freshness_policy
from many_models.orchestration.stage_run import backfill_policy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from many_models.orchestration.due import Stage
    from many_models.settings import Settings


def stage_asset(  # noqa: PLR0913  what `dg.asset` is told of a stage
    settings: Settings,
    *,
    group: str,
    kinds: set[str],
    description: str,
    partitions: dg.PartitionsDefinition | None = None,
    deps: Sequence[str | dg.AssetDep] = (),
    checks: Mapping[str, str] | None = None,
    name: str = "",
    code_version: str | None = None,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """A decorator that makes an asset of a function, named as the function is unless a `name` is given.

    `checks` maps the name of a check to its description. `code_version` is for assets without partitions, of which
    Dagster says whether they are stale (docs/decisions/0008-sensors.md). With `partitions`, the asset records its own
    events (see event_log/runs.py), and one run takes all partitions of a backfill.
    """

    def decorate(function: Callable[..., Any]) -> dg.AssetsDefinition:
        stage = cast("Stage", name or function.__name__)
        several: dict[str, Any] = {}
        if partitions is not None:
            policy = backfill_policy(stage)
            several = {"partitions_def": partitions, "backfill_policy": policy, "output_required": False}
        specs = [dg.AssetCheckSpec(check, asset=stage, description=text) for check, text in (checks or {}).items()]
        return dg.asset(
            name=stage,
            deps=list(deps) or None,
            group_name=group,
            kinds=kinds,
            owners=[settings.dagster.owner],
            pool=stage,
            check_specs=specs or None,
            description=description,
            code_version=code_version,
            freshness_policy=freshness_policy(settings, stage),
            **several,
        )(function)

    return decorate
