"""The stand-in's SQL: T-SQL translated by sqlglot, run by DuckDB; COPY INTO, OPENROWSET and locks done by hand.

It knows the statements that the adapters send, and few others. What DuckDB does otherwise than SQL Server or Synapse
(collations, locking, isolation, costs, limits) it does otherwise: passing here proves driver and wire, not semantics.
"""

from __future__ import annotations

import functools
import re
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import sqlglot
from sqlglot import exp

from many_models_tests.stand_ins.tds_server.rules import QUOTED, ServerError, refuse, refuse_delta

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from many_models_tests.stand_ins.tds_server.wire import Column

CATALOG = """
CREATE SCHEMA dbo;
CREATE SCHEMA sys;
CREATE TABLE sys.unenforced (s VARCHAR, t VARCHAR, c VARCHAR, ordinal INTEGER);
CREATE MACRO sys_id(s, t) AS (hash(s || '.' || t) % 2147483647)::INTEGER;
CREATE VIEW sys.schemas AS
    SELECT schema_name AS name, oid::INTEGER AS schema_id FROM duckdb_schemas()
    WHERE database_name = current_database();
CREATE VIEW sys.objects AS
    SELECT o.name, sys_id(o.s, o.name) AS object_id, schema_id, type FROM (
        SELECT schema_name AS s, table_name AS name, 'U' AS type FROM duckdb_tables()
        UNION ALL SELECT schema_name, view_name, 'V' FROM duckdb_views() WHERE NOT internal
    ) AS o JOIN sys.schemas ON schemas.name = o.s;
CREATE VIEW sys.columns AS
    SELECT column_name AS name, sys_id(schema_name, table_name) AS object_id, column_index::INTEGER AS column_id,
    regexp_replace(data_type, '[(].*', '') AS user_type_id FROM duckdb_columns() WHERE NOT internal;
CREATE VIEW sys.types AS
    SELECT * FROM (VALUES ('VARCHAR', 'nvarchar'), ('BIGINT', 'bigint'), ('HUGEINT', 'bigint'), ('INTEGER', 'int'),
    ('SMALLINT', 'smallint'), ('DOUBLE', 'float'), ('FLOAT', 'real'), ('DECIMAL', 'decimal'), ('BOOLEAN', 'bit'),
    ('TIMESTAMP', 'datetime2'), ('DATE', 'date'), ('BLOB', 'varbinary')) AS t (user_type_id, name);
CREATE VIEW sys.indexes AS
    SELECT DISTINCT object_id, 1 AS index_id, 1 AS is_primary_key FROM (
        SELECT sys_id(schema_name, table_name) AS object_id FROM duckdb_constraints()
        WHERE constraint_type = 'PRIMARY KEY')
    UNION ALL SELECT DISTINCT sys_id(s, t), 1, 0 FROM sys.unenforced;
CREATE VIEW sys.index_columns AS
    SELECT k.object_id, 1 AS index_id, c.column_id, k.ordinal AS key_ordinal FROM (
        SELECT sys_id(schema_name, table_name) AS object_id, unnest(constraint_column_names) AS name,
        generate_subscripts(constraint_column_names, 1) AS ordinal FROM duckdb_constraints()
        WHERE constraint_type = 'PRIMARY KEY' UNION ALL SELECT sys_id(s, t), c, ordinal FROM sys.unenforced
    ) AS k JOIN sys.columns AS c ON c.object_id = k.object_id AND c.name = k.name;
CREATE VIEW sys.system_views AS SELECT 'dm_exec_sessions' AS name;
CREATE VIEW sys.dm_exec_sessions AS SELECT 'stand-in' AS session_id, 2 AS transaction_isolation_level;
CREATE MACRO schema_name() AS 'dbo';
CREATE MACRO db_name() AS 'dw';
CREATE MACRO databasepropertyex(name, property) AS 'Latin1_General_100_BIN2_UTF8';
CREATE MACRO serverproperty(name) AS
    CASE upper(name) WHEN 'PRODUCTVERSION' THEN '16.0.1000.6' WHEN 'ENGINEEDITION' THEN '6' END;
"""
LOCK = re.compile(r"sp_getapplock .*@LockTimeout = (\d+)", re.IGNORECASE | re.DOTALL)
BEGIN = re.compile(r"begin\s+tran", re.IGNORECASE)
END = re.compile(r"(?:if\s+@@trancount\s*>\s*0\s+)?(commit|rollback)", re.IGNORECASE)
SET = re.compile(r"set\s+(?!@)|use\s", re.IGNORECASE)
COPY = re.compile(
    r"copy\s+into\s+(?P<table>.+?)\s*\((?P<columns>.+)\)\s*from\s+'(?P<url>[^']+)'\s+with\s*\((?P<options>.+)\)",
    re.IGNORECASE | re.DOTALL,
)
PHYSICAL = re.compile(r"\s+WITH\s*\((?:DISTRIBUTION|HEAP|CLUSTERED).*\)\s*$", re.IGNORECASE | re.DOTALL)
UNENFORCED = re.compile(
    r",\s*PRIMARY KEY NONCLUSTERED \((?P<key>.+?)\) NOT ENFORCED(?=\s*\))", re.IGNORECASE | re.DOTALL
)
PHYSICAL_ONLY = re.compile(r"\s*(create|update)\s+statistics\b|\s*alter\s+index\b", re.IGNORECASE)
PERMISSIONS = re.compile(r"\bfn_my_permissions\b", re.IGNORECASE)
ADDED_KEY = re.compile(
    r"ALTER TABLE (?P<table>.+?) ADD CONSTRAINT .+? PRIMARY KEY NONCLUSTERED \((?P<key>.+?)\) NOT ENFORCED", re.DOTALL
)
GROUPED = re.compile(r"\s*select\b.*\bgroup by\b", re.IGNORECASE | re.DOTALL)
WRITES = re.compile(r"\s*(insert|update|delete|merge|create|alter|drop|copy|truncate)\b", re.IGNORECASE)
NUMBERED = re.compile(r"~(\d+)~")
IN_QUOTES = re.compile(r'(["\[])~(\d+)~["\]]')
OPENROWSET = re.compile(
    r"OPENROWSET\(BULK '(?P<url>[^']+)', FORMAT = 'DELTA'\) WITH \((?P<columns>.+?)\)(?= AS \w\b)", re.DOTALL
)


