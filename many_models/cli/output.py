"""What the command prints: progress, tables, what to do next. Everything goes through one rich console."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypedDict

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from many_models.system import utc_now

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from pandas import DataFrame

    from many_models.operations.day import StageReport
    from many_models.orchestration.due import Stage
    from many_models.orchestration.upkeep import Upkeep
    from many_models.ports import ProductionRegistry
    from many_models.settings import Settings


class Given(TypedDict, total=False):
    """What the user says instead of letting it be guessed."""

    keys: Sequence[str]
    timestamp: str
    target: str
    known: Sequence[str]
    frequency: str


def console(*, quiet: bool = False) -> Console:
    """The console for people: standard error, so that --json has standard output to itself; nothing when quiet."""
    return Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)


def bars(out: Console) -> Bars:
    """A progress display with a bar, a count and the time taken."""
    count, clock = MofNCompleteColumn(), TimeElapsedColumn()
    columns = (SpinnerColumn(), TextColumn("{task.description:24}"), BarColumn(), count, clock)
    return Bars(*columns, console=out, transient=True, disable=out.quiet)


@contextmanager
def source_progress(out: Console) -> Generator[Callable[[int, int], None]]:
    """Shows how much of the demo's source has been written."""
    with bars(out) as display:
        task = display.add_task("source database", total=None)
        yield lambda done, total: display.update(task, completed=done, total=total)


def run_day(out: Console, settings: Settings) -> list[StageReport]:
    """Run everything that is due, with a progress display and a line for each stage."""
    from many_models.operations.day import Day, Progress, open_instance
    from many_models.settings import dagster_home

    home = dagster_home(settings)
    with bars(out) as display, open_instance(home, settings.dagster.storage) as instance:
        current = list[TaskID]()

        def stage(name: str, keys: int) -> None:
            current.append(display.add_task(name, total=keys))

        def advance(series: int) -> None:
            display.advance(current[-1], series)

        def report(done: StageReport) -> None:
            display.update(current[-1], visible=False)
            out.print(line_of(done))

        reports = Day(settings, instance, Progress(stage, advance, report)).run()
    if not reports:
        out.print("nothing is due: everything is up to date")
    return reports


def line_of(report: StageReport) -> str:
    """One stage in one line."""
    units: Mapping[Stage, str] = {
        "raw_sales": "periods",
        "raw_covariates": "table",
        "pooled_models": "sample",
        "warehouse_predictions": "cutoff",
    }
    what = units.get(report.stage, "series")
    failed = f", [red]{report.failed} failed[/red]" if report.failed else ""
    line = f"[green]✓[/green] {report.stage:22} {report.done:6,} {what:8}{failed} {report.seconds:7.1f} s"
    return line + (f"\n    {report.error}" if report.error else "")


def summary(settings: Settings) -> dict[str, object]:
    """What stands after a run: as_of, series, scores, the live release, rows in the warehouse."""
    import pyarrow.compute as pc

    from many_models.data import lake_tables
    from many_models.operations.day import skill_of
    from many_models.orchestration import stage_state
    from many_models.ports import Where
    from many_models.wiring import build_lake

    lake = build_lake(settings)
    as_of = lake_tables.lake_as_of(lake)
    result: dict[str, object] = {"as_of": as_of.isoformat() if as_of else None}
    series = lake_tables.read_if_there(lake, lake_tables.SERIES, columns=["active"])
    if series is not None:
        result["series"] = series.num_rows
        result["active_series"] = pc.sum(series["active"].cast("int64")).as_py() or 0
    result["set_aside"] = sorted(stage_state.set_aside(lake))
    if (scores := skill_of(lake)) is not None:
        result["wape"], result["seasonal_naive_wape"] = scores
    if as_of is not None:
        where = Where(among={"cutoff_date": [f"{as_of:%Y-%m-%d}"]})
        decisions = lake_tables.read_if_there(lake, lake_tables.DECISIONS, where)
        if decisions is not None:
            result["decisions"] = lake_tables.counts(decisions, "action")
        predictions = lake_tables.read_if_there(lake, lake_tables.PREDICTIONS, where, ["series_id"])
        result["prediction_rows"] = predictions.num_rows if predictions is not None else 0
    bad = lake_tables.read_if_there(lake, lake_tables.QUARANTINE, columns=["reason"])
    if bad is not None:
        result["quarantined"] = lake_tables.counts(bad, "reason")
    return result


