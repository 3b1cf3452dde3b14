"""A made-up shop in memory for tests of the board: series with odd keys, a warehouse, two releases' decisions."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pyarrow as pa

from many_models.adapters.lake.memory import MemoryLake
from many_models.adapters.registry.memory import MemoryProduction
from many_models.adapters.warehouse.memory import MemoryWarehouse
from many_models.board.access import Keys
from many_models.board.app import build_board
from many_models.board.handed_in import Operations, Stores
from many_models.data import lake_tables
from many_models.errors import UnavailableError
from many_models.keys import SeriesKey
from many_models.ports import Filter, WarehousePart
from many_models.settings import Settings
from many_models_tests.support.boards import served_app

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

AS_OF, DAYS, HORIZON = datetime(2026, 10, 31), 100, 14
POISON = (
    "<script>alert(1)</script>",
    "'\"; --",
    "a/b\\c",
    "naïve 🍓 100 %",
    "",
    "=1+1",
    "</script><b>",
    "{{7*7}}",
    "x,y[z]",
)
STORES = ("Berlin", "Rome")
PLAIN = "bread"
READER, APPROVER = "a reader's key, long enough", "an approver's key, long enough"


def series(store: str, item: str) -> str:
    return SeriesKey((store, item)).series_id


class Away:
    """A store that does not answer."""

    def __getattr__(self, name: str) -> Any:
        def fail(*_: object, **__: object) -> None:
            raise UnavailableError("nobody answers")

        return fail


@dataclass
class Shop:
    """The stores of the shop, and what was decided on the board."""

    settings: Settings
    lake: Any = field(default_factory=MemoryLake)
    warehouse: Any = field(default_factory=MemoryWarehouse)
    production: Any = field(default_factory=MemoryProduction)
    decided: list[dict[str, Any]] = field(default_factory=list)
    night: Any = tuple

    def decide(self, proposal: str, *, actor: str, reason: str, reject: bool) -> None:
        self.decided.append({"proposal": proposal, "actor": actor, "reason": reason, "reject": reject})

    @contextmanager
    def client(self, keys: Keys | None = None, *, signed_in: str = "") -> Iterator[httpx.Client]:
        """A browser without a screen or scripts on the board, by HTTP; it is open where there are no keys."""
        stores = Stores(self.lake, self.warehouse, self.production)
        operations = Operations(self.night, self.decide)
        app = build_board(self.settings, stores, operations, keys or Keys(), is_open=keys is None)
        free = self.settings.board.model_copy(update={"port": 0})
        with (
            served_app(app, free) as url,
            httpx.Client(base_url=url, headers={"accept": "text/html"}, timeout=60, follow_redirects=True) as client,
        ):
            if signed_in:
                assert client.post("/sign-in", data={"key": signed_in, "to": "/"}).status_code == 200
            yield client


def shop(root: Path, items: tuple[str, ...] = (PLAIN, *POISON), **sections: dict[str, object]) -> Shop:
    """Two stores that sell `items`: the longer the name, the more of it."""
    settings = Settings.model_validate({"root": root, "data": {"known": ["price", "promotion"]}, **sections})
    found = Shop(settings)
    names = [(store, item) for store in STORES for item in items]
    fill_lake(found.lake, names)
    fill_warehouse(found.warehouse, names)
    return found


def fill_lake(lake: Any, names: list[tuple[str, str]]) -> None:
    ids = [series(*name) for name in names]
    days = [AS_OF - timedelta(days=back) for back in range(DAYS - 1, -1, -1)]
    ahead = [AS_OF + timedelta(days=step + 1) for step in range(HORIZON)]

    def put(table: lake_tables.LakeTable, columns: dict[str, Any]) -> None:
        lake.replace(table.name, pa.table(columns), Filter(), table.partition_by)

    put(lake_tables.SERIES_KEYS, {
        "series_id": ids, "store": [store for store, _ in names], "item": [item for _, item in names],
    })  # fmt: skip
    n, packs = len(ids), [store for store, _ in names]
    put(lake_tables.SERIES, {
        "series_id": ids, "first": [days[0]] * n, "last": [AS_OF] * n, "observations": [DAYS] * n, "active": [True] * n,
        "why": [""] * n, "digest": ["0123"] * n, "pack": packs,
    })  # fmt: skip
    numbers = dict.fromkeys(("wape", "baseline_wape", "skill", "noise_floor", "bias", "cover80"), [0.25] * n)
    put(lake_tables.TRAINED, {
        "series_id": ids, "candidate": ["trees"] * n, "fallback": [""] * n, **numbers, "windows": [2] * n,
        "weights": ['{"trees": 1.0}'] * n, "pack": packs,
    })  # fmt: skip
    sales = {
        "series_id": np.repeat(ids, DAYS), "ds": days * n,
        "y": np.repeat([float(1 + len(item)) for _, item in names], DAYS),
        "price": [2.0] * (n * DAYS), "promotion": [0.0] * (n * DAYS), "pack": np.repeat(packs, DAYS),
    }  # fmt: skip
    years = [day.year for day in days] * n
    put(lake_tables.RAW_SALES, {**sales, "year": pa.array(years, pa.int32())})
    put(lake_tables.RAW_VERSIONS, {
        "series_id": ids, "pack": packs, "year": pa.array([AS_OF.year] * n, pa.int32()), "last": [AS_OF] * n,
    })  # fmt: skip
    put(lake_tables.DATASETS, {**sales, "state": ["observed"] * (n * DAYS)})
    y_hat = np.repeat([float(1 + len(item)) for _, item in names], HORIZON)
    put(lake_tables.PREDICTIONS, {
        "series_id": np.repeat(ids, HORIZON), "ds": ahead * n, "cutoff": [AS_OF] * (n * HORIZON),
        "step": pa.array(list(range(1, HORIZON + 1)) * n, pa.int32()), "y_hat": y_hat, "lo80": y_hat - 0.5,
        "hi80": y_hat + 0.5, "fallback": [""] * (n * HORIZON), "model": ["m/1"] * (n * HORIZON),
        "cutoff_date": [f"{AS_OF:%Y-%m-%d}"] * (n * HORIZON),
    })  # fmt: skip


def fill_warehouse(warehouse: Any, names: list[tuple[str, str]]) -> None:
    ids, cutoffs = [series(*name) for name in names], [AS_OF - timedelta(weeks=back) for back in (1, 2)]
    rows = pa.table({
        "series_id": ids * 2, "cutoff": [cutoff for cutoff in cutoffs for _ in ids], "periods": [7] * (2 * len(ids)),
        "actual": [70.0] * (2 * len(ids)), "forecast": [77.0] * (2 * len(ids)), "wape": [0.3] * (2 * len(ids)),
        "bias": [0.1] * (2 * len(ids)), "cover80": [0.8] * (2 * len(ids)),
    })  # fmt: skip
    where = Filter(since=min(cutoffs), before=AS_OF, column="cutoff")
    warehouse.load("accuracy", "1", [WarehousePart("accuracy", rows, where, ("series_id", "cutoff"))])
