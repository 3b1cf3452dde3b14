"""Copying the source into the lake: spans of rows, checked, versioned and quarantined."""

from __future__ import annotations

import functools
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import pyarrow as pa

from many_models.data import lake_tables
from many_models.data.aggregation import is_coarse, period_of
from many_models.data.losses import TOLD, is_refused
from many_models.data.periods import period_key, period_start
from many_models.errors import InputError
from many_models.keys import SeriesKey, pack_of
from many_models.ports import Filter, Lake, SalesTable, Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from many_models.data.periods import Grain
    from many_models.data.row_checks import CheckedRows, Kind
    from many_models.ports import DayCount
    from many_models.settings import Settings

_SORTED_QUICKLY = 2**16  # numbers of 16 bits are sorted by counting
FAR_FUTURE = datetime(9999, 12, 31, 23, 59, 59, 999999)
FAR_PAST = datetime(2, 1, 1)
PART_ROWS = 4_000_000  # about as many rows of a first copy are checked, sorted and written at a time
EARLIEST_READ = datetime(1990, 1, 1)  # rows before it, or before data.start where that is earlier, are mistakes


def sales_table(settings: Settings, columns: Sequence[str]) -> SalesTable:
    """The sales table as the settings name it, with those known covariates that are in it (`columns`), and the column
    that says what stock there was.
    """
    data = settings.data
    known = tuple(name for name in data.known if name in columns or not settings.source.covariates_table)
    known += tuple(name for name in data.stock if name not in known)
    return SalesTable(
        settings.source.table,
        tuple(data.keys),
        data.timestamp,
        data.target,
        known,
        data.changed,
        data.timezone,
        tuple(sorted((name, how) for name, how in data.aggregates.items() if name in {data.target, *known})),
    )


