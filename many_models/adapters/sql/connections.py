"""Database servers that a source or a warehouse connects to: URLs, logins, and what their errors mean."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

import sqlalchemy as sa
from sqlalchemy.event import listens_for
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, OperationalError

from many_models.adapters.azure.identity import forget, token
from many_models.adapters.sql.drivers import with_driver
from many_models.errors import (
    AccessError,
    ConflictError,
    InputError,
    ManyModelsError,
    MissingDependencyError,
    SettingsError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from many_models.adapters.azure.identity import Identity

CONNECT_SECONDS = 15
BULK_RIGHT = "ADMINISTER DATABASE BULK OPERATIONS"
POOL: dict[str, Any] = {"pool_size": 1, "pool_pre_ping": True, "pool_recycle": 1800, "hide_parameters": True}
ACCESS_TOKEN = 1256  # SQL_COPT_SS_ACCESS_TOKEN of Microsoft's ODBC drivers
TOKEN_SCOPES = {
    "mssql": "https://database.windows.net/.default",
    "postgresql": "https://ossrdbms-aad.database.windows.net/.default",
}
MYSQL = ("mysql", "mariadb")
_MYSQL_STATES = {
    1044: "42501",
    1045: "28000",
    1049: "3D000",
    1142: "42501",
    1143: "42501",
    1205: "40001",
    1213: "40001",
    1698: "28000",
}
_EXPIRED = re.compile(r"token (is|has) expired", re.IGNORECASE)
_REFUSED = {"28000", "28P01", "42501", "0P000"}
_NO_BULK = 4834
_REFUSED_NUMBERS = {_NO_BULK, 229, 230, 262, 297, 300, 916, 15247, 15151, 18456, 18470, 105215}
_BUSY_NUMBERS = {1204, 1205, 1222, 3960, 3961, 24556}  # 24556: Fabric's conflict of snapshots
_PAUSED_NUMBERS = {42108, 42109}  # a dedicated pool that is paused, or is being resumed
_THROTTLED = re.compile(r"capacity has exceeded its limits|\b(429|430)\b.*(thrott|capacity)", re.IGNORECASE)
_AWAY_NUMBERS = {4060, 40197, 40501, 40613, 49918, 49919, 49920, 10928, 10929, 10053, 10054, 10060, 11001, 64, 233}
_AWAY_CLASSES = {"08", "53", "57", "58", "XX"}  # of SQLSTATE; XX: the server's own fault
_FULL_NUMBERS = {1101, 1105, 9002, 40544}


@dataclass(frozen=True, slots=True)
class Login:
    """What a server is shown beside the URL: a `password`, or a `token` of Entra ID, asked for at every connect."""

    password: str = field(default="", repr=False)
    token: Callable[[], str] | None = field(default=None, repr=False)


def login_of(url: str, credential: str, password: Callable[[], str], client_id: str = "") -> Login:
    """The login that settings name: `url` (as the URL says), `password` (a secret), or Entra ID's `default` and
    `managed_identity`.
    """
    if credential == "password":
        return Login(password=password())
    if credential in {"default", "managed_identity"}:
        scope = TOKEN_SCOPES["mssql" if url.startswith("mssql") else "postgresql"]
        identity: Identity = "managed_identity" if credential == "managed_identity" else "default"
        return Login(token=lambda: token(scope, identity, client_id))
    return Login()


def parse(url: str, section: str) -> sa.URL:
    """`url` of the settings' `section`. Raises SettingsError without the password."""
    try:
        return sa.make_url(with_driver(url))
    except (ArgumentError, ValueError):
        raise SettingsError(
            f"[{section}] url is not a SQLAlchemy URL; write sqlite:///path/to/file.db, "
            "postgresql://user@host/database or mssql+pyodbc://user@host/database?driver=ODBC+Driver+18+for+SQL+Server"
        ) from None


def server_engine(url: sa.URL, login: Login, section: str, **options: Any) -> sa.Engine:
    """An engine that keeps one connection and asks whether it still lives before each use.

    Raises MissingDependencyError when the driver is not installed, SettingsError when there is no such dialect.
    """
    if login.password:
        url = url.set(password=login.password)
    arguments = {"connect_timeout": CONNECT_SECONDS} if url.drivername == "postgresql+psycopg2" else {}
    if url.get_backend_name() in MYSQL:  # a TIMESTAMP is shown in the session's time zone
        arguments = {
            "connect_timeout": CONNECT_SECONDS,
            "charset": "utf8mb4",
            "init_command": "SET time_zone = '+00:00'",
        }
    if url.drivername == "mssql+pyodbc":
        arguments = {"timeout": CONNECT_SECONDS}
        url = _with_driver(url)
    try:
        engine = sa.create_engine(url, connect_args=arguments, **POOL, **options)
    except ImportError as error:
        raise MissingDependencyError(
            f"[{section}] {shown(url)} needs a driver: {error}; pip install 'many_models[postgres]' for PostgreSQL, "
            "'many_models[mysql]' for MySQL and MariaDB; pyodbc needs the system's unixodbc and a driver such as "
            "msodbcsql18"
        ) from error
    except (NoSuchModuleError, ArgumentError) as error:
        raise SettingsError(f"[{section}] url names {shown(url)}: {error}") from None
    if login.token is not None:
        _show_token(engine, login.token)
    return engine


def _with_driver(url: sa.URL) -> sa.URL:
    """`url` with the driver that a wheel brings, where it names none, or one of Microsoft's that is not installed."""
    from many_models.adapters.sql.odbc_driver import bundled_driver

    named = str(url.query.get("driver", ""))
    if "odbc_connect" in url.query or url.host is None or (named and not named.startswith("ODBC Driver")):
        return url
    try:
        import pyodbc
    except ImportError:
        return url
    path = None if named in pyodbc.drivers() else bundled_driver()
    return url if path is None else url.update_query_dict({"driver": path})


