"""What is asked and answered over HTTP, with examples; the OpenAPI document is made from it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from many_models.forecasting.datasets import LARGEST
from many_models.serving.loaded_pack import Observation, Question


def _plain(moment: datetime) -> datetime:
    """Turn a time that has a zone into UTC without one."""
    try:
        return moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)
    except OverflowError:  # on the first or last day of all
        return moment.replace(tzinfo=None)


Time = Annotated[datetime, AfterValidator(_plain)]
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
Text = Annotated[str, Field(max_length=1_000)]
MOST_VALUES = 200
Values = Annotated[dict[Text, bool | Number | Text | None], Field(max_length=MOST_VALUES)]
SeriesId = Annotated[str, Field(min_length=1, max_length=2_000, description="Key parts joined by `__`.")]
STEPS = 5_000


class Part(BaseModel):
    """Unknown names are errors."""

    model_config = ConfigDict(extra="forbid")


class KnownAt(Part):
    """Known covariates of one period."""

    ds: Time
    values: Values


class Observed(Part):
    """What happened in one period since training. `values` are its known covariates."""

    ds: Time
    y: Number | None = None
    state: Literal["observed", "missing", "closed", "stock_out"] = "observed"
    values: Values = {}


class SeriesRequest(Part):
    """One series. `cutoff`: the last period that counts as past (default: that of the last observation, else of
    training). What is missing of the known covariates is repeated, and flagged in the answer. `against`: what another
    future has else than `known`; the answer says in `difference` what changes from the one to the other.
    """

    series_id: SeriesId
    horizon: Annotated[int, Field(ge=1, description="Steps ahead; default: what was trained for.")] | None = None
    cutoff: Time | None = None
    known: Annotated[tuple[KnownAt, ...], Field(max_length=STEPS, fail_fast=True)] = ()
    observations: Annotated[tuple[Observed, ...], Field(max_length=STEPS, fail_fast=True)] = ()
    against: Annotated[tuple[KnownAt, ...], Field(max_length=STEPS, fail_fast=True)] | None = None

    def question(self, *, explain: bool = False) -> Question:
        """The question, in the service's own terms."""
        return Question(
            self.series_id,
            self.horizon,
            self.cutoff,
            [(step.ds, step.values) for step in self.known] if self.known else (),
            [Observation(o.ds, o.y, o.state, o.values) for o in self.observations] if self.observations else (),
            None if self.against is None else [(step.ds, step.values) for step in self.against],
            explain,
        )


