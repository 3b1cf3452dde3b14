"""Names of holidays by day, for the charts."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from many_models.settings import Settings

YEARS = (2000, 2045)


def names_of(settings: Settings) -> dict[str, str]:
    """ISO date → name, of `data.country` and of the table `data.holidays`, which wins."""
    from many_models.data.covariates import read_holidays

    own = read_holidays(settings.path(settings.data.holidays)) if settings.data.holidays else ()
    return {**_national(settings.data.country), **dict(own)}


@lru_cache(4)
def _national(country: str) -> dict[str, str]:
    if not country:
        return {}
    import holidays

    found = holidays.country_holidays(country, years=range(*YEARS))
    return {str(date): name for date, name in found.items()}
