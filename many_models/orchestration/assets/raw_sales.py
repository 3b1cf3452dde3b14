"""raw_sales: what the source holds, checked and copied into the lake period by period."""

from collections.abc import Iterator, Mapping, Sequence

import dagster as dg

from many_models.data import clock, findings, lake_tables
from many_models.data.ingest import Ingest, copy_spans, sales_of, sales_table
from many_models.data.periods import Grain, period_of_key, spans
from many_models.errors import InputError
from many_models.keys import names_are_escaped
from many_models.orchestration import lake_marks, partitions, source_state
from many_models.orchestration.copied_settings import (
    COPIED_TAG,
    LOOK_TAG,
    copied_with,
    forget_before_start,
    retire_vanished,
)
from many_models.orchestration.event_log import history, runs
from many_models.orchestration.ingestion import keys_to_ingest, require_landed, run_ingestion
from many_models.orchestration.partitions import time_partitions
from many_models.orchestration.schema_check import schema_check
from many_models.orchestration.stage_asset import stage_asset
from many_models.orchestration.stage_run import (
    DUE_TAG,
    UPSTREAM_TAG,
    VERSION_TAG,
    KeySet,
    Metadata,
    begin,
    board_link,
    table,
)
from many_models.ports import Filter, Ingestion, Lake, SalesTable, Source
from many_models.settings import Settings


def build_raw_sales(settings: Settings) -> dg.AssetsDefinition:
    """The asset raw_sales."""
    grain: Grain = settings.partitions.grain

    @stage_asset(
        settings,
        partitions=time_partitions(settings),
        group="data",
        kinds={"deltalake", "table"},
        checks={
            "quarantine": "Rows that could not be used, by reason.",
            "duplicates": "Rows that repeat a series and a time.",
            "volume": "Rows of the newest period against those before.",
            "freshness": "The newest sales against the clock.",
            "schema": "The source's columns, and what changed.",
        },
        description=(
            "Sales as the source has them, copied into the lake period by period under fixed names (series_id, ds, y). "
            "Rows that cannot be used are in the lake's table quarantine, each with its reason."
        ),
    )
    def raw_sales(
        context: dg.AssetExecutionContext,
        config: KeySet,
        source: dg.ResourceParam[Source],
        lake: dg.ResourceParam[Lake],
        ingestion: dg.ResourceParam[Ingestion],
    ) -> Iterator[dg.AssetCheckResult]:
        from many_models.data.row_checks import check_columns

        lake_marks.require(context.instance, lake)
        keys = begin(context, config)
        columns = source.columns(settings.source.table)
        sales = sales_table(settings, list(columns))
        try:
            kinds = check_columns(columns, sales)
        except InputError as error:
            yield dg.AssetCheckResult(passed=False, check_name="schema", metadata={"problem": str(error)})
            raise
        starts = [period_of_key(grain, key) for key in keys]
        if settings.data_factory.pipeline:
            _bring(context, settings, source, ingestion, sales, keys)
        versions_of = source_state.versions_of_copy(settings, source, sales, starts)
        until = source_state.copied_until(settings, source, sales, starts)
        names_before = _series_there(lake)
        escaped = names_are_escaped([*names_before, *context.instance.get_dynamic_partitions("store_items")])
        ingest = Ingest(settings, source, lake, sales, kinds, clock.now(settings), until, escaped)
        todo = [ingest.whole(*span) for span in spans(grain, starts)]
        counts, seen = copy_spans(ingest, todo, context.log.info)
        wanted = versions_of(seen)
        ingest.quarantine_the_rest()
        if lake.version(lake_tables.SERIES_KEYS.name) is None:
            raise InputError(f"table {sales.table!r}: none of its rows can be used; {_reasons_text(lake)}")
        _settle_series(context, settings, lake)
        tags = {COPIED_TAG: copied_with(settings, sales.known)}
        if names_before and _series_there(lake) > names_before and _older_rows_differ(context, settings, source, keys):
            tags[LOOK_TAG] = "yes"  # a new store may come with its history, which is copied whole at the next look
        link = board_link(settings, "/")
        runs.record(context, [_period(context, key, wanted.get(key, ""), counts[key], tags, link) for key in keys])
        lake_marks.record_marks(context.instance, lake)
        runs.settle_siblings(context, keys, ())
        yield from _checks(settings, lake, columns)

    return raw_sales


def _bring(
    context: dg.AssetExecutionContext,
    settings: Settings,
    source: Source,
    ingestion: Ingestion,
    sales: SalesTable,
    keys: Sequence[str],
) -> None:
    """Let the pipeline bring the periods of `keys` that the source lacks. Raise where they did not arrive."""
    first = min(period_of_key(settings.partitions.grain, key) for key in keys)
    there = source_state.source_versions(settings, source, sales, first)
    brought = keys_to_ingest(keys, there, by_hand=DUE_TAG not in context.run.tags)
    run_ingestion(context, settings, ingestion, brought)
    require_landed(settings, brought, source_state.source_versions(settings, source, sales, first))


def _settle_series(context: dg.AssetExecutionContext, settings: Settings, lake: Lake) -> None:
    """Make partitions of new series, and say which names are odd and which series have ended."""
    add_store_items(context, settings, lake)
    forget_before_start(lake, settings)
    tell_names(context, settings, lake)
    if vanished := retire_vanished(lake):
        context.log.warning(f"{len(vanished)} series have no rows left, the first {vanished[0]}: they have ended")