class ForecastRequest(Part):
    """Many series at once; a series may occur several times, with different covariates."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "series": [
                        {"series_id": "store_1__item_1"},
                        {
                            "series_id": "store_1__item_2",
                            "horizon": 7,
                            "known": [{"ds": "2024-07-02", "values": {"price": 1.99}}],
                            "observations": [{"ds": "2024-07-01", "y": 12, "values": {"price": 2.49}}],
                        },
                    ]
                }
            ]
        },
    )

    series: Annotated[list[SeriesRequest], Field(min_length=1, fail_fast=True)]
    observations_from: Annotated[
        Literal["request", "lake"],
        Field(description="`lake` adds what the lake has of the series since training to what the request says."),
    ] = "request"

    @property
    def from_lake(self) -> bool:
        """Whether the lake is to be read."""
        return self.observations_from == "lake"


class Problem(BaseModel):
    """Why one series has no forecast. `permanent`: the same question fails again."""

    kind: str
    reason: str
    permanent: bool


Moment = Annotated[str, Field(description="A time of the data, ISO 8601 without a zone.")]


class PartAnswer(BaseModel):
    """What one driver adds to each step: kind is level, recent, season, holiday, covariate, calibration, bounds, closed
    or forecaster. The parts of a step add up to its `y_hat`, or in a difference to its `change`.
    """

    kind: str
    driver: str
    values: list[float]


class DifferenceAnswer(BaseModel):
    """What changes from the future in `known` to the one in `against`, by step and driver, with bounds of the change:
    how much the candidates disagree about it, and how much the interval of the forecast widens.
    """

    model_config = ConfigDict(extra="allow")

    change: list[float]
    lo80: list[float] = []
    hi80: list[float] = []
    parts: list[PartAnswer]


class SeriesForecast(BaseModel):
    """One series' forecast: `ds`, `y_hat`, the bounds and `known_repeated` have a value for each step; null is none."""

    model_config = ConfigDict(extra="allow")

    series_id: str
    age_days: int = Field(description="Whole days since the last period that training saw.")
    trained_through: Moment
    cutoff: Moment = Field(description="The last period that counts as past.")
    fresh_periods: int = Field(description="Periods between training and the cutoff.")
    model: str = Field(description="Registered model and version.")
    fallback: str = Field(description='The step of the fallback chain that answers; "" for a fitted model.')
    ds: list[Moment]
    y_hat: list[float | None]
    lo80: list[float | None] = Field(default=[], description="Bounds exist for the levels that were trained.")
    hi80: list[float | None] = []
    known_repeated: list[bool]
    parts: list[PartAnswer] = Field(default=[], description="Of /v1/explanations.")
    words: list[str] = Field(default=[], description="The explanation in sentences, of /v1/explanations.")
    difference: DifferenceAnswer | None = Field(default=None, description="Where the question has `against`.")


class SeriesFailed(BaseModel):
    """A series without a forecast; the others of the request are not touched by it."""

    series_id: str
    error: Problem


class ForecastAnswer(BaseModel):
    """Forecasts in the order of the request, all from one release. Numbers have eight significant digits."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "release": "20240701-060512-a1b2c3",
                    "released_at": "2024-07-01T06:05:12Z",
                    "forecasts": [
                        {
                            "series_id": "store_1__item_1",
                            "age_days": 1,
                            "trained_through": "2024-06-30T00:00:00",
                            "cutoff": "2024-06-30T00:00:00",
                            "model": "many_models-store-1-4f0c2a9d1e/3",
                            "fallback": "",
                            "fresh_periods": 0,
                            "ds": ["2024-07-01T00:00:00"],
                            "y_hat": [12.31],
                            "lo80": [8.04],
                            "hi80": [16.9],
                            "known_repeated": [False],
                        },
                        {
                            "series_id": "store_9__item_9",
                            "error": {
                                "kind": "UnknownSeries",
                                "reason": "the live release does not serve it",
                                "permanent": True,
                            },
                        },
                    ],
                }
            ]
        }
    )

    release: str
    released_at: datetime
    forecasts: list[SeriesForecast | SeriesFailed]


class ModelAnswer(BaseModel):
    """What the live release says of one series."""

    series_id: str
    release: str
    model: str
    row: int
    sha256: str
    staging: str
    recipe: str
    cutoff: str
    age_days: int
    previous: str
    fallback: str
    loaded: bool


class ReleaseAnswer(BaseModel):
    """The live release."""

    release: str
    released_at: datetime
    actor: str
    reason: str
    previous: str
    series: int
    packs: int


class Health(BaseModel):
    """`status`: ready; degraded (the registry is away, a release was refused, or the disk is full: what is cached is
    served); not_ready; draining.
    """

    status: Literal["ready", "degraded", "not_ready", "draining"]
    release: str | None
    registry: Literal["reachable", "away"]
    registry_seconds: float = Field(description="Seconds since the registry last answered.")
    refused_release: str = Field(description="A newer release whose packs are damaged.")
    disk: Literal["ok", "full"]


class Alive(BaseModel):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Failure(BaseModel):
    """Why the request as a whole was not answered."""

    error: FailureDetail


class FailureDetail(BaseModel):
    """`kind` names the error, `reason` says what was wrong with the request, never what was in it."""

    kind: str
    reason: str
