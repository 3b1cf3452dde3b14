"""The forecasting spec that the settings ask for, and when it calls a series ended."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING

from many_models.settings import WEEKDAYS

if TYPE_CHECKING:
    from many_models.forecasting import Spec
    from many_models.forecasting.spec import Custom
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
        objective=forecast.objective,
        levels=tuple(forecast.levels),
        nonnegative=data.negatives == "quarantine",
        ended_after=data.ended_after,
        custom=_custom(settings),
        holidays=_holidays(settings),
        attributes=tuple(data.attributes),
        pool_by=tuple(data.keys.index(name) for name in forecast.pool_by),
        missing=data.missing,
        missing_on=tuple((WEEKDAYS.index(day), what) for day, what in sorted(data.missing_on.items())),
        missing_at=tuple(sorted(data.missing_at.items())),
        exposure=data.exposure,
        available=data.available,
        sold_out=data.sold_out,
        open_hours=data.open_hours,
        folder=str(settings.root),
    )


def _custom(settings: Settings) -> tuple[Custom, ...]:
    """The user's own forecasters: of one series each, then of all series at once."""
    from many_models.forecasting.spec import Custom

    own = [
        Custom(name, mine.use, json.dumps(mine.options, sort_keys=True), mine.seconds)
        for name, mine in settings.forecast.custom.items()
    ]
    pooled = [
        Custom(
            name,
            mine.use,
            json.dumps(mine.options, sort_keys=True),
            mine.seconds,
            pooled=True,
            device=mine.device,
            licence=mine.licence,
        )
        for name, mine in settings.forecast.pooled_custom.items()
    ]
    return (*own, *pooled)


def _holidays(settings: Settings) -> tuple[tuple[str, str], ...]:
    from many_models.data.covariates import read_holidays

    return read_holidays(settings.path(settings.data.holidays)) if settings.data.holidays else ()


def periods_before(moment: datetime, periods: int, spec: Spec) -> datetime:
    """Return the moment `periods` of the data earlier."""
    from pandas.tseries.frequencies import to_offset

    earlier: datetime = moment - periods * to_offset(spec.frequency)  # a pandas Timestamp: turned into a plain one
    return datetime.fromisoformat(earlier.isoformat())
