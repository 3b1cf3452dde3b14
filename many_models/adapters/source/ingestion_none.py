"""No ingestion: the source is read as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class NoIngestion:
    """See `Ingestion`."""

    def bring(self, period: datetime) -> str:
        """See `Ingestion.bring`."""
        return f"nothing brings {period:%Y-%m-%d}: the source is read as it is"

    def check(self) -> str:
        """See `Ingestion.check`."""
        return "no pipeline: the source is read as it is"
