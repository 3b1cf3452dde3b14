"""The lake as Delta tables, one folder a table, read and written by delta-rs."""

from __future__ import annotations

import re
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from many_models.adapters.arrow import (
    align_schema,
    check_where,
    normalize_types,
    plain_type,
    require_columns,
    require_table,
    require_within,
    without_zones,
    zoneless,
)
from many_models.adapters.azure.storage import access_error
from many_models.adapters.lake.delta_log import newest_in_folder
from many_models.adapters.lake.delta_protocol import zoned
from many_models.errors import (
    ConflictError,
    DamagedTableError,
    InputError,
    ManyModelsError,
    MissingTableError,
    SettingsError,
    UnavailableError,
)
from many_models.keys import escape_part, quoted, unescape_part
from many_models.ports import Filter

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from datetime import datetime, timedelta

    from deltalake import DeltaTable
    from pyarrow.fs import PyFileSystem

    from many_models.ports import Scalar, VacuumResult

LONGEST_FOLDER = 200
LONGEST_SAYING = 400
ESCAPE = "+"  # for the per cent sign, which delta-rs would decode; no escaped name holds a plus sign
REMEDY = "`many-models doctor --mend` puts it aside and has its rows made again"
NO_SPACE = ("No space left", "StorageFull", "File too large", "Disk quota", "FileTooLarge")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What another reader of Parquet needs of a table: its folder, its files in it, its schema in Spark's JSON."""

    root: str
    files: list[str]
    schema: str
    by_pack: bool


