"""raw_sales and raw_covariates: what the source holds, checked and copied into the lake period by period."""

import functools
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta

import dagster as dg
import pyarrow as pa

from many_models.data import clock, lake_tables
from many_models.data.aggregation import is_coarse, period_of
from many_models.data.periods import KEY_FORMATS, Grain, end_offset, period_key, period_of_key, period_start, spans
from many_models.data.row_checks import CheckedRows, Kind
from many_models.errors import InputError
from many_models.keys import SeriesKey, pack_of
from many_models.orchestration import partitions, source_state
from many_models.orchestration.copied_settings import (
    COPIED_TAG,
    LOOK_TAG,
    copied_with,
    forget_before_start,
    retire_vanished,
)
from many_models.orchestration.event_log import dead_runs, history, runs
from many_models.orchestration.ingestion import bring, require_landed, to_bring
from many_models.orchestration.schema_check import schema_check
from many_models.orchestration.stage_run import (
    DUE_TAG,
    UPSTREAM_TAG,
    VERSION_TAG,
    KeySet,
    Metadata,
    backfill_policy,
    begin,
    refuse_shared_run,
    table,
)
from many_models.orchestration.upstream import Upstream
from many_models.ports import DayCount, Ingestion, Lake, SalesTable, Source, Where
from many_models.settings import Settings

_SORTED_QUICKLY = 2**16  # numbers of 16 bits are sorted by counting
FAR_FUTURE = datetime(9999, 12, 31, 23, 59, 59, 999999)
NO_COVARIATES = pa.schema([("ds", pa.timestamp("us"))])
FAR_PAST = datetime(2, 1, 1)
EARLIEST_READ = datetime(1990, 1, 1)  # rows before it, or before data.start where that is earlier, are mistakes


def sales_table(settings: Settings, columns: Sequence[str]) -> SalesTable:
    """The sales table as the settings name it, with those known covariates that stand in it (`columns`)."""
    data = settings.data
    known = tuple(name for name in data.known if name in columns or not settings.source.covariates_table)
    return SalesTable(
        settings.source.table, tuple(data.keys), data.timestamp, data.target, known, data.changed, data.timezone,
        tuple(sorted((name, how) for name, how in data.aggregates.items() if name in {data.target, *known})),
    )  # fmt: skip


def sales_of(settings: Settings, source: Source) -> SalesTable:
    """`sales_table`, asking the source for its columns, which is a look at every row, only where they matter."""
    asked = bool(settings.data.known and settings.source.covariates_table)
    return sales_table(settings, list(source.columns(settings.source.table)) if asked else [])


def with_pack_and_year(rows: pa.Table, settings: Settings) -> pa.Table:
    """`rows` with their `pack` and `year`, sorted so that one pack's rows lie together in a file."""
    import numpy as np
    import pyarrow.compute as pc

    ids = rows["series_id"].combine_chunks().dictionary_encode()
    names = ids.dictionary.to_pylist()
    keys = [SeriesKey.parse(name) for name in names]
    packs = [pack_of(key, settings.data.keys, settings.packs.by, settings.packs.buckets) for key in keys]
    places = sorted(range(len(names)), key=lambda at: (packs[at], names[at]))
    rank = np.empty(len(names), np.uint16 if len(names) < _SORTED_QUICKLY else np.int64)
    rank[places] = np.arange(len(names))
    ds = rows["ds"].to_numpy()
    order = np.argsort(ds, kind="stable") if (ds[1:] < ds[:-1]).any() else np.arange(len(ds))
    order = order[np.argsort(rank[ids.indices.to_numpy()][order], kind="stable")]
    series = pa.array(ids.indices.to_numpy()[order])
    rest = rows.drop_columns(["series_id"]).take(pa.array(order))
    sorted_rows = rest.add_column(rows.column_names.index("series_id"), "series_id", ids.dictionary.take(series))
    sorted_rows = sorted_rows.append_column("pack", pa.array(packs, pa.string()).take(series))
    return sorted_rows.append_column("year", pc.year(sorted_rows["ds"]).cast(pa.int32()))


