"""Static attributes of series, as the numbers that trees see: `Attributes`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from many_models.forecasting.panel import is_number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

MOST_LEVELS = 16
UNKNOWN = -1e30  # a number that is not known is apart from all others


@dataclass(frozen=True)
class Attributes:
    """How attributes become columns: one for each of an attribute's `levels`, one for a number (None)."""

    levels: Mapping[str, tuple[str, ...] | None] = field(default_factory=dict[str, "tuple[str, ...] | None"])

    @property
    def width(self) -> int:
        """Number of columns."""
        return sum(1 if levels is None else len(levels) for levels in self.levels.values())

    def encode(self, rows: pa.Table, series: Sequence[str]) -> NDArray[np.float32]:
        """The columns (series × width) of `series` as `rows` have them."""
        out = np.zeros((len(series), self.width), np.float32)
        column = 0
        for name, levels in self.levels.items():
            values = values_of(rows, name)
            if levels is None:
                out[:, column] = [_number(values.get(one)) for one in series]
                column += 1
                continue
            for i, one in enumerate(series):
                if (word := values.get(one)) in levels:
                    out[i, column + levels.index(str(word))] = 1.0
            column += len(levels)
        return out


def learn_attributes(rows: pa.Table, names: Sequence[str]) -> Attributes:
    """How the attributes `names` of the series in `rows` become columns: of texts the most frequent ones."""
    found: dict[str, tuple[str, ...] | None] = {}
    for name in names:
        if is_number(rows.schema.field(name).type):
            found[name] = None
            continue
        words = list(values_of(rows, name).values())
        ranked = sorted(set(map(str, words)), key=lambda word: (-words.count(word), word))
        found[name] = tuple(ranked[:MOST_LEVELS])
    return Attributes(found)


def values_of(rows: pa.Table, name: str) -> dict[str, object]:
    """Series → its attribute `name`, the greatest one where its rows disagree; without those that have none."""
    said = rows.select(["series_id", name]).filter(pc.is_valid(rows[name])).group_by(["series_id", name]).aggregate([])
    if not is_number(said.schema.field(name).type):
        said = said.set_column(1, name, said[name].cast(pa.string()))
    return {row["series_id"]: row[name] for row in said.sort_by(name).to_pylist()}


def _number(value: object) -> float:
    number = UNKNOWN if value is None else float(str(value)) if not isinstance(value, bool) else float(value)
    return number if abs(number) < -UNKNOWN else UNKNOWN
