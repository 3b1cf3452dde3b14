"""The table of items in memory: made once for each change of the lake, and shown as it was while the lake is away."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from many_models.board.grid import grid_of
from many_models.board.items import Items, build_items
from many_models.board.reading import Reading
from many_models.board.tables import fingerprints, read_tables

if TYPE_CHECKING:
    from many_models.ports import Lake, Warehouse
    from many_models.settings import Settings

LOOK_SECONDS = 2.0  # after which a request has the lake's fingerprints compared
AGAIN_SECONDS = 30.0  # after which a table that lacks a part is made again

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Catalogue:
    """Hands out the newest table of items. One of the threads that ask makes it, the others get the old one."""

    settings: Settings
    lake: Lake
    warehouse: Warehouse
    _items: Items | None = None
    _fingerprints: tuple[str, ...] = ()
    _looked: float = float("-inf")
    _made: float = float("-inf")
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def version(self) -> object:
        """What changes when the lake has."""
        return self._fingerprints

    def items(self) -> Items:
        """The table, with what could not be read in its `missing`."""
        now = time.monotonic()
        if self._items is not None and now - self._looked < LOOK_SECONDS:
            return self._items
        if self._items is not None and not self._lock.acquire(blocking=False):
            return self._items
        if self._items is None:
            self._lock.acquire()
        try:
            if self._items is None or time.monotonic() - self._looked >= LOOK_SECONDS:
                self._items = self._newest(self._items)
            return self._items
        finally:
            self._looked = time.monotonic()
            self._lock.release()

    def _newest(self, before: Items | None) -> Items:
        reading = Reading()
        seen = reading.part("lake", lambda: fingerprints(self.lake), None)
        lacks = before is not None and before.missing and time.monotonic() - self._made > AGAIN_SECONDS
        if before is not None and (seen is None or (seen == self._fingerprints and not lacks)):
            lost = {"lake": reading.missing["lake"]} if seen is None else {}
            kept = {what: why for what, why in before.missing.items() if what != "lake" or seen is None}
            return replace(before, missing=kept | lost)
        started = time.perf_counter()
        tables = read_tables(self.settings, self.lake, self.warehouse, reading)
        if before is not None and "lake" in reading.missing:
            return replace(before, missing=reading.missing)
        data = self.settings.data
        items = build_items(tables, grid_of(data.frequency), data.keys, self.settings.board.value, reading.missing)
        self._fingerprints, self._made = seen or (), time.monotonic()
        log.info("table of items: %d series in %.2f s", len(items.frame), time.perf_counter() - started)
        return items
