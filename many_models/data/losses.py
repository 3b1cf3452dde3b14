"""Losses that are refused until someone says that the rows are really gone: `data.max_loss`.

Like is compared with like. A change of settings that legitimately leaves fewer rows (another frequency or horizon, a
later `data.start`) is recognised by what is compared, and is not refused.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from many_models.errors import SeriesFailure

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from datetime import date

COUNTS_FROM = 100  # rows, or series: fewer may go for many a good reason
KIND = "LossRefused"
TOLD = "MANY_MODELS__DATA__MAX_LOSS=1 for one run"


def is_refused(held: int, comes: int, most: float) -> bool:
    """Whether `comes` in place of `held` is a loss of more than the share `most`; never of fewer than 100."""
    return held >= COUNTS_FROM and comes < held * (1 - most)


def shorter_histories(
    held: Iterable[Mapping[str, object]], series: pa.Table, frequency: str, start: date, most: float
) -> list[SeriesFailure]:
    """The series whose history would lose more observations than `most` allows.

    `held` are their rows of the lake's table of series, `series` the new ones (series_id, observations). Left out are
    histories that began before `start`, which has moved since, and those of another frequency than `frequency`: they
    have another number of rows from `first` to `until` than the frequency makes.
    """
    from many_models.forecasting.pack.mm_pack_v1 import step_number

    now = dict(zip(series["series_id"].to_pylist(), series["observations"].to_pylist(), strict=True))
    begin, found = datetime.combine(start, datetime.min.time()), list[SeriesFailure]()
    for row in held:
        name, first, until = str(row["series_id"]), row.get("first"), row.get("until")
        had, rows = row.get("observations"), row.get("rows")
        if name not in now or not isinstance(had, int) or not is_refused(had, now[name], most):
            continue
        if not isinstance(first, datetime) or not isinstance(until, datetime) or first < begin:
            continue
        steps = step_number(np.array([first, until], "datetime64[us]"), frequency)
        if rows == int(steps[1] - steps[0]) + 1:
            why = (
                f"its history in the lake has {had:,} observations, and raw_sales has {now[name]:,} now, a loss of "
                f"more than {most:.0%} (data.max_loss). The history was left as it is. Where the rows are really "
                f"gone: {TOLD}; where they are not: materialize raw_sales again"
            )
            found.append(SeriesFailure(name, KIND, why, permanent=True))
    return found


def leaving_at_once(leaving: Collection[str], served: int, most: float, kept: str) -> list[SeriesFailure]:
    """A failure for each of `leaving`, where more than `most` of the `served` series would leave at once; nothing where
    they are fewer. `kept` says what was left as it is.
    """
    if not is_refused(served, served - len(leaving), most):
        return []
    why = (
        f"{len(leaving):,} of the {served:,} series of the live release would leave at once since they have ended, "
        f"more than {most:.0%} (data.max_loss). {kept} Where they have really ended: {TOLD}; where not, look at the "
        "newest dates in the source: one row that is dated too late ends everything else"
    )
    return [SeriesFailure(name, KIND, why, permanent=True) for name in sorted(leaving)]


def lost_plan(held: pa.Table | None, comes: pa.Table, as_of: datetime | None, most: float) -> str:
    """What a table of known covariates would lose of the time after `as_of`; "" where it is within `most`.

    A table of other columns, or of another frequency (another least distance between dates), is not compared.
    """
    if held is None or (comes.num_rows and set(held.column_names) != set(comes.column_names)):
        return ""
    before, after = (_ahead(rows, as_of) for rows in (held, comes))
    if after.num_rows and _least_distance(before) != _least_distance(after):
        return ""
    return _said("rows about the time ahead", before.num_rows, after.num_rows, most)


def lost_attributes(held: pa.Table | None, comes: pa.Table, most: float) -> str:
    """What a table of attributes would lose; "" where it is within `most`, or its columns are others."""
    if held is None or set(held.column_names) != set(comes.column_names):
        return ""
    return _said("rows", held.num_rows, comes.num_rows, most)


def _said(what: str, held: int, comes: int, most: float) -> str:
    if not is_refused(held, comes, most):
        return ""
    return (
        f"the lake holds {held:,} {what}, and the source has {comes:,}, a loss of more than {most:.0%} "
        f"(data.max_loss). Nothing was changed. Where the rows are really gone: {TOLD}"
    )


def _ahead(rows: pa.Table, as_of: datetime | None) -> pa.Table:
    return rows if as_of is None else rows.filter(pc.greater(rows["ds"], pa.scalar(as_of, pa.timestamp("us"))))


def _least_distance(rows: pa.Table) -> int:
    """The least distance of two different dates, in microseconds; 0 where there is one date only."""
    days = np.unique(np.asarray(rows["ds"].to_numpy(), "datetime64[us]").astype(np.int64))
    return int(np.diff(days).min()) if len(days) > 1 else 0