@dataclass(frozen=True)
class Rows:
    """What a query found."""

    columns: list[Column]
    rows: Sequence[Sequence[Any]]


class Engine:
    """One database in memory, for all sessions; `storage`: what an Azure connection string names, for COPY INTO."""

    def __init__(self, storage: str = "", folder: Path = Path()) -> None:
        self.database = duckdb.connect(":memory:")
        self.database.execute(CATALOG)
        self.lock = threading.Lock()
        self.storage, self.folder = storage, folder
        self.copies = 0

    def forget(self, prefix: str) -> None:
        """Drop the schemas whose names begin with `prefix`: each look into the catalog goes through all of them."""
        cursor = self.database.cursor()
        asked = "SELECT DISTINCT schema_name FROM duckdb_schemas() WHERE starts_with(schema_name, ?)"
        for (schema,) in cursor.execute(asked, [prefix]).fetchall():
            name = schema.replace('"', '""')
            cursor.execute(f'DROP SCHEMA IF EXISTS "{name}" CASCADE')
        cursor.execute("DELETE FROM sys.unenforced WHERE starts_with(s, ?)", [prefix])

    def delta(self, url: str) -> pa.Table:
        """The Delta table that OPENROWSET's https URL names, in the storage of this stand-in."""
        from urllib.parse import unquote

        from deltalake import DeltaTable

        named = dict(part.split("=", maxsplit=1) for part in self.storage.strip(";").split(";"))
        container, path = re.sub(r"https://[^/]+/", "", unquote(url)).split("/", maxsplit=1)
        options = {
            "azure_storage_account_name": named["AccountName"],
            "azure_storage_account_key": named["AccountKey"],
            "azure_storage_endpoint": named["BlobEndpoint"],
            "allow_http": "true",
        }
        place = f"abfss://{container}@{named['AccountName']}.dfs.core.windows.net/{path.rstrip('/')}"
        table = DeltaTable(place, storage_options=options)
        protocol = table.protocol()
        refuse_delta(protocol.reader_features or [], protocol.min_reader_version, path)
        rows = pa.table(table.scan())  # a pool has UTC times as datetime2
        plain = [pa.timestamp("us") if pa.types.is_timestamp(field.type) else field.type for field in rows.schema]
        return rows.cast(pa.schema(list(zip(rows.schema.names, plain, strict=True))))

    def local(self, url: str, folder: str) -> str:
        """The path of what COPY's URL names: a file beside the server, or a blob that is fetched into `folder`."""
        if not self.storage:
            return str(self.folder / "storage" / url.rpartition("/")[2])
        from azure.storage.blob import BlobClient

        container, name = re.sub(r"https?://[^/]+/(?:devstoreaccount1/)?", "", url).split("/", maxsplit=1)
        path = Path(folder) / "blob.parquet"
        with BlobClient.from_connection_string(self.storage, container, name) as blob:
            path.write_bytes(blob.download_blob().readall())
        return str(path)


