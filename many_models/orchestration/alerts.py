"""The sensor `alerts`: what is wrong or waits is told to people where they are, once, and again when it changed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from zoneinfo import ZoneInfo

import dagster as dg

from many_models.data import clock, lake_tables
from many_models.errors import ManyModelsError
from many_models.orchestration import automation
from many_models.orchestration.look import stage_of
from many_models.ports import Filter, Lake, Messenger, ProductionRegistry, Warehouse
from many_models.promotion.approval import proposal_summary
from many_models.reporting import alerts
from many_models.reporting.alerts import Alert, Facts, Failed, Realised, Told

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from many_models.orchestration.due import Stage
    from many_models.orchestration.look import SharedLook
    from many_models.settings import Settings

T = TypeVar("T")

SENSOR = "alerts"
SENSOR_SECONDS = 60
STATE = "many_models/alerts"  # what was told, beside Dagster's own cursors: the command tells by the same record
NEWEST_RUNS = 200
LONGEST_REASON = 500
REALISED_DAYS = 28


@dataclass(slots=True)
class Asked:
    """The stores that alerts are about. What was read is kept while the table that it came from has not changed."""

    settings: Settings
    instance: dg.DagsterInstance
    lake: Lake
    production: ProductionRegistry
    warehouse: Warehouse
    kept: dict[str, tuple[object, object]] = field(default_factory=dict[str, tuple[object, object]])
    away: dict[str, str] = field(default_factory=dict[str, str])

    def part(self, what: str, read: Callable[[], T]) -> T | None:
        """What `read` returns; None where it cannot be read, which `away` then says."""
        try:
            return read()
        except ManyModelsError as error:
            self.away[what] = str(error)
        except Exception as error:  # noqa: BLE001  a store that breaks in an unforeseen way must not silence the rest
            self.away[what] = f"{type(error).__name__}: {error}"
        return None

    def while_same(self, what: str, mark: object, read: Callable[[], T]) -> T:
        """What `read` returned at this mark."""
        if what not in self.kept or self.kept[what][0] != mark:
            self.kept[what] = mark, read()
        return self.kept[what][1]  # pyright: ignore[reportReturnType]

    def of_table(self, table: lake_tables.LakeTable, read: Callable[[], T]) -> T:
        """What `read` made of a table of the lake."""
        return self.while_same(table.name, self.lake.fingerprint(table.name), read)


def facts_of(asked: Asked, moved: tuple[str, datetime], now: datetime, *, settled: bool) -> Facts:
    """What is to be told of, asked of each store by itself. `moved`: the data's clock, and when it came there."""
    wanted = asked.settings.alerts
    about = set(wanted.about) - ({"drift"} if not asked.settings.drift.watch else set())

    def part(topic: str, read: Callable[[], T]) -> T | None:
        return asked.part(topic, read) if topic in about else None

    return Facts(
        as_of=moved[0],
        settled=settled,
        stages=part("stage", lambda: failed_stages(asked.instance)),
        series=part("series", lambda: asked.of_table(lake_tables.SERIES_STATUS, lambda: _failed(asked.lake))),
        proposal=part("proposal", lambda: _proposal(asked.production)),
        quarantine=part("quarantine", lambda: asked.of_table(lake_tables.QUARANTINE, lambda: _bad_rows(asked.lake))),
        late=part("no_data", lambda: _late(asked.settings, moved, now)) if wanted.no_data_by else None,
        realised=part("accuracy", lambda: _realised(asked)),
        drifted=part("drift", lambda: asked.of_table(lake_tables.DRIFT, lambda: _drifted(asked.lake))),
    )


