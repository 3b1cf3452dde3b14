"""When series are open: outside of these periods rows are not demand, silence ends nothing, the forecast is zero."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from many_models.forecasting.pack import mm_pack_v1 as pack

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

Spans = tuple[tuple[int, int], ...]  # first and last open period by step number, in order and apart; none: always open
BEGINNING, END = -pack.FAR, pack.FAR  # a series that was always there, one that stays


def shut(numbers: NDArray[np.int64], spans: Spans) -> NDArray[np.bool_]:
    """Whether a series with these open `spans` is closed in each of the periods."""
    return pack.outside(numbers, spans)


def closed_between(spans: Spans, after: int, until: int) -> int:
    """How many of the periods after `after`, up to `until`, are closed."""
    return int(shut(np.arange(after + 1, until + 1), spans).sum()) if spans else 0


def closed_rows(rows: pa.Table, openings: Mapping[str, Spans], frequency: str) -> NDArray[np.bool_]:
    """Which of `rows` (series_id, ds) are of a period in which their series is closed."""
    found = np.zeros(rows.num_rows, np.bool_)
    if not openings or not rows.num_rows:
        return found
    names = rows["series_id"].combine_chunks().dictionary_encode()
    place = names.indices.to_numpy()
    number = pack.step_number(np.asarray(rows["ds"].to_numpy(), "datetime64[us]"), frequency)
    for at, name in enumerate(names.dictionary.to_pylist()):
        if spans := openings.get(name, ()):
            own = np.flatnonzero(place == at)
            found[own] = shut(number[own], spans)
    return found


def zero_where_closed(
    predictions: pa.Table, openings: Mapping[str, Spans], frequency: str
) -> tuple[pa.Table, set[str]]:
    """`predictions` with zeros, and intervals of zero width, where their series are closed; and the series of which
    that changed a point forecast.
    """
    closed = closed_rows(predictions, openings, frequency)
    if not closed.any():
        return predictions, set()
    changed = closed & (np.asarray(predictions["y_hat"].to_numpy(), np.float64) != 0)
    names = set(predictions["series_id"].filter(pa.array(changed)).to_pylist())
    for at, name in enumerate(predictions.column_names):
        if name == "y_hat" or name[:2] in {"lo", "hi"}:
            values = np.where(closed, 0.0, np.asarray(predictions[name].to_numpy(), np.float64))
            predictions = predictions.set_column(at, name, pa.array(values, predictions.schema.field(name).type))
    return predictions, names
