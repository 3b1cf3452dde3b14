"""raw_covariates: what is known of the future, and attributes of series, copied into the lake."""

from dataclasses import dataclass, field
from datetime import datetime

import dagster as dg
import pyarrow as pa

from many_models.data import findings, lake_tables
from many_models.data.ingest import FAR_FUTURE, sales_of
from many_models.errors import DamagedTableError, InputError
from many_models.keys import SeriesKey, digest
from many_models.orchestration import lake_marks
from many_models.orchestration.event_log import dead_runs
from many_models.orchestration.stage_asset import stage_asset
from many_models.orchestration.stage_run import UPSTREAM_TAG, VERSION_TAG, Metadata, board_link, refuse_shared_run
from many_models.orchestration.upstream import Upstream
from many_models.ports import Filter, Lake, Source
from many_models.settings import Settings

NO_COVARIATES = lake_tables.RAW_COVARIATES.schema


def read_covariates(settings: Settings, source: Source, lake: Lake, told: list[str] | None = None) -> pa.Table:
    """What the covariates table says, from as far back as the sales table says nothing of it. Contradictions are added
    to `told`.
    """
    import pyarrow.compute as pc

    from many_models.data import covariates

    table_name, data = settings.source.covariates_table, settings.data
    as_of = lake_tables.lake_as_of(lake)
    if not table_name:
        return _planned(settings, source, as_of, told)
    if not data.known:
        return NO_COVARIATES.empty_table()
    there = source.columns(table_name)
    columns = [name for name in [*data.keys, data.timestamp, *data.known] if name in there]
    rows = covariates.from_source(
        source.read_table(table_name, columns),
        data.keys,
        data.timestamp,
        data.known,
        timezone=data.timezone,
        frequency=data.frequency,
        told=told,
    )
    in_sales = set(source.columns(settings.source.table))
    if as_of is not None and in_sales.issuperset(data.known):
        rows = rows.filter(pc.greater(rows["ds"], pa.scalar(as_of, pa.timestamp("us"))))
    return rows


def _planned(settings: Settings, source: Source, as_of: datetime | None, told: list[str] | None) -> pa.Table:
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
    rows = covariates.from_source(raw, data.keys, data.timestamp, data.known, frequency=data.frequency, told=told)
    return rows.filter(pc.greater(rows["ds"], pa.scalar(as_of, pa.timestamp("us"))))


def findings_of(settings: Settings, source: Source, lake: Lake, rows: pa.Table) -> list[str]:
    """What the rows of the future among `rows` say that no forecast can use."""
    import pyarrow.compute as pc

    as_of, data = lake_tables.lake_as_of(lake), settings.data
    if as_of is None or not rows.num_rows:
        return []
    ahead = rows.filter(pc.greater(rows["ds"], pa.scalar(as_of, pa.timestamp("us"))))
    texts = [name for name in data.known if name in ahead.column_names and pa.types.is_string(ahead[name].type)]
    series = lake.read(lake_tables.SERIES_KEYS.name, columns=["series_id"])["series_id"].to_pylist()
    levels = {name: set[str]() for name in texts}
    past = [rows.filter(pc.less_equal(rows["ds"], pa.scalar(as_of, pa.timestamp("us"))))] if texts else []
    if in_sales := [name for name in texts if name in sales_of(settings, source).known]:
        past.append(lake.read(lake_tables.RAW_SALES.name, columns=in_sales))
    for name in texts:
        for table in past:
            if name in table.column_names:
                levels[name] |= {str(value) for value in pc.unique(table[name]).to_pylist() if value is not None}
    return findings.of_plan(ahead, data.keys, [SeriesKey.parse(name).parts for name in series], levels)


