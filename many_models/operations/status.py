"""What is live, due, failed and set aside, in plain values; and whether each port answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from many_models.data import lake_tables
from many_models.errors import DamagedTableError
from many_models.operations.decisions import brought
from many_models.operations.outcome import outcome_of
from many_models.operations.releases import waiting_proposal
from many_models.ports import Filter

if TYPE_CHECKING:
    from many_models.ports import Lake
    from many_models.settings import Settings


def skill_of(lake: Lake) -> tuple[float, float] | None:
    """WAPE of the selected forecasts and of the seasonal naive over all series and windows of the newest training; None
    before the first, and where the lake's file of one is damaged.
    """
    naive = Filter(among={"candidate": ["seasonal_naive"]})
    try:
        trained = lake_tables.read_if_there(lake, lake_tables.TRAINED, columns=["series_id", "wape"])
        scores = lake_tables.read_if_there(lake, lake_tables.SCORES, naive, ["series_id", "abs_error", "abs_actual"])
    except DamagedTableError:  # the stages say so
        return None
    if trained is None or scores is None:
        return None
    sums = scores.to_pandas().groupby("series_id").sum()
    frame = trained.to_pandas().set_index("series_id").join(sums, how="inner").dropna()
    actual = float(frame["abs_actual"].sum())
    if actual == 0:
        return None
    return float((frame["wape"] * frame["abs_actual"]).sum()) / actual, float(frame["abs_error"].sum()) / actual


def summary(settings: Settings) -> dict[str, object]:
    """What a run leaves in the lake: as_of, series, scores, decisions, predictions, quarantined rows."""
    import pyarrow.compute as pc

    from many_models.orchestration import stage_state
    from many_models.wiring import build_lake

    lake = build_lake(settings)
    as_of = lake_tables.lake_as_of(lake)
    result: dict[str, object] = {"as_of": as_of.isoformat() if as_of else None}
    series = lake_tables.read_if_there(lake, lake_tables.SERIES, columns=["active"])
    if series is not None:
        result["series"] = series.num_rows
        result["active_series"] = pc.sum(series["active"].cast("int64")).as_py() or 0
    result["set_aside"] = sorted(stage_state.series_set_aside(lake))
    result["outcome"] = outcome_of(lake)
    if (scores := skill_of(lake)) is not None:
        result["wape"], result["seasonal_naive_wape"] = scores
    if as_of is not None:
        where = Filter(among={"cutoff_date": [f"{as_of:%Y-%m-%d}"]})
        decisions = lake_tables.read_if_there(lake, lake_tables.DECISIONS, where)
        if decisions is not None:
            result["decisions"] = lake_tables.counts(decisions, "action")
        predictions = lake_tables.read_if_there(lake, lake_tables.PREDICTIONS, where, ["series_id"])
        result["prediction_rows"] = predictions.num_rows if predictions is not None else 0
    bad = lake_tables.read_if_there(lake, lake_tables.QUARANTINE, columns=["reason"])
    if bad is not None:
        result["quarantined"] = lake_tables.counts(bad, "reason")
    result["findings"] = [row["text"] for row in lake_tables.records(lake, lake_tables.FINDINGS)]
    if said := brought(lake):
        result["brought"] = said
    return result


def status_of(settings: Settings) -> dict[str, object]:
    """What is due, failed and set aside at each stage, the live release, and the summary."""
    from many_models.operations.day import open_instance
    from many_models.orchestration import automation, due, stage_state
    from many_models.orchestration.look import Look
    from many_models.settings import dagster_home
    from many_models.wiring import build_lake, build_source

    lake, source = build_lake(settings), build_source(settings)
    stages = list[dict[str, object]]()
    with open_instance(dagster_home(settings), settings.dagster.storage) as instance:
        look = Look(instance, lake)
        asked = stage_state.decisions_asked(settings)
        for stage in (*due.STAGES[:-1], *asked, due.STAGES[-1]):
            if stage == "raw_sales":
                found = automation.raw_state(settings, instance, source)
            elif stage == "raw_covariates":
                found = automation.covariates_state(settings, instance, source, lake)
            else:
                found = stage_state.stage_state(settings, look, stage)
            stages.append(
                {
                    "stage": stage,
                    "keys": len(found.wanted),
                    "due": len(found.due()),
                    "running": len(found.busy),
                    "behind": len(found.behind()),
                    "failed": len(found.failed),
                }
            )
        failures = [
            {
                "stage": stage,
                "series": key,
                "reason": record.reason,
                "kind": record.kind,
                "attempts": record.attempts,
                "set_aside": record.set_aside,
            }
            for stage in due.ALL_STAGES
            for key, record in stage_state.status_rows(lake, stage).items()
        ]
    return {"stages": stages, "failures": failures, "waiting": waiting_proposal(settings), **summary(settings)}


def check_ports(settings: Settings) -> list[dict[str, object]]:
    """One row per port: whether it answers, and what it says. A port that fails in a way we did not foresee is a row,
    too: the others are asked all the same.
    """
    from many_models.definitions import BUILDERS
    from many_models.errors import ManyModelsError
    from many_models.wiring import build_messenger

    rows = list[dict[str, object]]()
    messenger = {"messenger": build_messenger} if settings.alerts.on else {}
    for name, make in {**BUILDERS, **messenger}.items():
        try:
            rows.append({"port": name, "ok": True, "says": make(settings).check()})
        except ManyModelsError as error:
            rows.append({"port": name, "ok": False, "says": str(error)})
        except Exception as error:  # noqa: BLE001  what is wrong is the answer
            said = " ".join(str(error).split())[:300]
            rows.append({"port": name, "ok": False, "says": f"{type(error).__name__}: {said}"})
    return rows
