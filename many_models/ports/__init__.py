"""The ports: what the product needs of a source (and what fills it), a lake, a compute, a registry, a warehouse,
a messenger and telemetry.

Bulk methods only; Arrow tables in and out. Every method may raise UnavailableError or ConflictError (worth a retry)
and, where it says so, a PermanentError. A read that failed raises: it never returns an empty table or a default.
Names inside are fixed: `series_id` (string), `ds` (timestamp[us], no zone), `y` (double).
"""

from many_models.ports.compute import Chunk, ChunkResult, Compute, NarrowingTask, ReadingTask, Task
from many_models.ports.lake import Filter, Lake, Scalar, VacuumResult
from many_models.ports.messenger import Message, Messenger
from many_models.ports.registry import (
    Approval,
    Champion,
    PackUpload,
    PackVersion,
    ProductionRegistry,
    PromotedSeries,
    Release,
    ReleaseDraft,
    StagingRegistry,
)
from many_models.ports.source import DayCount, Ingestion, SalesTable, Source
from many_models.ports.telemetry import Answered, FinishedRun, Step, Telemetry
from many_models.ports.warehouse import Warehouse, WarehousePart, WarehouseView

__all__ = [
    "Answered",
    "Approval",
    "Champion",
    "Chunk",
    "ChunkResult",
    "Compute",
    "DayCount",
    "Filter",
    "FinishedRun",
    "Ingestion",
    "Lake",
    "Message",
    "Messenger",
    "NarrowingTask",
    "PackUpload",
    "PackVersion",
    "ProductionRegistry",
    "PromotedSeries",
    "ReadingTask",
    "Release",
    "ReleaseDraft",
    "SalesTable",
    "Scalar",
    "Source",
    "StagingRegistry",
    "Step",
    "Task",
    "Telemetry",
    "VacuumResult",
    "Warehouse",
    "WarehousePart",
    "WarehouseView",
]
