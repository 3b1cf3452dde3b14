"""How old the newest materialization of a stage may be before Dagster says that it is late. Pure."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from collections.abc import Mapping

    from many_models.orchestration.due import Stage
    from many_models.settings import Settings

WARN, FAIL = 1.5, 2.5  # times the usual distance of two materializations: one is late, two are missed
_DAYS: Mapping[str, int] = {"B": 3, "W": 7, "M": 31, "Q": 92, "Y": 366}  # of a frequency's first letter; others: a day
_GRAINS: Mapping[str, int] = {"week": 7, "month": 31}


def freshness_policy(settings: Settings, stage: Stage) -> dg.FreshnessPolicy:
    """The policy of `stage`: a warning when it is half as late again as usual, a failure when it has missed a turn.

    Usual is what the settings ask for: the schedule, the periods of the data, and how often models are learned again.
    """
    usual = timedelta(days=usual_days(settings, stage))
    return dg.FreshnessPolicy.time_window(fail_window=FAIL * usual, warn_window=WARN * usual)


def usual_days(settings: Settings, stage: Stage) -> int:
    """How many days there are at most between two materializations of `stage` while the source has new rows."""
    frequency = re.match(r"(\d*)([A-Za-z])", settings.data.frequency)
    times, letter = (int(frequency[1] or 1), frequency[2]) if frequency else (1, "D")
    period = times * _DAYS[letter] if letter in _DAYS else times if letter == "D" else 1
    usual = max(period, _GRAINS.get(settings.partitions.grain, 1), _cron_days(settings.dagster.cron))
    if stage == "pooled_models":
        return max(usual, settings.forecast.pool_every)
    if stage in {"trained_models", "promoted_models"}:
        return max(usual, min(settings.forecast.refit_every, settings.forecast.pool_every))
    return usual


def _cron_days(cron: str) -> int:
    """The longest time between two turns of a schedule, in days, rounded up to a week or a month."""
    _minute, _hour, day, month, weekday = cron.split()
    if month != "*":
        return 366
    return 31 if day != "*" else 7 if weekday != "*" else 1