def read_attributes(settings: Settings, source: Source, told: list[str] | None = None) -> pa.Table | None:
    """What the attributes table says of the columns that are asked for; None where none are. Contradictions are added
    to `told`.
    """
    from many_models.data import covariates

    table_name, data = settings.source.attributes_table, settings.data
    if not data.attributes:
        return None
    there = source.columns(table_name)
    raw = source.read_table(table_name, [name for name in [*data.keys, *data.attributes] if name in there])
    contradictions = list[tuple[str, str]]()
    rows = covariates.attributes_from_source(raw, data.keys, data.attributes, contradictions)
    if told is not None and contradictions:
        where, why = contradictions[0]
        told.append(f"{len(contradictions):,} attributes have several values, for example of {where}: {why}")
    return rows


def read_openings(settings: Settings, source: Source, told: list[str] | None = None) -> pa.Table | None:
    """When series are open, as the source lists it; None without such a table. What is unusable is added to `told`."""
    from many_models.data import openings

    table_name, keys = settings.source.openings_table, settings.data.keys
    if not table_name:
        return None
    there = source.columns(table_name)
    wanted = [name for name in [*keys, openings.OPENS, openings.CLOSES] if name in there]
    return openings.from_source(source.read_table(table_name, wanted), keys, told)


@dataclass(frozen=True)
class Known:
    """The tables beside the sales: covariates, attributes and openings (None where the settings name none), what stands
    for their content (see `covariates.versions`), and what to tell of them.
    """

    covariates: pa.Table
    attributes: pa.Table | None
    openings: pa.Table | None
    versions: dict[str, str]
    told: list[str] = field(default_factory=list[str])

    def write(self, lake: Lake) -> None:
        """Put them into the lake. The digest is written down after the content: who reads in between redoes
        work, and never takes the old rows for the new.
        """
        lake.replace(lake_tables.RAW_COVARIATES.name, self.covariates, Filter())
        if self.attributes is not None:
            lake.replace(lake_tables.RAW_ATTRIBUTES.name, self.attributes, Filter())
        there = _readable(lake, lake_tables.RAW_OPENINGS)
        if self.openings is not None:
            lake.replace(lake_tables.RAW_OPENINGS.name, self.openings, Filter())
        elif there is not None and there.num_rows:  # the settings name none any more
            lake.replace(lake_tables.RAW_OPENINGS.name, there.slice(0, 0), Filter())
        lake.replace(lake_tables.COVARIATE_VERSIONS.name, pa.Table.from_pylist([self.versions]), Filter())


def read_known(settings: Settings, source: Source, lake: Lake) -> Known:
    """What the source says beside the sales."""
    from many_models.data.covariates import content_of, versions

    told = list[str]()
    rows, attributes = read_covariates(settings, source, lake, told), read_attributes(settings, source, told)
    listed = read_openings(settings, source, told)
    content = versions(rows, attributes, lake_tables.lake_as_of(lake))
    if listed is not None:
        content["openings"] = content_of(listed)
    return Known(rows, attributes, listed, content, told)


def openings_findings(settings: Settings, lake: Lake, listed: pa.Table | None) -> list[str]:
    """Names of the list of openings that no series has, and sales while it says closed."""
    from many_models.data import openings
    from many_models.data.content_versions import series_versions

    years = lake_tables.read_if_there(lake, lake_tables.RAW_VERSIONS)
    if listed is None or years is None:
        return []
    keys, frequency = settings.data.keys, settings.data.frequency
    sales = {name: (first, last) for name, (_, _, first, last) in series_versions(years).items()}
    when = openings.Openings.of(listed, keys, frequency)
    unknown = findings.of_strangers(listed, keys, sales, "the list of openings")
    return unknown + openings.sold_while_closed(when, sales, frequency)


def attributes_findings(settings: Settings, lake: Lake, rows: pa.Table | None) -> list[str]:
    """Names of the attributes table that no series has."""
    import pyarrow.compute as pc

    series = lake_tables.read_if_there(lake, lake_tables.SERIES_KEYS, columns=["series_id"])
    if rows is None or series is None:
        return []
    keys = [name for name in settings.data.keys if name in rows.column_names]
    named = rows.select(keys).group_by(keys).aggregate([])
    for at, name in enumerate(keys):  # an empty name is one of its own here, and does not stand for all
        named = named.set_column(at, name, pc.fill_null(named[name], ""))
    return findings.of_strangers(named, settings.data.keys, series["series_id"].to_pylist(), "the attributes table")


