"""Typed settings: many_models.toml, overridden by MANY_MODELS__SECTION__NAME."""

from __future__ import annotations

import os
import re
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    Field,
    JsonValue,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from many_models.errors import SettingsError
from many_models.keys import known_place, plain_name
from many_models.setting_checks import explained, known_country, known_cron, known_frequency, known_timezone
from many_models.setting_sections import (
    AlertSettings,
    AzureLogin,
    AzurePlace,
    AzureWorkspace,
    BoardSettings,
    ComputeSettings,
    DriftSettings,
    HierarchySettings,
    OverridesSettings,
    PackSettings,
    PartitionSettings,
    Section,
    ServeSettings,
    StockSettings,
    TelemetrySettings,
)
from many_models.table_columns import RESERVED, is_reserved_key

FILE_NAME = "many_models.toml"
Storage = Literal["sqlite", "postgres"]
Missing = Literal["unknown", "zero", "closed"]
Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
WEEKDAYS: tuple[Weekday, ...] = get_args(Weekday)
How = Literal["sum", "mean", "min", "max", "first", "last", "count", "count_distinct"]


class SourceSettings(Section):
    """Where sales come from: `url` is a SQLAlchemy URL (`sqlite:///path` or another), of `kind` `files` a folder or
    `abfss://…`; `table` is the sales table.

    `covariates_table` holds what is known of the future: the timestamp, any of the keys, and the known columns.
    `attributes_table` holds what does not change: any of the keys, and the columns that data.attributes names.
    `openings_table` lists from when to when series are open: any of the keys, and the days `opens` and `closes`.
    `credential` as in the warehouse; the password is the secret MANY_MODELS_SOURCE_PASSWORD. `reader` "auto" reads
    through connectorx where it can, "stream" as the database's driver hands out rows, which is slower.
    """

    kind: Literal["sql", "files"] = "sql"
    url: str = "sqlite:///sales.db"
    table: str = "sales"
    covariates_table: str = ""
    attributes_table: str = ""
    openings_table: str = ""
    credential: Literal["url", "password", "default", "managed_identity", "key", "sas"] = "url"
    client_id: str = ""
    endpoint: str = ""
    reader: Literal["auto", "stream"] = "auto"


class DataFactorySettings(AzurePlace, AzureLogin):
    """An existing Azure Data Factory pipeline that fills the source; off without `pipeline`.

    It is started for each period with `parameter` set to the period's first day (2024-06-30), and awaited.
    """

    factory: str = ""
    pipeline: str = ""
    parameter: str = "day"
    poll: Annotated[float, Field(gt=0)] = 15.0
    timeout: Annotated[float, Field(gt=0)] = 3600.0

    @model_validator(mode="after")
    def _a_pipeline_has_its_place(self) -> DataFactorySettings:
        missing = [name for name in ("subscription", "resource_group", "factory") if not getattr(self, name)]
        if self.pipeline and missing:
            raise ValueError(f"data_factory.pipeline needs {', '.join(missing)}")
        return self


