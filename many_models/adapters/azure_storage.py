"""Azure Data Lake Storage: what delta-rs is told of it, by the kind of credential, and what its refusals mean."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from many_models.adapters.azure_identity import token
from many_models.errors import AccessError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from many_models.errors import ManyModelsError

Credential = Literal["default", "managed_identity", "key", "sas"]
KEY, SAS = "AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN"
SCOPE = "https://storage.azure.com/.default"
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
PATIENCE = {  # 503 (server busy) and 429 (throttled) are asked again for two minutes and more
    "max_retries": "60",
    "retry_timeout": "180s",
    "backoff_config.init_backoff": "200ms",
    "backoff_config.max_backoff": "5s",
    "backoff_config.base": "2",
}
CODE = re.compile(r"<Code>(\w+)</Code>")
STATUS = re.compile(r"\b(40[13]) (?:Unauthorized|Forbidden)")


@dataclass(frozen=True, slots=True)
class AzureStorage:
    """delta-rs' options for `url` (`abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/FOLDER`), asked for at each use.

    `secret` gives the secret KEY or SAS by name. A pickle of this holds no secret: a worker asks for its own.
    `endpoint` is the blob service's address where it is not Azure's own: an emulator on this machine.
    """

    url: str
    credential: Credential
    secret: Callable[[str], str]
    client_id: str = ""
    endpoint: str = ""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if not parts.username or not parts.hostname or parts.password or parts.query:
            raise SettingsError(
                "[lake] path is no Azure location: it is written "
                "abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/FOLDER, without any secret"
            )
        if self.endpoint.startswith("http://") and urlsplit(self.endpoint).hostname not in LOOPBACK:
            raise SettingsError(f"[lake] endpoint {self.endpoint}: http:// is for an emulator on this machine only")

    @property
    def account(self) -> str:
        """The storage account's name."""
        return (urlsplit(self.url).hostname or "").partition(".")[0]

    def __call__(self) -> dict[str, str]:
        """The options, with a token that is good now. Raises AccessError, or SettingsError when a secret is missing."""
        options = {**PATIENCE, "azure_storage_account_name": self.account}
        if self.endpoint:
            options["azure_storage_endpoint"] = self.endpoint
            options["allow_http"] = str(self.endpoint.startswith("http://")).lower()
        if self.credential == "key":
            options["azure_storage_account_key"] = self.secret(KEY)
        elif self.credential == "sas":
            options["azure_storage_sas_token"] = self.secret(SAS).removeprefix("?")
        else:
            options["azure_storage_token"] = token(SCOPE, self.credential, self.client_id)
        return options


def refusal(text: str) -> ManyModelsError | None:
    """What an error text of Azure storage says about access; None when it says nothing of the kind."""
    found = CODE.search(text) or STATUS.search(text)
    code = found[1] if found else ""
    if "Invalid Access Key" in text:
        return SettingsError(f"the secret {KEY} is no account key (base64)")
    if code == "ContainerNotFound":
        return SettingsError("there is no such container: create it, or mend [lake] path (ContainerNotFound)")
    if code in {"AuthorizationPermissionMismatch", "InsufficientAccountPermissions", "UnauthorizedBlobOverwrite"}:
        return AccessError(
            f"the credential is good but may not do this ({code}): grant its identity the role Storage Blob Data "
            "Contributor on the container; a SAS needs the permissions racwdl"
        )
    if code.startswith(("Auth", "InvalidAuth", "401", "403")):
        return AccessError(
            f"the credential is not accepted ({code}): it is wrong or has expired, or the account's network rules keep "
            "this machine out; renew it, then run again"
        )
    return None
