"""What many_models uses of MLflow's private API, and the only module that imports it.

`mlflow_problems` checks the table PRIVATE_API against the MLflow that is installed.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.tracking._model_registry.client import ModelRegistryClient

_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_CLIENT = "mlflow.tracking._model_registry.client:ModelRegistryClient"
_TABLES = "mlflow.store.model_registry.dbmodels.models"
PRIVATE_API = {  # what is used → the parameters it is used with, or None for what is not a function
    _CLIENT: "registry_uri tracking_uri",
    f"{_CLIENT}.create_registered_model": "self name tags",
    f"{_CLIENT}.get_registered_model": "self name",
    f"{_CLIENT}.search_registered_models": "self filter_string",
    f"{_CLIENT}.set_registered_model_tag": "self name key value",
    f"{_CLIENT}.set_registered_model_alias": "self name alias version",
    f"{_CLIENT}.delete_registered_model_alias": "self name alias",
    f"{_CLIENT}.create_model_version": "self name source run_id tags",
    f"{_CLIENT}.get_model_version": "self name version",
    f"{_CLIENT}.get_model_version_by_alias": "self name alias",
    f"{_CLIENT}.search_model_versions": "self filter_string max_results page_token",
    f"{_CLIENT}.set_model_version_tag": "self name version key value",
    f"{_CLIENT}.delete_model_version_tag": "self name version key",
    f"{_CLIENT}.delete_model_version": "self name version",
    f"{_CLIENT}.delete_registered_model": "self name",
    f"{_CLIENT}.rename_registered_model": "self name new_name",
    "mlflow.tracking._tracking_service.utils:_get_store": "store_uri",
    "mlflow.store.tracking.sqlalchemy_store:SqlAlchemyStore._hard_delete_run": "self run_id",
    **{f"{_TABLES}:SqlRegisteredModel.{column}": None for column in ("name", "workspace")},
    **{f"{_TABLES}:SqlModelVersion.{column}": None for column in ("name", "version", "workspace", "source", "run_id")},
    **{f"{_TABLES}:SqlModelVersionTag.{column}": None for column in ("name", "version", "workspace", "key", "value")},
    **{f"{_TABLES}:SqlRegisteredModelAlias.{column}": None for column in ("name", "alias", "version", "workspace")},
}


def keep_mlflow_quiet() -> None:
    """Turn MLflow's telemetry and progress bars off, unless the user has set them. Call before MLflow is imported."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


def import_mlflow_without_pyspark() -> None:
    """Import MLflow as on a machine without pyspark, to save a service 100 modules that it never uses.

    `mlflow.types.schema` tries to import pyspark only to know whether it could describe Spark's types. Call this before
    other threads run: meanwhile `import pyspark` raises ModuleNotFoundError, in every thread.
    """
    if "mlflow" in sys.modules or "pyspark" in sys.modules:
        return
    keep_mlflow_quiet()
    sys.modules["pyspark"] = None  # pyright: ignore[reportArgumentType]  how Python says: not to be found
    try:
        importlib.import_module("mlflow")
    finally:
        del sys.modules["pyspark"]


def error_code(error: Exception) -> str:
    """MLflow's code of an error that MLflow raised, "" of another one. It does not import MLflow."""
    raised = sys.modules.get("mlflow.exceptions")
    return str(getattr(error, "error_code", "")) if raised and isinstance(error, raised.MlflowException) else ""


def registry_client(uri: str) -> ModelRegistryClient:
    """MLflow's client of the model registry alone, with calls that MlflowClient does not offer."""
    from mlflow.tracking._model_registry.client import ModelRegistryClient

    return ModelRegistryClient(uri, uri)


def hard_delete_run(uri: str, run_id: str) -> None:
    """Delete a soft-deleted run for good. `mlflow gc` calls the same method; there is no public one."""
    from mlflow.tracking._tracking_service import utils

    store = getattr(utils, "_get_store")(uri)  # noqa: B009  pyright knows no such name
    getattr(store, "_hard_delete_run")(run_id)  # noqa: B009  the same


def mlflow_problems() -> tuple[str, ...]:
    """What the installed MLflow lacks of PRIVATE_API; empty when it fits."""
    return tuple(problem for name, parameters in PRIVATE_API.items() if (problem := _problem(name, parameters)))


def _problem(name: str, parameters: str | None) -> str:
    try:
        found = pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return f"{name} is gone"
    if parameters is None:
        return ""
    takes = inspect.signature(found).parameters
    lacking = [parameter for parameter in parameters.split() if parameter not in takes]
    return f"{name} takes ({', '.join(takes)}), without {', '.join(lacking)}" if lacking else ""
