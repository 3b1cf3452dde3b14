"""The ports: what the product needs of a source (and what fills it), a lake, a compute, a registry, a warehouse,
a messenger and telemetry.

Bulk methods only; Arrow tables in and out. Every method may raise UnavailableError or ConflictError (worth a retry)
and, where it says so, a PermanentError. A read that failed raises: it never returns an empty table or a default.
Names inside are fixed: `series_id` (string), `ds` (timestamp[us], no zone), `y` (double).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    import pyarrow as pa

    from many_models.errors import SeriesFailure

Scalar = str | int


# --- Source ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class SalesTable:
    """Where sales stand in the source, in the user's own names.

    `changed`: a column that is set whenever a row is written (a moment, or a number that grows), or "". `timezone`: the
    IANA zone of the local time that moments with a zone or an offset are read in; without it, a text with an offset
    keeps the clock time that is written, and other moments are in UTC. `aggregate`: column and how several of its
    values in a series and period become one; a `count` takes any column as target.
    """

    table: str
    keys: tuple[str, ...]
    timestamp: str
    target: str
    known: tuple[str, ...] = ()
    changed: str = ""
    timezone: str = ""
    aggregate: tuple[tuple[str, str], ...] = ()

    @property
    def counts(self) -> bool:
        """Whether the target is a number of rows, so that its values need not be numbers."""
        return dict(self.aggregate).get(self.target, "").startswith("count")

    @property
    def counted(self) -> tuple[str, ...]:
        """What `Source.days` looks at beside the timestamp."""
        return (self.changed,) if self.changed else (*self.keys, self.target, *self.known)

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that are read, in the order keys, timestamp, target, known."""
        return (*self.keys, self.timestamp, self.target, *self.known)


@dataclass(frozen=True, slots=True)
class DayCount:
    """One calendar day of the source: its rows that have a target, and a fingerprint that changes when rows do."""

    day: datetime
    rows: int
    fingerprint: str


@runtime_checkable
class Source(Protocol):
    """Read-only access to a table of sales, in the user's names. Values come as the source has them, good or bad."""

    def columns(self, table: str) -> Mapping[str, str]:
        """Column name → Arrow type name (`string`, `double`, `int64`, `timestamp[us]` …), in table order.

        Raises MissingTableError that names the table and the tables that are there.
        """
        ...

    def days(self, sales: SalesTable, since: datetime | None = None) -> Sequence[DayCount]:
        """Every calendar day from `since` that has rows, in order. Rows whose timestamp is not a date are not counted.

        Where `sales.changed` names a column, a day's fingerprint tells of the number of its rows and of that column.

        Raises MissingTableError, or InputError that names the missing columns.
        """
        ...

    def span(self, sales: SalesTable, since: datetime, until: datetime) -> tuple[datetime, datetime] | None:
        """The first and the last of the calendar days from that of `since` to that of `until` that have rows; None
        where none has. An index on the timestamp answers it, without a look at every row. Raises as `days`.
        """
        ...

    def read(self, sales: SalesTable, since: datetime, before: datetime) -> Iterator[pa.Table]:
        """The rows with since ≤ timestamp < before, in tables of bounded size, columns as `sales.columns`.

        The timestamp comes as timestamp[us] (see `SalesTable` for zones), keys as string (a null key part as ""),
        target and known columns in their own types. Raises as `days`.
        """
        ...

    def days_of(self, sales: SalesTable, rows: pa.Table) -> Sequence[DayCount] | None:
        """The days of `rows`, which `read` has returned for whole days, as `days` would count them: without another
        look at the source. None where only `days` can tell.
        """
        ...

    def read_undated(self, sales: SalesTable) -> pa.Table:
        """The rows whose timestamp is null or no date: columns as `read`, but the timestamp as string."""
        ...

    def read_table(self, table: str, columns: Sequence[str] = ()) -> pa.Table:
        """A small table whole (a table of known covariates). Raises as `days`."""
        ...

    def check(self) -> str:
        """One line that says what is reached. Raises when it is not."""
        ...


@runtime_checkable
class Ingestion(Protocol):
    """What brings a period's rows to where the source reads them, where that is its own pipeline."""

    def run(self, period: datetime) -> str:
        """Have the period that starts at `period` brought, wait for it, and say in a line what ran.

        Asked twice at once, it is brought once. Raises InputError or PermanentError when the pipeline cannot do it,
        SettingsError when it is not there.
        """
        ...

    def check(self) -> str:
        """One line that says what is reached. Raises when it is not."""
        ...


