"""The command `many-models`: the headless twin of the UI."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import click

from many_models.errors import ManyModelsError, MissingDependencyError


class Main(click.Group):
    """Turns the product's own errors into one line and exit code 1; anything else is a bug and shows itself whole."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except ManyModelsError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(1)
        except click.exceptions.ClickException:
            raise
        except Exception as error:
            if not (said := _trouble(error)):
                raise
            click.echo(f"error: {said}", err=True)
            ctx.exit(1)


def _trouble(error: Exception) -> str:
    """What is wrong with a disk or a database file of the project; "" for a bug."""
    import os

    from many_models.operations.trouble import in_words

    config, home = os.environ.get("MANY_MODELS_CONFIG"), os.environ.get("DAGSTER_HOME")
    given = click.get_current_context(silent=True)
    file = given.params.get("config") if given and given.invoked_subcommand is None else None
    named = [Path(place) for place in (home, file and Path(file).parent, config and Path(config).parent) if place]
    return in_words(error, [*named, Path.cwd()])


@click.group(cls=Main, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="many_models")
def main() -> None:
    """One forecasting model for every store-item, kept fresh daily, on Dagster."""


config_option = click.option(
    "--config", type=click.Path(path_type=Path, dir_okay=False), help="Settings file [default: many_models.toml here]."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")


# --- init -----------------------------------------------------------------------------------------------------------
@main.command()
@click.argument("location", metavar="FILE|URL")
@click.option("--table", default="", help="The sales table, where the database has several.")
@click.option("--keys", default="", help="Key columns, comma-separated, where the guess is wrong.")
@click.option("--timestamp", default="", help="The time column, where the guess is wrong.")
@click.option("--target", default="", help="The column to forecast, where the guess is wrong.")
@click.option("--frequency", default="", help="h, D, W-SUN, MS …, where the guess is wrong.")
@click.option("--known", default=None, help="Known covariates, comma-separated; empty for none.")
@click.option("--exposure", default="", help="The column that the target is proportional to, such as hours open.")
@click.option("--missing", type=click.Choice(["zero", "closed", "unknown"]), help="What a missing row means.")
@click.option("--aggregate", help="How rows of one series and period become one: sum, mean …; empty: they do not.")
@click.option("--sheet", default="", help="The sheet of a workbook, where the guess is wrong.")
@click.option("--first", type=click.DateTime(["%Y-%m-%d"]), help="The day of the first of columns like d_1, d_2 …")
@click.option("--yes", is_flag=True, help="Ask nothing, take the guesses.")
@click.option(
    "--into", type=click.Path(path_type=Path, file_okay=False), default=Path(), help="Folder for the settings."
)
@click.option("--force", is_flag=True, help="Replace an existing many_models.toml.")
def init(
    location: str,
    table: str,
    keys: str,
    timestamp: str,
    target: str,
    frequency: str,
    known: str | None,
    exposure: str,
    missing: str | None,
    aggregate: str | None,
    sheet: str,
    first: datetime | None,
    into: Path,
    *,
    yes: bool,
    force: bool,
) -> None:
    """Look at a file (CSV, Excel, JSON, Parquet), a folder of files or a SQL table, guess what is what, and write
    many_models.toml and a report page.
    """
    from many_models.cli.onboarding import ask_what_is_unsure, can_ask, print_inferred, print_readings
    from many_models.cli.output import console, progress
    from many_models.operations.setup import InitOptions, infer, initialise, refuse_existing

    given = InitOptions(keys=_names(keys)) if keys else InitOptions()
    if known is not None:
        given["known"] = _names(known)
    if aggregate is not None:
        given["aggregate"] = aggregate
    if first is not None:
        given["first"] = first.date()
    said = {
        "table": table,
        "timestamp": timestamp,
        "target": target,
        "frequency": frequency,
        "missing": missing,
        "sheet": sheet,
        "exposure": exposure,
    }
    given |= InitOptions(**{name: value for name, value in said.items() if value})  # pyright: ignore[reportArgumentType]
    out = console()
    refuse_existing(location, into, force=force)
    found = infer(location, given)
    if can_ask() and not yes:
        found = ask_what_is_unsure(out, location, given, found)
    print_readings(out, found.readings)
    with progress(out, "loading into sales.db") as loading:
        done = initialise(found, into, loading)
    print_inferred(out, location, done)


@main.command()
@click.argument("location", metavar="FILE")
@config_option
@click.option("--plan", is_flag=True, help="The file is a plan: known covariates of the days to come, without sales.")
@click.option("--check", is_flag=True, help="Only say what would be added, changed and refused.")
@click.option("--first", type=click.DateTime(["%Y-%m-%d"]), help="The day of the first of columns like d_1, d_2 …")
@json_option
def load(location: str, config: Path | None, *, plan: bool, check: bool, first: datetime | None, as_json: bool) -> None:
    """Load the next file, or a plan, into the project's source; safe to repeat."""
    from many_models.cli.onboarding import print_load
    from many_models.cli.output import console
    from many_models.onboarding.next_file import load_next_file
    from many_models.settings import load_settings

    done = load_next_file(
        load_settings(config), location, plan=plan, check=check, first=first.date() if first else None
    )
    print_load(console(quiet=as_json), location, done, check=check)
    if as_json:
        print(json.dumps(done.as_dict(), default=str))


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


names_option = partial(click.option, callback=lambda _context, _option, text: _names(text))


# --- demo and run ---------------------------------------------------------------------------------------------------
@main.command()
@click.option("--series", default=500, show_default=True, help="How many store-items.")
@click.option("--days", default=1095, show_default=True, help="How many days of history.")
@click.option("--end", type=click.DateTime(["%Y-%m-%d"]), help="The last day of history [default: yesterday].")
@click.option("--seed", default=1, show_default=True)
@click.option("--into", type=click.Path(path_type=Path, file_okay=False), default=Path("demo"), show_default=True)
def demo(series: int, days: int, end: datetime | None, seed: int, into: Path) -> None:
    """Make a small source database, run everything that is due, and say where to look."""
    from many_models.cli.output import console, print_board, print_next_steps, progress, run_day
    from many_models.onboarding.demo import write_source
    from many_models.onboarding.demo_settings import demo_settings
    from many_models.settings import FILE_NAME, load_settings

    out = console()
    last = (end or datetime.now() - timedelta(days=1)).date()  # noqa: DTZ005  the stores' own clock
    into.mkdir(parents=True, exist_ok=True)
    with progress(out, "source database") as progress:
        facts = write_source(into / "sales.db", series=series, days=days, end=last, seed=seed, progress=progress)
    text = demo_settings(start=facts.first, url="sqlite:///sales.db", rows_for_sales=facts.rows_for_sales)
    (into / FILE_NAME).write_text(text)
    for said in facts.sentences():
        out.print(said)
    settings = load_settings(into / FILE_NAME)
    run_day(out, settings)
    print_next_steps(out, settings)
    print_board(out, settings)


@main.command()
@config_option
@click.option("--until", type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]), help="As if the source ended here.")
@json_option
def run(config: Path | None, until: datetime | None, *, as_json: bool) -> None:
    """Run everything that is due, stage by stage, until nothing is."""
    from many_models.cli.output import console, print_next_steps, run_day
    from many_models.operations.outcome import nothing_forecast
    from many_models.operations.status import summary
    from many_models.settings import load_settings

    settings = load_settings(config)
    if until is not None:
        settings = settings.model_copy(update={"data": settings.data.model_copy(update={"until": until})})
    out = console(quiet=as_json)
    reports = run_day(out, settings)
    if reports:
        print_next_steps(out, settings)
    found = summary(settings)
    if as_json:
        print(json.dumps({"stages": [asdict(report) for report in reports], **found}))
    if why := nothing_forecast(reports, int(str(found.get("prediction_rows", 0)))):
        raise click.ClickException(why)


