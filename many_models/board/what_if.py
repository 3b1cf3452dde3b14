"""What if: the live model is asked twice, with the planned values of its known covariates and with others."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from many_models.board.charts import parts_chart
from many_models.errors import InputError, SeriesError
from many_models.serving.loaded_pack import Question

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from many_models.board.item import ItemRecord
    from many_models.serving.service import Service

    Known = Sequence[tuple[datetime, Mapping[str, Any]]]

MOST_PLANS = 500
LEAST, MOST = -0.9, 9.0  # of a change of a number, as a share of what is planned


@dataclass(frozen=True, slots=True)
class Control:
    """A known covariate that people can change: a flag is switched, a number is changed by a share."""

    name: str
    is_flag: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What is planned for a series after the cutoff of its forecast, and which of it people can change.

    `fresh`: the model was trained before that cutoff, so the lake is asked for what has come since.
    """

    series_id: str
    cutoff: datetime
    horizon: int
    known: Known
    controls: tuple[Control, ...]
    fresh: bool


def plan_of(record: ItemRecord) -> Plan | None:
    """The plan of a series that a model forecasts; None where none does."""
    if record.forecast.empty or not record.champion:
        return None
    forecast, future = record.forecast, record.future
    cutoff = forecast["cutoff"].iloc[0].to_pydatetime()
    planned = dict[datetime, dict[str, Any]]()
    if future is not None:
        for row in future[future["ds"] <= forecast["ds"].iloc[-1]].to_dict("records"):
            planned[row["ds"].to_pydatetime()] = {
                name: row[name] for name in record.known if name in row and row[name] == row[name]
            }
    last = {name: record.history[name].dropna().iloc[-1] for name in record.known if record.history[name].notna().any()}
    known = [(ds.to_pydatetime(), {**last, **planned.get(ds.to_pydatetime(), {})}) for ds in forecast["ds"]]
    controls = tuple(Control(name, _is_flag(record.history[name])) for name in last if not isinstance(last[name], str))
    trained = str(record.champion.get("cutoff", ""))
    return Plan(record.series_id, cutoff, len(known), known, controls, trained != cutoff.isoformat())


def _is_flag(values: Any) -> bool:
    return bool(values.dropna().isin([0, 1]).all())


def changed(plan: Plan, asked: Mapping[str, Any]) -> Known:
    """The plan's values as someone asks for them: {"from", "to", "values": {name: flag or share}}.

    Raises InputError for what is not a change of this plan.
    """
    try:
        first, last = (datetime.fromisoformat(str(asked[name])) for name in ("from", "to"))
        values = {str(name): float(value) for name, value in dict(asked["values"]).items()}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError("a what-if needs from, to and values: dates, and a number for each covariate") from error
    controls = {control.name: control for control in plan.controls}
    if unknown := sorted(set(values) - set(controls)):
        raise InputError(f"{', '.join(unknown)[:100]}: this item has the covariates {', '.join(controls) or 'none'}")
    for name, value in values.items():
        good = value in {0.0, 1.0} if controls[name].is_flag else LEAST <= value <= MOST
        if not good:
            raise InputError(f"{name}: a flag is 0 or 1, a number is changed by −90 % to +900 %")
    result = list[tuple[datetime, "Mapping[str, Any]"]]()
    for ds, planned in plan.known:
        own = dict(planned)
        if first <= ds <= last:
            for name, value in values.items():
                own[name] = value if controls[name].is_flag else own[name] * (1.0 + value)
        result.append((ds, own))
    return result


async def compare(service: Service, plan: Plan, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The forecast under both futures, their difference by step with its bounds, and by driver in all.

    Raises ManyModelsError where the model cannot answer.
    """
    one, release = await _answer(service, plan, against=changed(plan, asked))
    told = one["difference"]
    was, change = np.array(one["y_hat"], float), np.array(told["change"], float)
    bounds = {name: told[name] for name in ("lo80", "hi80") if name in told}
    drivers = [{"driver": part["driver"], "total": float(np.sum(part["values"]))} for part in told["parts"]]
    return {
        "release": release,
        "model": one["model"],
        "ds": [ds[:16] for ds in one["ds"]],
        "planned": was.tolist(),
        "changed": (was + change).tolist(),
        "difference": change.tolist(),
        **bounds,
        "drivers": sorted(drivers, key=lambda part: -abs(part["total"])),
        "total": float(change.sum()),
        "of": float(was.sum()),
    }


async def explained(service: Service, plan: Plan) -> dict[str, Any]:
    """What the forecast is made of, in sentences and as a chart. Raises ManyModelsError where it cannot be told."""
    one, release = await _answer(service, plan, explain=True)
    parts = {part["driver"]: part["values"] for part in one["parts"]}
    chart = parts_chart([ds[:16] for ds in one["ds"]], parts, one["y_hat"])
    return {"release": release, "model": one["model"], "words": one["words"], "chart": chart}


async def _answer(service: Service, plan: Plan, **more: Any) -> tuple[dict[str, Any], str]:
    """The live model's answer about the plan, and the release that the whole answer is of. Raises SeriesError with what
    it says else.

    The plan may be that of another release: a model that was trained earlier is asked again with what has come since.
    """
    question = Question(plan.series_id, plan.horizon, None if plan.fresh else plan.cutoff, plan.known, **more)
    one, release = await _asked(service, question, from_lake=plan.fresh)
    if not plan.fresh and ("error" in one or one["fresh_periods"]):
        one, release = await _asked(service, replace(question, cutoff=None), from_lake=True)
    if "error" in one:
        raise SeriesError(plan.series_id, str(one["error"]["reason"]))
    return one, release


async def _asked(service: Service, question: Question, *, from_lake: bool) -> tuple[dict[str, Any], str]:
    outcome = await service.forecasts([question], from_lake=from_lake)
    told = json.loads(outcome.body)
    (one,) = told["forecasts"]
    return one, told["release"]


@dataclass(slots=True)
class Plans:
    """The plans of the items that people look at, while the lake stays as it is."""

    _found: OrderedDict[tuple[str, object], Plan | None] = field(
        default_factory=OrderedDict[tuple[str, object], "Plan | None"]
    )
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def keep(self, series_id: str, version: object, plan: Plan | None) -> None:
        """Remember a plan that was read when the table of items had this version."""
        with self._lock:
            self._found[series_id, version] = plan
            while len(self._found) > MOST_PLANS:
                self._found.popitem(last=False)

    def get(self, series_id: str, version: object) -> Plan | None:
        """The plan that is remembered; None where there is none."""
        with self._lock:
            return self._found.get((series_id, version))
