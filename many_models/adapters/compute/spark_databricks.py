"""A session on a cluster of Databricks by databricks-connect, as a service principal with an OAuth secret.

databricks-connect has pyspark's own files in its wheel: it stands in place of that package.
"""

from __future__ import annotations

import platform
import re
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from many_models.adapters.compute.spark_versions import cluster_trouble, require_runtime
from many_models.errors import AccessError, InputError, ManyModelsError, MissingDependencyError, UnavailableError
from many_models.system import first_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import SparkSession

REFUSED = re.compile(r"\b(invalid_\w+|unauthorized_client|access_denied)\b")  # OAuth's words
ANSWER_SECONDS = 30  # Databricks' SDK would ask a workspace that is away for five minutes


@dataclass(frozen=True, slots=True)
class Databricks:
    """The workspace at `host` (https://…), the id of its `cluster`, and who asks; `secret` is asked for when needed."""

    host: str
    cluster: str
    client_id: str
    secret: Callable[[], str]

    def connect(self) -> SparkSession:
        """The session, after the versions were compared. Tokens are renewed by Databricks' SDK.

        Raises MissingDependencyError without databricks-connect, AccessError when the login or its right is refused,
        InputError when the cluster's versions or pyspark do not fit, and UnavailableError when the workspace or the
        cluster is away or starting.
        """
        try:
            from databricks.connect import DatabricksSession  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise MissingDependencyError(
                "compute.databricks_host needs databricks-connect of the cluster's runtime in place of pyspark "
                f"({error}): docs/spark.md has the command"
            ) from error
        _require_own_files()
        config = self._signed_in()
        # before the session, which starts a cluster that is stopped
        require_runtime(metadata.version("databricks-connect"), self._runtime(config), platform.python_version())
        try:
            session = DatabricksSession.builder.sdkConfig(config).getOrCreate()
            session.conf.set("spark.sql.session.timeZone", "UTC")
        except Exception as error:
            raise cluster_trouble(str(error)) or self._away(error) from error
        return session

    def _signed_in(self) -> Any:
        """The SDK's Config, after Databricks has given a token: what is refused here is the login, not the cluster."""
        from databricks.sdk.core import Config

        try:
            config = Config(
                host=self.host,
                cluster_id=self.cluster,
                client_id=self.client_id,
                client_secret=self.secret(),
                auth_type="oauth-m2m",
                retry_timeout_seconds=ANSWER_SECONDS,
            )
            config.authenticate()
        except ManyModelsError:
            raise
        except Exception as error:
            why = first_line(error, 200)
            if not REFUSED.search(str(error)):
                raise UnavailableError(f"no workspace of Databricks answers at {self.host}: {why}") from error
            raise AccessError(
                f"Databricks at {self.host} refuses the service principal {self.client_id}: {why}; "
                "its OAuth secret is MANY_MODELS_DATABRICKS_CLIENT_SECRET"
            ) from error
        return config

    def _runtime(self, config: Any) -> str:
        """The runtime that the cluster has, such as 15.4.x-scala2.12."""
        from databricks.sdk import WorkspaceClient
        from databricks.sdk.errors import PermissionDenied

        try:
            return str(WorkspaceClient(config=config).clusters.get(self.cluster).spark_version)
        except PermissionDenied as error:
            raise AccessError(
                f"the service principal {self.client_id} may not use cluster {self.cluster}: {first_line(error, 200)}; "
                "it needs Can Attach To (of a cluster that is stopped Can Restart)"
            ) from error
        except Exception as error:
            raise self._away(error) from error

    def _away(self, error: Exception) -> UnavailableError:
        why = " ".join(str(error).split())[:300]  # gRPC says what happened after its first line
        return UnavailableError(f"cluster {self.cluster} at {self.host} does not answer: {type(error).__name__}: {why}")


def _require_own_files() -> None:
    """Raise InputError where the package pyspark lies in databricks-connect's folder: one wrote over the other."""
    import pyspark

    with suppress(metadata.PackageNotFoundError):
        other = metadata.distribution("pyspark")
        same = Path(str(other.locate_file("pyspark/__init__.py"))) == Path(str(pyspark.__file__))
        if same and "databricks" not in other.version:
            raise InputError(
                f"pyspark {other.version} is installed beside databricks-connect, and each has overwritten files of "
                "the other: make a new environment with databricks-connect alone (docs/spark.md has the command)"
            )