# --- backtest -------------------------------------------------------------------------------------------------------
@main.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@names_option("--keys", required=True, help="Key columns, comma-separated.")
@click.option("--timestamp", required=True)
@click.option("--target", required=True)
@names_option("--known", default="", help="Known covariates, comma-separated.")
@click.option("--exposure", default="", help="The one of them that the target is proportional to.")
@click.option("--freq", "frequency", required=True, help="h, D, W-SUN, MS …")
@click.option("--horizon", default=28, show_default=True)
@click.option("--windows", default=3, show_default=True)
@click.option("--season", type=int, help="Steps per season [default: by frequency].")
@click.option("--country", default="", help="ISO code of the country whose holidays count.")
@click.option("--holidays", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="CSV: date, name.")
@names_option("--attributes", default="", help="Columns that do not change within a series, comma-separated.")
@names_option("--pool-by", default="", help="Keys whose series learn together, comma-separated [default: all do].")
@click.option(
    "--missing-known",
    type=click.Choice(["usual", "error"]),
    default="usual",
    show_default=True,
    help="What a missing value of a known covariate is.",
)
@click.option(
    "--missing",
    type=click.Choice(["unknown", "zero", "closed"]),
    default="unknown",
    show_default=True,
    help="What a period without a row means.",
)
@click.option("--available", default="", help="Column with the share of a period with stock, from 0 to 1.")
@click.option("--sold-out", default="", help="Column that says that stock ran out: a flag, or hours.")
@click.option("--open-hours", type=float, default=0.0, help="Hours of a period that --sold-out counts, if it does.")
@click.option("--custom", multiple=True, help="A forecaster of your own: 'NAME=MODULE:ATTRIBUTE {\"option\": 1}'.")
@names_option("--candidates", default="", help="Forecasters that compete, comma-separated [default: all].")
@click.option(
    "--objective",
    type=click.Choice(["rmsse", "mase", "wape", "pinball"]),
    default="rmsse",
    show_default=True,
    help="What the weights of candidates minimise.",
)
@click.option("--workers", default=0, help="Processes [default: one a core].")
@click.option(
    "--forecasts", type=click.Path(path_type=Path, dir_okay=False), help="Write the forecasts here (Parquet)."
)
@json_option
def backtest(data: Path, holidays: Path | None, forecasts: Path | None, *, as_json: bool, **options: Any) -> None:
    """Measure every candidate and the selected forecast on any Parquet table."""
    import os

    from many_models.cli.backtest_inputs import columns_of, custom_of, read_parquet
    from many_models.cli.output import bars, console, metrics_table
    from many_models.data.covariates import read_holidays
    from many_models.forecasting import backtest as measure

    out = console(quiet=as_json)
    frame = read_parquet(data, columns_of(options))
    options["custom"] = [custom_of(text) for text in options["custom"]]
    options["workers"] = options["workers"] or len(os.sched_getaffinity(0))
    windows: int = options["windows"]
    with bars(out) as display:
        task = display.add_task("backtest", total=windows)
        report = measure(
            frame,
            **options,
            holidays=read_holidays(holidays) if holidays else (),
            folder=str(Path.cwd()),
            progress=lambda step, share: display.update(task, description=step, completed=share * windows),
        )
    if forecasts is not None:
        report.forecasts.to_parquet(forecasts, index=False)
    if as_json:
        metrics = report.metrics.to_json(orient="records") or "[]"  # null, not NaN, where there is no number
        left_out = report.left_out.to_json(orient="records", date_format="iso") or "[]"
        told = {"metrics": json.loads(metrics), "left_out": json.loads(left_out), "outliers": report.outliers}
        print(json.dumps(told))
    else:
        out.print(metrics_table(report.metrics))
        if report.outliers:
            out.print(f"not scored, as far beyond all that their series did before: {report.outliers}")
        for row in report.left_out.to_dict("records"):
            out.print(f"left out: {row['series_id']}: {row['reason']}", highlight=False, markup=False)