class DataSettings(Section):
    """What the sales table means. `changed` names a column that is set whenever a row is written: then rows that come
    late or are corrected are copied however old they are, and not within `look_back` alone.

    `missing` says what a period without a row means, `missing_on` the same for single weekdays, `missing_at` for
    single values of the first key. `aggregate` turns
    several rows of a series and period into one: how the target is aggregated, or column → how. `timezone` is the
    local time that days are counted in; without it a moment with an offset keeps the clock time that is written.
    The target is proportional to `exposure`, a known covariate such as hours open.
    `available` names a column of the sales table with the share of a period with stock, `sold_out` one that says that
    stock ran out: a flag, or for how many of `open_hours`.
    """

    keys: Annotated[list[str], Field(min_length=1)] = ["store", "item"]
    timestamp: str = "date"
    target: str = "sales"
    known: list[str] = []
    exposure: str = ""
    frequency: str = "D"
    season: int | None = None
    attributes: list[str] = []
    missing: Missing = "unknown"
    missing_on: dict[Weekday, Missing] = {}
    missing_at: dict[str, Missing] = {}
    aggregate: How | Literal[""] | dict[str, How] = ""
    available: str = ""
    sold_out: str = ""
    open_hours: Annotated[float, Field(ge=0)] = 0.0
    timezone: str = ""
    missing_future: Literal["usual", "error"] = "usual"
    country: str = ""
    holidays: str = ""
    start: date = date(2015, 1, 1)
    until: datetime | None = None
    negatives: Literal["allow", "quarantine"] = "quarantine"
    complete_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    look_back: Annotated[int, Field(ge=0)] = 7
    max_loss: Annotated[float, Field(ge=0, le=1)] = 0.5
    changed: str = ""
    ended_after: int | None = None

    @model_validator(mode="after")
    def _names_do_not_collide(self) -> DataSettings:
        names = [*self.keys, self.timestamp, self.target, *self.known, *self.attributes]
        names += [name for name in (self.available, self.sold_out) if name and name not in self.known]
        if self.available and self.sold_out:
            raise ValueError(f"available = {self.available!r} and sold_out = {self.sold_out!r} say the same: name one")
        if self.open_hours and not self.sold_out:
            raise ValueError("open_hours says what sold_out counts, and there is no sold_out: name its column")
        if odd := [name for name in names if not plain_name(name)]:
            raise ValueError(f"names that no column can have here: {', '.join(map(repr, odd))}; rename them in a view")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"columns named twice: {', '.join(twice)}")
        if taken := sorted(
            RESERVED & {*self.known, *self.attributes, self.available, self.sold_out}
            | {*filter(is_reserved_key, self.keys)}
        ):
            raise ValueError(f"names the product uses itself: {', '.join(taken)}; rename them in a view of the source")
        if alike := sorted(
            key for key in self.keys if [other.casefold() for other in self.keys].count(key.casefold()) > 1
        ):
            raise ValueError(f"keys that some databases take for one name: {', '.join(alike)}; rename one in a view")
        if self.exposure and self.exposure not in self.known:
            raise ValueError(f"exposure is {self.exposure}, which is not in known: add it, its future is needed")
        more = [*self.known, *self.stock]
        if isinstance(self.aggregate, dict) and (unknown := sorted(set(self.aggregate) - {self.target, *more})):
            there = ", ".join([self.target, *more])
            raise ValueError(f"aggregate names {', '.join(unknown)}, needed the target or known covariates: {there}")
        if self.missing_on and self.frequency not in {"D", "B"}:
            raise ValueError(f"missing_on is for daily data, and the frequency is {self.frequency}: leave it out")
        return self

    @field_validator("timezone", "frequency", "country")
    @classmethod
    def _what_there_is(cls, name: str, info: ValidationInfo) -> str:
        return {"timezone": known_timezone, "frequency": known_frequency, "country": known_country}[
            str(info.field_name)
        ](name)

    @property
    def stock(self) -> tuple[str, ...]:
        """The column that says what stock there was, if any is named."""
        return tuple(name for name in (self.available or self.sold_out,) if name)

    @property
    def aggregates(self) -> dict[str, How]:
        """Column → how several rows of a series and period become one; empty where there is one row each."""
        if not self.aggregate:
            return {}
        return dict(self.aggregate) if isinstance(self.aggregate, dict) else {self.target: self.aggregate}


class CustomSettings(Section):
    """A forecaster of the user's own: `use` names a class or a function that makes one, as module:attribute."""

    use: str
    options: dict[str, JsonValue] = {}
    seconds: Annotated[float, Field(gt=0)] = 10.0


class PooledCustomSettings(Section):
    """A forecaster of the user's own for all series at once: a scikit-learn regressor, or a model that is brought."""

    use: str
    options: dict[str, JsonValue] = {}
    seconds: Annotated[float, Field(gt=0)] = 600.0
    device: Literal["cpu", "cuda"] = "cpu"
    licence: str = ""


