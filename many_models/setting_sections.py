"""Sections of the settings that depend on no other: the endpoint, the board, decisions, who is told."""

from __future__ import annotations

import os
import re
from typing import Annotated, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Section(BaseModel):
    """A section of the settings: unknown names are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)  # it may be a secret


class AzureLogin(Section):
    """Who asks Azure: whatever identity is found, or a managed identity (`client_id`: which one)."""

    identity: Literal["default", "managed_identity"] = "default"
    client_id: str = ""


class AzurePlace(Section):
    """Where a resource of Azure is."""

    subscription: str = ""
    resource_group: str = ""


class AzureWorkspace(AzurePlace):
    """An Azure ML workspace."""

    workspace: str = ""


class ComputeSettings(Section):
    """Where chunks run; `workers` 0: one a core, or as many as Spark has slots. `chunk` 0: by the number of both.

    Spark is that of this machine (`spark_master`), or one that `spark_remote` names: a Spark Connect URL, sc://host:port.
    A URL that holds a token belongs into the environment: MANY_MODELS__COMPUTE__SPARK_REMOTE. With `databricks_host`
    it is a cluster of that workspace, asked as a service principal (secret MANY_MODELS_DATABRICKS_CLIENT_SECRET).
    `spark_data` says who reads the lake: the workers, or Spark, which finds it at `spark_lake` (see docs/spark.md).
    `azureml` sends parallel jobs as section azureml says. `core_hour_price` is what a core costs for an hour.
    """

    kind: Literal["processes", "serial", "spark", "azureml"] = "processes"
    workers: Annotated[int, Field(ge=0)] = 0
    chunk: Annotated[int, Field(ge=0)] = 0
    timeout: Annotated[float, Field(gt=0)] = 600.0
    core_hour_price: Annotated[float, Field(ge=0)] = 0.05
    spark_master: str = "local[*]"
    spark_remote: str = ""
    spark_config: dict[str, str] = {}
    spark_data: Literal["workers", "spark"] = "workers"
    spark_lake: str = ""
    databricks_host: str = ""
    databricks_cluster: str = ""
    databricks_client_id: str = ""

    @property
    def cores(self) -> int:
        """The cores that a run holds: `workers`, else those of this machine."""
        return self.workers or len(os.sched_getaffinity(0))

    @model_validator(mode="after")
    def _one_spark(self) -> ComputeSettings:
        """One way to a cluster, and a lake that it can read. Raises ValueError, naming what is missing."""
        if self.spark_data == "spark" and self.kind != "spark":
            raise ValueError(f'spark_data = "spark" needs kind = "spark", it is {self.kind!r}')
        if self.spark_lake and "/" not in self.spark_lake and not re.fullmatch(r"\w+(\.\w+)?", self.spark_lake):
            raise ValueError(
                f"spark_lake is {self.spark_lake!r}: write CATALOG.SCHEMA, or the lake's folder as the cluster names it"
            )
        if not self.databricks_host:
            return self
        if self.spark_remote:
            raise ValueError("databricks_host and spark_remote are two clusters: leave one of them out")
        if missing := [name for name in ("cluster", "client_id") if not getattr(self, f"databricks_{name}")]:
            raise ValueError(f"databricks_host needs {' and '.join(f'databricks_{name}' for name in missing)}, too")
        if not self.databricks_host.startswith(("https://", "http://127.0.0.1:")):
            raise ValueError(
                f"databricks_host is {self.databricks_host!r}: write https://WORKSPACE.azuredatabricks.net"
            )
        if self.kind == "spark" and self.spark_data != "spark":
            raise ValueError(
                'databricks_host needs spark_data = "spark": a worker on Databricks has no identity that storage '
                "knows, and reaches it through Unity Catalog only"
            )
        return self


class PackSettings(Section):
    """How series are grouped into models: by these keys (empty: the first of several, else hash buckets)."""

    by: list[str] = []
    buckets: Annotated[int, Field(ge=1)] = 16


class PartitionSettings(Section):
    """The grain of raw_sales in time, and which keys make a partition of series (empty: all, one series each)."""

    grain: Literal["hour", "day", "week", "month"] = "day"
    by: list[str] = []


class ServeSettings(Section):
    """The real-time service. API keys come from a file or the environment, never from here; see docs/serving.md."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    auth: list[Literal["api_key", "entra"]] = ["api_key"]
    api_keys_file: str = ""
    entra_tenant: str = ""
    entra_audience: str = ""
    entra_roles: list[str] = []
    entra_keys: str = ""
    cache: str = "var/cache/serving"
    memory_mb: Annotated[float, Field(gt=0)] = 256.0
    disk_mb: Annotated[float, Field(gt=0)] = 4096.0
    poll_seconds: Annotated[float, Field(gt=0)] = 2.0
    lake: bool = True
    max_series: Annotated[int, Field(ge=1)] = 2000
    max_horizon: Annotated[int, Field(ge=1)] = 366
    max_body_mb: Annotated[float, Field(gt=0)] = 8.0
    max_seconds: Annotated[float, Field(gt=0)] = 30.0
    body_seconds: Annotated[float, Field(gt=0)] = 10.0
    max_connections: Annotated[int, Field(ge=1)] = 4000
    drain_seconds: Annotated[float, Field(ge=0)] = 0.0
    language: Literal["en", "de", "fr"] = "en"


