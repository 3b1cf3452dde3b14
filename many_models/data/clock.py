"""The clock of a project: now in its time zone, and the length of one period of its data."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from many_models.settings import Settings


def now(settings: Settings) -> datetime:
    """The wall clock in the settings' time zone, without the zone, as the data's stamps are."""
    from zoneinfo import ZoneInfo

    return datetime.now(ZoneInfo(settings.dagster.timezone)).replace(tzinfo=None)


def step_days(settings: Settings) -> float:
    """The length of one period of the data, in days, roughly."""
    import pandas as pd

    stamps = pd.date_range("2024-01-01", periods=3, freq=settings.data.frequency)
    return (stamps[2] - stamps[1]).total_seconds() / 86400