class DeltaLake:
    """Delta tables under `path`, a folder or a URL; `options` are delta-rs' for it, asked for at each use.

    At a URL, `newest` names the newest commit of the table in a folder below it (see `delta_log`).
    """

    def __init__(
        self,
        path: str | Path,
        options: Callable[[], dict[str, str]] = dict,
        newest: Callable[[str], str] | None = None,
    ) -> None:
        text = str(path)
        self._path = text.rstrip("/") if "://" in text else str(Path(text).absolute())
        self._options = options
        self._newest = newest

    def replace(self, table: str, rows: pa.Table, where: Filter, partition_by: Sequence[str] = ()) -> int:
        """See `Lake.replace`. A partition column holds no empty string: Delta keeps it as null, so it is refused."""
        rows = without_zones(normalize_types(rows))
        with self._errors(table, where):
            there = self._open(table)
            if there is None:
                return self._create(table, rows, where, partition_by)
            rows = align_schema(table, rows, _schema(there))
            require_table(table, rows, there.metadata().partition_columns)
            require_within(table, rows, where)
            self._write(there, rows, where)
            return there.version()

    def read(self, table: str, where: Filter | None = None, columns: Sequence[str] = ()) -> pa.Table:
        """See `Lake.read`. In no order."""
        with self._errors(table, where or Filter()):
            there = self._open(table)
            if there is None:
                raise self._missing(table)
            schema = _schema(there)
            require_columns(table, schema.names, columns)
            if where is not None:
                check_where(table, schema, where)
            names = list(dict.fromkeys(columns)) or schema.names
            found = pa.table(there.scan(columns=names, predicate=_predicate(where, _kept(there)) if where else None))
            return found.select(names).cast(pa.schema([schema.field(name) for name in names]))

    def snapshot(self, table: str, packs: Sequence[str]) -> Snapshot:
        """The newest version's files; of a table that is partitioned by pack those of `packs`. Raises
        MissingTableError.
        """
        with self._errors(table):
            there = self._open(table)
            if there is None:
                raise self._missing(table)
            within = there.metadata().partition_columns
            by_pack = "pack" in within
            found = there.file_uris(file_pruning_predicate=[("pack", "in", list(packs))] if by_pack else None)
            # a URI has the folder of the lake escaped: of our own files the end is enough, a folder for each partition
            files = ["/".join(uri.split("/")[-len(within) - 1 :]) for uri in found]
            return Snapshot(self._uri(table), files, there.schema().to_json(), by_pack)

    def version(self, table: str) -> int | None:
        """See `Lake.version`."""
        with self._errors(table):
            there = self._open(table)
            return None if there is None else there.version()

    def fingerprint(self, table: str) -> str:
        """See `Lake.fingerprint`. One listing of the table's log: its newest commit, and when that was written."""
        with self._errors(table):
            if self._newest is not None:
                return self._newest(self._folder(table))
            if "://" not in self._path:
                return newest_in_folder(self._uri(table))
            there = self._open(table)
            return "" if there is None else f"{there.metadata().id} {there.version()}"

    def tables(self) -> frozenset[str]:
        """See `Lake.tables`."""
        from deltalake import DeltaTable

        with self._errors(""):
            folders = self._folders()
            return frozenset(
                unescape_part(name.replace(ESCAPE, "%"))
                for name in folders
                if DeltaTable.is_deltatable(f"{self._path}/{name}", self._options())
            )

    def prune(self, older: timedelta) -> VacuumResult:
        """See `Lake.prune`. A table that someone writes at that moment is left for the next time.

        A table of an older version of this package is first rewritten so that every reader of Delta reads it.
        """
        from many_models.adapters.lake.delta_maintenance import prune
        from many_models.adapters.lake.delta_protocol import migrate, needs_migration
        from many_models.ports import VacuumResult

        freed = VacuumResult()
        for table in sorted(self.tables()):
            with suppress(ConflictError), self._errors(table):
                if (there := self._open(table)) is not None:
                    if needs_migration(there):
                        there = migrate(there, self._uri(table), self._options())
                    freed += prune(there, self._files(table), older)
        return freed

    def damaged(self) -> dict[str, dict[str, str]]:
        """See `Lake.damaged`. A log that cannot be read is a damaged file, too."""
        from many_models.adapters.lake.delta_damage import LOG

        found = dict[str, dict[str, str]]()
        for table in sorted(self.tables()):
            try:
                if files := dict(self._damaged(table)):
                    found[table] = files
            except DamagedTableError as error:
                found[table] = {LOG: str(error)}
        return found

    def put_aside(self, table: str) -> None:
        """See `Lake.put_aside`. Raises InputError for a table without a log at a URL, where folders cannot be moved."""
        from many_models.adapters.lake import delta_damage

        try:
            paths = [path for path, _ in self._damaged(table)]
        except DamagedTableError:
            if "://" in self._path:
                raise InputError(
                    f"{self._uri(table)} has a damaged log: move the folder away, or undelete it"
                ) from None
            aside = Path(self._path, delta_damage.ASIDE, f"{Path(self._uri(table)).name} {time.time_ns()}")
            aside.parent.mkdir(exist_ok=True)
            Path(self._uri(table)).rename(aside)
            return
        with self._errors(table):
            if paths and (there := self._open(table)) is not None:
                delta_damage.put_aside(there, self._files(table), paths)

    def _damaged(self, table: str, where: Filter | None = None) -> Iterator[tuple[str, str]]:
        """The damaged files of the table's newest version, of those that `where` looks at."""
        from many_models.adapters.lake.delta_damage import damaged_files

        with self._errors(table):
            if (there := self._open(table)) is not None:
                predicate = _predicate(where, _kept(there)) if where else None
                yield from damaged_files(there, self._files(table), predicate)

    def _files(self, table: str) -> PyFileSystem:
        from deltalake.fs import DeltaStorageHandler
        from pyarrow.fs import PyFileSystem

        return PyFileSystem(DeltaStorageHandler(self._uri(table), self._options()))

    def check(self) -> str:
        """See `Lake.check`. At a URL it writes an empty file and deletes it: a right to read is not enough."""
        if "://" in self._path:
            with self._errors(""):
                self._refuse_wrong_schema()
                self._probe()
        return f"Delta lake at {self._path}: {len(self.tables())} tables"

    def _refuse_wrong_schema(self) -> None:
        """Raise SettingsError where a Fabric lakehouse would not see tables at this path as its own."""
        from deltalake.fs import DeltaStorageHandler
        from pyarrow.fs import FileSelector, PyFileSystem

        from many_models.adapters.azure.storage import lakehouse_problem

        tables, slash, _ = self._path.partition(".Lakehouse/Tables")
        if not slash:
            return
        root = f"{tables}{slash}"
        handler = PyFileSystem(DeltaStorageHandler(root, self._options()))
        found = {one.base_name for one in handler.get_file_info(FileSelector("", allow_not_found=True))}
        if problem := lakehouse_problem(self._path.removeprefix(root).strip("/"), found):
            raise SettingsError(f"[lake] path {problem}")

    def _probe(self) -> None:
        from uuid import uuid4

        from deltalake.fs import DeltaStorageHandler

        handler = DeltaStorageHandler(self._path, self._options())
        name = f"_check-{uuid4().hex}"
        handler.open_output_stream(name).close()
        handler.delete_file(name)

    def _uri(self, table: str) -> str:
        return f"{self._path}/{self._folder(table)}"

    def _folder(self, table: str) -> str:
        folder = escape_part(table).replace("%", ESCAPE)
        if len(folder.encode()) > LONGEST_FOLDER:
            raise InputError(
                f"{table!r} is not a name for a table: as a folder it has more than {LONGEST_FOLDER} bytes"
            )
        return folder

    def _folders(self) -> list[str]:
        from deltalake.exceptions import TableNotFoundError
        from deltalake.fs import DeltaStorageHandler
        from pyarrow.fs import FileSelector, FileType

        if Path(self._path).is_file():
            raise SettingsError(f"[lake] path {self._path} is a file, no folder; name another one")
        try:
            handler = DeltaStorageHandler(self._path, self._options())
            infos = handler.get_file_info_selector(FileSelector("", recursive=False))
        except TableNotFoundError as error:
            if Path(self._path).exists():
                raise UnavailableError(f"the lake at {self._path} cannot be listed: {_said(error)}") from error
            return []
        return [info.base_name for info in infos if info.type == FileType.Directory]

    def _open(self, table: str) -> DeltaTable | None:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError

        from many_models.adapters.lake.delta_damage import LOG, tells_of_log

        try:
            return DeltaTable(self._uri(table), storage_options=self._options() or None)
        except TableNotFoundError:
            return None
        except DeltaError as error:
            if not tells_of_log(str(error)):
                raise
            what = f"the lake at {self._path}, table {table!r}"
            raise DamagedTableError(f"{what}: its log in {LOG} cannot be read: {REMEDY}") from error

    def _create(self, table: str, rows: pa.Table, where: Filter, partition_by: Sequence[str]) -> int:
        from deltalake import write_deltalake

        rows = align_schema(table, rows, pa.schema([]))
        require_table(table, rows, partition_by)
        require_within(table, rows, where)
        write_deltalake(
            self._uri(table),
            rows.cast(zoned(rows.schema)),
            mode="error",
            partition_by=list(partition_by) or None,
            name=table,
            storage_options=self._options() or None,
        )
        return 0

    def _write(self, there: DeltaTable, rows: pa.Table, where: Filter) -> None:
        from deltalake import write_deltalake

        kept = _kept(there)
        new = zoned(pa.schema([field for field in rows.schema if field.name not in kept.names]))
        rows = rows.cast(pa.schema([*(kept.field(name) for name in kept.names), *new]))
        write_deltalake(there, rows, mode="overwrite", predicate=_predicate(where, kept), schema_mode="merge")

    def _damaged_file(self, table: str, where: Filter, text: str) -> str:
        """The first damaged file that a look at the table may have met with, and why; "" where there is none."""
        from many_models.adapters.lake.delta_damage import may_tell_of_file

        if may_tell_of_file(text):
            with suppress(ManyModelsError):
                for path, why in self._damaged(table, where):
                    return f"{path} cannot be read ({why})"
        return ""

    def _missing(self, table: str) -> MissingTableError:
        names = ", ".join(map(repr, sorted(self.tables()))) or "none"
        return MissingTableError(f"the lake at {self._path} has no table {table!r}; it has {names}")

    @contextmanager
    def _errors(self, table: str, where: Filter | None = None) -> Generator[None]:
        from deltalake.exceptions import CommitFailedError, DeltaError

        what = f"the lake at {self._path}" + (f", table {table!r}" if table else "")
        try:
            yield
        except ManyModelsError:
            raise
        except CommitFailedError as error:
            if (refused := access_error(str(error))) is not None:
                raise type(refused)(f"{what}: {refused}") from error
            raise ConflictError(f"{what}: another commit came first: {_said(error)}") from error
        except (DeltaError, OSError, pa.ArrowException) as error:
            text = str(error)
            if (refused := access_error(text)) is not None:
                raise type(refused)(f"{what}: {refused}") from error
            if any(sign in text for sign in NO_SPACE):
                raise UnavailableError(
                    f"{what}: no space left to write; nothing was changed. Make room, then run again"
                ) from error
            if "already exists" in text:
                raise ConflictError(f"{what}: someone else made it first") from error
            if where is not None and (file := self._damaged_file(table, where, text)):
                raise DamagedTableError(f"{what}: the file {file}: {REMEDY}") from error
            raise UnavailableError(f"{what}: {_said(error)}") from error