def tell(asked: Asked, messenger: Messenger, now: datetime, *, settled: bool) -> list[str]:
    """Send what is new to each address, and keep what it has been told. Returns lines for the log.

    An address that does not take a message is told again the next time; the others are not.
    """
    state = _state(asked.instance)
    moved = _moved(asked, state, now)
    facts = facts_of(asked, moved, now, settled=settled)
    found, known = alerts.alerts_of(facts, asked.settings.alerts)
    told = {name: _told(state, name) for name in messenger.addresses()}
    news = {name: alerts.news(found, known, before, facts, now) for name, before in told.items()}
    board = asked.settings.board
    sent = {name: [alerts.message_of(alert, board) for alert in new] for name, (new, _) in news.items() if new}
    refused = dict(messenger.send(sent)) if sent else {}
    told |= {name: after for name, (_, after) in news.items() if name not in refused}
    kept = {name: asdict(one) for name, one in told.items()}
    _keep(asked.instance, {"as_of": moved[0], "moved": moved[1].isoformat(), "told": kept}, state)
    lines = [f"told {name}: {_titles(news[name][0])}" for name in sent if name not in refused]
    lines += [f"{name} was not told {_titles(news[name][0])}: {why}" for name, why in sorted(refused.items())]
    return [*lines, *(f"{what} cannot be asked: {why}" for what, why in sorted(asked.away.items()))]


def _titles(found: list[Alert]) -> str:
    return "; ".join(alert.title for alert in found)


# --- what was told --------------------------------------------------------------------------------------------------
def _state(instance: dg.DagsterInstance) -> dict[str, Any]:
    held = instance.daemon_cursor_storage.get_cursor_values({STATE}).get(STATE)
    try:
        state = json.loads(held) if held else {}
    except ValueError:
        state = {}
    return state if isinstance(state, dict) else {}


def _keep(instance: dg.DagsterInstance, state: Mapping[str, object], before: Mapping[str, object]) -> None:
    if state != before:
        instance.daemon_cursor_storage.set_cursor_values({STATE: json.dumps(state)})


def _told(state: Mapping[str, Any], name: str) -> Told:
    held = state.get("told", {}).get(name, {})
    nights = {topic: (str(night), str(at)) for topic, (night, at) in held.get("nights", {}).items()}
    return Told(dict(held.get("marks", {})), nights)


def _moved(asked: Asked, state: Mapping[str, Any], now: datetime) -> tuple[str, datetime]:
    """The data's clock, and when it came to be that: the first time that it is asked, when data were last copied."""

    def read() -> datetime | None:
        return asked.of_table(lake_tables.RAW_VERSIONS, lambda: lake_tables.lake_as_of(asked.lake))

    as_of = asked.part("as_of", read)
    if as_of is None or state.get("as_of") == as_of.isoformat():
        held = state.get("moved")
        return str(state.get("as_of", "")), datetime.fromisoformat(held) if held else now
    copied = asked.instance.get_latest_materialization_event(dg.AssetKey("raw_sales"))
    if "as_of" in state or copied is None:
        return as_of.isoformat(), now
    return as_of.isoformat(), datetime.fromtimestamp(copied.timestamp, UTC)


# --- facts ----------------------------------------------------------------------------------------------------------
def failed_stages(instance: dg.DagsterInstance) -> dict[str, str]:
    """Stage → why its newest run failed, for those whose run failed as a whole and not for single series."""
    found = dict[str, str]()
    for record in instance.get_run_records(limit=NEWEST_RUNS):
        run = record.dagster_run
        stage = stage_of(run)
        if stage and stage not in found and run.is_finished and run.status is not dg.DagsterRunStatus.CANCELED:
            failed = run.status is dg.DagsterRunStatus.FAILURE
            found[stage] = _why(instance, run.run_id)[:LONGEST_REASON] if failed else ""
    return {stage: why for stage, why in found.items() if why}


def _why(instance: dg.DagsterInstance, run_id: str) -> str:
    """Empty where it failed for single series, which the digest tells."""
    if (cause := automation.cause_of(instance, run_id)) is not None:
        return f"{cause.kind}: {cause.message}"
    steps = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.STEP_FAILURE, limit=1).records
    return "" if steps else "its process ended before it could say why: killed, or out of memory"


def _proposal(production: ProductionRegistry) -> dict[str, str | int]:
    waiting = production.waiting()
    return {} if waiting is None else proposal_summary(waiting, production.live())


def _failed(lake: Lake) -> list[Failed]:
    rows = lake_tables.records(lake, lake_tables.SERIES_STATUS)
    return [Failed(row["series_id"], row["stage"], row["reason"], bool(row["set_aside"])) for row in rows]


def _bad_rows(lake: Lake) -> dict[str, int]:
    rows = lake_tables.read_if_there(lake, lake_tables.QUARANTINE, columns=["reason"])
    return {} if rows is None else lake_tables.counts(rows, "reason")


