"""A pack: the fitted models of a group of series as plain arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    import pyarrow as pa


@dataclass(frozen=True)
class PackModel:
    """The fitted models of `series`, in row order."""

    series: tuple[str, ...]

    def files(self) -> dict[str, bytes]:
        """The pack as files, the same bytes for the same content."""
        raise NotImplementedError

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> PackModel:
        """The inverse of `files`. Raises IntegrityError that names what is wrong."""
        raise NotImplementedError

    def select(self, series: Sequence[str]) -> PackModel:
        """The pack of these series only."""
        raise NotImplementedError

    @classmethod
    def merge(cls, models: Sequence[PackModel]) -> PackModel:
        """One pack of several with the same layout."""
        raise NotImplementedError

    def predict(
        self,
        rows: pa.Table | None,
        cutoff: datetime | None = None,
        *,
        future: pa.Table | None = None,
        horizon: int | None = None,
        series: Sequence[str] | None = None,
    ) -> pa.Table:
        """Forecasts after `cutoff`."""
        raise NotImplementedError