@dataclass(slots=True)
class Ingest:
    """One run of raw_sales: copies spans of the source into the lake and counts what it saw."""

    settings: Settings
    source: Source
    lake: Lake
    sales: SalesTable
    kinds: Mapping[str, Kind]
    now: datetime
    until: datetime | None = None

    def whole(self, since: datetime, before: datetime) -> tuple[datetime, datetime]:
        """The span widened to whole periods of the data's frequency, from `data.start` on and not beyond `until`."""
        frequency = self.settings.data.frequency
        if is_coarse(frequency):
            since = period_of(since, frequency)[0]
            before = period_of(before - timedelta(microseconds=1), frequency)[1]
        since = max(since, datetime.combine(self.settings.data.start, datetime.min.time()))
        return since, before if self.until is None else max(since, min(before, self.until))

    def checked(self, raw: pa.Table) -> CheckedRows:
        """The rows sorted into usable and quarantined."""
        from many_models.data.row_checks import check_rows

        data = self.settings.data
        return check_rows(
            raw, self.sales, now=self.now, negatives=data.negatives, frequency=data.frequency, kinds=self.kinds
        )

    def read_span(self, since: datetime, before: datetime) -> pa.Table | None:
        """The source's rows with since ≤ ds < before; None when there are none."""
        parts = list(self.source.read(self.sales, since, before))
        return pa.concat_tables(parts, promote_options="permissive") if parts else None

    def copy_span(self, since: datetime, before: datetime, raw: pa.Table | None) -> pa.Table:
        """Put what `read_span` returned into the lake and return its usable rows (ds and series_id among others)."""
        checked = self.checked(raw) if raw is not None else None
        if before <= since:
            return self._no_rows()
        years = list(range(since.year, (before - timedelta(microseconds=1)).year + 1))
        rows = with_pack_and_year(checked.rows, self.settings) if checked else self._no_rows()
        where = Where(among={"year": years}, since=since, before=before)
        there = lake_tables.read_if_there(self.lake, lake_tables.RAW_SALES, where)
        self.lake.replace(lake_tables.RAW_SALES.name, rows, where, lake_tables.RAW_SALES.partition_by)
        self.quarantine("dated", checked, Where(since=since, before=before, column="period"))
        if checked:
            self._new_series(checked.series)
        versions = self._versions(rows, there, years)
        self.lake.replace(
            lake_tables.RAW_VERSIONS.name, versions, Where(among={"year": years}), lake_tables.RAW_VERSIONS.partition_by
        )
        return rows

    def _versions(self, rows: pa.Table, replaced: pa.Table | None, years: list[int]) -> pa.Table:
        """The versions of `years` after `rows` have replaced what was there; where nothing was (a new day), what is
        there already is not read again.
        """
        from many_models.data.content_versions import with_more, year_versions

        columns = rows.column_names if replaced is None else replaced.column_names
        if (replaced is not None and replaced.num_rows) or set(columns) != set(rows.column_names):
            return year_versions(self.lake.read(lake_tables.RAW_SALES.name, Where(among={"year": years})))
        new = year_versions(rows.select(columns))
        before = lake_tables.read_if_there(self.lake, lake_tables.RAW_VERSIONS, Where(among={"year": years}))
        return new if before is None or not before.num_rows else with_more(before, new)

    def quarantine(self, origin: str, checked: CheckedRows | None, where: Where) -> None:
        """Put the quarantined rows of one origin (dated, undated, future) in the place of those of an earlier run."""
        from many_models.data.row_checks import empty_quarantine

        bad = checked.quarantined if checked else empty_quarantine()
        bad = bad.append_column("origin", pa.array([origin] * bad.num_rows, pa.string()))
        bad = bad.append_column("period", bad["ds"])
        scope = Where(among={"origin": [origin]}, since=where.since, before=where.before, column=where.column)
        self.lake.replace(lake_tables.QUARANTINE.name, bad, scope, lake_tables.QUARANTINE.partition_by)

    def quarantine_the_rest(self) -> None:
        """Quarantine the rows that no period holds: without a date, or dated after the wall clock."""
        self.quarantine("undated", self.checked(self.source.read_undated(self.sales)), Where())
        opening = min(datetime.combine(self.settings.data.start, datetime.min.time()), EARLIEST_READ)
        for origin, since, before in (("future", self.now, FAR_FUTURE), ("early", FAR_PAST, opening)):
            found = list(self.source.read(self.sales, since, before))
            raw = pa.concat_tables(found, promote_options="permissive") if found else None
            checked = None if raw is None else self.checked(without_plan(raw, self.sales))
            self.quarantine(origin, checked if origin == "future" or checked is None else all_early(checked), Where())

    def _no_rows(self) -> pa.Table:
        kinds = {"number": pa.float64(), "text": pa.string()}
        known = [(name, kinds[self.kinds[name]]) for name in self.sales.known]
        fields = [("series_id", pa.string()), ("ds", pa.timestamp("us")), ("y", pa.float64()), *known]
        return pa.schema([*fields, ("pack", pa.string()), ("year", pa.int32())]).empty_table()

    def _new_series(self, series: pa.Table) -> None:
        import pyarrow.compute as pc

        there = lake_tables.read_if_there(self.lake, lake_tables.SERIES_KEYS)
        new = series
        if there is not None:
            new = series.filter(pc.invert(pc.is_in(series["series_id"], there["series_id"])))
        if new.num_rows:
            both = new if there is None else pa.concat_tables([there, new], promote_options="permissive")
            self.lake.replace(lake_tables.SERIES_KEYS.name, both.sort_by("series_id"), Where())


