"""The board at 10,000 items: the table's p95 over every filter and sort, an item's page and a what-if in Chromium,
memory.

    python -m benchmarks.board [--small] [--json]

The items are made up in the lake (a day of the reference takes minutes): histories of `days`, one night's forecasts,
scores and twelve weeks' accuracy. A few of them have live models, trained on these histories, which answer what-ifs.
Chromium is the system's; without it its figures are left out.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pyarrow as pa

from benchmarks._report import Figure, flags, machine, show
from many_models.adapters.lake.delta import DeltaLake
from many_models.adapters.registry.memory import MemoryProduction
from many_models.adapters.warehouse.sql import SqlWarehouse
from many_models.board.access import Keys
from many_models.board.app import build_board
from many_models.board.handed_in import Operations, Stores
from many_models.board.server import build_server
from many_models.data import lake_tables
from many_models.ports import Filter, PackUpload, PromotedSeries, ReleaseDraft, WarehousePart
from many_models.serving.service import Service
from many_models.settings import Settings
from many_models_tests.support.running_server import running

if TYPE_CHECKING:
    from collections.abc import Generator

AS_OF, HORIZON, STORES, WEEKS = datetime(2026, 10, 31), 28, 50, 12
FILTERS = (
    "", "q=item+9", "is.store=store_7", "is.abc=A", "is.xyz=Z", "min.wape=30%25", "max.skill=0.2&is.state=forecast",
    "q=7&min.bias=0.05&is.abc=B",
)  # fmt: skip
SORTS = ("cost", "series_id", "wape", "volume", "drift", "state", "real_cover80", "item")
REPEATS = 3


def fill(lake: Any, warehouse: Any, items: int, days: int) -> list[str]:
    """The tables that the board reads, of `items` series with `days` days each."""
    rng = np.random.default_rng(1)
    stores = [f"store_{i % STORES}" for i in range(items)]
    names = [f"item {i // STORES}" for i in range(items)]
    ids = [f"{store}__{name}" for store, name in zip(stores, names, strict=True)]

    def put(table: lake_tables.LakeTable, columns: dict[str, Any], where: Filter | None = None) -> None:
        lake.replace(table.name, pa.table(columns), where or Filter(), table.partition_by)

    put(lake_tables.SERIES_KEYS, {"series_id": ids, "store": stores, "item": names})
    first = AS_OF - timedelta(days=days - 1)
    put(lake_tables.SERIES, {
        "series_id": ids, "first": [first] * items, "last": [AS_OF] * items, "observations": [days] * items,
        "active": [True] * items, "why": [""] * items, "digest": ["0"] * items, "pack": stores,
    })  # fmt: skip
    shares = {name: rng.uniform(0, 0.6, items) for name in "wape baseline_wape skill noise_floor bias cover80".split()}
    put(lake_tables.TRAINED, {
        "series_id": ids, "candidate": ["trees"] * items, "fallback": [""] * items, **shares, "windows": [3] * items,
        "weights": ['{"trees": 1.0}'] * items, "pack": stores,
    })  # fmt: skip
    _fill_histories(lake, ids, stores, days, rng)
    n = items * HORIZON
    y_hat = rng.gamma(2.0, 10.0, n)
    ahead = np.tile(np.arange(1, HORIZON + 1), items)
    put(lake_tables.PREDICTIONS, {
        "series_id": np.repeat(ids, HORIZON), "ds": np.datetime64(AS_OF, "us") + ahead * np.timedelta64(1, "D"),
        "cutoff": np.full(n, np.datetime64(AS_OF, "us")), "step": ahead.astype(np.int32), "y_hat": y_hat,
        "lo80": 0.7 * y_hat, "hi80": 1.3 * y_hat, "lo95": 0.5 * y_hat, "hi95": 1.6 * y_hat, "fallback": [""] * n,
        "model": ["m/1"] * n, "pack": np.repeat(stores, HORIZON), "cutoff_date": [f"{AS_OF:%Y-%m-%d}"] * n,
    })  # fmt: skip
    for back in range(1, WEEKS + 1):
        cutoff = AS_OF - timedelta(weeks=back)
        rows = pa.table({
            "series_id": ids, "cutoff": [cutoff] * items, "periods": [28] * items,
            "actual": rng.gamma(2.0, 200.0, items),
            "forecast": rng.gamma(2.0, 200.0, items), "wape": rng.uniform(0, 0.6, items),
            "bias": rng.uniform(-0.2, 0.2, items), "cover80": rng.uniform(0.6, 1.0, items),
        })  # fmt: skip
        where = Filter(since=cutoff, before=cutoff + timedelta(days=1), column="cutoff")
        warehouse.load(f"{cutoff}", "1", [WarehousePart("accuracy", rows, where, ("series_id", "cutoff"))])
    return ids


def _fill_histories(lake: Any, ids: list[str], stores: list[str], days: int, rng: np.random.Generator) -> None:
    """Histories in the datasets, and the recent ones in the raw sales, a store at a time."""
    ds = np.datetime64(AS_OF, "us") - np.arange(days)[::-1] * np.timedelta64(1, "D")
    recent = min(days, 366)
    for store in sorted(set(stores)):
        own = [name for name, of in zip(ids, stores, strict=True) if of == store]
        n = len(own) * days
        rows = pa.table({
            "series_id": np.repeat(own, days), "ds": np.tile(ds, len(own)), "y": rng.gamma(2.0, 10.0, n),
            "price": np.full(n, 2.5), "promotion": (rng.random(n) < 0.05).astype(float), "pack": [store] * n,
        })  # fmt: skip
        dataset = rows.append_column("state", pa.array(["observed"] * n))
        among = Filter(among={"pack": [store]})
        lake.replace(lake_tables.DATASETS.name, dataset, among, lake_tables.DATASETS.partition_by)
        keep = np.tile(np.arange(days) >= days - recent, len(own))
        year = pa.array(ds.astype("datetime64[Y]").astype(int) + 1970, pa.int32()).take(
            pa.array(np.tile(np.arange(days), len(own)))
        )
        sales = rows.append_column("year", year).filter(pa.array(keep))
        years = sorted(set(sales["year"].to_pylist()))
        among = Filter(among={"year": years, "pack": [store]})
        lake.replace(lake_tables.RAW_SALES.name, sales, among, lake_tables.RAW_SALES.partition_by)
    versions = {"series_id": ids, "last": [AS_OF] * len(ids), "year": pa.array([AS_OF.year] * len(ids), pa.int32())}
    lake.replace(lake_tables.RAW_VERSIONS.name, pa.table(versions), Filter(), lake_tables.RAW_VERSIONS.partition_by)


def live_models(lake: Any, names: list[str]) -> MemoryProduction:
    """A production registry that serves `names`, all of one store, by models that are trained on their histories."""
    from many_models.forecasting import Spec, prepare, train

    where = Filter(among={"pack": [names[0].partition("__")[0]], "series_id": names})
    rows = lake.read(lake_tables.DATASETS.name, where, ["series_id", "ds", "y", "price", "promotion"])
    spec = Spec("D", horizon=HORIZON, windows=2, known=("price", "promotion"))
    model = train(prepare(rows, spec, AS_OF).rows, spec, AS_OF).model
    production = MemoryProduction()
    upload = PackUpload("m", model.files(), tuple(model.series))
    promoted = [PromotedSeries(name, "s/1", "recipe", f"{AS_OF:%Y-%m-%d}") for name in model.series]
    release = production.publish(ReleaseDraft("", "benchmark", "made up", [upload], promoted))
    champions = [
        {"series_id": name, "ref": one.ref, "row": one.row, "sha256": one.sha256, "staging": "s/1", "recipe": "recipe",
         "release_id": release.release_id, "cutoff": AS_OF.isoformat()}
        for name, one in release.champions.items()
    ]  # fmt: skip
    lake.replace(lake_tables.CHAMPIONS.name, pa.Table.from_pylist(champions), Filter())
    return production


CHANGE = """([value, name]) => new Promise((done) => {
  const form = document.querySelector("[data-what-if]");
  const control = form.querySelector(`[data-known=${name}]`);
  const begun = performance.now();
  new MutationObserver((_, self) => {
    self.disconnect();
    requestAnimationFrame(() => setTimeout(() => done(performance.now() - begun)));
  }).observe(form, { attributeFilter: ["data-shown"] });
  control.value = value;
  control.dispatchEvent(new Event("input", { bubbles: true }));
})"""  # from the change of a control until the frame with the new curve is on the screen


def what_if_times(url: str, names: list[str]) -> list[float]:
    """Seconds from the change of a control to the new curve, in Chromium."""
    found = list[float]()
    with chromium() as page:
        for name in names if page else ():
            page.goto(f"{url}/items/{name}")
            page.wait_for_selector("html[data-drawn]", state="attached")
            page.wait_for_selector("[data-explanation][data-told]")
            found += [page.evaluate(CHANGE, [value, "price"]) / 1000 for value in ("-30", "-10", "15", "40")]
    return found


def _decided(proposal: str, *, actor: str, reason: str, reject: bool) -> None:
    """Nothing."""


@contextmanager
def served(settings: Settings, stores: Stores) -> Generator[str]:
    """The address of the board over `stores`, which nobody has asked yet."""
    app = build_board(settings, stores, Operations(tuple, _decided), Keys(), is_open=True)
    with running(build_server(app, settings.board.model_copy(update={"port": 0}))) as port:
        yield f"http://127.0.0.1:{port}"


def table_times(url: str) -> tuple[float, list[float]]:
    """Seconds of the first page (which makes the table), then of every filter and sort."""
    import httpx

    with httpx.Client(base_url=url, timeout=600) as client:
        begun = time.perf_counter()
        client.get("/items").raise_for_status()
        first, found = time.perf_counter() - begun, list[float]()
        for _ in range(REPEATS):
            for asked in FILTERS:
                for sort in SORTS:
                    begun = time.perf_counter()
                    client.get(f"/items?{asked}&sort={sort}").raise_for_status()
                    found.append(time.perf_counter() - begun)
    return first, found


@contextmanager
def chromium() -> Generator[Any]:
    """A page of the system's Chromium; None where there is none."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        yield None
        return
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser.new_page()
        finally:
            browser.close()