class ForecastSettings(Section):
    """What is forecast, and how candidates compete. Series learn together from `pool_series` of them, again every
    `pool_every` days of the data, with boosted trees where `trees` says so; with `pool_by` those of the same keys too.
    """

    horizon: Annotated[int, Field(ge=1)] = 28
    windows: Annotated[int, Field(ge=1)] = 3
    candidates: list[str] = []
    objective: Literal["rmsse", "mase", "wape", "pinball"] = "rmsse"
    levels: list[int] = [80, 95]
    trees: bool = True
    pool_series: Annotated[int, Field(ge=1)] = 400
    pool_every: Annotated[int, Field(ge=1)] = 28
    pool_by: list[str] = []
    refit_every: Annotated[int, Field(ge=1)] = 7
    sane_factor: Annotated[float, Field(ge=0)] = 10.0
    custom: dict[str, CustomSettings] = {}
    pooled_custom: dict[str, PooledCustomSettings] = {}


class PromotionSettings(Section):
    """The rules of promotion, see `many_models.promotion.policy`; `approval`: a release waits for a human."""

    min_skill: float = 0.0
    min_accuracy: float | None = None
    margin: Annotated[float, Field(ge=0)] = 0.02
    max_bias: Annotated[float, Field(gt=0)] = 0.5
    max_worse: Annotated[float, Field(gt=0)] = 0.5
    min_history: Annotated[int, Field(ge=0)] = 0
    min_cover80: Annotated[float, Field(ge=0, le=1)] = 0.0
    pinned: list[str] = []
    excluded: list[str] = []
    approval: bool = False

    def rules(self) -> dict[str, Any]:
        """What decides: `many_models.promotion.policy.Policy`'s fields."""
        return self.model_dump(mode="json", exclude={"approval"})


class LakeSettings(Section):
    """Where tables live: a folder, or `abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/FOLDER`.

    There `credential` says who asks; `key` and `sas` are the secrets AZURE_STORAGE_KEY and AZURE_STORAGE_SAS_TOKEN.
    """

    path: str = "var/lake"
    credential: Literal["default", "managed_identity", "key", "sas"] = "default"
    client_id: str = ""
    endpoint: str = ""

    @field_validator("path")
    @classmethod
    def _a_place(cls, path: str) -> str:
        return known_place(path)


WORKSPACE = re.compile(
    r"/subscriptions/([^/]+)/resourceGroups/([^/]+)/providers/Microsoft\.MachineLearningServices/workspaces/([^/]+)/?",
    re.IGNORECASE,
)


def workspace_of(resource_id: str, setting: str) -> tuple[str, str, str]:
    """Subscription, resource group and name of an Azure ML workspace. Raises ValueError, naming `setting`."""
    if (found := WORKSPACE.fullmatch(resource_id)) is None:
        raise ValueError(
            f"{setting} is {resource_id!r}, not the resource id of an Azure ML workspace: copy it from the portal, "
            "/subscriptions/…/resourceGroups/…/providers/Microsoft.MachineLearningServices/workspaces/NAME"
        )
    return found[1], found[2], found[3]


class RegistrySettings(AzureLogin):
    """Two registries. `kind` `mlflow`: a tracking URI and an artifact folder each ("": the server's own), with
    credentials from the environment. `kind` `azureml`: a workspace's resource id and a folder in Azure storage each.
    `aliases` false: for an MLflow store without them.
    """

    kind: Literal["mlflow", "azureml"] = "mlflow"
    staging: str = "sqlite:///var/registry/staging.db"
    staging_artifacts: str = "var/registry/staging"
    production: str = "sqlite:///var/registry/production.db"
    production_artifacts: str = "var/registry/production"
    prefix: str = "many_models"
    aliases: bool = True
    datastore: str = "many_models_registry"
    keep_releases: Annotated[int, Field(ge=1)] = 30
    keep_versions: Annotated[int, Field(ge=1)] = 7

    @model_validator(mode="after")
    def _azureml_is_whole(self) -> RegistrySettings:
        for name in ("staging", "production"):
            address, artifacts = getattr(self, name), getattr(self, f"{name}_artifacts")
            if self.kind == "mlflow" and (address.startswith("azureml:") or ".azureml.ms" in address):
                raise ValueError(
                    f"registry.{name} is {address!r}: Azure ML's MLflow has no aliases and no search by tag, and "
                    'renames no model; give registry.kind = "azureml" and the resource id, /subscriptions/…'
                )
            if self.kind == "azureml":
                workspace_of(address, f"registry.{name}")
                if not artifacts.startswith(("abfss://", "abfs://")):
                    raise ValueError(
                        f'registry.{name}_artifacts is {artifacts!r}: with registry.kind = "azureml" it is a folder in '
                        "Azure storage, abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/FOLDER"
                    )
        return self

    def artifacts(self, folder: str, root: Path) -> str:
        """An artifact folder as MLflow takes it: a path counted from `root`, a URI as it is, "" for the server's."""
        return folder if not folder or "://" in folder else str((root / folder).absolute())