@dataclass
class Session:
    """One connection: its transaction, and the application lock that the transaction holds."""

    engine: Engine
    reader: bool = False  # a login that may not write
    product: str = ""  # whose rules hold: one of rules.PRODUCTS; "" for SQL Server, which takes all that we send
    bulk: bool = True  # whether the login has ADMINISTER DATABASE BULK OPERATIONS
    in_transaction: bool = False
    _begun: bool = False
    _holds: bool = False
    cursor: duckdb.DuckDBPyConnection = field(init=False)

    def __post_init__(self) -> None:
        self.cursor = self.engine.database.cursor()
        self.cursor.execute("SET schema = 'dbo'")

    def begin(self) -> None:
        """DuckDB's own transaction begins with the first statement, so that it sees what was committed until then."""
        self.in_transaction = True

    def end(self, *, commit: bool) -> None:
        try:
            if self._begun:
                self._begun = False
                self.cursor.execute("COMMIT" if commit else "ROLLBACK")
        finally:
            self.in_transaction = False
            if self._holds:
                self._holds = False
                self.engine.lock.release()

    def run(self, sql: str, values: dict[str, Any] | None = None) -> Iterator[Rows | int]:
        """The results of a batch: rows, or how many were changed (-1: not counted)."""
        text = sql.strip().rstrip(";").strip()
        try:
            yield from self._run(text, values or {})
        except duckdb.Error as error:
            if self._begun:
                self.end(commit=False)
            raise _as_server_error(error) from error

    def _run(self, text: str, values: dict[str, Any]) -> Iterator[Rows | int]:
        refuse(self.product, text, in_transaction=self.in_transaction, bulk=self.bulk)
        if not text or SET.match(text) or PHYSICAL_ONLY.match(text):
            yield -1
        elif PERMISSIONS.search(text):
            yield Rows([("permission_name", "VARCHAR")], [(name,) for name in self._permissions()])
        elif lock := LOCK.search(text):
            yield Rows([("held", "INTEGER")], [(self._hold(int(lock[1]) / 1000),)])
        elif BEGIN.match(text):
            self.begin()
            yield -1
        elif end := END.match(text):
            self.end(commit=end[1].lower() == "commit")
            yield -1
        else:
            if self.reader and WRITES.match(text):
                raise ServerError(229, 14, "The permission was denied on the object, database 'dw', schema 'dbo'.")
            if self.in_transaction and not self._begun:
                self.cursor.execute("BEGIN")
                self._begun = True
            copy = COPY.match(text)
            yield from self._copy(copy) if copy else self._translated(text, values)

    def _permissions(self) -> list[str]:
        return ["CONNECT", "SELECT", *(["ADMINISTER DATABASE BULK OPERATIONS"] if self.bulk else [])] + (
            [] if self.reader else ["INSERT", "DELETE", "CREATE TABLE", "CREATE VIEW", "ALTER ANY SCHEMA"]
        )

    def _hold(self, seconds: float) -> int:
        if not self._holds:
            self._holds = self.engine.lock.acquire(timeout=seconds)
        return 0 if self._holds else -1

    def _with_deltas(self, text: str) -> str:
        """Each OPENROWSET of a Delta table as a table that holds what it held when the statement came."""

        def copied(found: re.Match[str]) -> str:
            made = sqlglot.parse_one(f"CREATE TABLE t ({found['columns']})", read="tsql")
            columns = ", ".join(exp.column(one.name, quoted=True).sql("duckdb") for one in made.find_all(exp.ColumnDef))
            self.engine.copies += 1
            name = f"openrowset_{self.engine.copies}"
            self.cursor.register("delta", self.engine.delta(found["url"]))
            self.cursor.execute(f"CREATE TABLE dbo.{name} AS SELECT {columns} FROM delta")
            self.cursor.unregister("delta")
            return f"dbo.{name}"

        return OPENROWSET.sub(copied, text)

    def _trusting(self, text: str) -> str:
        """`text` as a pool runs it that takes unenforced keys for unique: whoever groups by one finds one row each."""
        if self.product not in {"synapse", "fabric"} or not GROUPED.match(text):
            return text
        keys: dict[tuple[str, str], set[str]] = {}
        for schema, table, column in self.cursor.execute("SELECT s, t, c FROM sys.unenforced").fetchall():
            keys.setdefault((schema, table), set()).add(column)
        plain, names = numbered(text)
        groups = [
            any({named(one, names) for one in by} >= keys.get((named(schema, names), named(table, names)), {""})
                for schema, table in tables)
            for by, tables in groupings(plain)
        ]  # fmt: skip
        return named(counted_once(plain, tuple(groups)), names) if any(groups) else text

    def _translated(self, text: str, values: dict[str, Any]) -> Iterator[Rows | int]:
        for kind, statement in translated(self._without_physical(self._with_deltas(self._trusting(text)))):
            named = {name: value for name, value in values.items() if re.search(rf"\${name}\b", statement)}
            found = self.cursor.execute(statement, named) if named else self.cursor.execute(statement)
            if kind in {"Insert", "Update", "Delete", "Merge"}:
                row = found.fetchone()
                yield int(row[0]) if row else 0
            elif kind in {"Select", "Union", "Subquery"}:
                yield Rows([(name, str(type_)) for name, type_, *_ in found.description or []], found.fetchall())
            else:
                yield -1

    def _without_physical(self, text: str) -> str:
        """CREATE TABLE without Synapse's distribution and index, its unenforced key noted in the catalog."""
        text = re.sub(r"^ALTER VIEW\b", "CREATE OR REPLACE VIEW", PHYSICAL.sub("", text))
        if added := ADDED_KEY.match(text):
            self._note_key(f"SELECT * FROM {added['table']}", added["key"])
            return "SELECT 1"
        key = UNENFORCED.search(text)
        if key is None:
            return text
        text = UNENFORCED.sub("", text)
        self._note_key(text, key["key"])
        return text

    def _note_key(self, statement: str, key: str) -> None:
        plain, names = numbered(statement)
        made = parsed(plain).find(exp.Table)
        assert made is not None
        table = [named(made.db, names), named(made.name, names)]
        plain, names = numbered(f"SELECT {key}")
        for ordinal, column in enumerate(parsed(plain).selects, 1):
            row = [*table, named(column.name, names), ordinal]
            self.cursor.execute("INSERT INTO sys.unenforced VALUES (?, ?, ?, ?)", row)

    def _copy(self, copy: re.Match[str]) -> Iterator[int]:
        """COPY INTO from Azure storage, columns by position."""
        if self.in_transaction:
            raise ServerError(104409, 16, "COPY INTO is not allowed within a transaction.")
        options = copy["options"].lower()
        if "file_type = 'parquet'" not in options or ("credential" not in options and self.product != "fabric"):
            raise ServerError(104473, 16, "COPY INTO needs FILE_TYPE and CREDENTIAL.")
        _, statement = translated(f"INSERT INTO {copy['table']} ({copy['columns']}) SELECT * FROM sent")[0]
        statement = re.sub(r"\bsent$", "read_parquet($path)", statement)
        with tempfile.TemporaryDirectory() as folder:
            found = self.cursor.execute(statement, {"path": self.engine.local(copy["url"], folder)}).fetchone()
        yield int(found[0]) if found else 0

    def add(self, statement: str, lines: list[list[Any]]) -> int:
        """Many rows of one INSERT at once, as the driver sends an array of parameters."""
        if self.in_transaction and not self._begun:
            self.cursor.execute("BEGIN")
            self._begun = True
        columns = [pa.array(values) for values in zip(*lines, strict=True)]
        self.cursor.register("sent", pa.table(columns, names=[f"c{at}" for at in range(len(columns))]))
        try:
            head = re.split(r"\bVALUES\b", statement, flags=re.IGNORECASE)[0]
            _, insert = translated(f"{head} SELECT * FROM sent")[0]
            self.cursor.execute(insert)
        except duckdb.Error as error:
            if self._begun:
                self.end(commit=False)
            raise _as_server_error(error) from error
        finally:
            self.cursor.unregister("sent")
        return len(lines)

    def types_of(self, insert: str) -> list[str]:
        """DuckDB's types of the columns that an INSERT names."""
        plain, names = numbered(insert)
        target = parsed(plain).this
        table = target.this if isinstance(target, exp.Schema) else target
        found = self.cursor.execute(f"SELECT * FROM {named(table.sql('duckdb'), names)} LIMIT 0").description or []
        types = {name.lower(): str(kind) for name, kind, *_ in found}
        return [types[named(column.name, names).lower()] for column in target.expressions]


