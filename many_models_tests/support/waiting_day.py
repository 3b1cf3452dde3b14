"""The product's definitions, but every stage waits once its main result is written, until the file `go-STAGE` is there.

python -m many_models_tests.support.quick_daemon run -m many_models_tests.support.waiting_day
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg

from many_models.data import lake_tables
from many_models.definitions import BUILDERS, build
from many_models.settings import load_settings
from many_models_tests.support.followed import Followed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# resource → the method that writes, and the stage that waits after each first argument; "" stands for any
WRITING: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "lake": (
        "replace",
        {
            lake_tables.RAW_SALES.name: "raw_sales",
            lake_tables.RAW_COVARIATES.name: "raw_covariates",
            lake_tables.DATASETS.name: "store_item_datasets",
            lake_tables.POOLED.name: "pooled_models",
            lake_tables.PREDICTIONS.name: "predictions",
        },
    ),
    "staging": ("register", {"": "trained_models"}),
    "production": ("publish", {"": "promoted_models"}),
    "warehouse": ("load", {"": "warehouse_predictions"}),
}


@dataclass(frozen=True)
class Wait:
    """Waits after a call by which one of `stages` writes; each that waits is a letter in the file `waiting-STAGE`."""

    folder: Path
    stages: Mapping[str, str]

    def __call__(self, argument: str, when: str) -> None:
        stage = self.stages.get(argument) or self.stages.get("")
        if stage is None or when == "before" or (self.folder / f"go-{stage}").exists():
            return
        with (self.folder / f"waiting-{stage}").open("a") as file:
            file.write("w")
        while not (self.folder / f"go-{stage}").exists():
            time.sleep(0.05)


@dg.definitions
def defs() -> dg.Definitions:
    settings = load_settings()

    def waiting(name: str, method: str, stages: Mapping[str, str]) -> dg.ResourceDefinition:
        wait = Wait(settings.root, stages)
        return dg.ResourceDefinition(lambda _: Followed(BUILDERS[name](settings), method, wait))

    return build(settings, {name: waiting(name, *written) for name, written in WRITING.items()})
