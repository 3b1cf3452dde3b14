"""The driver that a database's URL means. Imports no SQLAlchemy, which a service may not need."""

from __future__ import annotations

_DRIVERS = {
    "postgresql": "postgresql+psycopg2",
    "postgres": "postgresql+psycopg2",
    "mssql": "mssql+pyodbc",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}


def with_driver(url: str) -> str:
    """`url`, a text, with the driver that this package installs where it names none: SQLAlchemy's own choice for
    `postgresql://` has changed between releases, and `postgres://` it does not know.
    """
    scheme, separator, rest = url.partition("://")
    return f"{_DRIVERS.get(scheme, scheme)}{separator}{rest}"
