"""Some series of a public table, as the forecasting core takes them."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from many_models.forecasting import Spec
from many_models_tests.support.public_tables import VARIABLE, public_set

if TYPE_CHECKING:
    from datetime import datetime

    import pandas as pd


@dataclass(frozen=True)
class Sample:
    """`frame` (series_id, ds, y) in order, all its `times`, and the spec of its frequency and horizon."""

    frame: pd.DataFrame
    times: list[datetime]
    spec: Spec


STOCK, OPEN_HOURS = "sold_out_hours", 16.0  # the column of a set that says for how long stock was out


def sample(name: str, most: int, *, stock: bool = False) -> Sample:
    """About `most` series of the public set `name`, evenly chosen; with `stock` the column that says when it was out,
    where there is one. Raises SystemExit where no folder has such sets.
    """
    if not os.environ.get(VARIABLE):
        raise SystemExit(f"this measures public tables: set {VARIABLE} to a folder that has them")
    found = public_set(name)
    keys, horizon = cast("list[str]", found.options["keys"]), int(str(found.options["horizon"]))
    frame = found.frame.rename(columns={found.options["timestamp"]: "ds", found.options["target"]: "y"})
    frame["series_id"] = frame[keys].astype(str).agg("__".join, axis=1)
    names = sorted(set(frame["series_id"]))
    chosen = frame["series_id"].isin(names[:: max(1, len(names) // most)])
    told = [STOCK] if stock and STOCK in frame else []
    frame = frame.loc[chosen, ["series_id", "ds", "y", *told]].sort_values(["series_id", "ds"])
    times = [time.to_pydatetime() for time in sorted(set(frame["ds"]))]
    spec = Spec(str(found.options["frequency"]), horizon)
    return Sample(frame, times, replace(spec, sold_out=STOCK, open_hours=OPEN_HOURS) if told else spec)