def without_plan(raw: pa.Table, sales: SalesTable) -> pa.Table:
    """`raw` without the rows of a plan: those that say a known covariate and have no target yet."""
    import pyarrow.compute as pc

    if not sales.known:
        return raw
    known = [pc.is_valid(raw[name]) for name in sales.known]
    planned = functools.reduce(pc.or_, known)
    return raw.filter(pc.invert(pc.and_(planned, pc.is_null(raw[sales.target], nan_is_null=True))))


def all_early(checked: CheckedRows) -> CheckedRows:
    """`checked`, its usable rows quarantined, too: they are before everything that is copied."""
    from dataclasses import replace

    rows = checked.rows
    count = rows.num_rows
    detail = "dated before data.start, and too long ago to be meant: correct the date, or set data.start earlier"
    early = rows.select(["series_id", "ds"])
    for name, value in (("row", '{"y": null}'), ("reason", "too_early"), ("detail", detail)):
        early = early.append_column(name, pa.array([value] * count, pa.string()))
    early = early.set_column(2, "row", pa.array([f'{{"y": {value}}}' for value in rows["y"].to_pylist()], pa.string()))
    return replace(checked, rows=rows.slice(0, 0), quarantined=pa.concat_tables([checked.quarantined, early]))


def time_partitions(settings: Settings) -> dg.TimeWindowPartitionsDefinition:
    """The partitions of raw_sales in time, up to and with the running period."""
    grain: Grain = settings.partitions.grain
    first = period_start(grain, datetime.combine(settings.data.start, datetime.min.time()))
    crons: dict[Grain, str] = {"hour": "0 * * * *", "day": "0 0 * * *", "week": "0 0 * * 1", "month": "0 0 1 * *"}
    return dg.TimeWindowPartitionsDefinition(
        start=first,
        fmt=KEY_FORMATS[grain],
        cron_schedule=crons[grain],
        timezone=settings.dagster.timezone,
        end_offset=end_offset(grain),
    )