def refuse_loss(
    settings: Settings, lake: Lake, rows: pa.Table, attributes: pa.Table | None, openings: pa.Table | None = None
) -> None:
    """Raise InputError where a copy would take away more than `data.max_loss` of what is known of the time ahead, of
    the attributes, or of the list of openings.
    """
    from many_models.data.losses import lost_attributes, lost_plan

    most, source, as_of = settings.data.max_loss, settings.source, lake_tables.lake_as_of(lake)
    ahead = Filter(since=None if as_of is None else as_of + lake_tables.AFTER)
    if settings.data.known and (
        lost := lost_plan(_readable(lake, lake_tables.RAW_COVARIATES, ahead), rows, as_of, most)
    ):
        raise InputError(f"table {source.covariates_table or source.table!r}: {lost}")
    if attributes is not None and (
        lost := lost_attributes(_readable(lake, lake_tables.RAW_ATTRIBUTES), attributes, most)
    ):
        raise InputError(f"table {source.attributes_table!r}: {lost}")
    if openings is not None and (lost := lost_attributes(_readable(lake, lake_tables.RAW_OPENINGS), openings, most)):
        raise InputError(f"table {source.openings_table!r}: {lost}")


def _readable(lake: Lake, table: lake_tables.LakeTable, where: Filter | None = None) -> pa.Table | None:
    """What the lake holds; None also where it is damaged: then the copy takes its place."""
    try:
        return lake_tables.read_if_there(lake, table, where)
    except DamagedTableError:
        return None


def build_raw_covariates(settings: Settings) -> dg.AssetsDefinition:
    """The asset raw_covariates."""

    @stage_asset(
        settings,
        group="data",
        kinds={"deltalake", "table"},
        code_version=digest(
            settings.source.covariates_table,
            settings.source.attributes_table,
            *filter(None, [settings.source.openings_table]),
        ),
        description=(
            "What is known of the future: prices, promotions, closures, from the covariates table. Where the future is "
            "missing, it is taken as usual, which `known_repeated` records on the predictions, or with "
            "`data.missing_future` the series fails. And attributes of series, and when they are open, from their own "
            "tables."
        ),
    )
    def raw_covariates(
        context: dg.AssetExecutionContext, source: dg.ResourceParam[Source], lake: dg.ResourceParam[Lake]
    ) -> dg.MaterializeResult[None]:
        import pyarrow.compute as pc

        refuse_shared_run(context)
        dead_runs.claim_run(context)
        lake_marks.require(context.instance, lake)
        known = read_known(settings, source, lake)
        rows, told = known.covariates, known.told
        refuse_loss(settings, lake, rows, known.attributes, known.openings)
        told += findings_of(settings, source, lake, rows) + openings_findings(settings, lake, known.openings)
        told += attributes_findings(settings, lake, known.attributes)
        known.write(lake)
        lake_tables.tell(lake, "raw_covariates", told)
        lake_marks.record_marks(context.instance, lake)
        version = Upstream(settings).covariates(lake_tables.lake_as_of(lake), known.versions)
        metadata: Metadata = {
            "dagster/row_count": rows.num_rows,
            "until": str(pc.max(rows["ds"])),
            **board_link(settings, "/"),
        }
        if told:
            metadata["told"] = "; ".join(told)
            context.log.warning("; ".join(told))
        if not settings.source.covariates_table:
            metadata["note"] = "no source.covariates_table in the settings: the future is taken as usual"
        tags = {UPSTREAM_TAG: version, VERSION_TAG: version}
        return dg.MaterializeResult(value=None, metadata=metadata, tags=tags, data_version=dg.DataVersion(version))

    return raw_covariates