def first_copied(settings: Settings) -> datetime:
    """Where the copy begins: at `data.start`, or at the first moment of the period that it is in where that is more
    than a day, since rows of a part of it are labelled by the whole.
    """
    start = datetime.combine(settings.data.start, datetime.min.time())
    return period_of(start, settings.data.frequency)[0] if is_coarse(settings.data.frequency) else start


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
    escaped: bool = False
    """Whether new series get names as earlier versions wrote them (`keys.names_are_escaped`)."""

    def whole(self, since: datetime, before: datetime) -> tuple[datetime, datetime]:
        """The span widened to whole periods of the data's frequency, from `first_copied` on and not beyond `until`."""
        frequency = self.settings.data.frequency
        if is_coarse(frequency):
            since = period_of(since, frequency)[0]
            before = period_of(before - timedelta(microseconds=1), frequency)[1]
        since = max(since, first_copied(self.settings))
        return since, before if self.until is None else max(since, min(before, self.until))

    def checked(self, raw: pa.Table) -> CheckedRows:
        """The rows sorted into usable and quarantined."""
        from many_models.data.row_checks import check_rows

        data = self.settings.data
        return check_rows(
            raw,
            self.sales,
            now=self.now,
            negatives=data.negatives,
            frequency=data.frequency,
            kinds=self.kinds,
            escaped=self.escaped,
        )

    def read_span(self, since: datetime, before: datetime) -> pa.Table | None:
        """The source's rows with since ≤ ds < before; None when there are none."""
        parts = list(self.source.read(self.sales, since, before))
        return pa.concat_tables(parts, promote_options="permissive") if parts else None

    def parts(self, since: datetime, before: datetime, raw: pa.Table | None) -> list[tuple[datetime, datetime]]:
        """The span, or where many rows meet an empty lake, parts of it of whole days and about `PART_ROWS` rows.

        Checking and sorting take several times the memory of the rows. What replaces rows stays whole: it is refused
        whole where it is a loss (`data.max_loss`), and so are periods of several days, whose rows belong together.
        """
        if raw is None or raw.num_rows <= PART_ROWS or is_coarse(self.settings.data.frequency) or self._holds(since):
            return [(since, before)]
        return _equal_days(since, before, -(-raw.num_rows // PART_ROWS))

    def within(self, raw: pa.Table, since: datetime, before: datetime) -> pa.Table:
        """The rows of a part of a span."""
        import pyarrow.compute as pc

        ds = raw[self.sales.timestamp]
        first, end = pa.scalar(since, ds.type), pa.scalar(before, ds.type)
        return raw.filter(pc.and_(pc.greater_equal(ds, first), pc.less(ds, end)))

    def _holds(self, since: datetime) -> bool:
        """Whether the lake has rows of the year of `since`."""
        rows = lake_tables.read_if_there(self.lake, lake_tables.RAW_VERSIONS, Filter(among={"year": [since.year]}))
        return rows is not None and rows.num_rows > 0

    def copy_span(self, since: datetime, before: datetime, raw: pa.Table | None) -> pa.Table:
        """Put what `read_span` returned into the lake and return its usable rows (ds and series_id among others)."""
        checked = self.checked(raw) if raw is not None else None
        if before <= since:
            return self._no_rows()
        years = list(range(since.year, (before - timedelta(microseconds=1)).year + 1))
        rows = with_pack_and_year(checked.rows, self.settings) if checked else self._no_rows()
        where = Filter(among={"year": years}, since=since, before=before)
        there = lake_tables.read_if_there(self.lake, lake_tables.RAW_SALES, where)
        self._refuse_loss(0 if there is None else there.num_rows, rows.num_rows, since, before)
        self.lake.replace(lake_tables.RAW_SALES.name, rows, where, lake_tables.RAW_SALES.partition_by)
        self.quarantine("dated", checked, Filter(since=since, before=before, column="period"))
        if checked:
            self._new_series(checked.series)
        versions = self._versions(rows, there, years)
        self.lake.replace(
            lake_tables.RAW_VERSIONS.name,
            versions,
            Filter(among={"year": years}),
            lake_tables.RAW_VERSIONS.partition_by,
        )
        return rows

    def _refuse_loss(self, held: int, comes: int, since: datetime, before: datetime) -> None:
        """Raise InputError where a copy would take more rows away than `data.max_loss`: a source that was emptied, or
        that someone is loading, is not a source whose sales have gone.
        """
        most = self.settings.data.max_loss
        if not self.settings.data.aggregates and is_refused(held, comes, most):
            raise InputError(
                f"table {self.sales.table!r}: the lake holds {held:,} rows from {since:%Y-%m-%d} to before "
                f"{before:%Y-%m-%d}, and the source has {comes:,} that can be used, a loss of more than {most:.0%} "
                f"(data.max_loss). Nothing was changed. Where the rows are really gone: {TOLD}"
            )

    def _versions(self, rows: pa.Table, replaced: pa.Table | None, years: list[int]) -> pa.Table:
        """The versions of `years` after `rows` have replaced what was there; where nothing was (a new day), what is
        there already is not read again.
        """
        from many_models.data.content_versions import with_more, year_versions

        columns = rows.column_names if replaced is None else replaced.column_names
        if (replaced is not None and replaced.num_rows) or set(columns) != set(rows.column_names):
            return year_versions(self.lake.read(lake_tables.RAW_SALES.name, Filter(among={"year": years})))
        new = year_versions(rows.select(columns))
        before = lake_tables.read_if_there(self.lake, lake_tables.RAW_VERSIONS, Filter(among={"year": years}))
        return new if before is None or not before.num_rows else with_more(before, new)

    def quarantine(self, origin: str, checked: CheckedRows | None, where: Filter) -> None:
        """Put the quarantined rows of one origin (dated, undated, future) in place of those of an earlier run."""
        from many_models.data.row_checks import empty_quarantine

        bad = checked.quarantined if checked else empty_quarantine()
        bad = bad.append_column("origin", pa.array([origin] * bad.num_rows, pa.string()))
        bad = bad.append_column("period", bad["ds"])
        scope = Filter(among={"origin": [origin]}, since=where.since, before=where.before, column=where.column)
        self.lake.replace(lake_tables.QUARANTINE.name, bad, scope, lake_tables.QUARANTINE.partition_by)

    def quarantine_the_rest(self) -> None:
        """Quarantine the rows that no period holds: without a date, or dated after the wall clock."""
        self.quarantine("undated", self.checked(self.source.read_undated(self.sales)), Filter())
        opening = min(datetime.combine(self.settings.data.start, datetime.min.time()), EARLIEST_READ)
        for origin, since, before in (("future", self.now, FAR_FUTURE), ("early", FAR_PAST, opening)):
            found = list(self.source.read(self.sales, since, before))
            raw = pa.concat_tables(found, promote_options="permissive") if found else None
            checked = None if raw is None else self.checked(without_plan(raw, self.sales))
            self.quarantine(origin, checked if origin == "future" or checked is None else all_early(checked), Filter())

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
            self.lake.replace(lake_tables.SERIES_KEYS.name, both.sort_by("series_id"), Filter())


def copy_spans(
    ingest: Ingest, todo: Sequence[tuple[datetime, datetime]], say: Callable[[str], object]
) -> tuple[Counter[str], list[DayCount] | None]:
    """Copy the spans `todo`, and tell `say` of each part that is done.

    Returns the rows of each period, and what the days of the source held (None where it cannot tell).
    """
    grain: Grain = ingest.settings.partitions.grain
    counts = Counter[str]()
    seen: list[DayCount] | None = []
    for number, (since, before, raw) in enumerate(_read_ahead(ingest, todo), 1):
        parts = ingest.parts(since, before, raw)
        for part, (first, end) in enumerate(parts, 1):
            own = ingest.within(raw, first, end) if raw is not None and len(parts) > 1 else raw
            told = ingest.source.days_of(ingest.sales, own) if own is not None else ()
            seen = None if told is None or seen is None else [*seen, *told]
            rows = ingest.copy_span(first, end, own)
            counts.update(_rows_per_period(grain, rows))
            at = f"span {number} of {len(todo)}" + (f", part {part} of {len(parts)}" if len(parts) > 1 else "")
            say(f"{at}: {first:%Y-%m-%d} to {end:%Y-%m-%d}, {rows.num_rows:,} rows")
    return counts, seen


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


def _equal_days(since: datetime, before: datetime, count: int) -> list[tuple[datetime, datetime]]:
    """The span in at most `count` parts, which meet at midnights."""
    days = max(1, -(-(before - since).days // count))
    cuts = [datetime.combine(since, datetime.min.time()) + timedelta(days=days * number) for number in range(1, count)]
    edges = [since, *(cut for cut in cuts if cut < before), before]
    return list(pairwise(edges))


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