class WarehouseSettings(Section):
    """The SQL warehouse, as a SQLAlchemy URL; `kind` `synapse` for a dedicated pool, which stages files in `staging`,
    `fabric` for a Fabric warehouse, which does so too, `serverless` for a serverless pool, whose views read the lake.
    `drivers` is how many of the next periods get a row for each driver of their forecast.

    `credential`: as the URL says, the secret MANY_MODELS_WAREHOUSE_PASSWORD, or an identity of Entra ID.
    """

    kind: Literal["sql", "synapse", "fabric", "serverless"] = "sql"
    url: str = "sqlite:///var/warehouse.db"
    tables_in: str = ""
    credential: Literal["url", "password", "default", "managed_identity"] = "url"
    client_id: str = ""
    staging: str = ""
    distribution: Literal["hash", "round_robin", "replicate"] = "hash"
    index: Literal["columnstore", "heap"] = "columnstore"
    drivers: Annotated[int, Field(ge=0)] = 0


class PowerBiSettings(AzureLogin):
    """The semantic model that is refreshed after each load of the warehouse; off without `workspace`.

    `reports` name the reports on it, as `NAME=ID`.
    """

    workspace: str = ""
    semantic_model: str = ""
    semantic_model_name: str = "forecasts"
    reports: list[str] = []
    timeout: Annotated[int, Field(gt=0)] = 1800

    @model_validator(mode="after")
    def _names_come_with_ids(self) -> PowerBiSettings:
        if self.workspace and not self.semantic_model:
            raise ValueError("power_bi.workspace needs semantic_model, its id")
        if wrong := [report for report in self.reports if not all(report.rpartition("="))]:
            raise ValueError(f"power_bi.reports are written NAME=ID: {', '.join(wrong)}")
        return self


class AzureMlSettings(AzureWorkspace, AzureLogin):
    """Parallel jobs where `compute.kind` is `azureml`: on nodes of `cluster`, or serverless ones of `instance_type`.

    Their environment holds many_models of the same version: one of the workspace's (`environment`, NAME:VERSION), or a
    container `image`. `files` and folders of the user's travel with a job. `exchange` is where chunks and results
    pass (default: `jobs` in the lake); `node_client_id` names the managed identity that the nodes take.
    """

    cluster: str = ""
    instance_type: str = ""
    instances: Annotated[int, Field(ge=1)] = 1
    environment: str = ""
    image: str = ""
    files: list[str] = []
    exchange: str = ""
    node_client_id: str = ""
    experiment: str = "many_models"
    poll: Annotated[float, Field(gt=0)] = 10.0


class DatastoreSettings(AzureWorkspace, AzureLogin):
    """The Azure ML workspace that gets the lake as a datastore (`many-models register`); off without it."""

    name: str = "many_models"


class DagsterSettings(Section):
    """How the assets appear in Dagster; `storage` is what a new instance's dagster.yaml is written for."""

    storage: Storage = "sqlite"
    owner: str = "team:forecasting"
    cron: str = "0 6 * * *"
    timezone: str = "UTC"

    @field_validator("timezone", "cron")
    @classmethod
    def _what_there_is(cls, name: str, info: ValidationInfo) -> str:
        return known_cron(name) if info.field_name == "cron" else known_timezone(name)