# --- looking and steering -------------------------------------------------------------------------------------------
@main.command()
@config_option
@click.option("--check", is_flag=True, help="Ping every port.")
@json_option
def status(config: Path | None, *, check: bool, as_json: bool) -> None:
    """Say what is due, running, failed and set aside, and what is live."""
    from many_models.cli.output import console, print_checks, print_status, print_summary
    from many_models.operations.status import check_ports, status_of
    from many_models.settings import load_settings

    settings = load_settings(config)
    out = console(quiet=as_json)
    if check:
        rows = check_ports(settings)
        print_checks(out, rows)
        if as_json:
            print(json.dumps({"ports": rows}))
        sys.exit(0 if all(row["ok"] for row in rows) else 1)
    found = status_of(settings)
    print_status(out, found)
    print_summary(out, settings)
    if as_json:
        print(json.dumps(found, default=str))


@main.command()
@click.argument("series_id", metavar="SERIES")
@config_option
@click.option("--horizon", type=click.IntRange(min=1), help="Steps ahead [default: what was trained for].")
@json_option
def explain(series_id: str, config: Path | None, horizon: int | None, *, as_json: bool) -> None:
    """Say why the forecast of a series is what it is: sentences, and what each driver adds to each step."""
    from many_models.cli.output import console, print_explanation
    from many_models.forecasting.explanation import explain_in_words
    from many_models.operations.explain import explain_series
    from many_models.settings import load_settings

    settings = load_settings(config)
    found = explain_series(settings, series_id, horizon)
    words = explain_in_words(found, settings.serve.language)
    print_explanation(console(quiet=as_json), found, words)
    if as_json:
        parts = [
            {"kind": kind, "driver": driver, "values": found.parts[:, j].tolist()}
            for j, (kind, driver) in enumerate(found.drivers)
        ]
        told = {"series_id": series_id, "words": words, "ds": found.ds.tolist(), "y_hat": found.y_hat.tolist()}
        print(json.dumps({**told, "parts": parts}, default=str))