def say_summary(out: Console, settings: Settings) -> None:
    """The summary for people."""
    found = summary(settings)
    if "wape" in found:
        wape, naive = float(str(found["wape"])), float(str(found["seasonal_naive_wape"]))
        ratio = f", {wape / naive:.2f} of it" if naive else ""
        out.print(f"backtest WAPE [bold]{wape:.3f}[/bold], seasonal naive {naive:.3f}{ratio}")
    quarantined = found.get("quarantined")
    if isinstance(quarantined, Mapping) and quarantined:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(quarantined.items()))
        out.print(f"quarantined rows: {reasons} (lake table quarantine)")
    aside = found.get("set_aside")
    if isinstance(aside, Sequence) and aside:
        out.print(f"[yellow]set aside[/yellow]: {len(aside)} series; materialize their partition to bring them back")
    as_of = str(found.get("as_of")).removesuffix("T00:00:00")
    out.print(
        f"as of {as_of}: {found.get('active_series', 0)} of {found.get('series', 0)} series active, "
        f"{found.get('prediction_rows', 0):,} predictions"
    )


def say_next(out: Console, settings: Settings) -> None:
    """The commands to type next."""
    from many_models.settings import dagster_home

    say_summary(out, settings)
    home = dagster_home(settings)
    url = settings.url(settings.warehouse.url)
    file = settings.root / "many_models.toml"
    shown = os.path.relpath(file)
    here = home == type(home).cwd()
    at = f"MANY_MODELS_CONFIG={shown} DAGSTER_HOME={home}"
    dev = "make dev" if here else f"{at} dagster dev -m many_models.definitions"
    say_waiting(out, waiting_proposal(settings))
    out.print("\nnext:")
    out.print(f"  {dev}   # the UI, on what has just been made")
    out.print(f"  many-models status --config {shown}   # what is live, due, failed, set aside")
    if url.startswith("sqlite:///"):
        database = os.path.relpath(url.removeprefix("sqlite:///"))
        query = "SELECT * FROM predictions LIMIT 5"
        out.print(f"  sqlite3 {database} '{query}'   # where reports read")


def keep_up(out: Console, settings: Settings) -> Upkeep:
    """Delete what is superseded, and say what went."""
    from many_models.operations.day import open_instance
    from many_models.orchestration import upkeep
    from many_models.settings import dagster_home
    from many_models.wiring import build_lake, build_production, build_staging

    registries = build_staging(settings), build_production(settings)
    with open_instance(dagster_home(settings), settings.dagster.storage) as instance:
        done = upkeep.keep_up(settings, instance, build_lake(settings), *registries)
    out.print(upkeep.in_words(done))
    for name, error in done.errors.items():
        out.print(f"[red]{name}[/red]: {error}")
    return done


# --- status ---------------------------------------------------------------------------------------------------------
def status_of(settings: Settings) -> dict[str, object]:
    """What is due, failed and set aside at each stage, the live release, and the summary."""
    from many_models.operations.day import open_instance
    from many_models.orchestration import automation, due, stage_state
    from many_models.settings import dagster_home
    from many_models.wiring import build_lake, build_source

    lake, source = build_lake(settings), build_source(settings)
    stages = list[dict[str, object]]()
    with open_instance(dagster_home(settings), settings.dagster.storage) as instance:
        for stage in due.STAGES:
            if stage == "raw_sales":
                found = automation.raw_state(settings, instance, source)
            elif stage == "raw_covariates":
                found = automation.covariates_state(settings, instance, source, lake)
            else:
                found = stage_state.stage_state(settings, instance, lake, stage)
            stages.append({
                "stage": stage, "keys": len(found.wanted), "due": len(found.due()), "running": len(found.busy),
                "behind": len(found.behind()), "failed": len(found.failed),
            })  # fmt: skip
        failures = [
            {"stage": stage, "series": key, "reason": record.reason, "kind": record.kind, "attempts": record.attempts,
             "set_aside": record.set_aside}
            for stage in due.STAGES
            for key, record in stage_state.status_rows(lake, stage).items()
        ]  # fmt: skip
    return {"stages": stages, "failures": failures, "waiting": waiting_proposal(settings), **summary(settings)}


