"""A stage as small as it gets, for tests of events: it records what it is asked for, and fails what it is told to."""

import os
import signal

import dagster as dg

from many_models.orchestration.event_log.dead_runs import claim_run
from many_models.orchestration.event_log.runs import keys_of_run, plan, record, settle_siblings, sibling_keys

STORE_ITEMS = dg.DynamicPartitionsDefinition(name="store_items")
VERSION, UPSTREAM = "many_models/version", "many_models/upstream"


class StageConfig(dg.Config):
    keys: list[str] = []  # noqa: RUF012 - pydantic copies defaults
    fail: list[str] = []  # noqa: RUF012
    version: str = "v1"
    die: bool = False


@dg.asset(
    partitions_def=STORE_ITEMS,
    backfill_policy=dg.BackfillPolicy.multi_run(1_000_001),
    output_required=False,
    pool="stage",
)
def stage(context: dg.AssetExecutionContext, config: StageConfig):
    claim_run(context)
    keys = tuple(dict.fromkeys((*keys_of_run(context, config.keys), *sibling_keys(context))))
    plan(context, keys)
    good = [key for key in keys if key not in config.fail]
    if config.die:
        record(context, [materialization(context.asset_key, key, config.version) for key in good[:1]])
        os.kill(os.getpid(), signal.SIGKILL)
    record(context, [materialization(context.asset_key, key, config.version) for key in good])
    settle_siblings(context, good, config.fail)
    if len(good) < len(keys):
        raise dg.Failure(f"{len(keys) - len(good)} of {len(keys)} series failed", allow_retries=False)
    yield from ()


def materialization(asset_key: dg.AssetKey, key: str, version: str) -> dg.AssetMaterialization:
    return dg.AssetMaterialization(
        asset_key,
        partition=key,
        metadata={"rows": len(key), "wape": 0.25, "note": dg.MetadataValue.md(f"**{key}**")},
        tags={VERSION: version, UPSTREAM: f"u-{version}", "dagster/data_version": version},
    )


@dg.asset_check(asset=stage)
def every_series_has_rows():
    return dg.AssetCheckResult(passed=True, metadata={"series": 1})


defs = dg.Definitions(
    assets=[stage],
    asset_checks=[every_series_has_rows],
    jobs=[
        dg.define_asset_job("stage_job", selection=dg.AssetSelection.assets(stage).without_checks()),
        dg.define_asset_job("stage_and_check_job", selection=dg.AssetSelection.assets(stage)),
    ],
    executor=dg.in_process_executor,
)