@main.command()
@config_option
@click.option("--mend", is_flag=True, help="Bring back what can be brought back; a run then does what is due.")
@json_option
def doctor(config: Path | None, *, mend: bool, as_json: bool) -> None:
    """Compare Dagster's records, lake, registries, warehouse and what is served; exit code 1 where they disagree."""
    from many_models.cli.output import console, print_findings
    from many_models.operations.doctor import examine_project
    from many_models.settings import load_settings

    found, mended = examine_project(load_settings(config), and_mend=mend)
    print_findings(console(quiet=as_json), found, mended)
    if as_json:
        print(json.dumps({"findings": [asdict(one) for one in found], "mended": mended}))
    sys.exit(1 if found and not mend else 0)


@main.command()
@config_option
def alerts(config: Path | None) -> None:
    """Send a test message to each address that gets alerts, and say which took it; exit code 1 where one did not."""
    from many_models.operations.alerts import send_test
    from many_models.settings import load_settings

    told = send_test(load_settings(config))
    for name, why in told.items():
        print(f"{name}: {why or 'took the message'}")
    sys.exit(1 if any(told.values()) else 0)


@main.command()
@click.argument("into", type=click.Path(path_type=Path, file_okay=False))
@config_option
def backup(into: Path, config: Path | None) -> None:
    """Copy the whole project into the new folder INTO, while it runs."""
    from many_models.cli.output import console
    from many_models.operations.backup import back_up
    from many_models.settings import dagster_home, load_settings

    settings = load_settings(config)
    copied = back_up(settings, dagster_home(settings), into)
    console().print(f"{len(copied)} files copied into {into}; `many-models restore {into} FOLDER` puts them back")