def say_status(out: Console, found: Mapping[str, object]) -> None:
    """`status_of` for people."""
    table = Table("stage", "keys", "due", "running", "behind", "failed")
    stages, failures = found["stages"], found["failures"]
    for row in stages if isinstance(stages, list) else []:
        table.add_row(*(str(value) for value in row.values()))
    out.print(table)
    rows = failures if isinstance(failures, list) else []
    for row in rows[:20]:
        aside = " [yellow](set aside)[/yellow]" if row["set_aside"] else ""
        out.print(f"  {row['stage']}: {row['series']}: {row['reason']}{aside}")
    if len(rows) > 20:
        out.print(f"  … and {len(rows) - 20} more in the lake's table series_status")
    say_waiting(out, found["waiting"])


def say_waiting(out: Console, waiting: object) -> None:
    """`waiting_proposal` for people."""
    if isinstance(waiting, dict) and waiting:
        out.print(
            f"[yellow]waits for approval[/yellow]: {waiting['proposal']} of {waiting['made_at']} by "
            f"{waiting['made_by']}: {waiting['series_changed']} series changed, {waiting['series_leaving']} leave"
        )
        out.print(f"  {waiting['approve']}")


def check_ports(settings: Settings) -> list[dict[str, object]]:
    """One row per port: whether it answers, and what it says. A port that fails in a way we did not foresee is a row,
    too: the others are asked all the same.
    """
    from many_models.definitions import BUILDERS
    from many_models.errors import ManyModelsError

    rows = list[dict[str, object]]()
    for name, make in BUILDERS.items():
        try:
            rows.append({"port": name, "ok": True, "says": make(settings).check()})
        except ManyModelsError as error:
            rows.append({"port": name, "ok": False, "says": str(error)})
        except Exception as error:  # noqa: BLE001  what is wrong is the answer
            said = " ".join(str(error).split())[:300]
            rows.append({"port": name, "ok": False, "says": f"{type(error).__name__}: {said}"})
    return rows


def register_lake(out: Console, settings: Settings) -> list[str]:
    """Register the lake's tables with Azure ML; returns the data assets' names."""
    from many_models.wiring import build_datastore, build_lake

    datastore = build_datastore(settings)
    names = datastore.register(build_lake(settings).tables())
    out.print(f"datastore {settings.datastore.name}: {len(names)} data assets: {', '.join(names)}")
    return names


def say_checks(out: Console, rows: Sequence[Mapping[str, object]]) -> None:
    """`check_ports` for people."""
    for row in rows:
        mark = "[green]✓[/green]" if row["ok"] else "[red]✗[/red]"
        out.print(f"{mark} {row['port']:10} {row['says']}")


def roll_back(out: Console, settings: Settings, release_id: str, actor: str = "", reason: str = "") -> None:
    """Make a kept release live again, and tell lake and UI, so that what is due follows. Raises InputError."""
    from many_models.promotion import approval
    from many_models.wiring import build_lake, build_production

    lake, production = build_lake(settings), build_production(settings)
    release = production.activate(release_id)
    approval.tell_lake(lake, release)
    now = utc_now().replace(microsecond=0)
    approval.log(lake, release, "rolled back", actor or _account(), reason, now)
    _report_check(settings, production)
    made, series = f"{release.created_at:%Y-%m-%d %H:%M}", len(release.champions)
    out.print(f"live again: release {release.release_id} of {made}, {series} series")