class RetentionSettings(Section):
    """How long what is superseded stays, and when the job `upkeep` deletes it. What is live stays for ever.

    Not in these: `registry.keep_releases` and `keep_versions`.
    """

    cron: str = "30 4 * * *"
    events_days: Annotated[int, Field(ge=1)] = 7
    lake_hours: Annotated[int, Field(ge=1)] = 24

    @field_validator("cron")
    @classmethod
    def _a_cron_expression(cls, text: str) -> str:
        return known_cron(text)


class Settings(Section):
    """Everything that can be set. Relative paths count from `root`, the folder of the settings file."""

    root: Path = Path()
    source: SourceSettings = SourceSettings()
    data_factory: DataFactorySettings = DataFactorySettings()
    data: DataSettings = DataSettings()
    forecast: ForecastSettings = ForecastSettings()
    packs: PackSettings = PackSettings()
    partitions: PartitionSettings = PartitionSettings()
    promotion: PromotionSettings = PromotionSettings()
    lake: LakeSettings = LakeSettings()
    compute: ComputeSettings = ComputeSettings()
    azureml: AzureMlSettings = AzureMlSettings()
    registry: RegistrySettings = RegistrySettings()
    warehouse: WarehouseSettings = WarehouseSettings()
    serve: ServeSettings = ServeSettings()
    board: BoardSettings = BoardSettings()
    alerts: AlertSettings = AlertSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    hierarchy: HierarchySettings = HierarchySettings()
    stock: StockSettings = StockSettings()
    overrides: OverridesSettings = OverridesSettings()
    drift: DriftSettings = DriftSettings()
    power_bi: PowerBiSettings = PowerBiSettings()
    datastore: DatastoreSettings = DatastoreSettings()
    dagster: DagsterSettings = DagsterSettings()
    retention: RetentionSettings = RetentionSettings()

    @model_validator(mode="after")
    def _azure_ml_can_start_jobs(self) -> Settings:
        if self.compute.kind != "azureml":
            return self
        wanted = self.azureml
        if not all((wanted.subscription, wanted.resource_group, wanted.workspace)):
            raise ValueError("[azureml] needs subscription, resource_group and workspace")
        if not (wanted.cluster or wanted.instance_type) or bool(wanted.environment) == bool(wanted.image):
            raise ValueError("[azureml] needs cluster or instance_type, and environment (NAME:VERSION) or image")
        if not self.lake.path.startswith(("abfss://", "abfs://")):
            raise ValueError(
                f"Azure ML's nodes do not see this machine's folders: lake.path is {self.lake.path}, not abfss://"
            )
        return self

    @model_validator(mode="after")
    def _packs_and_partitions_are_made_of_keys(self) -> Settings:
        groups = {
            "packs.by": self.packs.by,
            "partitions.by": self.partitions.by,
            "forecast.pool_by": self.forecast.pool_by,
        }
        for setting, names in groups.items():
            if unknown := [name for name in names if name not in self.data.keys]:
                keys = ", ".join(self.data.keys)
                raise ValueError(f"{setting} names {', '.join(unknown)}, but data.keys are {keys}")
        if self.data.attributes and not self.source.attributes_table:
            raise ValueError(
                f"data.attributes names {', '.join(self.data.attributes)}, but there is no "
                f"source.attributes_table to read them from"
            )
        return self

    @property
    def keeps_paths(self) -> bool:
        """Whether training writes down its backtest step by step, which decisions draw sums from."""
        return self.stock.asked or self.hierarchy.asked or self.drift.watch

    def path(self, path: str) -> Path:
        """`path`, counted from `root`."""
        return (self.root / path).absolute()

    def place(self, path: str) -> str:
        """`path` as it is when it is a URL, else counted from `root`."""
        return path if "://" in path else str(self.path(path))

    def url(self, url: str) -> str:
        """`url`, with a relative SQLite path counted from `root`."""
        head = "sqlite:///"
        return f"{head}{self.path(url.removeprefix(head))}" if url.startswith(head) else url


