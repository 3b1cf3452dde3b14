"""What keeps an installation from growing without end: old events, old versions of tables and of models are deleted.

Nothing that is live goes: the newest event of every partition, every run, the newest version of every table, the live
release, its models and those that a rollback may need. Runs as the job `upkeep` and as `many-models upkeep`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg

from many_models.data import lake_tables
from many_models.errors import ManyModelsError
from many_models.orchestration.event_log import dead_runs
from many_models.ports import Lake, ProductionRegistry, StagingRegistry
from many_models.settings import Settings

JOB = "upkeep"


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What one upkeep did: by part, what was deleted and how many bytes that freed, and what could not be done."""

    deleted: Mapping[str, int]
    bytes: Mapping[str, int]
    errors: Mapping[str, str]


def run_maintenance(
    settings: Settings,
    instance: dg.DagsterInstance,
    lake: Lake,
    staging: StagingRegistry,
    production: ProductionRegistry,
    own_run: str = "",
) -> Upkeep:
    """Prune events, lake and registries as the settings' `retention` and `registry` say; what fails is listed.

    `own_run` is the run that does this, if one does.
    """
    deleted, freed, failed = dict[str, int](), dict[str, int](), dict[str, str]()

    def events_part() -> None:
        from many_models.orchestration.event_log.retention import prune_events

        pruned = prune_events(instance, datetime.now(UTC) - timedelta(days=settings.retention.events_days), own_run)
        deleted["events"], freed["events"] = pruned.events, pruned.bytes

    def lake_part() -> None:
        pruned = lake.prune(timedelta(hours=settings.retention.lake_hours))
        deleted["lake"], freed["lake"] = pruned.files, pruned.bytes

    def production_part() -> None:
        deleted["production"] = len(production.prune(settings.registry.keep_releases))

    def staging_part() -> None:
        deleted["staging"] = len(staging.prune(settings.registry.keep_versions, staging_in_use(lake, production)))

    parts: Mapping[str, Callable[[], None]] = {
        "events": events_part,
        "lake": lake_part,
        "production": production_part,
        "staging": staging_part,
    }
    for name, part in parts.items():
        try:
            part()
        except ManyModelsError as error:
            failed[name] = str(error)
    return Upkeep(deleted, freed, failed)


def staging_in_use(lake: Lake, production: ProductionRegistry) -> frozenset[str]:
    """The staging versions that a champion of any kept release came from, so that a rollback finds them."""
    champions = {champion.staging for release in production.releases() for champion in release.champions.values()}
    published = {row["staging"] for row in lake_tables.records(lake, lake_tables.CHAMPIONS, columns=["staging"])}
    return frozenset(champions | published) - {""}


def job(settings: Settings) -> dg.JobDefinition:
    """The job `upkeep`."""

    @dg.op(description="Deletes old events, old versions of tables and of models; nothing that is live.", pool=JOB)
    def prune(
        context: dg.OpExecutionContext,
        lake: dg.ResourceParam[Lake],
        staging: dg.ResourceParam[StagingRegistry],
        production: dg.ResourceParam[ProductionRegistry],
    ) -> None:
        dead_runs.claim_run(context)
        done = run_maintenance(settings, context.instance, lake, staging, production, context.run_id)
        context.add_output_metadata(
            {
                **{f"{name} deleted": count for name, count in done.deleted.items()},
                **{f"{name} bytes freed": count for name, count in done.bytes.items()},
            }
        )
        context.log.info(in_words(done))
        if done.errors:
            raise dg.Failure("; ".join(f"{name}: {error}" for name, error in done.errors.items()))

    @dg.job(name=JOB, description="Deletes what is superseded: events, versions of tables, versions of models.")
    def upkeep() -> None:
        prune()

    return upkeep


def in_words(done: Upkeep) -> str:
    """What an upkeep did, in one line."""
    words = {
        "events": "events",
        "lake": "files of the lake",
        "production": "releases and production packs",
        "staging": "staging versions",
    }
    return "deleted " + ", ".join(
        f"{count:,} {words[name]}" + (f" ({done.bytes[name] / 1e6:,.1f} MB freed)" if done.bytes.get(name) else "")
        for name, count in done.deleted.items()
    )


def schedule(settings: Settings) -> dg.ScheduleDefinition:
    """When the job runs by itself."""
    return dg.ScheduleDefinition(
        name=JOB,
        job_name=JOB,
        cron_schedule=settings.retention.cron,
        execution_timezone=settings.dagster.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Deletes what is superseded: events, versions of tables, versions of models.",
    )