def page_times(url: str, ids: list[str]) -> tuple[list[float], list[float]]:
    """Seconds until an item's page is drawn in Chromium: of items that nobody has opened, and of those opened again."""
    cold, warm = list[float](), list[float]()
    with chromium() as page:
        if page is None:
            return cold, warm
        page.goto(f"{url}/items/{ids[-1]}")  # the browser has the scripts from here on
        page.wait_for_selector("html[data-drawn]", state="attached")
        for times, some in ((cold, ids[:10]), (warm, ids[:10])):
            for name in some:
                begun = time.perf_counter()
                page.goto(f"{url}/items/{name}")
                page.wait_for_selector("html[data-drawn]", state="attached")
                times.append(time.perf_counter() - begun)
    return cold, warm


def main() -> None:
    """Measures and reports."""
    args = flags(str(__doc__), "1,000 items of 400 days").parse_args()
    items, days = (1_000, 400) if args.small else (10_000, 4_000)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings.model_validate({"root": Path(folder), "data": {"known": ["price", "promotion"]}})
        lake, warehouse = DeltaLake(f"{folder}/lake"), SqlWarehouse(f"sqlite:///{folder}/warehouse.db")
        ids = fill(lake, warehouse, items, days)
        before = psutil.Process().memory_info().rss
        with served(settings, Stores(lake, warehouse, MemoryProduction())) as url:
            first, times = table_times(url)
            cold, warm = page_times(url, ids)
            grown = (psutil.Process().memory_info().rss - before) / 1e6
        models = live_models(lake, with_models := ids[STORES : 4 * STORES : STORES])
        with served(settings, Stores(lake, warehouse, models, Service(settings, models, lake))) as url:
            changed = what_if_times(url, with_models)
    figures = [
        Figure("items page, any filter and sort, p95", float(np.quantile(times, 0.95)), "s", "at most 0.2"),
        Figure("items page, any filter and sort, median", float(np.median(times)), "s", ""),
        Figure("the table of items made from the lake", first, "s", ""),
        Figure("resident memory above the start", grown, "MB", "at most 150"),
    ]
    if cold:
        figures += [
            Figure("item page in Chromium, cold, p95", float(np.quantile(cold, 0.95)), "s", "at most 1.5"),
            Figure("item page in Chromium, warm, p95", float(np.quantile(warm, 0.95)), "s", "at most 0.5"),
        ]
    if changed:
        about = "at most 0.3"
        figures += [
            Figure(
                "what-if, from the change of a control to the new curve, median", float(np.median(changed)), "s", ""
            ),
            Figure("what-if, from the change of a control to the new curve, worst", max(changed), "s", about),
        ]
    show(figures, machine("deltalake", "plotly"), as_json=args.json)


if __name__ == "__main__":
    main()
