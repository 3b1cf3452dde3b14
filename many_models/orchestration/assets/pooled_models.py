"""pooled_models: what series learn together, on a deterministic sample of them, for training to refer to by hash."""

from typing import TYPE_CHECKING

import dagster as dg
import pyarrow as pa

from many_models.data import lake_tables
from many_models.data.lake_tables import NO_POOLED
from many_models.data.packs import packs_of
from many_models.errors import InputError
from many_models.keys import digest
from many_models.orchestration import lake_marks, stage_state
from many_models.orchestration.copied_settings import tried_with
from many_models.orchestration.event_log import dead_runs
from many_models.orchestration.forecast_spec import spec_of
from many_models.orchestration.stage_asset import stage_asset
from many_models.orchestration.stage_run import UPSTREAM_TAG, VERSION_TAG, Metadata, board_link, refuse_shared_run
from many_models.orchestration.upstream import Upstream
from many_models.ports import Filter, Lake
from many_models.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from many_models.forecasting import PooledModels
    from many_models.forecasting.custom.pooled import Brought
    from many_models.forecasting.spec import Custom


def build(settings: Settings) -> dg.AssetsDefinition:
    """The asset pooled_models."""
    from many_models.forecasting.spec import CODE_VERSION

    @stage_asset(
        settings,
        deps=[dg.AssetDep("store_item_datasets", partition_mapping=dg.AllPartitionMapping())],
        group="models",
        kinds={"lightgbm", "numpy"},
        code_version=digest(CODE_VERSION, settings.forecast.model_dump_json(exclude={"refit_every"})),
        description=(
            "What series learn together on a sample of them: calendar shapes, coefficients, trees, and from its own "
            "backtest how to combine candidates and how wide intervals are. A series trained alone gets what it would "
            "get in a full run. Learned again every `forecast.pool_every` days of the data."
        ),
    )
    def pooled_models(context: dg.AssetExecutionContext, lake: dg.ResourceParam[Lake]) -> dg.MaterializeResult[None]:
        refuse_shared_run(context)
        dead_runs.claim_run(context)
        lake_marks.require(context.instance, lake)
        version, metadata = NO_POOLED, Metadata()
        try:
            learned, series, cutoff = _learn(settings, lake)
            write(lake, learned)
            version = learned.hash
            metadata |= {"series": series, "cutoff": str(cutoff), "hash": version, **choice_in_words(learned)}
        except InputError as error:
            metadata["nothing_learned"] = str(error)
            context.log.warning(f"training goes on without pooled models: {error}")
        metadata |= board_link(settings, "/")
        lake_marks.record_marks(context.instance, lake)
        tags = {UPSTREAM_TAG: Upstream(settings).pooled(lake_tables.lake_as_of(lake)), VERSION_TAG: version}
        return dg.MaterializeResult(value=None, metadata=metadata, tags=tags, data_version=dg.DataVersion(version))

    return pooled_models


def _learn(settings: Settings, lake: Lake) -> "tuple[PooledModels, int, datetime]":
    from many_models.forecasting import pool
    from many_models.forecasting.pooling import sample_of

    spec = spec_of(settings)
    cutoff = lake_tables.lake_as_of(lake)
    names = sample_of(stage_state.active_series(lake, tried_with(settings)), settings.forecast.pool_series, spec)
    if cutoff is None or not names:
        raise InputError("no active series has a dataset yet")
    where = Filter(among={"pack": list(packs_of(settings, names)), "series_id": names})
    rows = lake.read(lake_tables.DATASETS.name, where).drop_columns(["pack"])
    learned = pool(rows, spec, cutoff, sample=len(names), trees=settings.forecast.trees)
    return learned, len(names), cutoff


def choice_in_words(learned: "PooledModels") -> Metadata:
    """What pooled models made of known covariates, for people."""
    choice = learned.choice
    found = Metadata()
    if choice.dropped:
        reasons = [f"{name}: {reason}" for name, reason in sorted(choice.dropped.items())]
        found["covariates_left_out"] = "; ".join(reasons)
    if words := learned.bends():
        found["effects_that_bend"] = "; ".join(words)
    if mine := [custom for custom in learned.spec.competing if custom.pooled]:
        found["forecasters_of_all_series"] = "; ".join(_words_of(custom, learned.brought) for custom in mine)
    return found


def _words_of(custom: "Custom", brought: "Mapping[str, Brought]") -> str:
    """A forecaster of the user's own: whose licence it has, where it runs, and why it does not compete."""
    licence = f"licence {custom.licence}" if custom.licence else "licence not said"
    problem = brought[custom.name].problem if custom.name in brought else ""
    return f"{custom.name} ({custom.use}, {licence}, {custom.device}){f': {problem}' if problem else ''}"


def write(lake: Lake, learned: "PooledModels") -> None:
    """Make `learned` the pooled models of the lake, in one commit."""
    files = learned.files()
    rows = pa.table(
        {
            "hash": pa.array([learned.hash] * len(files), pa.string()),
            "file": pa.array(list(files), pa.string()),
            "content": pa.array(list(files.values()), pa.binary()),
        }
    )
    lake.replace(lake_tables.POOLED.name, rows, Filter())
