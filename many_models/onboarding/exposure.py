"""The column that the target is proportional to, as the user names it: `check_exposure`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from many_models.errors import InputError
from many_models.onboarding.column_roles import Inferred

if TYPE_CHECKING:
    from many_models.onboarding.profile import TableProfile

MOST_WITHOUT = 0.01  # share of periods without exposure that may sell something all the same


def check_exposure(profile: TableProfile, target: str, given: str) -> Inferred[str]:
    """The exposure that is `given`, "" for none. Raises InputError for a column that cannot be one."""
    if not given:
        return Inferred("", "")
    column, sold = profile.columns[given], profile.columns[target].values
    if given == target or column.kind not in {"number", "flag"}:
        raise InputError(f"--exposure {given}: it holds {column.kind} values, needed a number, zero or more")
    values = column.values
    if (values < 0).any():
        raise InputError(f"--exposure {given}: its lowest value is {np.nanmin(values):g}, needed zero or more")
    none = values == 0
    if none.any() and (share := float((sold[none] > 0).mean())) > MOST_WITHOUT:
        raise InputError(
            f"--exposure {given}: {share:.0%} of the {none.sum():,} rows without any have sales, so {target} is not "
            "proportional to it: leave it among --known"
        )
    return Inferred(given, "given")