@main.command()
@click.argument("copy", metavar="BACKUP", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("into", type=click.Path(path_type=Path, file_okay=False))
def restore(copy: Path, into: Path) -> None:
    """Put a BACKUP into the new folder INTO, verified file by file."""
    from many_models.cli.output import console
    from many_models.operations.backup import restore as put_back

    put_back(copy, into)
    console().print(f"restored into {into}; `cd {into} && many-models doctor`, then run as ever")


@main.command()
@config_option
@json_option
def upkeep(config: Path | None, *, as_json: bool) -> None:
    """Delete what is superseded: old events, old versions of tables and of models. What is live stays."""
    from many_models.cli.output import console, print_maintenance
    from many_models.operations.setup import run_maintenance
    from many_models.settings import load_settings

    done = run_maintenance(load_settings(config))
    print_maintenance(console(quiet=as_json), done)
    if as_json:
        print(json.dumps(asdict(done)))
    sys.exit(1 if done.errors else 0)


by_option = click.option("--by", default="", help="Who says so [default: this account].")
why_option = click.option("--why", default="", help="Why; it is kept.")


@main.command()
@click.argument("proposal", default="")
@config_option
@by_option
@why_option
@click.option("--reject", is_flag=True, help="Say no: the proposal waits no more, what is live stays.")
@click.option("--show", is_flag=True, help="Only say what waits.")
@json_option
def approve(proposal: str, config: Path | None, by: str, why: str, *, reject: bool, show: bool, as_json: bool) -> None:
    """Make the release that waits live; with PROPOSAL only if it is that one."""
    from many_models.cli.output import console, print_verdict, print_waiting
    from many_models.operations import releases
    from many_models.settings import load_settings

    if show:
        waiting = releases.waiting_proposal(load_settings(config))
        out = console(quiet=as_json)
        print_waiting(out, waiting) if waiting else out.print("no release waits for approval")
        if as_json:
            print(json.dumps({"proposal": "", **waiting}))
        return

    told = releases.approve(load_settings(config), proposal, actor=by, reason=why, reject=reject)
    print_verdict(console(quiet=as_json), told)
    if as_json:
        print(json.dumps({name: getattr(told, name) for name in ("proposal", "approved", "actor", "live")}))


@main.command()
@click.argument("release")
@config_option
@by_option
@why_option
def rollback(release: str, config: Path | None, by: str, why: str) -> None:
    """Make a kept RELEASE live again, in one step."""
    from many_models.cli.output import console, print_release
    from many_models.operations.releases import roll_back
    from many_models.settings import load_settings

    print_release(console(), roll_back(load_settings(config), release, by, why))


# --- serving --------------------------------------------------------------------------------------------------------
@main.command()
@config_option
@click.option("--host", help="Address to listen on [default: serve.host].")
@click.option("--port", type=int, help="Port [default: serve.port].")
@click.option("--no-auth", is_flag=True, help="Answer without a key: on a loopback address only.")
def serve(config: Path | None, host: str | None, port: int | None, *, no_auth: bool) -> None:
    """Answer forecasts over HTTP from the live release, loading models on demand."""
    from many_models.settings import api_keys, load_settings

    try:
        from many_models.serving.app import build_app
        from many_models.serving.server import run as run_server
    except ModuleNotFoundError as error:
        raise MissingDependencyError(f"{error.name} is not installed: pip install 'many_models[serve]'") from error
    from many_models.wiring import build_lake, build_production, build_telemetry

    settings = load_settings(config)
    given = {"host": host, "port": port, "auth": [] if no_auth else None}
    changed = {name: value for name, value in given.items() if value is not None}
    settings = settings.model_copy(update={"serve": settings.serve.model_copy(update=changed)})
    lake = build_lake(settings) if settings.serve.lake else None
    production = build_production(settings, fail_soon=True)
    telemetry = build_telemetry(settings, "many_models.serve")
    run_server(build_app(settings, production, lake, api_keys(), telemetry), settings.serve)


@main.command()
@config_option
@click.option("--host", help="Address to listen on [default: board.host].")
@click.option("--port", type=int, help="Port [default: board.port].")
@click.option("--no-auth", is_flag=True, help="Answer without a sign-in: on a loopback address only.")
def board(config: Path | None, host: str | None, port: int | None, *, no_auth: bool) -> None:
    """Show the items to people: pages over the lake, the warehouse and Dagster's records."""
    from many_models.settings import api_keys, approver_keys, board_client_secret, load_settings

    try:
        from many_models.board.access import Keys
        from many_models.board.server import run as run_server
        from many_models.operations.board import make_board
    except ModuleNotFoundError as error:
        raise MissingDependencyError(f"{error.name} is not installed: pip install 'many_models[board]'") from error

    settings = load_settings(config)
    changed = {name: value for name, value in {"host": host, "port": port}.items() if value is not None}
    settings = settings.model_copy(update={"board": settings.board.model_copy(update=changed)})
    keys = Keys(api_keys(), approver_keys(), board_client_secret())
    run_server(make_board(settings, keys, is_open=no_auth), settings.board)


@main.command()
@config_option
def views(config: Path | None) -> None:
    """Print the T-SQL that makes the lake's report views in a Synapse serverless SQL pool."""
    from many_models.reporting.serverless_views import serverless_views
    from many_models.settings import load_settings
    from many_models.wiring import build_lake

    settings = load_settings(config)
    for statement in serverless_views(settings.place(settings.lake.path), settings.data.keys, build_lake(settings)):
        click.echo(f"{statement};\nGO")


@main.command("power-bi")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--direct-lake", is_flag=True, help="Over a Fabric Warehouse's tables, without a copy in the model.")
@config_option
def power_bi(folder: Path, config: Path | None, *, direct_lake: bool) -> None:
    """Write a Power BI project over what the warehouse holds for reports into FOLDER."""
    from many_models.operations.setup import power_bi_files
    from many_models.settings import load_settings

    for path, text in power_bi_files(load_settings(config), direct_lake=direct_lake).items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    click.echo(f"Wrote {folder}: open it in Power BI Desktop, and set the parameters of the semantic model")


@main.command()
@config_option
def register(config: Path | None) -> None:
    """Register the lake as an Azure ML datastore, and its tables as data assets."""
    from many_models.cli.output import console
    from many_models.operations.setup import register_lake
    from many_models.settings import load_settings

    settings = load_settings(config)
    names = register_lake(settings)
    console().print(f"datastore {settings.datastore.name}: {len(names)} data assets: {', '.join(names)}")