def _drifted(lake: Lake) -> list[str]:
    as_of = lake_tables.lake_as_of(lake)
    where = Filter(among={"cutoff_date": [f"{as_of:%Y-%m-%d}" if as_of else ""]})
    rows = lake_tables.records(lake, lake_tables.DRIFT, where, ["series_id", "drifted"])
    return [row["series_id"] for row in rows if row["drifted"]]


def _late(settings: Settings, moved: tuple[str, datetime], now: datetime) -> str:
    """The newest period where the next one should be there by now, else ""."""
    zone, data = ZoneInfo(settings.dagster.timezone), settings.data
    closed = {day for day, _ in data.missing_on.items()}
    skipped = frozenset(closed | ({"saturday", "sunday"} if data.frequency == "B" else set()))
    every = timedelta(days=clock.step_days(settings))
    late = alerts.is_late(moved[1].astimezone(zone), now.astimezone(zone), settings.alerts.no_data_by, every, skipped)
    return moved[0].removesuffix("T00:00:00") if late else ""


def _realised(asked: Asked) -> Realised | None:
    """What the forecasts of the last weeks were worth; read once for each load of the warehouse."""
    loaded = asked.instance.get_latest_materialization_event(dg.AssetKey("warehouse_predictions"))
    if loaded is None:
        return None
    return asked.while_same("accuracy", loaded.timestamp, lambda: _read_realised(asked.lake, asked.warehouse))


def _read_realised(lake: Lake, warehouse: Warehouse) -> Realised | None:
    import numpy as np

    as_of = lake_tables.lake_as_of(lake)
    if as_of is None:
        return None
    rows = warehouse.read("accuracy", Filter(since=as_of - timedelta(days=REALISED_DAYS), column="cutoff"))
    if not rows.num_rows:
        return None
    names = ("actual", "bias", "periods", "cover80")
    size, bias, periods, cover = (np.asarray(rows[name].to_numpy(zero_copy_only=False), float) for name in names)
    sold, told = np.isfinite(bias) & (size != 0), np.isfinite(cover)
    error, total = float((bias * np.abs(size))[sold].sum()), float(np.abs(size)[sold].sum())
    cutoffs = [f"{cutoff:%Y-%m-%d}" for cutoff in rows["cutoff"].to_pylist()]
    return Realised(
        error / total if total else np.nan,
        float(np.average(cover[told], weights=periods[told])) if told.any() else np.nan,
        min(cutoffs),
        max(cutoffs),
    )


# --- the sensor -----------------------------------------------------------------------------------------------------
def sensors(
    settings: Settings, assets: Mapping[Stage, dg.AssetsDefinition], shared: SharedLook
) -> list[dg.SensorDefinition]:
    """The sensor, where the settings ask for alerts. It needs the resources lake, production, warehouse, messenger."""
    if not settings.alerts.on:
        return []
    kept = dict[str, tuple[object, object]]()

    @dg.sensor(
        name=SENSOR,
        minimum_interval_seconds=SENSOR_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells people what failed, waits or is off, with the address of the board's page about it.",
    )
    def tell_people(
        context: dg.SensorEvaluationContext,
        lake: dg.ResourceParam[Lake],
        production: dg.ResourceParam[ProductionRegistry],
        warehouse: dg.ResourceParam[Warehouse],
        messenger: dg.ResourceParam[Messenger],
    ) -> dg.SkipReason:
        asked = Asked(settings, context.instance, lake, production, warehouse, kept)
        settled = asked.part("due", lambda: is_settled(settings, context.instance, lake, assets, shared))
        lines = tell(asked, messenger, datetime.now(UTC), settled=bool(settled))
        for line in lines:
            context.log.info(line)
        return dg.SkipReason("\n".join(lines) or "nothing new to tell")

    return [tell_people]


def is_settled(
    settings: Settings,
    instance: dg.DagsterInstance,
    lake: Lake,
    assets: Mapping[Stage, dg.AssetsDefinition],
    shared: SharedLook,
) -> bool:
    """Whether the night's work is at its end: nothing runs, and nothing is due that a sensor would still start."""
    work, current = shared.found(instance, lake)
    if work is None or current is None:
        return current is None
    decided = automation.decide(settings, instance, work.stage, assets[work.stage], work, current)
    return isinstance(decided, dg.SkipReason)
