"""Entra ID: the tokens that Azure's services ask for, of a managed identity or what DefaultAzureCredential finds."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Literal

from many_models.errors import AccessError, MissingDependencyError
from many_models.system import first_line

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

Identity = Literal["default", "managed_identity"]


@cache
def credential(identity: Identity = "default", client_id: str = "") -> TokenCredential:
    """The credential of this process, made once: it keeps its tokens and renews them before they end.

    `client_id` names a user-assigned identity. Raises MissingDependencyError without the extra `azure`.
    """
    try:
        from azure.identity import DefaultAzureCredential, ManagedIdentityCredential
    except ImportError as error:
        raise MissingDependencyError(
            "Azure's identities need the package azure-identity: pip install 'many_models[azure]'"
        ) from error
    if identity == "managed_identity":
        return ManagedIdentityCredential(client_id=client_id or None)
    return DefaultAzureCredential(managed_identity_client_id=client_id or None)


def forget() -> None:
    """Have tokens asked for anew: a service says that one has expired which this process takes for good."""
    credential.cache_clear()


def token(scope: str, identity: Identity = "default", client_id: str = "") -> str:
    """A token for `scope` (`https://storage.azure.com/.default` and the like) that is good for minutes at least.

    Raises AccessError when no identity answers or it is refused.
    """
    from azure.core.exceptions import AzureError

    try:
        return credential(identity, client_id).get_token(scope).token
    except (AzureError, ValueError) as error:
        raise AccessError(
            f"no token for {scope} ({identity}): {first_line(error)} Check the identity of this machine: "
            "managed identity, workload identity, AZURE_CLIENT_ID, or `az login`"
        ) from error