# --- T-SQL, read once for all names ---------------------------------------------------------------------------------
# sqlglot takes milliseconds for a statement, and each test has a schema of its own. So names in brackets or quotes are
# numbered, statements that differ in nothing else are read once, and what is made of one gets the names back.
def numbered(text: str) -> tuple[str, tuple[str, ...]]:
    """`text` with a number for each name in brackets or quotes, and the names; texts stay as they are."""
    names = dict[str, int]()

    def number(found: re.Match[str]) -> str:
        word = found[0]
        if word.startswith("'"):
            return word
        name = word[1:-1].replace("]]", "]") if word.startswith("[") else word[1:-1].replace('""', '"')
        return f"[~{names.setdefault(name, len(names))}~]"

    plain = QUOTED.sub(number, text)
    return plain, tuple(names)


def named(text: str, names: tuple[str, ...]) -> str:
    """A statement for DuckDB, in quotes, or in T-SQL, in brackets, or a name: with the names that `numbered` took."""
    if whole := NUMBERED.fullmatch(text):
        return names[int(whole[1])]

    def quoted(found: re.Match[str]) -> str:
        name = names[int(found[2])]
        return '"' + name.replace('"', '""') + '"' if found[1] == '"' else "[" + name.replace("]", "]]") + "]"

    return IN_QUOTES.sub(quoted, text)