def build_raw_sales(settings: Settings) -> dg.AssetsDefinition:
    """The asset raw_sales."""
    grain: Grain = settings.partitions.grain

    @dg.asset(
        partitions_def=time_partitions(settings),
        backfill_policy=backfill_policy("raw_sales"),
        output_required=False,
        group_name="data",
        kinds={"deltalake", "table"},
        owners=[settings.dagster.owner],
        pool="raw_sales",
        check_specs=[
            dg.AssetCheckSpec("quarantine", asset="raw_sales", description="Rows that could not be used, by reason."),
            dg.AssetCheckSpec("duplicates", asset="raw_sales", description="Rows that repeat a series and a time."),
            dg.AssetCheckSpec(
                "volume", asset="raw_sales", description="Rows of the newest period against those before."
            ),
            dg.AssetCheckSpec("freshness", asset="raw_sales", description="The newest sales against the clock."),
            dg.AssetCheckSpec("schema", asset="raw_sales", description="The source's columns, and what changed."),
        ],
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
            there = source_state.source_versions(settings, source, sales, min(starts))
            brought = to_bring(keys, there, by_hand=DUE_TAG not in context.run.tags)
            bring(context, settings, ingestion, brought)
            require_landed(settings, brought, source_state.source_versions(settings, source, sales, min(starts)))
        versions_of = source_state.versions_of_copy(settings, source, sales, starts)
        until = source_state.copied_until(settings, source, sales, starts)
        ingest = Ingest(settings, source, lake, sales, kinds, clock.now(settings), until)
        names_before = _series_there(lake)
        counts = Counter[str]()
        seen: list[DayCount] | None = []
        todo = [ingest.whole(*span) for span in spans(grain, starts)]
        for number, (since, before, raw) in enumerate(_read_ahead(ingest, todo), 1):
            told = source.days_of(sales, raw) if raw is not None else ()
            seen = None if told is None or seen is None else [*seen, *told]
            rows = ingest.copy_span(since, before, raw)
            counts.update(_rows_per_period(grain, rows))
            context.log.info(
                f"{number} of {len(todo)} spans: {since:%Y-%m-%d} to {before:%Y-%m-%d}, {rows.num_rows:,} rows"
            )
        wanted = versions_of(seen)
        ingest.quarantine_the_rest()
        if lake.version(lake_tables.SERIES_KEYS.name) is None:
            raise InputError(f"table {sales.table!r}: none of its rows can be used; {_reasons_text(lake)}")
        add_store_items(context, settings, lake)
        forget_before_start(lake, settings)
        if vanished := retire_vanished(lake):
            context.log.warning(f"{len(vanished)} series have no rows left, the first {vanished[0]}: they have ended")
        tags = {COPIED_TAG: copied_with(settings, sales.known)}
        if names_before and _series_there(lake) > names_before and _older_rows_differ(context, settings, source, keys):
            tags[LOOK_TAG] = "yes"  # a new store may come with its history, which is copied whole at the next look
        runs.record(context, [_period(context, key, wanted.get(key, ""), counts[key], tags) for key in keys])
        runs.settle_siblings(context, keys, ())
        yield from _checks(settings, lake, columns)

    return raw_sales


def _read_ahead(
    ingest: Ingest, todo: Sequence[tuple[datetime, datetime]]
) -> Iterator[tuple[datetime, datetime, pa.Table | None]]:
    """Each span with its rows; the next span is read while one is at work."""
    with ThreadPoolExecutor(1) as reader:
        ahead = deque((since, before, reader.submit(ingest.read_span, since, before)) for since, before in todo[:1])
        for following in (*todo[1:], None):
            since, before, reading = ahead.popleft()
            rows = reading.result()
            if following is not None:
                ahead.append((*following, reader.submit(ingest.read_span, *following)))
            yield since, before, rows


def _rows_per_period(grain: Grain, rows: pa.Table) -> dict[str, int]:
    import pyarrow.compute as pc

    days = pc.value_counts(rows["ds"]).to_pylist()
    result = Counter[str]()
    for day in days:
        result[period_key(grain, period_start(grain, day["values"]))] += day["counts"]
    return result


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
    context: dg.AssetExecutionContext, key: str, version: str, rows: int, more: Mapping[str, str]
) -> dg.AssetMaterialization:
    tags = {UPSTREAM_TAG: version, VERSION_TAG: version, **more}
    return dg.AssetMaterialization(context.asset_key, partition=key, metadata={"dagster/row_count": rows}, tags=tags)


def add_store_items(context: dg.AssetExecutionContext, settings: Settings, lake: Lake) -> None:
    """Make a dynamic partition of every series of the lake (or its `partitions.by`) that is none yet."""
    series = lake.read(lake_tables.SERIES_KEYS.name, columns=["series_id"])["series_id"].to_pylist()
    there = set(context.instance.get_dynamic_partitions("store_items"))
    if new := [name for name in partitions.partitions_of(settings, series) if name not in there]:
        context.instance.add_dynamic_partitions("store_items", new)
        context.log.info(f"{len(new)} new store-items, {len(there) + len(new)} in all")


def _checks(settings: Settings, lake: Lake, columns: Mapping[str, str]) -> Iterator[dg.AssetCheckResult]:
    bad = lake.read(lake_tables.QUARANTINE.name)
    reasons = lake_tables.counts(bad, "reason")
    rows = [{"reason": name, "rows": count} for name, count in sorted(reasons.items(), key=lambda item: -item[1])]
    warn = dg.AssetCheckSeverity.WARN
    sample = [{k: str(v) for k, v in row.items() if k != "period"} for row in bad.slice(0, 20).to_pylist()]
    yield dg.AssetCheckResult(
        passed=not rows, check_name="quarantine", severity=warn,
        metadata={"rows": bad.num_rows, "by_reason": table(rows), "some_of_them": table(sample)},
    )  # fmt: skip
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
        passed=0 <= late <= max(2, 2 * clock.step_days(settings)), check_name="freshness", severity=warn,
        metadata={"as_of": str(as_of), "days_behind": late},
    )  # fmt: skip
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
    rows = lake.read(lake_tables.RAW_SALES.name, Where(among={"year": [as_of.year - 1, as_of.year]}), columns=["ds"])
    counts = sorted((row["values"], row["counts"]) for row in pc.value_counts(rows["ds"]).to_pylist())
    return [count for _, count in counts[-days:]]


