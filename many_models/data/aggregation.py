"""Several rows of a series and period as one, and the periods of the data's frequency that rows belong to."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from many_models.forecasting.pack import mm_pack_v1 as pack

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_DAY = timedelta(days=1)


def is_coarse(frequency: str) -> bool:
    """Whether a period of `frequency` is more than a calendar day."""
    return _head(frequency).lstrip("0123456789") not in {"h", "H", "min", "s", "D"}


def labels(ds: NDArray[np.datetime64], frequency: str) -> NDArray[np.datetime64]:
    """The stamp of the period that each of `ds` (datetime64[us], NaT stays) is in.

    A week is labelled by its first day, a month, quarter or year by the day that the frequency says; of business days
    Saturday and Sunday belong to Monday.
    """
    result = ds.copy()
    dated = ~np.isnat(ds)
    result[dated] = pack.stamps(_numbers(ds[dated], frequency), frequency)
    return result


def period_of(moment: datetime, frequency: str) -> tuple[datetime, datetime]:
    """The first moment of the period that `moment` is in, and of the one after it."""
    number = _numbers(np.array([moment], "datetime64[us]"), frequency)
    if _by_last_day(frequency):
        ends = pack.stamps(np.concatenate([number - 1, number]), frequency)
        first, after = (stamp.item() + _DAY for stamp in ends)
        return first, after
    first, after = pack.stamps(np.concatenate([number, number + 1]), frequency).tolist()
    return first, after


def _numbers(ds: NDArray[np.datetime64], frequency: str) -> NDArray[np.int64]:
    number = pack.step_number(ds, frequency)
    if _by_last_day(frequency):
        day = ds.astype("datetime64[D]").astype("datetime64[us]")
        number = number + (pack.stamps(number, frequency) < day)
    return number


def _by_last_day(frequency: str) -> bool:
    return _head(frequency) in {"ME", "QE", "YE", "M", "Q", "Y", "A", "B"}


def _head(frequency: str) -> str:
    return frequency.split("-", maxsplit=1)[0]


def aggregate(rows: pa.Table, by: Sequence[str], how: Mapping[str, str]) -> pa.Table:
    """One row for each different `by` of `rows`, in order of appearance, its other columns aggregated as `how` says.

    `first` and `last` count in the order of `rows`; missing values are left out. Columns that `how` does not name:
    `max` of flags (0 and 1), `mean` of other numbers, `last` of texts.
    """
    rest = [name for name in rows.column_names if name not in by]
    ways = [(name, how.get(name) or _usual(rows[name])) for name in rest]
    grouped = pa.TableGroupBy(rows, list(by), use_threads=False).aggregate(ways)
    found = grouped.select([*by, *(f"{name}_{way}" for name, way in ways)])
    return found.rename_columns([*by, *rest])


def _usual(column: pa.ChunkedArray) -> str:
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        return "last"
    flag = pc.all(pc.is_in(pc.drop_null(column), pa.array([0, 1]).cast(column.type))).as_py()
    return "max" if flag else "mean"