# --- Lake -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Filter:
    """A conjunction of simple conditions on rows; empty: all rows.

    `among` maps a column (string or integer) to the values it may have; `since` ≤ `column` < `before` in time.
    """

    among: Mapping[str, Sequence[Scalar]] = field(default_factory=dict[str, Sequence[Scalar]])
    since: datetime | None = None
    before: datetime | None = None
    column: str = "ds"


@dataclass(frozen=True, slots=True)
class VacuumResult:
    """What a vacuum deleted: the number of files and their total size in bytes."""

    files: int = 0
    bytes: int = 0

    def __add__(self, other: VacuumResult) -> VacuumResult:
        return VacuumResult(self.files + other.files, self.bytes + other.bytes)


@runtime_checkable
class Lake(Protocol):
    """Versioned tables of rows, each changed by one atomic commit at a time. Picklable: workers read from it."""

    def replace(self, table: str, rows: pa.Table, where: Filter, partition_by: Sequence[str] = ()) -> int:
        """Put `rows` in place of the rows that `where` names, in one commit; make the table if it is not there.

        New columns are added (null in older rows); a column that `rows` lack is null in them. `partition_by` counts
        when the table is made. No rows: only the deletion. Returns the table's new version. Raises InputError when
        a row is outside `where` or a column changes its type, ConflictError when another commit touched those rows.
        """
        ...

    def read(self, table: str, where: Filter | None = None, columns: Sequence[str] = ()) -> pa.Table:
        """The rows that `where` names, all columns unless `columns` are named. Raises MissingTableError."""
        ...

    def version(self, table: str) -> int | None:
        """The table's newest version, or None when there is no such table."""
        ...

    def fingerprint(self, table: str) -> str:
        """A text that changes whenever the table does, "" where there is no such table; found without reading it."""
        ...

    def tables(self) -> frozenset[str]:
        """The names of the tables."""
        ...

    def prune(self, older: timedelta) -> VacuumResult:
        """Put small files together, and delete for good what no version younger than `older` names, of all tables.

        Rows and schemas stay as they are; what a reader or a writer that began within `older` uses is not touched.
        """
        ...

    def damaged(self) -> Mapping[str, Mapping[str, str]]:
        """Table → file → why it cannot be read, of the newest version of each table. Reads every file."""
        ...

    def put_aside(self, table: str) -> None:
        """Leave the files out of the table that `damaged` names; their rows are gone. They are kept beside it. A table
        whose log cannot be read is not a table any more.
        """
        ...

    def check(self) -> str:
        """One line that says what is reached. Raises when it is not."""
        ...


# --- Compute --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Chunk:
    """The series sent to one worker at a time: `number` in the run's order, the `pack` they belong to."""

    number: int
    pack: str
    series: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """What a worker returns: named tables, named bytes, and the series that failed in it."""

    tables: Mapping[str, pa.Table] = field(default_factory=dict[str, "pa.Table"])
    files: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    failures: Sequence[SeriesFailure] = ()


Task = Callable[[Chunk], ChunkResult]


@runtime_checkable
class NarrowingTask(Protocol):
    """A task that knows what of it a chunk needs, so that no more than that travels to a far worker."""

    def __call__(self, chunk: Chunk) -> ChunkResult:
        """Do the chunk."""
        ...

    def for_chunk(self, chunk: Chunk) -> Task:
        """A task that does `chunk` as this one does, and reads no file of this machine."""
        ...


@runtime_checkable
class ReadingTask(Protocol):
    """A task that says what it reads of the lake, so that a compute can bring the rows in the lake's place."""

    @property
    def lake(self) -> Lake:
        """The lake that it reads."""
        ...

    def __call__(self, chunk: Chunk) -> ChunkResult:
        """Do the chunk."""
        ...

    def large(self) -> tuple[str, Filter]:
        """The table of many rows a series, with the columns `pack` and `series_id`, and from when on it reads them."""
        ...

    def small(self, chunk: Chunk) -> Sequence[tuple[str, Filter]]:
        """The other tables, and what of them it reads for `chunk`; one that is not there is left out."""
        ...

    def over(self, lake: Lake) -> ReadingTask:
        """The task with `lake` in place of its own."""
        ...


@runtime_checkable
class Compute(Protocol):
    """Runs a picklable task over chunks of series."""

    def run(self, task: Task, chunks: Sequence[Chunk]) -> Iterator[tuple[Chunk, ChunkResult]]:
        """Each chunk's result, in the chunks' order, as soon as it and those before it are there.

        A task that raises is not retried here: its chunk is split until the series that raise are alone, and those
        come as `SeriesFailure`s. A worker that dies or hangs is replaced, and its chunk split in the same way
        (kind `WorkerLost` or `WorkerTimeout`, not permanent); the rest of the chunk is done. A split chunk comes as
        several pairs, whose chunks carry the same number. Interrupting or closing the iterator stops the workers.
        """
        ...

    def slots(self) -> int:
        """How many chunks it does at a time, as far as it knows."""
        ...

    def check(self) -> str:
        """One line that says what is reached. Raises when it is not."""
        ...


