"""Fresh observations and the known future from the lake: a forecast starts today, not where training ended."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from many_models.data.lake_tables import DATASETS, RAW_COVARIATES, read_if_there
from many_models.keys import SeriesKey, pack_of
from many_models.ports import Filter
from many_models.serving.loaded_pack import Observation, Question

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import pyarrow as pa

    from many_models.ports import Lake
    from many_models.serving.loaded_pack import LoadedPack
    from many_models.settings import Settings


def with_observations(
    lake: Lake, settings: Settings, model: LoadedPack, questions: Sequence[Question], rows: Sequence[int]
) -> list[Question]:
    """`questions` about `rows` with what the lake has of their series since training; what they say themselves wins.
    After the last of all these observations nothing is known, since the lake is yet to get it.

    All of them are series of `model`. Raises UnavailableError when the lake does not answer, MissingTableError.
    """
    names = sorted({question.series_id for question in questions})
    keys = settings.data.keys
    packs = {pack_of(SeriesKey.parse(n, len(keys)), keys, settings.packs.by, settings.packs.buckets) for n in names}
    trained = {question.series_id: model.trained_through(row) for question, row in zip(questions, rows, strict=True)}
    since = min(trained.values()) + timedelta(microseconds=1)
    where = Filter(among={"pack": sorted(packs), "series_id": names}, since=since)
    found: dict[str, list[dict[str, Any]]] = {}
    for row in lake.read(DATASETS.name, where, ["series_id", "ds", "y", "state", *model.known]).to_pylist():
        found.setdefault(row["series_id"], []).append(row)
    future = _future(lake, names, keys, since) if model.known else {}
    return [
        _with(question, model, [row for row in found.get(name, []) if row["ds"] > trained[name]], future.get(name, []))
        for question in questions
        if (name := question.series_id)
    ]


def _with(
    question: Question, model: LoadedPack, rows: Sequence[dict[str, Any]], future: Sequence[dict[str, Any]]
) -> Question:
    own = {o.ds for o in question.observations}
    seen = [
        Observation(row["ds"], row["y"], row["state"], {name: row[name] for name in model.known})
        for row in rows
        if row["ds"] not in own
    ]
    given = {ds for ds, _ in question.known}
    later = [
        (row["ds"], {name: row[name] for name in model.known if name in row})
        for row in future
        if row["ds"] not in given
    ]
    return replace(
        question, observations=[*question.observations, *seen], known=[*question.known, *later], complete=False
    )


def _future(lake: Lake, names: Sequence[str], keys: Sequence[str], since: datetime) -> dict[str, list[dict[str, Any]]]:
    from many_models.data.covariates import of_series

    rows: pa.Table | None = read_if_there(lake, RAW_COVARIATES, Filter(since=since))
    found: dict[str, list[dict[str, Any]]] = {}
    if rows is not None and rows.num_rows:
        for row in of_series(rows, names, keys).to_pylist():
            found.setdefault(row["series_id"], []).append(row)
    return found