def find_settings(start: Path) -> Path | None:
    """The settings file that `start` uses: its own, else the one that the demo left in `demo/`."""
    return next((path for path in (start / FILE_NAME, start / "demo" / FILE_NAME) if path.is_file()), None)


def load_settings(file: Path | None = None) -> Settings:
    """The settings of `file` (default: MANY_MODELS_CONFIG, else what `find_settings` finds here, else the defaults).

    Environment variables MANY_MODELS__SECTION__NAME win over the file. Raises SettingsError that names file, section,
    name and what is wrong with it.
    """
    named = file or (Path(os.environ["MANY_MODELS_CONFIG"]) if os.environ.get("MANY_MODELS_CONFIG") else None)
    path = named or find_settings(Path.cwd())
    if path is not None and not path.is_file():
        raise SettingsError(f"there is no settings file {path}; `many-models init FILE` writes one")

    if path is not None:
        _refuse_passwords(path)

    class FromFile(Settings, BaseSettings):
        model_config = SettingsConfigDict(
            extra="forbid",
            env_prefix="MANY_MODELS__",
            env_nested_delimiter="__",
            nested_model_default_partial_update=True,
        )

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  the signature is pydantic's
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  the same
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=path)

    try:
        loaded = FromFile(root=path.parent.absolute() if path else Path.cwd())
    except ValidationError as error:
        sections = {name: list(values) for name, values in Settings().model_dump(exclude={"root"}).items()}
        lines = explained(error.errors(), sections)
        raise SettingsError(f"{path or 'the environment'}: " + "; ".join(lines)) from error
    except ValueError as error:  # not TOML
        raise SettingsError(f"{path}: {error}") from error
    return Settings.model_validate(loaded.model_dump())


def _refuse_passwords(path: Path) -> None:
    """Raise SettingsError when a URL in the file carries a password: files are shared, copied and committed."""
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if re.search(r"://[^/@:\s\"']*:[^@/\s\"']+@", line.split(" #", maxsplit=1)[0]):
            raise SettingsError(
                f'{path}, line {number}: a URL with a password; leave it out, set credential = "password" and give the '
                "secret in the environment (MANY_MODELS_WAREHOUSE_PASSWORD, MANY_MODELS_SOURCE_PASSWORD) or the file "
                "that this name with _FILE names"
            )


def secret(name: str) -> str:
    """The secret `name`: that environment variable, else the file that NAME_FILE names (Key Vault mounts such files).

    Raises SettingsError, which never shows a secret.
    """
    if value := os.environ.get(name):
        return value
    file = os.environ.get(f"{name}_FILE")
    if not file:
        raise SettingsError(f"the secret {name} is missing: set it in the environment, or {name}_FILE to its file")
    try:
        value = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"the secret {name}: the file {file} cannot be read: {type(error).__name__}") from error
    if not value:
        raise SettingsError(f"the secret {name}: the file {file} is empty")
    return value


def api_keys() -> list[str]:
    """The API keys that the environment has for the real-time service, comma-separated."""
    return [key for key in os.environ.get("MANY_MODELS_SERVE_API_KEYS", "").split(",") if key.strip()]


def approver_keys() -> list[str]:
    """The API keys of people who may approve releases on the board, likewise."""
    return [key for key in os.environ.get("MANY_MODELS_BOARD_APPROVER_KEYS", "").split(",") if key.strip()]


def board_client_secret() -> str:
    """The secret of the application that people sign in to the board with; "" for one that has none."""
    name = "MANY_MODELS_BOARD_CLIENT_SECRET"
    return secret(name) if os.environ.get(name) or os.environ.get(f"{name}_FILE") else ""


def dagster_home(settings: Settings) -> Path:
    """The folder of the Dagster instance: DAGSTER_HOME, else this folder when it has a dagster.yaml, else ours."""
    if named := os.environ.get("DAGSTER_HOME"):
        return Path(named)
    here = Path.cwd()
    return here if (here / "dagster.yaml").is_file() else settings.path("var/dagster")
