"""Azure ML workspaces: their client, and what its errors mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from many_models.adapters.azure.identity import credential
from many_models.errors import AccessError, ManyModelsError, MissingDependencyError, SettingsError, UnavailableError
from many_models.system import first_line

if TYPE_CHECKING:
    from azure.ai.ml import MLClient

    from many_models.adapters.azure.identity import Identity


def connect(
    subscription: str, resource_group: str, workspace: str, identity: Identity = "default", client_id: str = ""
) -> MLClient:
    """The workspace's client. Raises MissingDependencyError without the extra `azureml`."""
    try:
        from azure.ai.ml import MLClient
    except ImportError as error:
        raise MissingDependencyError(
            "an Azure ML workspace needs the package azure-ai-ml: pip install 'many_models[azureml]'"
        ) from error
    return MLClient(credential(identity, client_id), subscription, resource_group, workspace)


def azure_ml_error(error: Exception, what: str, section: str) -> ManyModelsError:
    """What an error of azure-ai-ml means: a login, a setting of `section`, or a service that is away."""
    from azure.core.exceptions import ClientAuthenticationError, HttpResponseError

    if isinstance(error, ManyModelsError):
        return error
    said = f"{what}: {first_line(error)}"
    status = error.status_code if isinstance(error, HttpResponseError) else None
    if isinstance(error, ClientAuthenticationError) or status in {401, 403}:
        return AccessError(f"{said}; the identity needs the role AzureML Data Scientist on the workspace")
    if status is not None and "quota" in str(error).lower():  # 400, 409 or 429 by the service that counts
        return UnavailableError(
            f"{said}; a quota is used up: delete what is not used, choose fewer instances or a smaller size, or ask "
            "for more (Azure portal, Quotas, Machine Learning); then run it again"
        )
    if status in {400, 404} or type(error).__name__ == "ValidationException":
        return SettingsError(f"{said}; mend [{section}]")
    return UnavailableError(said)
