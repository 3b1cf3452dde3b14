"""Azure Data Lake Storage: what delta-rs and the blob client are told of it, by the kind of credential, and what its
refusals mean.
"""

from __future__ import annotations

import re
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

from many_models.adapters.azure.identity import credential, token
from many_models.errors import AccessError, MissingDependencyError, SettingsError, UnavailableError
from many_models.system import doubling, retry

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator

    from azure.storage.blob import ContainerClient

    from many_models.errors import ManyModelsError

T = TypeVar("T")
Credential = Literal["default", "managed_identity", "key", "sas"]
KEY, SAS = "AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN"
SCOPE = "https://storage.azure.com/.default"
ONELAKE = ".fabric.microsoft.com"
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
PATIENCE = {  # 503 (server busy) and 429 (throttled) are asked again for two minutes and more
    "max_retries": "60",
    "retry_timeout": "180s",
    "backoff_config.init_backoff": "200ms",
    "backoff_config.max_backoff": "5s",
    "backoff_config.base": "2",
}
BUSY, BUSY_SECONDS, BUSY_PAUSE_SECONDS = {429, 430, 500, 502, 503, 504}, 120.0, 5.0
# The blob client's own tries, a minute of them, are for lines that are cut. Answers it counts apart, three by default,
# and 429 or 430 (a Fabric capacity that is used up) not at all: `while_busy` asks those again.
BLOB_PATIENCE: dict[str, Any] = {
    "retry_total": 6,
    "retry_connect": 6,
    "retry_read": 6,
    "retry_status": 0,
    "initial_backoff": 1,
    "increment_base": 2,
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
                "[lake] path is not an Azure location: it is written "
                "abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/FOLDER, without any secret"
            )
        if self.in_onelake and self.credential in {"key", "sas"}:
            raise SettingsError(
                f"[lake] credential is {self.credential}; OneLake takes Entra ID only: default, managed_identity"
            )
        if self.in_onelake and not re.match(r"[^/]+\.[A-Za-z]+/(Tables|Files)(/|$)", self.folder):
            raise SettingsError(
                f"[lake] path ends in {self.folder!r}; in OneLake it is written abfss://WORKSPACE@"
                "onelake.dfs.fabric.microsoft.com/NAME.Lakehouse/Tables, and with the option Lakehouse schemas "
                "…/Tables/dbo"
            )
        if self.endpoint.startswith("http://") and urlsplit(self.endpoint).hostname not in LOOPBACK:
            raise SettingsError(f"[lake] endpoint {self.endpoint}: http:// is for an emulator on this machine only")

    @property
    def in_onelake(self) -> bool:
        """Whether it is in Fabric's OneLake, which has one account for all workspaces."""
        return self._host.endswith(ONELAKE)

    @property
    def account(self) -> str:
        """The storage account's name."""
        return (urlsplit(self.url).hostname or "").partition(".")[0]

    @property
    def container(self) -> str:
        """The container's name."""
        return urlsplit(self.url).username or ""

    @property
    def folder(self) -> str:
        """The folder within the container, without slashes around it."""
        return urlsplit(self.url).path.strip("/")

    @property
    def blob_address(self) -> str:
        """The https address of the account's blob service."""
        return self.endpoint or f"https://{self._host.replace('.dfs.', '.blob.', 1)}"

    @property
    def dfs_address(self) -> str:
        """The https address of the account's Data Lake endpoint, which COPY INTO needs; an emulator has none."""
        return f"https://{self._host}"

    @property
    def _host(self) -> str:
        return urlsplit(self.url).hostname or ""

    def blob_credential(self) -> Any:
        """What azure-storage-blob takes as `credential`. Raises SettingsError when a secret is missing."""
        if self.credential == "key":
            return {"account_name": self.account, "account_key": self.secret(KEY)}
        if self.credential == "sas":
            return self.secret(SAS).removeprefix("?")
        return credential(self.credential, self.client_id)

    def path(self, name: str) -> str:
        """The path of `name`, which counts from the folder, within the container."""
        return f"{self.folder}/{name}" if self.folder else name

    def __call__(self) -> dict[str, str]:
        """The options, with a token that is good now. Raises AccessError, or SettingsError when a secret is missing."""
        options = {**PATIENCE, "azure_storage_account_name": self.account}
        if self.in_onelake:
            options["azure_use_fabric_endpoint"] = "true"
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


def lakehouse_problem(schema: str, there: Collection[str]) -> str:
    """What is wrong with a path below a Fabric lakehouse's Tables, by what is `there`; "" when it is right.

    With the option Lakehouse schemas there always is a folder dbo, and tables are in the folders of schemas; without
    it tables are in Tables itself. Elsewhere Fabric shows them as unidentified.
    """
    if "/" in schema:
        return f"ends in Tables/{schema}; a lakehouse has tables in Tables, or in Tables/SCHEMA, and no deeper"
    if "dbo" in there and not schema:
        return "ends in Tables, and the lakehouse has the option Lakehouse schemas: write …/Tables/dbo"
    if schema and "dbo" not in there:
        return f"ends in Tables/{schema}, and the lakehouse has not the option Lakehouse schemas: write …/Tables"
    return ""


@contextmanager
def blob_errors(where: str) -> Generator[None]:
    """What azure-storage-blob raises, as AccessError or UnavailableError; MissingDependencyError without it."""
    try:
        import_module("azure.storage.blob")  # asked for here, so that no other module has to
        from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError
    except ImportError as error:
        raise MissingDependencyError("files in Azure storage need: pip install 'many_models[azure]'") from error
    try:
        yield
    except (ClientAuthenticationError, HttpResponseError) as error:
        code = getattr(error, "error_code", None) or error.status_code
        refused = isinstance(error, ClientAuthenticationError) or error.status_code in {401, 403}
        if refused or code == "ContainerNotFound":
            advice = "its identity needs Storage Blob Data Contributor, and the container has to be there"
            raise AccessError(f"{where}: {code}; {advice}") from error
        raise UnavailableError(f"{where}: {code}") from error
    except AzureError as error:
        raise UnavailableError(f"{where}: {type(error).__name__}") from error


@contextmanager
def opened_container(storage: AzureStorage) -> Generator[ContainerClient]:
    """A client of the container of `storage`, closed at the end. Raises AccessError, UnavailableError."""
    with blob_errors(storage.url):
        from azure.storage.blob import ContainerClient

        login = storage.blob_credential()
        with ContainerClient(storage.blob_address, storage.container, credential=login, **BLOB_PATIENCE) as client:
            yield client


def while_busy(work: Callable[[], T]) -> T:
    """What `work` returns, asked again for two minutes while the store is busy (429, 430, 5xx)."""
    from azure.core.exceptions import HttpResponseError

    def again(error: Exception) -> float | None:
        return 0.0 if isinstance(error, HttpResponseError) and error.status_code in BUSY else None

    return retry(work, again, doubling(0.5, BUSY_PAUSE_SECONDS, BUSY_SECONDS))


def delete(blob: Callable[[], None]) -> None:
    """Call the client's deletion `blob`, as `while_busy` does; a blob that is gone, by a try whose answer was lost, is
    deleted.
    """
    from azure.core.exceptions import ResourceNotFoundError

    with suppress(ResourceNotFoundError):
        while_busy(blob)


def access_error(text: str) -> ManyModelsError | None:
    """What an error text of Azure storage says about access; None when it says nothing of the kind."""
    found = CODE.search(text) or STATUS.search(text)
    code = found[1] if found else ""
    if "Invalid Access Key" in text:
        return SettingsError(f"the secret {KEY} is not an account key (base64)")
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
