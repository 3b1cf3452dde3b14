"""The lake's tables: their names, how they are partitioned, and rows put in place of the same series' rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from many_models import table_columns
from many_models.errors import DamagedTableError, SeriesFailure
from many_models.ports import Filter

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from datetime import datetime

    import pyarrow as pa

    from many_models.ports import Lake, Scalar


@dataclass(frozen=True, slots=True)
class LakeTable:
    """A table of the lake: `partition_by` is also how its rows are replaced.

    `columns` (name → kind, see `table_columns`) are those that every project has; `more` says which others there are.
    """

    name: str
    partition_by: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict[str, str], compare=False)
    why: str = field(default="", compare=False)
    more: str = field(default="", compare=False)

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of `columns`."""
        return table_columns.schema_of(self.columns)


AFTER = timedelta(microseconds=1)  # from one moment of the lake to the next

RAW_SALES = LakeTable(
    "raw_sales",
    ("year",),
    table_columns.RAW_SALES,
    "The rows of the source, checked, by series and time.",
    more="known covariates (`data.known`)",
)
RAW_VERSIONS = LakeTable(
    "raw_versions",
    ("year",),
    table_columns.RAW_VERSIONS,
    "What the lake holds of the source's rows: their number, span and hash by series and year.",
)
QUARANTINE = LakeTable(
    "quarantine",
    ("origin",),
    table_columns.QUARANTINE,
    "Rows of the source that were refused, and why.",
)
SOURCE_COLUMNS = LakeTable(
    "source_columns",
    (),
    table_columns.SOURCE_COLUMNS,
    "The source's columns and types as they were last seen.",
)
SERIES_KEYS = LakeTable(
    "series_keys",
    (),
    table_columns.SERIES_KEYS,
    "The parts of each series' name.",
    more="the key columns (`data.keys`)",
)
RAW_COVARIATES = LakeTable(
    "raw_covariates",
    (),
    table_columns.RAW_COVARIATES,
    "Known covariates of time, or of time and keys.",
    more="key columns and known covariates",
)
RAW_ATTRIBUTES = LakeTable(
    "raw_attributes",
    (),
    table_columns.RAW_ATTRIBUTES,
    "Attributes of series.",
    more="key columns and attributes (`data.attributes`)",
)
RAW_OPENINGS = LakeTable(
    "raw_openings",
    (),
    table_columns.RAW_OPENINGS,
    "From when to when series are open, by any part of their key.",
    more="some key columns, `opens` (date), `closes` (date)",
)
COVARIATE_VERSIONS = LakeTable(
    "covariate_versions",
    (),
    table_columns.COVARIATE_VERSIONS,
    "Hashes of the covariates that training and scoring used last.",
)
DATASETS = LakeTable(
    "store_item_datasets",
    ("pack",),
    table_columns.DATASETS,
    "The history that models learn from: a row for each series and period, gaps and outliers marked.",
    more="known covariates",
)
POOLED = LakeTable(
    "pooled_models",
    (),
    table_columns.POOLED,
    "Models that all series share, as files.",
)
NO_POOLED = "nothing"  # the version of pooled models where there was nothing to learn from
SERIES = LakeTable(
    "series",
    ("pack",),
    table_columns.SERIES,
    "What is known of each series: its span, whether it is active, and its usual values.",
)
RECIPES = LakeTable(
    "recipes",
    (),
    table_columns.RECIPES,
    "The settings (`spec`, JSON) of each recipe.",
)
TRAINED = LakeTable(
    "trained_models",
    ("pack",),
    table_columns.TRAINED,
    "The newest trained model of each series and its scores in the backtest.",
)
SCORES = LakeTable(
    "candidate_scores",
    ("pack",),
    table_columns.SCORES,
    "The score of each candidate in each window of the backtest.",
)
CHAMPIONS = LakeTable(
    "champions",
    (),
    table_columns.CHAMPIONS,
    "The live release: which model serves each series.",
)
DECISIONS = LakeTable(
    "decisions",
    ("cutoff_date",),
    table_columns.DECISIONS,
    "Each decision of promotion: rule, reason and both scores.",
)
RELEASE_LOG = LakeTable(
    "release_log",
    (),
    table_columns.RELEASE_LOG,
    "What happened to each release: published, proposed, approved, rejected, rolled back.",
)
PREDICTIONS = LakeTable(
    "predictions",
    ("cutoff_date",),
    table_columns.PREDICTIONS,
    "Forecasts with intervals, by cutoff.",
    more="`loNN` and `hiNN` (number) for each level of `forecast.levels`; `drift_answer` (text) with `drift.answer`",
)
DRIVERS = LakeTable(
    "forecast_drivers",
    ("cutoff_date",),
    table_columns.DRIVERS,
    "What the first periods of each forecast are made of (`warehouse.drivers`).",
)
FINDINGS = LakeTable(
    "findings",
    ("stage",),
    table_columns.FINDINGS,
    "What a stage tells people about the data.",
)
BACKTEST_PATHS = LakeTable(
    "backtest_paths",
    ("pack",),
    table_columns.BACKTEST_PATHS,
    "Actuals and forecasts of the backtest, by window; kept where decisions need them.",
    more="`estimated` (numbers), the demand behind sales that stock cut short, where stock is told",
)
STOCK = LakeTable(
    "stock_recommendations",
    ("cutoff_date",),
    table_columns.STOCK,
    "How much to order and when, for each series.",
    more="`demand_qNN` (number) for each quantile",
)
COHERENT = LakeTable(
    "coherent_predictions",
    ("cutoff_date",),
    table_columns.COHERENT,
    "Forecasts that add up over the levels of a hierarchy.",
    more="`loNN` and `hiNN` (number)",
)
FINAL = LakeTable(
    "final_predictions",
    ("cutoff_date",),
    table_columns.FINAL,
    "Forecasts after what people changed.",
    more="intervals, and what people's changes bring",
)
VALUE_ADDED = LakeTable(
    "forecast_value_added",
    ("cutoff_date",),
    table_columns.VALUE_ADDED,
    "Whether people's changes improved the forecasts.",
)
DRIFT = LakeTable(
    "drift",
    ("cutoff_date",),
    table_columns.DRIFT,
    "Series whose newest errors no longer look like those before.",
)
DECISION_PROBLEMS = LakeTable(
    "decision_problems",
    ("cutoff_date", "origin"),
    table_columns.DECISION_PROBLEMS,
    "What people wrote for decisions that could not be used, and why.",
)
DECISION_INPUTS = LakeTable(
    "decision_inputs",
    ("stage",),
    table_columns.DECISION_INPUTS,
    "What stands for the tables of people that each stage of decisions has read last.",
)
COSTS = LakeTable(
    "night_costs",
    ("cutoff_date",),
    table_columns.COSTS,
    "What each night cost, by stage, per model, and per improvement that was promoted.",
)
SERIES_STATUS = LakeTable(
    "series_status",
    ("stage",),
    table_columns.SERIES_STATUS,
    "Current failures of series, by stage, and which series are paused.",
)


