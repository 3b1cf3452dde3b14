"""Rows of a PostgreSQL query through connectorx: some times as fast as row by row, in a fraction of the memory."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from sqlalchemy.dialects.postgresql.base import PGDialect

if TYPE_CHECKING:
    from collections.abc import Iterator

    import sqlalchemy as sa

    from many_models.adapters.sql.connections import Login

AS_LIBPQ = {"disable", "require"}  # what sslmode means the same to connectorx; it verifies nothing


def address_of(url: sa.URL, login: Login, connection: sa.Connection) -> str | None:
    """The address at which connectorx reaches what `connection` does, as safely; None where it cannot.

    A connection that the driver has encrypted stays so. Settings that connectorx does not know, a verified certificate
    and a socket's path are left to the driver.
    """
    mode = url.query.get("sslmode")
    if url.get_backend_name() != "postgresql" or not url.host or set(url.query) - {"sslmode"}:
        return None
    if mode is not None and mode not in AS_LIBPQ:
        return None
    driver = connection.connection.driver_connection
    if mode is None and driver is not None and driver.info.ssl_in_use:
        mode = "require"
    password = login.token() if login.token else login.password or url.password
    query = {} if mode is None else {"sslmode": mode}
    return url.set(drivername="postgresql", password=password, query=query).render_as_string(hide_password=False)


def compile_sql(query: sa.Select[Any]) -> str:
    """The text of `query`, its parameters in it."""
    return str(query.compile(dialect=PGDialect(paramstyle="named"), compile_kwargs={"literal_binds": True}))


class LostError(Exception):
    """Connectorx has failed; the text, which may show a password, is in `args`."""


def start(address: str, query: str, schema: pa.Schema, batch_rows: int) -> Iterator[pa.Table] | None:
    """The rows as `schema`, in tables of at most `batch_rows`; None where connectorx cannot begin.

    It is asked for the first rows at once: why it cannot, the driver says better. Later failures are LostError.
    """
    found = _batches(address, query, batch_rows)
    try:
        first = next(found, None)
    except LostError:
        return None
    batches = found if first is None else chain([first], found)
    return (pa.Table.from_batches([batch]).rename_columns(schema.names).cast(schema) for batch in batches)


def _batches(address: str, query: str, batch_rows: int) -> Iterator[pa.RecordBatch]:
    import connectorx

    try:
        yield from connectorx.read_sql(address, query, return_type="arrow_stream", batch_size=batch_rows)
    except BaseException as error:
        if not isinstance(error, RuntimeError) and type(error).__name__ != "PanicException":
            raise
        raise LostError(str(error)) from None