@functools.lru_cache(4096)
def parsed(plain: str) -> Any:
    """What sqlglot reads in one statement; to be looked at only, as all who ask for it share it."""
    return sqlglot.parse_one(plain, read="tsql")


@functools.lru_cache(4096)
def groupings(plain: str) -> list[tuple[frozenset[str], list[tuple[str, str]]]]:
    """The columns that each SELECT of a statement groups by, and the tables that it names, with their schemas."""
    found = list[tuple[frozenset[str], list[tuple[str, str]]]]()
    for select in parsed(plain).find_all(exp.Select):
        group = select.args.get("group")
        by = frozenset(column.name for column in group.find_all(exp.Column)) if group else frozenset[str]()
        found.append((by, [(table.db, table.name) for table in select.find_all(exp.Table)]))
    return found


def counted_once(plain: str, groups: tuple[bool, ...]) -> str:
    """The statement with one row to count in each group of those SELECTs of which `groups` is true."""
    whole = parsed(plain).copy()
    for select, trusted in zip(list(whole.find_all(exp.Select)), groups, strict=True):
        for count in list(select.find_all(exp.Count)) if trusted else ():
            count.replace(exp.Literal.number(1))
    return whole.sql("tsql")


def translated(text: str) -> list[tuple[str, str]]:
    """The statements of a T-SQL batch: their kinds, and what DuckDB runs."""
    plain, names = numbered(text)
    return [(kind, named(statement, names)) for kind, statement in _translated(plain)]


