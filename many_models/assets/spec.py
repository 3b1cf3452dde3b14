"""The forecasting spec that the settings ask for, and when it calls a series ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from many_models.forecasting import Spec
    from many_models.settings import Settings


def spec_of(settings: Settings) -> Spec:
    """What is forecast and how, from the settings' data and forecast sections."""
    from many_models.forecasting.spec import Spec

    data, forecast = settings.data, settings.forecast
    return Spec(
        frequency=data.frequency,
        horizon=forecast.horizon,
        windows=forecast.windows,
        season=data.season,
        known=tuple(data.known),
        country=data.country,
        candidates=tuple(forecast.candidates),
        levels=tuple(forecast.levels),
        nonnegative=data.negatives == "quarantine",
        ended_after=data.ended_after,
    )


def oldest_alive(spec: Spec, as_of: datetime) -> datetime:
    """The oldest last observation of a series that has not ended at `as_of`."""
    from pandas.tseries.frequencies import to_offset

    from many_models.forecasting.spec import rhythm

    periods = rhythm(spec.frequency).ended if spec.ended_after is None else spec.ended_after
    return (as_of - periods * to_offset(spec.frequency)).to_pydatetime()