def _show_token(engine: sa.Engine, shown_token: Callable[[], str]) -> None:
    """Show a token at every connect; one that the server says has expired is fetched again, and shown once more."""

    def show(arguments: list[Any], named: dict[str, Any]) -> None:
        if engine.dialect.name == "mssql":
            arguments[0] = re.sub(r";Trusted_Connection=Yes", "", str(arguments[0]), flags=re.IGNORECASE)
            encoded = shown_token().encode("utf-16-le")
            named["attrs_before"] = {ACCESS_TOKEN: struct.pack("<I", len(encoded)) + encoded}
        else:
            named["password"] = shown_token()

    @listens_for(engine, "do_connect")
    def connect(dialect: sa.Dialect, _record: object, arguments: list[Any], named: dict[str, Any]) -> object:
        show(arguments, named)
        try:
            return dialect.connect(*arguments, **named)
        except dialect.loaded_dbapi.Error as error:
            if not _EXPIRED.search(str(error)):
                raise
        forget()
        show(arguments, named)
        return dialect.connect(*arguments, **named)


def shown(url: sa.URL) -> str:
    """`url` for people: without its password, and without what else its query may carry."""
    return url.set(query={}).render_as_string(hide_password=True)


_PASSWORD = re.compile(r"(://[^/@:\s]*):[^\s]*@")


def masked(url: str) -> str:
    """The text `url`, which may be no URL at all, with `***` in place of what may be a password."""
    return _PASSWORD.sub(r"\1:***@", url.partition("?")[0])


def split_password(url: str) -> tuple[str, str]:
    """(`url` without its password, the password, "" where it has none). Raises InputError for a secret in its query."""
    try:
        parsed = sa.make_url(with_driver(url))
    except (ArgumentError, ValueError):
        raise InputError(f"{masked(url)!r} is not a SQLAlchemy URL; write for example sqlite:///sales.db") from None
    if secrets := sorted(name for name in parsed.query if _secret_name(name)):
        raise InputError(f"the URL's query holds {', '.join(secrets)}: write user:password@ before the host instead")
    if not parsed.password:
        return url, ""
    return parsed._replace(password=None).render_as_string(hide_password=False), str(parsed.password)


def without_secrets(text: str, url: sa.URL, login: Login) -> str:
    """`text` with every spelling of the password struck out."""
    secrets = {word for word in (url.password, login.password) if word}
    secrets |= {value for name, value in url.query.items() if isinstance(value, str) and _secret_name(name)}
    for word in sorted(
        {s for secret in map(str, secrets) for s in (secret, quote(secret, safe=""), quote_plus(secret))}
    ):
        text = text.replace(word, "***")
    return text


def _secret_name(name: str) -> bool:
    return name.lower() in {"password", "pwd", "odbc_connect", "sslpassword", "accountkey", "sharedaccesskey"}


def translate_error(error: DBAPIError, what: str, text: str) -> ManyModelsError:
    """The error of our tree that a driver's `error` stands for; `text` is what it says, without secrets."""
    state, number = _codes(error)
    said = f"{what}: {text}"
    if number == _NO_BULK:
        return AccessError(f"{said}; run: GRANT {BULK_RIGHT} TO the login's user, and INSERT on the tables")
    if number in _PAUSED_NUMBERS:
        return UnavailableError(f"{said}; resume the SQL pool, then run again")
    if _THROTTLED.search(text):
        return UnavailableError(f"{said}; the capacity is used up: wait, or scale it up")
    if state in _REFUSED or number in _REFUSED_NUMBERS or _refused_text(text):
        return AccessError(f"{said}; check the login and what it is granted")
    if state in {"40001", "40P01", "55P03"} or number in _BUSY_NUMBERS:
        return ConflictError(f"{said}; someone else was writing, try again")
    if state == "53100" or number in _FULL_NUMBERS or "could not extend file" in text:  # a quota has no own state
        return UnavailableError(f"{said}; the server has no room left")
    if state == "3D000":
        return SettingsError(f"{said}; the url names a database that is not there")
    away = state[:2] in _AWAY_CLASSES or state in {"HYT00", "HYT01", "01002"} or number in _AWAY_NUMBERS
    if error.connection_invalidated or away:
        return UnavailableError(said)
    if state and state != "HY000":
        return InputError(said)
    return UnavailableError(said) if isinstance(error, OperationalError) else InputError(said)


def is_clash(error: DBAPIError) -> bool:
    """Whether a key was there already."""
    _, number = _codes(error)
    return isinstance(error, IntegrityError) or number in {2601, 2627}


def _codes(error: DBAPIError) -> tuple[str, int]:
    """SQLSTATE and the server's own error number; "" and 0 where there are none."""
    original = error.orig
    state = getattr(original, "pgcode", None) or ""
    arguments = getattr(original, "args", ())
    if not state and len(arguments) > 1 and isinstance(arguments[0], str):  # pyodbc
        numbers = re.findall(r"\((\d+)\) \(SQL", str(arguments[1]))
        return arguments[0], int(numbers[0]) if numbers else 0
    if not state and arguments and isinstance(arguments[0], int):  # pymysql
        return _MYSQL_STATES.get(arguments[0], ""), 0
    return state, 0


def _refused_text(text: str) -> bool:
    """Libpq has no code for a login that fails."""
    return any(
        sign in text for sign in ("password authentication failed", "no pg_hba.conf entry", "no password supplied")
    )
