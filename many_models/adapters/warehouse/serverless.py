"""The warehouse where there is only a Synapse serverless SQL pool: nothing is loaded, its views read the lake."""

from __future__ import annotations

from typing import TYPE_CHECKING

from many_models.adapters.sql.connections import BULK_RIGHT
from many_models.adapters.warehouse.sql import NO_LOGIN, SqlWarehouse
from many_models.errors import AccessError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from many_models.adapters.sql import connections
    from many_models.ports import Filter, WarehousePart, WarehouseView


class ServerlessWarehouse(SqlWarehouse):
    """Views over the lake in the database that `url` names; `statements` makes what defines them, each run by itself.

    The pool cannot store rows: a load writes none and none is recorded; what it would bring is in the lake already.
    """

    def __init__(
        self, url: str, statements: Callable[[], Sequence[str]], *, login: connections.Login = NO_LOGIN
    ) -> None:
        super().__init__(url, login=login)
        self._statements = statements

    def load(self, load: str, fingerprint: str, parts: Sequence[WarehousePart]) -> int:  # noqa: ARG002  nothing is kept
        """See `Warehouse.load`: no row is written."""
        return 0

    def loads(self) -> None:
        """See `Warehouse.loads`: none is recorded."""

    def count(self, table: str, where: Filter) -> int:  # noqa: ARG002  nothing is kept
        """See `Warehouse.count`: a load replaces nothing here."""
        return 0

    def create_views(self, views: Sequence[WarehouseView]) -> None:  # noqa: ARG002  the lake's own say more
        """Make the lake's views, or make them again; those of `views` are among them."""
        made = self._statements()

        def make() -> None:
            engine = self._engine.execution_options(isolation_level="AUTOCOMMIT")
            with self._errors("making its views"), engine.connect() as connection:
                for statement in made:
                    connection.exec_driver_sql(statement)

        self._again(make)

    def check(self) -> str:
        """See `Warehouse.check`. Raises AccessError that names the GRANT which OPENROWSET needs."""
        with self._transaction("asking for its login's rights") as connection:
            asked = "SELECT permission_name FROM sys.fn_my_permissions(NULL, 'DATABASE')"
            held = {name for (name,) in connection.exec_driver_sql(asked)}
        if BULK_RIGHT not in held:
            raise AccessError(
                f"the warehouse {self._name}: run in that database: GRANT {BULK_RIGHT} TO [the login's user]"
            )
        return f"warehouse {self._name}: a serverless pool, which reads the lake"