@functools.lru_cache(4096)
def _translated(plain: str) -> list[tuple[str, str]]:
    plain = re.sub(r"@@(version|spid)", "'stand-in'", plain, flags=re.IGNORECASE)
    read = [statement for statement in sqlglot.parse(plain, read="tsql") if statement is not None]
    return [(type(statement).__name__, statement.transform(_mended).sql("duckdb")) for statement in read]


def _mended(node: exp.Expression) -> exp.Expression:
    """What sqlglot leaves as T-SQL."""
    if isinstance(node, exp.Collate):
        return node.this
    if isinstance(node, exp.ColumnDef):
        kept = [one for one in node.constraints if not isinstance(one.kind, exp.CollateColumnConstraint)]
        node.set("constraints", kept)
    if isinstance(node, exp.Ordered) and isinstance(node.parent, exp.PrimaryKey):
        return node.this
    if isinstance(node, exp.DataType):
        return _type(node)
    if isinstance(node, exp.Anonymous) and node.name.upper() == "STRING_SPLIT":
        text, separator = (one.transform(_mended).sql("duckdb") for one in node.expressions)
        return exp.maybe_parse(f"(SELECT unnest(string_split({text}, {separator})) AS value)", dialect="duckdb")
    if isinstance(node, exp.OpenJSON):
        listed = node.this.transform(_mended).sql("duckdb")
        return exp.maybe_parse(f"(SELECT unnest(from_json({listed}, '[\"VARCHAR\"]')) AS value)", dialect="duckdb")
    return node


def _type(node: exp.DataType) -> exp.DataType:
    kind = exp.DataType.Type
    if node.this in exp.DataType.TEXT_TYPES:
        return exp.DataType.build("text")
    if node.this in {kind.VARBINARY, kind.BINARY}:
        return exp.DataType.build("blob")
    if node.this == kind.FLOAT:
        return exp.DataType.build("double")
    if node.this in {kind.DATETIME2, kind.DATETIME}:
        return exp.DataType.build("timestamp")
    return exp.DataType.build("boolean") if node.this == kind.BIT else node


def _as_server_error(error: duckdb.Error) -> ServerError:
    numbers = (
        (duckdb.CatalogException, 208),
        (duckdb.ConstraintException, 2627),
        (duckdb.TransactionException, 1205),
        (duckdb.BinderException, 207),
        (duckdb.ConversionException, 245),
        (duckdb.ParserException, 102),
    )
    number = next((number for kind, number in numbers if isinstance(error, kind)), 50000)
    return ServerError(number, 13 if number == 1205 else 16, f"{type(error).__name__}: {error}")
