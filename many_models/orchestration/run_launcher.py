"""Kubernetes pods for runs, with rights by stage: training's pods hold nothing of production's.

Used from dagster.yaml instead of dagster_k8s' own launcher:

    run_launcher:
      module: many_models.orchestration.run_launcher
      class: StageRunLauncher
      config:
        service_account_name: many-models-train
        env_secrets: [many-models-postgres, many-models-staging]
        production: {service_account_name: many-models-promote, env_secrets: [many-models-production]}

What a run will execute decides, never a tag: whoever may start a run may write tags. Needs the extra `k8s`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dagster import Field
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.launcher import K8sRunLauncher

from many_models.orchestration.automation import JOBS
from many_models.orchestration.upkeep import JOB as UPKEEP

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dagster import DagsterRun

    from many_models.orchestration.due import Stage

PRODUCTION_STAGES: frozenset[Stage] = frozenset({"promoted_models", "predictions"})
"""The stages that open the production registry; all others do without."""
PRODUCTION_JOBS = frozenset({UPKEEP, *(JOBS[stage] for stage in PRODUCTION_STAGES)})
FROM_TAGS = {"container_config": {"resources": True}, "pod_spec_config": {"node_selector": True, "tolerations": True}}


def opens_production(run: DagsterRun) -> bool:
    """Whether all that `run` executes is of the stages that need the production registry."""
    checks = run.asset_check_selection or ()
    assets = {*(run.asset_selection or ()), *(check.asset_key for check in checks)}
    if assets:
        return {key.to_user_string() for key in assets} <= PRODUCTION_STAGES
    return run.job_name in PRODUCTION_JOBS


class StageRunLauncher(K8sRunLauncher):
    """K8sRunLauncher whose pods have `production`'s service account and secrets for the stages that need them.

    A run's tags may ask for resources, node selectors and tolerations. A run whose tags ask for more, such as a service
    account or a secret, is not launched.
    """

    def __init__(self, production: Mapping[str, Any], **launcher: Any) -> None:
        launcher["only_allow_user_defined_k8s_config_fields"] = FROM_TAGS
        launcher["only_allow_user_defined_env_vars"] = []
        super().__init__(**launcher)
        self._production = K8sContainerContext(
            service_account_name=production["service_account_name"], env_secrets=production["env_secrets"]
        )

    @classmethod
    def config_type(cls) -> Any:
        """See K8sRunLauncher; and `production`. What tags may set is not a setting."""
        inherited = dict(K8sRunLauncher.config_type())
        for name in ("only_allow_user_defined_k8s_config_fields", "only_allow_user_defined_env_vars"):
            del inherited[name]
        return {**inherited, "production": Field({"service_account_name": str, "env_secrets": [str]})}

    def get_container_context_for_run(self, dagster_run: DagsterRun) -> K8sContainerContext:
        """See K8sRunLauncher."""
        found = super().get_container_context_for_run(dagster_run)
        return found.merge(self._production) if opens_production(dagster_run) else found
