"""What the adapters' tests let other processes do, before those are killed or run out of disk."""

from __future__ import annotations

import itertools
import resource
import subprocess
import sys
from pathlib import Path

import pyarrow as pa

from many_models.adapters.azure.storage import AzureStorage
from many_models.adapters.compute.processes import ProcessCompute
from many_models.adapters.lake.delta import DeltaLake
from many_models.adapters.warehouse.sql import SqlWarehouse
from many_models.errors import ManyModelsError
from many_models.ports import Filter, WarehousePart
from many_models_tests.support.compute_tasks import Leaves, chunked

ROOT = Path(__file__).parents[2]
ROWS = 40_000


def start(call: str, **options) -> subprocess.Popen:
    """A Python process that evaluates `call` in this module, and hears SIGINT and SIGTERM.

    A shell's background jobs inherit SIGINT ignored, and Dagster gives SIGTERM what SIGINT has, which children inherit.
    """
    hears = "signal.signal(signal.SIGINT, signal.default_int_handler); signal.signal(signal.SIGTERM, signal.SIG_DFL)"
    command = [sys.executable, "-c", f"import signal; {hears}; from {__name__} import *; {call}"]
    return subprocess.Popen(command, cwd=ROOT, text=True, **options)


def numbered(n: int) -> pa.Table:
    return pa.table({"n": pa.array([n] * ROWS), "at": pa.array(range(ROWS))})


def replace_for_ever(path: str) -> None:
    lake = DeltaLake(path)
    for n in itertools.count(1):
        lake.replace("t", numbered(n), Filter())


def replace_packs(path: str, pack: str, times: int) -> None:
    lake = DeltaLake(path)
    for n in range(1, times + 1):
        lake.replace("t", pa.table({"pack": [pack], "n": [n]}), Filter({"pack": [pack]}))


def replace_on_azure(url: str, endpoint: str, key: str) -> None:
    DeltaLake(url, AzureStorage(url, "key", lambda _: key, endpoint=endpoint)).replace("t", numbered(1), Filter())


def replace_on_a_full_disk(path: str) -> None:
    lake = DeltaLake(path)
    lake.version("t")
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    try:
        lake.replace("t", numbered(2), Filter())
    except ManyModelsError as error:
        sys.stdout.write(f"{type(error).__name__}: {error}")


def run_for_ever(folder: str) -> None:
    with ProcessCompute(workers=2) as pool:
        list(pool.run(Leaves(folder, seconds=1000), chunked(1, 1, 1)))


def load_for_ever(url: str, first: int) -> None:
    warehouse = SqlWarehouse(url)
    for n in itertools.count(first):
        wider = numbered(n).append_column(f"new_{n}", pa.array([n] * ROWS))
        warehouse.load(str(n), "f", [WarehousePart("t", wider, Filter(), ("at",))])


def load_days(url: str, loader: int, times: int) -> None:
    warehouse = SqlWarehouse(url)
    for n in range(times):
        name = f"{loader}-{n}"
        rows = pa.table({"name": [name], "n": [n]})
        warehouse.load(name, "f", [WarehousePart("predictions", rows, Filter({"name": [name]}), ("name",))])


def load_on_a_full_disk(url: str) -> None:
    warehouse = SqlWarehouse(url)
    warehouse.loads()
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    try:
        warehouse.load("1", "f", [WarehousePart("t", numbered(1), Filter(), ("at",))])
    except ManyModelsError as error:
        sys.stdout.write(f"{type(error).__name__}: {error}")