def read_covariates(settings: Settings, source: Source, lake: Lake) -> pa.Table:
    """What the covariates table says, from as far back as the sales table says nothing of it."""
    import pyarrow.compute as pc

    from many_models.data import covariates

    table_name, data = settings.source.covariates_table, settings.data
    as_of = lake_tables.lake_as_of(lake)
    if not table_name:
        return _planned(settings, source, as_of)
    if not data.known:
        return NO_COVARIATES.empty_table()
    there = source.columns(table_name)
    columns = [name for name in [*data.keys, data.timestamp, *data.known] if name in there]
    rows = covariates.from_source(
        source.read_table(table_name, columns), data.keys, data.timestamp, data.known,
        timezone=data.timezone, frequency=data.frequency,
    )  # fmt: skip
    in_sales = set(source.columns(settings.source.table))
    if as_of is not None and in_sales.issuperset(data.known):
        rows = rows.filter(pc.greater(rows["ds"], pa.scalar(as_of, pa.timestamp("us"))))
    return rows


def _planned(settings: Settings, source: Source, as_of: datetime | None) -> pa.Table:
    """What the sales table itself says of the time after `as_of`: rows of a plan, whose target is still empty."""
    import pyarrow.compute as pc

    from many_models.data import covariates

    data = settings.data
    if not data.known or as_of is None:
        return NO_COVARIATES.empty_table()
    sales = sales_of(settings, source)
    found = list(source.read(sales, as_of + lake_tables.AFTER, FAR_FUTURE))
    if not found:
        return NO_COVARIATES.empty_table()
    raw = pa.concat_tables(found, promote_options="permissive").select([*data.keys, data.timestamp, *data.known])
    rows = covariates.from_source(raw, data.keys, data.timestamp, data.known, frequency=data.frequency)
    return rows.filter(pc.greater(rows["ds"], pa.scalar(as_of, pa.timestamp("us"))))


def read_attributes(settings: Settings, source: Source) -> pa.Table | None:
    """What the attributes table says of the columns that are asked for; None where none are."""
    from many_models.data import covariates

    table_name, data = settings.source.attributes_table, settings.data
    if not data.attributes:
        return None
    there = source.columns(table_name)
    raw = source.read_table(table_name, [name for name in [*data.keys, *data.attributes] if name in there])
    return covariates.attributes_from_source(raw, data.keys, data.attributes)


def read_known(settings: Settings, source: Source, lake: Lake) -> tuple[pa.Table, pa.Table | None, dict[str, str]]:
    """Covariates, attributes, and what stands for their content (see `covariates.versions`).

    The content is written down after what it stands for: who reads in between redoes work, and never takes the old rows
    for the new.
    """
    from many_models.data.covariates import versions

    rows, attributes = read_covariates(settings, source, lake), read_attributes(settings, source)
    return rows, attributes, versions(rows, attributes, lake_tables.lake_as_of(lake))


def build_raw_covariates(settings: Settings) -> dg.AssetsDefinition:
    """The asset raw_covariates."""

    @dg.asset(
        group_name="data",
        kinds={"deltalake", "table"},
        owners=[settings.dagster.owner],
        pool="raw_covariates",
        description=(
            "What is known of the future: prices, promotions, closures, from the covariates table. Where the future is "
            "missing, the last value is repeated, which `known_repeated` records on the predictions, or with "
            "`data.missing_future` the series fails. And attributes of series, from their own table."
        ),
    )
    def raw_covariates(
        context: dg.AssetExecutionContext, source: dg.ResourceParam[Source], lake: dg.ResourceParam[Lake]
    ) -> dg.MaterializeResult[None]:
        import pyarrow.compute as pc

        refuse_shared_run(context)
        dead_runs.claim_run(context)
        rows, attributes, content = read_known(settings, source, lake)
        lake.replace(lake_tables.RAW_COVARIATES.name, rows, Where())
        if attributes is not None:
            lake.replace(lake_tables.RAW_ATTRIBUTES.name, attributes, Where())
        lake.replace(
            lake_tables.COVARIATE_VERSIONS.name, pa.Table.from_pylist([content]), Where()
        )  # last: see read_known
        version = Upstream(settings).covariates(lake_tables.lake_as_of(lake), content)
        metadata: Metadata = {"dagster/row_count": rows.num_rows, "until": str(pc.max(rows["ds"]))}
        if not settings.source.covariates_table:
            metadata["note"] = "no source.covariates_table in the settings: the last known values are repeated"
        return dg.MaterializeResult(value=None, metadata=metadata, tags={UPSTREAM_TAG: version, VERSION_TAG: version})

    return raw_covariates