def _series_there(lake: Lake) -> set[str]:
    rows = lake_tables.read_if_there(lake, lake_tables.SERIES_KEYS, columns=["series_id"])
    return set() if rows is None else set(rows["series_id"].to_pylist())


def _older_rows_differ(
    context: dg.AssetExecutionContext, settings: Settings, source: Source, keys: Sequence[str]
) -> bool:
    """Whether the source holds other rows of periods that were copied before, and not by this run."""
    latest = history.latest_tags(context.instance, context.asset_key, [VERSION_TAG])
    done = {key: tags[VERSION_TAG] for key, tags in latest.items() if VERSION_TAG in tags}
    there = source_state.source_versions(settings, source, sales_of(settings, source), None)
    mine = set(keys)
    return any(done.get(key) != version for key, version in there.items() if key not in mine and key in done)


def _period(
    context: dg.AssetExecutionContext,
    key: str,
    version: str,
    rows: int,
    more: Mapping[str, str],
    link: Mapping[str, dg.UrlMetadataValue],
) -> dg.AssetMaterialization:
    tags = {UPSTREAM_TAG: version, VERSION_TAG: version, **more}
    metadata: Metadata = {"dagster/row_count": rows, **link}
    return dg.AssetMaterialization(context.asset_key, partition=key, metadata=metadata, tags=tags)


def add_store_items(context: dg.AssetExecutionContext, settings: Settings, lake: Lake) -> None:
    """Make a dynamic partition of every series of the lake (or its `partitions.by`) that is none yet."""
    series = lake.read(lake_tables.SERIES_KEYS.name, columns=["series_id"])["series_id"].to_pylist()
    there = set(context.instance.get_dynamic_partitions("store_items"))
    if new := [name for name in partitions.partitions_of(settings, series) if name not in there]:
        context.instance.add_dynamic_partitions("store_items", new)
        context.log.info(f"{len(new)} new store-items, {len(there) + len(new)} in all")


def tell_names(context: dg.AssetExecutionContext, settings: Settings, lake: Lake) -> None:
    """Say which names of keys look like one and are several series, which are empty, which of the settings are none."""
    names, keys = lake.read(lake_tables.SERIES_KEYS.name), settings.data.keys
    told = findings.of_names(names, keys) + findings.of_missing_at(names, keys[0], settings.data.missing_at)
    lake_tables.tell(lake, "raw_sales", told)
    if told:
        context.log.warning("; ".join(told))


def _checks(settings: Settings, lake: Lake, columns: Mapping[str, str]) -> Iterator[dg.AssetCheckResult]:
    bad = lake.read(lake_tables.QUARANTINE.name)
    reasons = lake_tables.counts(bad, "reason")
    rows = [{"reason": name, "rows": count} for name, count in sorted(reasons.items(), key=lambda item: -item[1])]
    warn = dg.AssetCheckSeverity.WARN
    sample = [{k: str(v) for k, v in row.items() if k != "period"} for row in bad.slice(0, 20).to_pylist()]
    yield dg.AssetCheckResult(
        passed=not rows,
        check_name="quarantine",
        severity=warn,
        metadata={"rows": bad.num_rows, "by_reason": table(rows), "some_of_them": table(sample)},
    )
    repeated = reasons.get("duplicate", 0)
    yield dg.AssetCheckResult(passed=repeated == 0, check_name="duplicates", severity=warn, metadata={"rows": repeated})
    per_day = _recent_counts(lake)
    usual = sorted(per_day[:-1])[len(per_day[:-1]) // 2] if len(per_day) > 1 else 0
    newest = per_day[-1] if per_day else 0
    yield dg.AssetCheckResult(
        passed=newest >= 0.5 * usual,
        check_name="volume",
        severity=warn,
        metadata={"newest": newest, "median_before": usual},
    )
    as_of = lake_tables.lake_as_of(lake)
    now = settings.data.until or clock.now(settings)
    late = (now - as_of).days if as_of else -1
    yield dg.AssetCheckResult(
        passed=0 <= late <= max(2, 2 * clock.step_days(settings)),
        check_name="freshness",
        severity=warn,
        metadata={"as_of": str(as_of), "days_behind": late},
    )
    yield schema_check(settings, lake, columns)


def _reasons_text(lake: Lake) -> str:
    bad = lake.read(lake_tables.QUARANTINE.name)
    some = "; ".join(f"{row['reason']}: {row['detail']}" for row in bad.slice(0, 3).to_pylist())
    return f"{bad.num_rows} are in the lake's table quarantine, for instance {some}"


def _recent_counts(lake: Lake, days: int = 29) -> list[int]:
    import pyarrow.compute as pc

    as_of = lake_tables.lake_as_of(lake)
    if as_of is None:
        return []
    rows = lake.read(lake_tables.RAW_SALES.name, Filter(among={"year": [as_of.year - 1, as_of.year]}), columns=["ds"])
    counts = sorted((row["values"], row["counts"]) for row in pc.value_counts(rows["ds"]).to_pylist())
    return [count for _, count in counts[-days:]]