@dataclass(frozen=True, slots=True)
class _CachedLake:
    """Fetches each table's version, and the rows asked for, once."""

    lake: Lake
    seen: dict[tuple[object, ...], Any] = field(default_factory=dict[tuple[object, ...], Any])

    def version(self, table: str) -> int | None:
        """See `Lake.version`."""
        return self._once(("version", table), lambda: self.lake.version(table))

    def read(self, table: str, where: Filter | None = None, columns: Sequence[str] = ()) -> pa.Table:
        """See `Lake.read`."""
        asked = ("rows", table, repr(where), tuple(columns))
        return self._once(asked, lambda: self.lake.read(table, where, columns))

    def _once(self, asked: tuple[object, ...], fetch: Callable[[], Any]) -> Any:
        if asked not in self.seen:
            self.seen[asked] = fetch()
        return self.seen[asked]


def cached(lake: Lake) -> Lake:
    """`lake`, for reading only, each of its tables as it was when it was first looked at."""
    return cast("Lake", _CachedLake(lake))


def read_if_there(
    lake: Lake, table: LakeTable, where: Filter | None = None, columns: Sequence[str] = ()
) -> pa.Table | None:
    """The rows, or None where the table has not been made yet (a read that fails raises, as always)."""
    return lake.read(table.name, where, columns) if lake.version(table.name) is not None else None