# --- Registry -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class PackUpload:
    """A pack about to be registered: its files, its series in row order, and its tags.

    The registry does not look into the files; `recipe`, `cutoff` and the rest of what identifies it are tags.
    """

    pack: str
    files: Mapping[str, bytes]
    series: tuple[str, ...]
    tags: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class PackVersion:
    """A registered pack: model name and version, its tags, its series in row order, and a sha256 over its files."""

    name: str
    version: str
    pack: str
    series: tuple[str, ...]
    sha256: str
    tags: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def ref(self) -> str:
        """`name/version`, the way manifests and tables name a pack version."""
        return f"{self.name}/{self.version}"


@runtime_checkable
class StagingRegistry(Protocol):
    """Where training registers packs. A version holds what one training run produced of one pack."""

    def register(self, batch: str, packs: Sequence[PackUpload]) -> Sequence[PackVersion]:
        """Register `packs`, in order. Registering a (batch, pack) again with the same series replaces nothing and
        returns the version that is there, so that a run that is repeated leaves one version.
        """
        ...

    def log_batch(self, batch: str, title: str, parameters: Mapping[str, str], metrics: Mapping[str, float]) -> None:
        """Record with what a batch was trained and what it reached, for people who compare batches, under `title`.

        Values that are not finite are left out. Called again, it replaces metrics and keeps parameters.
        """
        ...

    def newest(self, series: Sequence[str]) -> Mapping[str, PackVersion]:
        """The newest version that holds each series, found by tags; series without one are absent.

        A few calls, whatever the number of series and of versions.
        """
        ...

    def files(self, version: PackVersion) -> Mapping[str, bytes]:
        """The version's files. Raises IntegrityError, naming pack and version, when they are not `version.sha256`."""
        ...

    def prune(self, keep: int, also: Collection[str] = ()) -> Sequence[str]:
        """Delete versions for good; kept are the newest of every series, the `keep` newest of each pack, and `also`
        (refs). Returns the deleted refs.
        """
        ...

    def check(self) -> str:
        """One line that says what is reached. Raises when it is not."""
        ...


@dataclass(frozen=True, slots=True)
class Champion:
    """One series in production: which row of which pack version serves it, and what came before."""

    series_id: str
    ref: str
    row: int
    sha256: str
    staging: str
    recipe: str
    cutoff: str
    previous: str = ""
    fallback: str = ""


@dataclass(frozen=True, slots=True)
class Approval:
    """Who let a proposal go live, why and when (UTC, no zone)."""

    actor: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Release:
    """One immutable promoted state of production: every series' champion; `approval` where a human was asked."""

    release_id: str
    created_at: datetime
    actor: str
    reason: str
    previous: str
    champions: Mapping[str, Champion]
    approval: Approval | None = None


@dataclass(frozen=True, slots=True)
class PromotedSeries:
    """What a promotion says of one series: where it comes from and why."""

    series_id: str
    staging: str
    recipe: str
    cutoff: str
    fallback: str = ""


@dataclass(frozen=True, slots=True)
class ReleaseDraft:
    """A release about to be published: the new packs (whole: exactly the champions of each group that changed), the
    promoted series, and the series that leave. Every other champion of `base` stays as it is.
    """

    base: str
    actor: str
    reason: str
    packs: Sequence[PackUpload]
    promoted: Sequence[PromotedSeries]
    removed: Sequence[str] = ()


