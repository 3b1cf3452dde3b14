"""Entra ID: the tokens that Azure's services ask for, of a managed identity or what DefaultAzureCredential finds."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING, Literal

from many_models.errors import AccessError, MissingDependencyError
from many_models.system import first_line

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

Identity = Literal["default", "managed_identity"]
NODE_CLIENT_ID = "MANY_MODELS_NODE_CLIENT_ID"
"""Set on the node of a cluster: the identity that the node has. What the driver's settings name is not there."""
AZURE_ML_CLIENT_ID = "DEFAULT_IDENTITY_CLIENT_ID"
"""Set by Azure ML on compute with a user-assigned identity; azure-identity does not read it."""


@cache
def credential(identity: Identity = "default", client_id: str = "") -> TokenCredential:
    """The credential of this process, made once: it keeps its tokens and renews them before they end.

    `client_id` names a user-assigned identity; on a node of a cluster, the node's own identity wins. Raises
    MissingDependencyError without the extra `azure`.
    """
    try:
        from azure.identity import DefaultAzureCredential, ManagedIdentityCredential
    except ImportError as error:
        raise MissingDependencyError(
            "Azure's identities need the package azure-identity: pip install 'many_models[azure]'"
        ) from error
    client_id = os.environ.get(NODE_CLIENT_ID) or client_id or os.environ.get(AZURE_ML_CLIENT_ID, "")
    if identity == "managed_identity":
        return ManagedIdentityCredential(client_id=client_id or None)
    return DefaultAzureCredential(managed_identity_client_id=client_id or None)


def forget() -> None:
    """Have tokens asked for again: a service says that one has expired which this process takes for good."""
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