def records(
    lake: Lake, table: LakeTable, where: Filter | None = None, columns: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """The rows as dicts, none where the table has not been made yet: for tables of a row per series."""
    rows = read_if_there(lake, table, where, columns)
    if rows is None:
        return []
    values = [_values(column) for column in rows.columns]
    return [dict(zip(rows.column_names, row, strict=True)) for row in zip(*values, strict=True)]


def _values(column: pa.ChunkedArray) -> list[Any]:
    """The values of a column as Python's; rows with equal text share it, for a recipe of a kilobyte is that of most."""
    import pyarrow as pa

    if not pa.types.is_string(column.type):
        return column.to_pylist()
    encoded = pa.concat_arrays(column.chunks or [pa.array([], column.type)]).dictionary_encode()
    texts = encoded.dictionary.to_pylist()
    return [None if place is None else texts[place] for place in encoded.indices.to_pylist()]


def records_by_pack(
    lake: Lake, table: LakeTable, packs: Collection[str], columns: Sequence[str] = ()
) -> tuple[list[dict[str, Any]], dict[str, DamagedTableError]]:
    """The rows of `packs` as dicts, and the packs that have a damaged file with what the lake says of it."""
    try:
        return records(lake, table, Filter(among={"pack": list(packs)}), columns), {}
    except DamagedTableError:
        pass
    found, damaged = list[dict[str, Any]](), dict[str, DamagedTableError]()
    for pack in packs:
        try:
            found += records(lake, table, Filter(among={"pack": [pack]}), columns)
        except DamagedTableError as error:
            damaged[pack] = error
    return found, damaged


def upsert(
    lake: Lake,
    table: LakeTable,
    rows: pa.Table,
    series: Collection[str],
    within: Mapping[str, Sequence[Scalar]],
    since: Mapping[str, datetime] | None = None,
) -> None:
    """Put `rows` in place of the rows of `series` in some partitions of `table` (`within`), in one commit.

    Of a series that `since` has, only the rows after that time are replaced. The partitions' other rows stay. One
    writer at a time, which the assets' pools see to.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    since = since or {}
    begin = min(since[name] for name in series) + AFTER if series and set(series) <= set(since) else None
    where = Filter(among=within, since=begin)
    looked_at = ["series_id", where.column] if since else ["series_id"]
    there = read_if_there(lake, table, where, looked_at)
    if there is not None and not pc.all(_replaced(there, series, since, where.column)).as_py():
        before = lake.read(table.name, where)
        others = before.filter(pc.invert(_replaced(before, series, since, where.column)))
        rows = pa.concat_tables([others, rows], promote_options="permissive")
    lake.replace(table.name, rows, where, table.partition_by)


def _replaced(rows: pa.Table, series: Collection[str], since: Mapping[str, datetime], column: str) -> pa.ChunkedArray:
    """A mask of the rows to replace: those of `series`; for a series in `since`, only those after that time."""
    import pyarrow as pa
    import pyarrow.compute as pc

    names = pa.array(list(series), pa.string())
    own = pc.is_in(rows["series_id"], names)
    if not since:
        return own
    first = pa.array([since.get(name) for name in names.to_pylist()], pa.timestamp("us"))
    later = pc.greater(rows[column], first.take(pc.index_in(rows["series_id"], names)))
    return pc.and_kleene(own, pc.fill_null(later, fill_value=True))


@dataclass(frozen=True, slots=True)
class _Gathered:
    """All rows of some series of one pack; of those that `since` has, all after that time."""

    pack: str
    rows: pa.Table
    series: Collection[str]
    since: Mapping[str, datetime]

    @property
    def extends(self) -> bool:
        """Whether nothing of the pack that is older has to be written again."""
        return set(self.series) <= set(self.since)


@dataclass(slots=True)
class BufferedWriter:
    """Rows of one pack after the other, put into `table` (see `upsert`) with one commit for many packs."""

    lake: Lake
    table: LakeTable
    parts: list[_Gathered] = field(default_factory=list[_Gathered])

    @property
    def rows(self) -> int:
        """How many are held."""
        return sum(part.rows.num_rows for part in self.parts)

    def add(
        self, pack: str, rows: pa.Table, series: Collection[str], since: Mapping[str, datetime] | None = None
    ) -> None:
        """Hold all rows of `series`, which are of one pack; of those that `since` has, all after that time."""
        self.parts.append(_Gathered(pack, rows, series, since or {}))

    def write(self) -> list[SeriesFailure]:
        """Write what is held, and hold nothing; packs that are only extended have their own commit.

        Returns the series of the packs that were not written, since the lake has a damaged file of theirs.
        """
        failures = list[SeriesFailure]()
        for extends in (False, True):
            if parts := [part for part in self.parts if part.extends == extends]:
                failures += self._commit(parts)
        self.parts = []
        return failures

    def _commit(self, parts: Sequence[_Gathered]) -> list[SeriesFailure]:
        import pyarrow as pa

        rows = pa.concat_tables([part.rows for part in parts], promote_options="permissive")
        series = {name for part in parts for name in part.series}
        since = {name: time for part in parts for name, time in part.since.items()}
        try:
            upsert(self.lake, self.table, rows, series, {"pack": [part.pack for part in parts]}, since)
        except DamagedTableError as error:
            if len(parts) == 1:
                return [SeriesFailure.of(name, error) for name in sorted(series)]
            return [failure for part in parts for failure in self._commit([part])]
        return []


def forget_histories(lake: Lake, packs: Collection[str] | None = None, series: Collection[str] | None = None) -> None:
    """Let no run go on from the datasets that the lake holds of `series` in `packs`, or of all: the table of series
    loses their digests.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    where = Filter() if packs is None else Filter(among={"pack": list(packs)})
    there = read_if_there(lake, SERIES, where)
    if there is None:
        return
    known = there.filter(pc.not_equal(there["digest"], ""))
    if series is not None:
        known = known.filter(pc.is_in(known["series_id"], pa.array(sorted(series), pa.string())))
    if known.num_rows:
        blank = pa.array([""] * known.num_rows, pa.string())
        known = known.set_column(known.column_names.index("digest"), "digest", blank)
        within = {"pack": sorted(set(known["pack"].to_pylist()))}
        upsert(lake, SERIES, known, known["series_id"].to_pylist(), within)


def counts(rows: pa.Table, column: str) -> dict[str, int]:
    """Value of a text column → the number of rows that have it, in order of appearance."""
    import pyarrow.compute as pc

    return {row["values"]: row["counts"] for row in pc.value_counts(rows[column]).to_pylist()}


def lake_as_of(lake: Lake) -> datetime | None:
    """The newest ds of raw_sales in the lake, or None before the first run."""
    import pyarrow.compute as pc

    versions = read_if_there(lake, RAW_VERSIONS, columns=["last"])
    return None if versions is None or not versions.num_rows else pc.max(versions["last"]).as_py()


def tell(lake: Lake, stage: str, sentences: Sequence[str]) -> None:
    """Put `sentences` in place of what `stage` told before, in the table FINDINGS (stage, text)."""
    import pyarrow as pa

    told = [row["text"] for row in records(lake, FINDINGS, Filter(among={"stage": [stage]}))]
    if told != list(sentences):
        rows = pa.table(
            {"stage": pa.array([stage] * len(sentences), pa.string()), "text": pa.array(list(sentences), pa.string())}
        )
        lake.replace(FINDINGS.name, rows, Filter(among={"stage": [stage]}), FINDINGS.partition_by)