@runtime_checkable
class ProductionRegistry(Protocol):
    """The separate registry that serves. Its truth is one release; readers see the old or the new, never a mixture."""

    def live(self) -> Release | None:
        """The live release, or None before the first one."""
        ...

    def live_id(self) -> str:
        """The live release's id, "" before the first one: cheap enough to be asked every second, as `live` is not."""
        ...

    def releases(self) -> Sequence[Release]:
        """Every kept release, newest first."""
        ...

    def publish(self, draft: ReleaseDraft) -> Release:
        """Store the packs, verify them, write the manifest, then make it live with one step.

        Raises ConflictError when the live release is not `draft.base` ("" for none) any more; then nothing changed.
        A crash at any point leaves the old release live.
        """
        ...

    def propose(self, draft: ReleaseDraft) -> Release:
        """Store and verify as `publish` does, but leave what is live: the release waits for `approve`.

        It takes the place of whatever waited before. Raises ConflictError as `publish` does.
        """
        ...

    def waiting(self) -> Release | None:
        """The newest proposal, when it was made for the release that is live now and nobody has said yes or no."""
        ...

    def approve(self, release_id: str, actor: str, reason: str) -> Release:
        """Verify the waiting proposal's packs once more, and make it live with one step; who and why stay with it.

        Where it is live already nothing changes. Raises ConflictError when another proposal waits, or none.
        """
        ...

    def reject(self, release_id: str, actor: str, reason: str) -> None:
        """Have the waiting proposal wait no more. Raises ConflictError when another one waits, or none."""
        ...

    def activate(self, release_id: str) -> Release:
        """Make a kept release live again (rollback). Raises InputError when it is not kept."""
        ...

    def files(self, ref: str, sha256: str) -> Mapping[str, bytes]:
        """The files of a production pack version. Raises IntegrityError when they are not `sha256`."""
        ...

    def prune(self, keep: int) -> Sequence[str]:
        """Delete releases, and the packs that no kept one names, for good; kept are the live release, the `keep`
        newest, and what waits for approval. Returns the deleted releases' ids and packs' refs.
        """
        ...

    def check(self) -> str:
        """One line that says what is reached. Raises when it is not."""
        ...


# --- Warehouse ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class WarehousePart:
    """Rows for one warehouse table, in place of the rows that `where` names; `key` is its primary key."""

    table: str
    rows: pa.Table
    where: Filter
    key: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WarehouseView:
    """A view for reports: a query in standard SQL, names in double quotes, each of its `tables` written `{table}`."""

    name: str
    query: str
    tables: tuple[str, ...]


@runtime_checkable
class Warehouse(Protocol):
    """The SQL warehouse that reports read."""

    def load(self, load: str, fingerprint: str, parts: Sequence[WarehousePart]) -> int:
        """Replace all `parts` and record the load, in one transaction; makes and widens tables as needed.

        Run twice, or killed half-way and run again, it ends the same. Returns the number of rows written. Raises
        InputError when a key occurs twice in a part, a row is outside its `where`, or the database cannot keep a value
        (some have no infinite numbers, some no NUL in a text).
        """
        ...

    def create_views(self, views: Sequence[WarehouseView]) -> None:
        """Make these views of tables that are there, or make them again. Raises InputError when a table is not."""
        ...

    def loads(self) -> Mapping[str, str] | None:
        """Every recorded load → its fingerprint; None where the warehouse records none, since it stores no rows."""
        ...

    def count(self, table: str, where: Filter) -> int:
        """How many rows of a table `where` names, counted in the database; 0 where there is no such table."""
        ...

    def read(self, table: str, where: Filter | None = None) -> pa.Table:
        """The rows of a table or view that `where` names; a −0.0 may come back as 0.0. Raises MissingTableError."""
        ...

    def check(self) -> str:
        """One line that says what is reached. Raises when it is not."""
        ...


# --- Messenger ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Message:
    """Plain text for people. `urgent`: something failed."""

    title: str
    text: str
    urgent: bool = False


@runtime_checkable
class Messenger(Protocol):
    """What tells people, in a channel, by e-mail, through a webhook."""

    def addresses(self) -> Sequence[str]:
        """A name for each address, which stays the same and shows nothing secret."""
        ...

    def send(self, messages: Mapping[str, Sequence[Message]]) -> Mapping[str, str]:
        """Send each address its messages; one that is down stops no other, and nothing is raised.

        Returns the addresses that did not take them all → why, without secrets.
        """
        ...

    def check(self) -> str:
        """One line that says how many addresses there are. Sends nothing. Raises SettingsError where one is wrong."""
        ...


# --- Telemetry ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Step:
    """A part of a run; times are seconds since 1970."""

    name: str
    started: float
    ended: float
    failed: bool = False


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run that ended; `done` and `failed` count series, where the run counted them."""

    run_id: str
    stage: str
    status: str
    started: float
    ended: float
    steps: Sequence[Step] = ()
    done: int | None = None
    failed: int | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Answered:
    """A request that was answered. `parent` is its traceparent header, "" without one."""

    route: str
    method: str
    status: int
    seconds: float
    series: int = 0
    parent: str = ""


@runtime_checkable
class Telemetry(Protocol):
    """What operators watch: traces and metrics."""

    def runs(self, runs: Sequence[FinishedRun]) -> None:
        """Send runs that ended. Raises UnavailableError where they were not taken: send them again."""

    def answered(self, request: Answered) -> None:
        """Send a request, later and without waiting; one that is not taken is lost."""

    def close(self) -> None:
        """Send what is held."""
