"""A session on a cluster of Databricks by databricks-connect, as a service principal with an OAuth secret.

databricks-connect replaces pyspark's own files: it belongs into an environment without `many_models[spark]`.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from many_models.adapters.compute.spark_versions import cluster_trouble, require_runtime
from many_models.errors import AccessError, ManyModelsError, MissingDependencyError, UnavailableError
from many_models.system import first_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import SparkSession

RUNTIME = "spark.databricks.clusterUsageTags.sparkVersion"


@dataclass(frozen=True, slots=True)
class Databricks:
    """The workspace at `host` (https://…), the id of its `cluster`, and who asks; `secret` is asked for when needed."""

    host: str
    cluster: str
    client_id: str
    secret: Callable[[], str]

    def connect(self) -> SparkSession:
        """The session, after the versions were compared. Tokens are renewed by Databricks' SDK.

        Raises MissingDependencyError without databricks-connect, AccessError when the login is refused, InputError when
        the cluster's versions do not fit, and UnavailableError when the cluster is away or starting.
        """
        try:
            from databricks.connect import DatabricksSession  # pyright: ignore[reportMissingImports]
            from databricks.sdk.core import Config
        except ImportError as error:
            raise MissingDependencyError(
                "compute.databricks_host needs databricks-connect of the cluster's runtime, in an environment without "
                "pyspark: pip install 'databricks-connect==15.4.*' for runtime 15.4"
            ) from error
        try:
            config = Config(
                host=self.host, cluster_id=self.cluster, client_id=self.client_id, client_secret=self.secret(),
                auth_type="oauth-m2m",
            )  # fmt: skip
            config.authenticate()  # a refusal here names the login, not the cluster
        except ManyModelsError:
            raise
        except Exception as error:
            raise AccessError(
                f"Databricks at {self.host} refuses the service principal {self.client_id}: {first_line(error, 200)}; "
                "its OAuth secret is MANY_MODELS_DATABRICKS_CLIENT_SECRET, and it needs Can Attach To on the cluster"
            ) from error
        try:
            session = DatabricksSession.builder.sdkConfig(config).getOrCreate()
            runtime = session.conf.get(RUNTIME)
        except Exception as error:
            why = f"{type(error).__name__}: {first_line(error, 200)}"
            raise cluster_trouble(str(error)) or UnavailableError(
                f"cluster {self.cluster} at {self.host} does not answer: {why}"
            ) from error
        require_runtime(metadata.version("databricks-connect"), str(runtime), platform.python_version())
        session.conf.set("spark.sql.session.timeZone", "UTC")
        return session
