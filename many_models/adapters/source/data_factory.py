"""What fills the source: nothing, or a pipeline of Azure Data Factory that is started for a period and awaited."""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from many_models.errors import AccessError, InputError, PermanentError, SettingsError, UnavailableError
from many_models.system import first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from azure.mgmt.datafactory import DataFactoryManagementClient
    from azure.mgmt.datafactory.models import PipelineRun

    from many_models.adapters.azure.identity import Identity

WAITING = {"Queued", "InProgress", "Canceling", "Cancelling"}
LOOK_BACK = timedelta(days=1)  # a run for the same period that began since then, and has not ended, is joined


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Where the pipeline is, and the name of the parameter that takes the period's first day (2024-06-30)."""

    subscription: str
    resource_group: str
    factory: str
    name: str
    parameter: str = "day"


def connect(subscription: str, identity: Identity = "default", client_id: str = "") -> DataFactoryManagementClient:
    """The management client, asking as `identity`."""
    from azure.mgmt.datafactory import DataFactoryManagementClient

    from many_models.adapters.azure.identity import credential

    return DataFactoryManagementClient(credential(identity, client_id), subscription)


@dataclass(frozen=True, slots=True)
class NoIngestion:
    """See `Ingestion`: the source is read as it is."""

    def run(self, period: datetime) -> str:
        """See `Ingestion.run`."""
        return f"nothing brings {period:%Y-%m-%d}: the source is read as it is"

    def check(self) -> str:
        """See `Ingestion.check`."""
        return "no pipeline: the source is read as it is"


class DataFactory:
    """See `Ingestion`. Looks every `poll` seconds, and cancels a pipeline run that takes longer than `timeout`."""

    def __init__(
        self,
        pipeline: Pipeline,
        client: Callable[[], DataFactoryManagementClient] | None = None,
        poll: float = 15.0,
        timeout: float = 3600.0,
    ) -> None:
        self._pipeline = pipeline
        self._connect = client or partial(connect, pipeline.subscription)
        self._client: DataFactoryManagementClient | None = None
        self._poll, self._timeout = poll, timeout

    def run(self, period: datetime) -> str:
        """See `Ingestion.run`. A run for the same period that is still going is joined, not doubled."""
        value = period.date().isoformat() if period == datetime.combine(period, datetime.min.time()) else str(period)
        with self._errors():
            run_id = self._running(value) or self._start(value)
            try:
                run = self._wait(run_id)
            except BaseException:  # interrupted, or too late: a run that is not waited for is not left running
                with suppress(Exception):
                    self._api.pipeline_runs.cancel(*self._place, run_id)
                raise
            self._judge(run, run_id, value)
        return f"pipeline {self._pipeline.name}, run {run_id}: {value} in {(run.duration_in_ms or 0) / 1000:.0f} s"

    def check(self) -> str:
        """See `Ingestion.check`."""
        with self._errors():
            self._api.pipelines.get(*self._place, self._pipeline.name)
        return f"Data Factory {self._pipeline.factory}: pipeline {self._pipeline.name}"

    @property
    def _api(self) -> DataFactoryManagementClient:
        if self._client is None:
            self._client = self._connect()
        return self._client

    @property
    def _place(self) -> tuple[str, str]:
        return self._pipeline.resource_group, self._pipeline.factory

    def _start(self, value: str) -> str:
        parameters: dict[str, Any] = {self._pipeline.parameter: value}
        return self._api.pipelines.create_run(*self._place, self._pipeline.name, parameters=parameters).run_id

    def _running(self, value: str) -> str | None:
        from azure.mgmt.datafactory.models import RunFilterParameters, RunQueryFilter

        now = datetime.now(UTC)
        ours = RunQueryFilter(operand="PipelineName", operator="Equals", values_property=[self._pipeline.name])
        going = RunQueryFilter(operand="Status", operator="In", values_property=["Queued", "InProgress"])
        asked = RunFilterParameters(
            last_updated_after=now - LOOK_BACK, last_updated_before=now + LOOK_BACK, filters=[ours, going]
        )
        for run in self._api.pipeline_runs.query_by_factory(*self._place, asked).value:
            if run.run_id and (run.parameters or {}).get(self._pipeline.parameter) == value:
                return run.run_id
        return None

    def _wait(self, run_id: str) -> PipelineRun:
        end = time.monotonic() + self._timeout
        while True:
            run = self._api.pipeline_runs.get(*self._place, run_id)
            if run.status not in WAITING:
                return run
            if time.monotonic() > end:
                raise UnavailableError(
                    f"{self._what}, run {run_id}: not done after {self._timeout:g} s, and cancelled "
                    "(data_factory.timeout)"
                )
            time.sleep(self._poll)

    def _judge(self, run: PipelineRun, run_id: str, value: str) -> None:
        if run.status == "Succeeded":
            return
        what = f"{self._what}, run {run_id} for {value}"
        if run.status == "Failed":
            kind, said = self._cause(run_id)
            error = InputError if kind == "UserError" else UnavailableError
            raise error(f"{what} failed: {said or run.message or 'no message'}")
        raise PermanentError(f"{what} ended as {run.status}: materialize raw_sales for that period to start it again")

    def _cause(self, run_id: str) -> tuple[str, str]:
        """The failure type and the message of the first activity that failed."""
        from azure.mgmt.datafactory.models import RunFilterParameters

        now = datetime.now(UTC)
        asked = RunFilterParameters(last_updated_after=now - 2 * LOOK_BACK, last_updated_before=now + LOOK_BACK)
        for activity in self._api.activity_runs.query_by_pipeline_run(*self._place, run_id, asked).value:
            error: dict[str, Any] = activity.error or {}
            if activity.status == "Failed":
                said = str(error.get("message", ""))[:500]
                return str(error.get("failureType", "")), f"activity {activity.activity_name}: {said}"
        return "", ""

    @property
    def _what(self) -> str:
        return f"Data Factory {self._pipeline.factory}, pipeline {self._pipeline.name}"

    @contextmanager
    def _errors(self) -> Generator[None]:
        from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError

        try:
            yield
        except ClientAuthenticationError as error:
            raise AccessError(f"{self._what}: the identity is not accepted: {first_line(error)}") from error
        except HttpResponseError as error:
            if error.status_code == 403:
                raise AccessError(
                    f"{self._what}: the identity may not do this: it needs the role Data Factory Contributor, or one "
                    "with pipelines/createRun and pipelineruns/read"
                ) from error
            if error.status_code == 404:
                raise SettingsError(
                    f"{self._what}: there is no such pipeline in resource group {self._pipeline.resource_group} "
                    f"({first_line(error)}); mend [data_factory]"
                ) from error
            if error.status_code is not None and 400 <= error.status_code < 500 and error.status_code != 429:
                raise InputError(f"{self._what} refuses: {first_line(error)}") from error
            raise UnavailableError(f"{self._what}: {first_line(error)}") from error
        except AzureError as error:
            raise UnavailableError(f"{self._what}: {first_line(error)}") from error
