"""What the command prints: progress, tables, next steps. Everything goes through one rich console."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from many_models.operations.releases import waiting_proposal
from many_models.operations.status import summary

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    import numpy as np
    from pandas import DataFrame

    from many_models.forecasting.explanation import Explanation
    from many_models.operations.day import StageReport
    from many_models.operations.doctor import Finding
    from many_models.operations.releases import Verdict
    from many_models.orchestration.due import Stage
    from many_models.orchestration.upkeep import Upkeep
    from many_models.ports import Release
    from many_models.settings import Settings


def console(*, quiet: bool = False) -> Console:
    """The console for people: standard error, so that --json has standard output to itself; nothing when quiet."""
    return Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)


def bars(out: Console) -> Bars:
    """A progress display with a bar, a count and the time taken."""
    count, clock = MofNCompleteColumn(), TimeElapsedColumn()
    columns = (SpinnerColumn(), TextColumn("{task.description:24}"), BarColumn(), count, clock)
    return Bars(*columns, console=out, transient=True, disable=out.quiet)


@contextmanager
def progress(out: Console, what: str) -> Generator[Callable[[int, int], None]]:
    """A bar that shows how much of `what` is done; its function takes what is done and the total, 0 if unknown."""
    tasks = list[TaskID]()
    with bars(out) as display:

        def show(done: int, total: int) -> None:
            if not tasks:
                tasks.append(display.add_task(what, total=None))
            display.update(tasks[0], completed=done, total=total or None)

        yield show


def run_day(out: Console, settings: Settings) -> list[StageReport]:
    """Run everything that is due, with a progress display and a line for each stage."""
    from many_models.operations.day import Day, Progress, alone, alone_on, open_instance
    from many_models.settings import dagster_home

    home = dagster_home(settings)
    storage = settings.dagster.storage
    with bars(out) as display, alone(home), open_instance(home, storage) as instance, alone_on(instance):
        current = list[TaskID]()

        def stage(name: str, keys: int) -> None:
            current.append(display.add_task(name, total=keys))

        def advance(series: int) -> None:
            display.advance(current[-1], series)

        def report(done: StageReport) -> None:
            display.update(current[-1], visible=False)
            out.print(stage_line(done))

        def note(text: str) -> None:
            out.print(f"[yellow]note[/yellow]: {text}")

        reports = Day(settings, instance, Progress(stage, advance, report, note)).run()
    if not reports:
        out.print("nothing is due: everything is up to date")
    return reports


def stage_line(report: StageReport) -> str:
    """One stage in one line."""
    units: Mapping[Stage, str] = {
        "raw_sales": "periods",
        "raw_covariates": "table",
        "pooled_models": "sample",
        "stock_recommendations": "cutoff",
        "coherent_predictions": "cutoff",
        "final_predictions": "cutoff",
        "drift": "cutoff",
        "warehouse_predictions": "cutoff",
    }
    what = units.get(report.stage, "series")
    failed = f", [red]{report.failed} failed[/red]" if report.failed else ""
    line = f"[green]✓[/green] {report.stage:22} {report.done:6,} {what:8}{failed} {report.seconds:7.1f} s"
    return line + (f"\n    {report.error}" if report.error else "")


def print_summary(out: Console, settings: Settings) -> None:
    """Print the summary for people."""
    from many_models.operations.outcome import line_of_outcome

    found = summary(settings)
    if "wape" in found:
        wape, naive = float(str(found["wape"])), float(str(found["seasonal_naive_wape"]))
        ratio = f", {wape / naive:.2f} of it" if naive else ""
        out.print(f"backtest WAPE [bold]{wape:.3f}[/bold], seasonal naive {naive:.3f}{ratio}")
    quarantined = found.get("quarantined")
    if isinstance(quarantined, Mapping) and quarantined:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(quarantined.items()))
        out.print(f"quarantined rows: {reasons} (lake table quarantine)")
    told = found.get("findings")
    for text in told if isinstance(told, Sequence) else ():
        out.print(f"[yellow]note[/yellow]: {escape(str(text))}", highlight=False)
    aside = found.get("set_aside")
    if isinstance(aside, Sequence) and aside:
        how = "correct the settings, or materialize their partition, to bring them back"
        out.print(f"[yellow]set aside[/yellow]: {len(aside)} series; {how}")
    outcome = found.get("outcome")
    if isinstance(outcome, Mapping):
        out.print(line_of_outcome(outcome), highlight=False)
    as_of = str(found.get("as_of")).removesuffix("T00:00:00")
    out.print(
        f"as of {as_of}: {found.get('active_series', 0)} of {found.get('series', 0)} series active, "
        f"{found.get('prediction_rows', 0):,} predictions"
    )
    brought = found.get("brought")
    for text in brought if isinstance(brought, Sequence) else ():
        out.print(escape(str(text)), highlight=False)


def print_next_steps(out: Console, settings: Settings) -> None:
    """Print the commands to type next."""
    from many_models.settings import dagster_home

    print_summary(out, settings)
    home = dagster_home(settings)
    url = settings.url(settings.warehouse.url)
    file = settings.root / "many_models.toml"
    shown = os.path.relpath(file)
    here = home == type(home).cwd()
    at = f"MANY_MODELS_CONFIG={shown} DAGSTER_HOME={home}"
    dev = "make dev" if here else f"{at} dagster dev -m many_models.definitions"
    print_waiting(out, waiting_proposal(settings))
    out.print("\nnext:")
    out.print(f"  {dev}   # the UI, on what has just been made")
    out.print(f"  many-models status --config {shown}   # what is live, due, failed, set aside")
    if url.startswith("sqlite:///"):
        database = os.path.relpath(url.removeprefix("sqlite:///"))
        query = "SELECT * FROM predictions LIMIT 5"
        out.print(f"  sqlite3 {database} '{query}'   # where reports read")


def print_board(out: Console, settings: Settings) -> None:
    """How to see the items, and the one to look at first."""
    from many_models.operations.board import interesting_item

    shown = os.path.relpath(settings.root / "many_models.toml")
    out.print(f"  many-models board --no-auth --config {shown}   # the items, for people")
    if series := interesting_item(settings):
        out.print("    then look at the item whose error costs most:")
        out.print(f"    {settings.board.item_url(series)}", highlight=False, markup=False, soft_wrap=True)


# --- status ---------------------------------------------------------------------------------------------------------


def print_status(out: Console, found: Mapping[str, object]) -> None:
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
    print_waiting(out, found["waiting"])


def print_waiting(out: Console, waiting: object) -> None:
    """`waiting_proposal` for people."""
    if isinstance(waiting, dict) and waiting:
        out.print(
            f"[yellow]waits for approval[/yellow]: {waiting['proposal']} of {waiting['made_at']} by "
            f"{waiting['made_by']}: {waiting['series_changed']} series changed, {waiting['series_leaving']} leave"
        )
        out.print(f"  {waiting['approve']}")


def print_findings(out: Console, found: Sequence[Finding], mended: Sequence[str]) -> None:
    """Print what disagrees, what mends it, and what has been mended."""
    for one in found:
        out.print(f"[red]✗[/red] {one.where}: {escape(one.says)}\n    {escape(one.remedy)}")
    if not found:
        out.print("[green]✓[/green] records, lake, registries, warehouse and what is served agree")
    for told in mended:
        out.print(f"[green]mended[/green] {escape(told)}; now: many-models run")


def print_checks(out: Console, rows: Sequence[Mapping[str, object]]) -> None:
    """`check_ports` for people."""
    for row in rows:
        mark = "[green]✓[/green]" if row["ok"] else "[red]✗[/red]"
        out.print(f"{mark} {row['port']:10} {row['says']}")


# --- backtest -------------------------------------------------------------------------------------------------------
def metrics_table(metrics: DataFrame) -> Table:
    """The metrics of `BacktestReport`, narrow enough for a terminal of 80 columns; nothing where there is no number."""
    table = Table(*(str(name) for name in metrics.columns), box=None, padding=(0, 1, 0, 0))
    for row in metrics.itertuples(index=False):
        cells = [f"{value:.3f}" if isinstance(value, float) else str(value) for value in row]
        table.add_row(*("" if cell == "nan" else cell for cell in cells), style="bold" if row[0] == "selected" else "")
    return table


# --- releases and maintenance ---------------------------------------------------------------------------------------
def print_release(out: Console, release: Release) -> None:
    """Print the release that is live again."""
    made, series = f"{release.created_at:%Y-%m-%d %H:%M}", len(release.champions)
    out.print(f"live again: release {release.release_id} of {made}, {series} series")


def print_verdict(out: Console, told: Verdict) -> None:
    """Print what was said about a proposal, and how many series it changed."""
    did = "live" if told.approved else "rejected"
    counts = " already" if told.changed is None else f": {told.changed} series changed, {told.leaving} left"
    out.print(f"{did}: {told.proposal}{counts}; by {told.actor}")


def print_maintenance(out: Console, done: Upkeep) -> None:
    """Print what maintenance deleted, and what failed."""
    from many_models.orchestration import upkeep

    out.print(upkeep.in_words(done))
    for name, error in done.errors.items():
        out.print(f"[red]{name}[/red]: {error}")


WIDEST = 7  # drivers that a table in the terminal has a column for


def _period(ds: np.datetime64) -> str:
    return str(ds.astype("datetime64[m]")).removesuffix("T00:00")


def print_explanation(out: Console, found: Explanation, words: Sequence[str]) -> None:
    """Print the sentences, then a row for each step: the forecast, the drivers that move most, and the rest as one."""
    for sentence in words:
        out.print(escape(sentence))
    order = sorted(range(len(found.drivers)), key=lambda j: -float(abs(found.parts[:, j]).sum()))
    shown = [0, *(j for j in order if j != 0)][:WIDEST]
    rest = [j for j in range(len(found.drivers)) if j not in shown]
    titles = [found.drivers[j][1] for j in shown] + (["others"] if rest else [])
    table = Table(
        "period", "forecast", *map(escape, titles), title=f"What the forecast of {escape(found.series_id)} is made of"
    )
    table.columns[0].no_wrap = True  # on a narrow terminal the titles wrap; a date that is cut off says nothing
    table.columns[0].min_width = max(len(_period(ds)) for ds in found.ds)
    for column in table.columns[1:]:
        column.justify = "right"
    size = float(abs(found.y_hat).max())
    digits = 1 if size >= 10 else 2 if size >= 1 else 3  # of a series that rarely sells, tenths would all be zero
    for step, ds in enumerate(found.ds):
        values = [found.parts[step, j] for j in shown] + ([found.parts[step, rest].sum()] if rest else [])
        told = (f"{value:,.{digits}f}" if abs(value) >= 0.5 * 10**-digits else "·" for value in values)
        table.add_row(_period(ds), f"{found.y_hat[step]:,.{digits}f}", *told)
    out.print(table)
