"""The board with its stores, Dagster's records of the night, and the decision that the command `approve` makes, too."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from many_models.board.handed_in import Operations, Stores
from many_models.board.night import StageRun

if TYPE_CHECKING:
    from collections.abc import Sequence

    import dagster as dg
    from fastapi import FastAPI

    from many_models.board.access import Keys
    from many_models.settings import Settings

NIGHT = timedelta(hours=20)  # runs that began so long before the newest one belong to its night
MOST_RUNS = 60
CACHE = "var/cache/board"  # for packs, beside that of the endpoint


def make_board(settings: Settings, keys: Keys, *, is_open: bool) -> FastAPI:
    """The board over the stores that the settings name."""
    from many_models.board.app import build_board
    from many_models.operations.releases import approve
    from many_models.serving.service import Service
    from many_models.wiring import build_lake, build_production, build_warehouse

    lake, production = build_lake(settings), build_production(settings, fail_soon=True)
    own = settings.model_copy(update={"serve": settings.serve.model_copy(update={"cache": CACHE})})
    stores = Stores(lake, build_warehouse(settings), production, Service(own, production, lake))
    operations = Operations(partial(night_of, settings), partial(approve, settings))
    return build_board(settings, stores, operations, keys, is_open=is_open)


def interesting_item(settings: Settings) -> str:
    """The series that a model forecasts and whose error costs most, "" where there is none."""
    import numpy as np

    from many_models.board.catalogue import Catalogue
    from many_models.board.night import costliest
    from many_models.wiring import build_lake, build_warehouse

    items = Catalogue(settings, build_lake(settings), build_warehouse(settings)).items()
    forecast = np.flatnonzero(items.frame["state"].to_numpy(str) == "forecast")
    found = costliest(items, forecast, 1) or forecast[:1].tolist()
    return str(items.frame["series_id"].iloc[found[0]]) if found else ""


def night_of(settings: Settings) -> Sequence[StageRun]:
    """The runs of stages of the newest night, in the order in which they began."""
    from many_models.operations.day import open_instance
    from many_models.settings import dagster_home

    with open_instance(dagster_home(settings), settings.dagster.storage) as instance:
        return stage_runs(instance)


def stage_runs(instance: dg.DagsterInstance) -> list[StageRun]:
    """The runs of stages that an instance has of its newest night, in the order in which they began."""
    from many_models.orchestration import due

    found = list[StageRun]()
    for record in instance.get_run_records(limit=MOST_RUNS):
        run = record.dagster_run
        selected = {key.to_user_string() for key in run.asset_selection or ()} & set(due.ALL_STAGES)
        if len(selected) != 1:
            continue
        began, ended = record.start_time, record.end_time
        started = None if began is None else datetime.fromtimestamp(began, UTC).replace(tzinfo=None)
        seconds = ended - began if began is not None and ended is not None else 0.0
        done, failed = _counts(instance, selected.copy().pop(), run.run_id)
        found.append(StageRun(run.run_id, selected.pop(), run.status.value, started, seconds, done, failed))
    begun = sorted((run.started, place) for place, run in enumerate(found) if run.started is not None)
    return [found[place] for started, place in begun if begun[-1][0] - started < NIGHT]


def _counts(instance: dg.DagsterInstance, stage: str, run_id: str) -> tuple[int | None, int | None]:
    """How many series a run did, and how many failed, as it has told Dagster; None where it has not."""
    import dagster as dg

    records = instance.fetch_observations(dg.AssetKey(stage), limit=30).records
    for record in records:
        observation = record.asset_observation
        if record.run_id == run_id and observation is not None and "series" in observation.metadata:
            metadata = observation.metadata
            return int(str(metadata["series"].value)), int(str(metadata["failed"].value))
    return None, None