def approve(
    out: Console, settings: Settings, proposal: str, *, actor: str, reason: str, reject: bool
) -> dict[str, object]:
    """Say yes or no to the release that waits; `proposal` "" for whichever does. Raises ConflictError for another."""
    from many_models.promotion.approval import Approver, facts_of
    from many_models.wiring import build_lake, build_production

    production = build_production(settings)
    approver = Approver(build_lake(settings), production, actor or _account(), reason)
    live = production.live()
    proposal = proposal or approver.proposal().release_id
    facts = facts_of(production.waiting(), live)
    if reject:
        approver.reject(proposal, utc_now().replace(microsecond=0))
    else:
        live = approver.approve(proposal)
    _report_check(settings, production)
    did = "rejected" if reject else "live"
    mine = facts.get("proposal") == proposal
    changed = f": {facts['series_changed']} series changed, {facts['series_leaving']} left" if mine else " already"
    out.print(f"{did}: {proposal}{changed}; by {approver.actor}")
    return {"proposal": proposal, "approved": not reject, "actor": approver.actor, "live": live and live.release_id}


def _report_check(settings: Settings, production: ProductionRegistry) -> None:
    from many_models.operations.day import open_instance
    from many_models.orchestration.approval_check import report_check
    from many_models.settings import dagster_home

    with open_instance(dagster_home(settings)) as instance:
        report_check(instance, production.waiting(), production.live())


def _account() -> str:
    import getpass

    return getpass.getuser()


def waiting_proposal(settings: Settings) -> dict[str, str | int]:
    """The release that waits for a human, in plain values. The registry is asked only where the lake's log has one."""
    from many_models.data import lake_tables
    from many_models.promotion.approval import facts_of
    from many_models.wiring import build_lake, build_production

    rows = lake_tables.records(build_lake(settings), lake_tables.RELEASE_LOG, columns=["release_id", "event"])
    decided = {row["release_id"] for row in rows if row["event"] in {"approved", "rejected"}}
    if not {row["release_id"] for row in rows if row["event"] == "proposed"} - decided:
        return {}
    production = build_production(settings)
    return facts_of(production.waiting(), production.live())


# --- backtest -------------------------------------------------------------------------------------------------------
def metrics_table(metrics: DataFrame) -> Table:
    """The metrics of `BacktestReport`, narrow enough for a terminal of 80 columns; nothing where there is no number."""
    table = Table(*(str(name) for name in metrics.columns), box=None, padding=(0, 1, 0, 0))
    for row in metrics.itertuples(index=False):
        cells = [f"{value:.3f}" if isinstance(value, float) else str(value) for value in row]
        table.add_row(*("" if cell == "nan" else cell for cell in cells), style="bold" if row[0] == "selected" else "")
    return table


# --- init -----------------------------------------------------------------------------------------------------------
def initialise(out: Console, location: str, table: str, given: Given, into: Path, *, force: bool) -> None:
    """Guess what a stranger's table is, write many_models.toml (for a file also the SQLite source beside it), and say
    what was guessed and why. Raises SettingsError when there is a many_models.toml already.
    """
    from many_models.errors import SettingsError
    from many_models.onboarding.guess import infer_settings
    from many_models.onboarding.load import load_file
    from many_models.settings import FILE_NAME, load_settings

    file = into / FILE_NAME
    if file.exists() and not force:
        raise SettingsError(f"{file} is there already: --force replaces it, --into FOLDER writes elsewhere")
    found = infer_settings(location, table=table, **given)
    into.mkdir(parents=True, exist_ok=True)
    url, name = found.url, found.table.value
    if found.kind != "sql":
        with bars(out) as display:
            task = display.add_task("loading into sales.db", total=None)
            loaded = load_file(
                location,
                into / "sales.db",
                found,
                lambda done, total: display.update(task, completed=done, total=total or None),
            )
        url, name = "sqlite:///sales.db", loaded.table
        out.print(f"{location}: {loaded.rows:,} rows loaded into {into / 'sales.db'}, table {loaded.table}")
    file.write_text(found.to_toml(url, name))
    load_settings(file)
    guesses = Table("what", "guess", "how sure", "why")
    for what, choice in found.choices.items():
        value = ", ".join(map(str, choice.value)) if isinstance(choice.value, tuple) else str(choice.value)
        guesses.add_row(what, value or "(none)", choice.confidence, choice.reason)
    out.print(guesses)
    for warning in found.warnings:
        out.print(f"[yellow]warning[/yellow]: {warning}")
    out.print(f"{found.series:,} series, {found.start} to {found.last}; written: {file}. Check it, then:")
    where = "" if into == type(into)() else f" --config {file}"
    out.print(f"  many-models run{where}")
