"""Why the live model forecasts of a series what it does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from many_models.errors import InputError
from many_models.setting_checks import nearest

if TYPE_CHECKING:
    from many_models.forecasting.explanation import Explanation
    from many_models.settings import Settings

NEAR = 3  # names that an error offers


def explain_series(settings: Settings, series_id: str, horizon: int | None = None) -> Explanation:
    """The forecast of a series after its newest period in the lake, by driver, of the model that is live.

    Raises InputError when nothing is live, or the live release does not serve the series.
    """
    from many_models.data.lake_tables import DATASETS
    from many_models.forecasting import PackModel
    from many_models.forecasting.explanation import explanations
    from many_models.keys import SeriesKey, pack_of
    from many_models.ports import Chunk, Filter
    from many_models.tasks import covariates_of
    from many_models.wiring import build_lake, build_production

    lake, production = build_lake(settings), build_production(settings)
    live = production.live()
    if live is None:
        raise InputError("no release is live yet: `many-models run` trains and promotes models")
    champion = live.champions.get(series_id)
    if champion is None:
        hint = nearest(series_id, live.champions, NEAR)
        raise InputError(f"the live release {live.release_id} does not serve the series {series_id!r}{hint}")
    model = PackModel.from_files(production.files(champion.ref, champion.sha256), f"pack {champion.ref}")
    keys = settings.data.keys
    pack = pack_of(SeriesKey.parse(series_id, len(keys)), keys, settings.packs.by, settings.packs.buckets)
    where = Filter(among={"pack": [pack], "series_id": [series_id]})
    rows = lake.read(DATASETS.name, where).drop_columns(["pack"])
    cutoff = max([model.trained_until([series_id]), *(ds for ds in rows["ds"].to_pylist())])
    future = (
        covariates_of(lake, Chunk(0, pack, (series_id,)), tuple(keys), after=cutoff) if settings.data.known else None
    )
    return explanations(model, rows, cutoff, future=future, horizon=horizon, series=[series_id])[0]