class HierarchySettings(Section):
    """Sums that agree, see docs/decisions-guide.md; off without `levels`.

    Each of `levels` is a list of keys and attributes, as ["store"] or ["store", "category"]; the total is always there.
    """

    levels: list[list[str]] = []
    method: Literal["bottom_up", "mint_structural", "mint_variance"] = "bottom_up"
    whole_numbers: bool = False

    @property
    def asked(self) -> bool:
        """Whether sums are to be forecast."""
        return bool(self.levels)


class OverridesSettings(Section):
    """People's changes of forecasts, see docs/decisions-guide.md; off without `table`, a table of the source."""

    table: str = ""


class DriftSettings(Section):
    """Whether series do what their backtest promised, see docs/decisions-guide.md; off without `watch`.

    `answer`: what follows for the forecasts of a series that drifted while it does; `retrain` comes on top.
    """

    watch: bool = False
    false_alarms: Annotated[float, Field(gt=0, le=0.1)] = 0.001
    retrain: bool = True
    answer: Literal["ask", "widen", "baseline"] = "ask"


class StockSettings(Section):
    """Stock from forecasts, see docs/decisions-guide.md; off without `table` and `lead_time`.

    `table` names a table of the source with any of the keys and what is known of stock; the other values are for what
    it leaves empty. Lead time and review are in periods of `data.frequency`.
    """

    table: str = ""
    lead_time: Annotated[float, Field(ge=0)] | None = None
    lead_time_sd: Annotated[float, Field(ge=0)] = 0.0
    review: Annotated[int, Field(ge=1)] = 1
    service: Literal["cycle", "fill"] = "cycle"
    service_level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    paths: Annotated[int, Field(ge=100, le=10_000)] = 500
    seed: int = 1

    @property
    def asked(self) -> bool:
        """Whether stock is to be recommended."""
        return bool(self.table) or self.lead_time is not None


class BoardSettings(Section):
    """The board: pages for people, see docs/board.md. Keys and tokens are those of `serve`.

    `url` is where people reach it, `dagster` and `mlflow` where they reach those. `value` names the known covariate or
    attribute that a unit is worth. `rows` is a CSV file that says which users see which series.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8090
    url: str = ""
    dagster: str = "http://127.0.0.1:3000"
    mlflow: str = ""
    value: str = "price"
    approver_keys_file: str = ""
    approver_role: str = "approver"
    entra_client: str = ""
    entra_authority: str = ""
    rows: str = ""
    session_hours: Annotated[float, Field(gt=0)] = 12.0

    @field_validator("url", "dagster", "mlflow", "entra_authority")
    @classmethod
    def _a_web_address(cls, url: str) -> str:
        if url and not re.fullmatch(r"https?://[^\s\"'<>?#@]+", url):
            raise ValueError(f"{url!r} is not the address of a web page: write https://HOST or https://HOST/PATH")
        return url.rstrip("/")

    def page_url(self, page: str) -> str:
        """The address of a page, which begins with `/`; of the board on this machine where `url` is not set."""
        return f"{self.url or f'http://{self.host}:{self.port}'}{page}"

    def item_url(self, series_id: str) -> str:
        """The address of a series' page."""
        return self.page_url(item_page(series_id))


def item_page(series_id: str) -> str:
    """The path of a series' page on the board."""
    return f"/items/{quote(series_id, safe='')}"


class TelemetrySettings(Section):
    """Traces and metrics of runs and of the endpoint by OTLP over HTTP, see docs/alerts.md; off without `endpoint`.

    `endpoint` is a collector's address, as http://collector:4318. What it asks for besides, as headers with a key, is
    the environment's OTEL_EXPORTER_OTLP_HEADERS.
    """

    endpoint: str = ""

    @field_validator("endpoint")
    @classmethod
    def _a_web_address(cls, url: str) -> str:
        if url and not re.fullmatch(r"https?://[^\s\"'<>?#@]+", url):
            raise ValueError(f"{url!r} is not the address of a collector: write https://HOST:PORT")
        return url.rstrip("/")


Topic = Literal["stage", "series", "proposal", "quarantine", "no_data", "accuracy", "drift"]


class AlertSettings(Section):
    """Messages to people, see docs/alerts.md. Their addresses are the secret MANY_MODELS_ALERT_ADDRESSES.

    `about`: a stage that failed, series that failed or are set aside, a proposal that waits, rows in quarantine from
    `quarantine_rows` on, no new period by `no_data_by` (HH:MM in dagster.timezone), realised coverage and bias further
    than `cover80_within` and `bias_within` from what they should be, series that drifted.
    """

    on: bool = False
    about: list[Topic] = ["stage", "series", "proposal", "quarantine", "no_data", "accuracy", "drift"]
    quarantine_rows: Annotated[int, Field(ge=1)] = 1000
    no_data_by: str = ""
    cover80_within: Annotated[float, Field(gt=0, le=0.8)] = 0.1
    bias_within: Annotated[float, Field(gt=0)] = 0.15

    @field_validator("no_data_by")
    @classmethod
    def _an_hour(cls, text: str) -> str:
        if text and not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", text):
            raise ValueError(f"{text!r} is not a time of day: write HH:MM, as 09:00, or leave it empty")
        return text
