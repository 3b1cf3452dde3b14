"""Dagster's page of an asset's partitions in Chromium, with 25,000 series: how long until it can be used.
`python -m benchmarks.partitions_page [--series 25000] [--small] [--shots FOLDER] [--json]`.

The instance holds one materialization of each series, the webserver loads the real code location. The page is open when
it shows the count of materialized partitions and the list of them; then one series is searched for and opened, as a
person does it. The first opening loads the UI's own files, too.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from benchmarks._report import Figure, flags, machine, show
from benchmarks.reference_day import SETTINGS, asked, webserver
from many_models.operations.day import open_instance
from many_models.orchestration.event_log import runs
from many_models.orchestration.stage_run import UPSTREAM_TAG, VERSION_TAG
from many_models_tests.support.browser import chromium

if TYPE_CHECKING:
    from playwright.sync_api import Page

FULL, SMALL = 25_000, 500
STAGE = "trained_models"
PATIENCE_MS = 300_000
OPENINGS = 5


def key_of(number: int) -> str:
    """The key of a series."""
    return f"store-{number // 100:03d}__item-{number:05d}"


def fill(instance: dg.DagsterInstance, series: int) -> None:
    """Make every series a partition of the stage and materialize it."""
    partitions = dg.DynamicPartitionsDefinition(name="store_items")

    @dg.asset(
        name=STAGE,
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        output_required=False,
    )
    def made(context: dg.AssetExecutionContext) -> Iterator[None]:
        tags = {UPSTREAM_TAG: "0" * 32, VERSION_TAG: "1" * 32}
        events = [dg.AssetMaterialization(STAGE, partition=key, tags=tags) for key in context.partition_keys]
        runs.record(context, events)
        yield from ()

    keys = [key_of(number) for number in range(series)]
    instance.add_dynamic_partitions("store_items", keys)
    job = dg.Definitions(
        [made], jobs=[dg.define_asset_job("fill", selection=[STAGE])], executor=dg.in_process_executor
    ).resolve_job_def("fill")
    tags = {runs.RANGE_START_TAG: keys[0], runs.RANGE_END_TAG: keys[-1]}
    job.execute_in_process({"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}, instance, tags=tags)


def timed(work: Callable[[], object]) -> float:
    """Seconds of `work`."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def in_chromium(port: int, series: int, shots: Path | None) -> dict[str, float]:
    """Seconds until the page is there at first and in the median of later times, and of its use."""
    url = f"http://127.0.0.1:{port}/assets/{STAGE}?view=partitions"
    wanted = key_of(series * 2 // 3)
    found = dict[str, float]()
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(PATIENCE_MS)
        found["first"] = timed(lambda: opened(page, url, series))
        again = sorted(rested(page, lambda: opened(page, url, series)) for _ in range(OPENINGS))
        found["again"] = again[len(again) // 2]
        if shots:
            page.screenshot(path=shots / "partitions.png")
        found["found"] = timed(lambda: search(page, wanted))
        found["shown"] = timed(lambda: pick(page, wanted))
        if shots:
            page.screenshot(path=shots / "partition.png")
    return found


def opened(page: "Page", url: str, series: int) -> None:
    """Go to the page and wait until counts and list are shown."""
    page.goto(url)
    page.get_by_text(f"{series:,}").first.wait_for()
    page.get_by_text(key_of(0), exact=True).first.wait_for()


def rested(page: "Page", work: Callable[[], object]) -> float:
    """Seconds of `work`, begun when the page before it has got all that it asked for."""
    page.wait_for_load_state("networkidle")
    return timed(work)


def search(page: "Page", key: str) -> None:
    """Type a series into the page's search."""
    page.get_by_placeholder("Filter by name").first.fill(key)
    page.get_by_text(key, exact=True).first.wait_for()


def pick(page: "Page", key: str) -> None:
    """Click it and wait for its event."""
    page.get_by_text(key, exact=True).first.click()
    page.get_by_text("View all historical events (1)").wait_for()


def main() -> None:
    """Measure and print."""
    parser = flags(__doc__ or "", "500 series")
    parser.add_argument("--series", type=int, default=FULL)
    parser.add_argument("--shots", type=Path, help="a folder for pictures of the pages")
    args = parser.parse_args()
    series = SMALL if args.small else args.series
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "many_models.toml").write_text(SETTINGS.format(start=date(2024, 1, 1)))
        with open_instance(folder / "dagster") as instance:
            fill(instance, series)
        with webserver(folder) as port:
            cold = asked(port, STAGE)
            warm = sorted(asked(port, STAGE) for _ in range(OPENINGS))[OPENINGS // 2]
            found = in_chromium(port, series, args.shots)
    figures = [
        Figure(f"partitions page of {series:,} series, first opening", found["first"], "s", ""),
        Figure("opened again, the median of five", found["again"], "s", "at most 2"),
        Figure("a series searched for", found["found"], "s", "at most 2"),
        Figure("its details after a click", found["shown"], "s", "at most 2"),
        Figure("the state of all partitions by GraphQL, first", cold, "s", ""),
        Figure("the same again", warm, "s", ""),
    ]
    show(figures, machine("dagster"), as_json=args.json)


if __name__ == "__main__":
    main()