def _kept(there: DeltaTable) -> pa.Schema:
    """The table's columns as Delta keeps them: times in UTC, those of a table written long ago without a zone."""
    return pa.schema([(field.name, plain_type(field.type)) for field in pa.schema(there.schema().to_arrow())])


def _schema(there: DeltaTable) -> pa.Schema:
    return pa.schema([(field.name, zoneless(field.type)) for field in _kept(there)])


def _said(error: BaseException) -> str:
    text = " ".join(re.sub(r"\x1b\[\d*m|↳", "", str(error)).split())
    return text[:LONGEST_SAYING] or type(error).__name__


def _predicate(where: Filter, kept: pa.Schema) -> str:
    terms = [_among(name, values) for name, values in where.among.items()]
    if where.since is not None:
        terms.append(f"{quoted(where.column)} >= {_time(where.since, kept.field(where.column).type)}")
    if where.before is not None:
        terms.append(f"{quoted(where.column)} < {_time(where.before, kept.field(where.column).type)}")
    return " AND ".join(terms) or "TRUE"


def _among(name: str, values: Sequence[Scalar]) -> str:
    literals = [str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'" for value in values]
    return f"{quoted(name)} IN ({', '.join(literals)})" if literals else "FALSE"


def _time(value: datetime, kind: pa.TimestampType) -> str:
    zone = 'Some("UTC")' if kind.tz else "None"
    return f"arrow_cast('{value.isoformat()}', 'Timestamp(Microsecond, {zone})')"
