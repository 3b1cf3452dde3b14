"""The column that says when there was stock: by its name, and by values that can mean that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from many_models.onboarding.column_roles import Inferred
from many_models.onboarding.profile import name_suggests

if TYPE_CHECKING:
    from many_models.onboarding.profile import TableProfile

_AVAILABLE = "available availability verfügbarkeit verfuegbarkeit instock".split()
_NOT_AVAILABLE = "unavailable notavailable".split()
_SOLD_OUT = "soldout stockout outofstock oos ausverkauft rupture agotado".split()
_HOURS = "hours hrs stunden".split()
_NOTHING: Inferred[str] = Inferred("", "")
_NO_HOURS: Inferred[float] = Inferred(0.0, "")


def choose_stock(profile: TableProfile, target: str) -> tuple[Inferred[str], Inferred[str], Inferred[float]]:
    """`data.available`, `data.sold_out` and `data.open_hours`, empty where no column's name and values say so."""
    for name, column in profile.columns.items():
        if name in {target, *profile.keys} or column.kind not in {"number", "flag"}:
            continue
        values = np.asarray(column.values, np.float64)
        values = values[np.isfinite(values)]
        if not len(values) or values.min() < 0 or (values == values[0]).all():
            continue
        if values.max() <= 1 and name_suggests(name, _AVAILABLE) and not name_suggests(name, _NOT_AVAILABLE):
            why = "the share of a period with stock, by its name and values"
            return Inferred(name, why, "likely"), _NOTHING, _NO_HOURS
        if not name_suggests(name, _SOLD_OUT):
            continue
        if np.isin(values, (0.0, 1.0)).all():
            why = "a flag of periods in which stock ran out, by its name"
            return _NOTHING, Inferred(name, why, "likely"), _NO_HOURS
        if values.max() <= 24 and name_suggests(name, _HOURS):
            most = float(values.max())
            hours = Inferred(most, f"the most that {name} counts", "unsure")
            return _NOTHING, Inferred(name, "hours of a period without stock, by its name", "likely"), hours
    return _NOTHING, _NOTHING, _NO_HOURS
