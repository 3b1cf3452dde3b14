"""How accurate and how fast the forecasting core is. `python -m benchmarks.forecasting [--small] [--json]`.

A seeded panel with trends, seasons, prices, promotions, level shifts and stock-outs, whose true mean is known, in a
log-linear and a non-linear variant; public tables where --sets names a folder of NAME.parquet with NAME.json (keys,
timestamp, target, known, freq, season, horizon, windows, country), every candidate beside the selected forecast;
processes, memory and compilation; peers (statsforecast, mlforecast, scikit-learn per series) with --peers, in an
environment that is made under benchmarks/out, with a plot there; new items with --hide, the share of series whose
history is hidden; one part of the core switched off with --without. Kinds of tables that nothing was tuned on
(_forecasting_kinds) beside what AutoETS and boosting per series make of them.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks._forecasting_ablation import PARTS, options, without
from benchmarks._forecasting_kinds import KINDS, measure
from benchmarks._forecasting_new_items import run_hidden
from benchmarks._report import Figure, flags, machine, show
from many_models.forecasting import Spec, backtest, pool, prepare, train

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import pandas as pd
    from numpy.typing import NDArray

HORIZON = 28
OUT = Path(__file__).parent / "out"
GOALS = {
    "store_item": {"wape": "at most .107"},
    "m5_tiny": {"wape": "at most .437", "rmsse": "at most .678", "bias": "within .04"},
    "carparts": {"rmsse": "at most .660", "mase": "at most 1.15"},
    "frat": {"wape": "at most .305"},
    "freshretail": {"wape": "at most .325"},
    "bikes": {"wape": "at most .205"},
    "stallion": {"wape": "at most .149"},
    "braf_parts": {"rmsse": "at most .635", "bias": "within .05"},
    "norway_fields": {"wape": "at most .143", "mase": "at most .37"},
}
COVER = {"cover80": ".77 to .86", "cover95": ".93 to .975"}
BY_RMSSE = ("carparts", "braf_parts")  # of sets of mostly zeros WAPE favours forecasts of nothing
PEERS = ("statsforecast==2.1.1", "mlforecast==1.1.0", "lightgbm", "scikit-learn", "pandas<3", "numpy", "matplotlib")


@dataclass(frozen=True)
class Cost:
    """ms of CPU per series: of local training alone, and of everything at 10,000 series."""

    local: float
    whole: float


@dataclass(frozen=True)
class Panel:
    """A made panel: sales, price, promotion and the true mean (series × days), and the days."""

    y: NDArray[np.float64]
    price: NDArray[np.float64]
    promo: NDArray[np.int8]
    mean: NDArray[np.float64]
    days: NDArray[np.datetime64]

    def rows(self, first: int, last: int, *, target: bool = True) -> pa.Table:
        """Raw rows of the days [first, last)."""
        n = len(self.y)
        columns: dict[str, object] = {
            "series_id": np.repeat([f"s{i:05d}" for i in range(n)], last - first),
            "ds": pa.array(np.tile(self.days[first:last].astype("datetime64[us]"), n), pa.timestamp("us")),
            "price": self.price[:, first:last].ravel(), "promo": self.promo[:, first:last].ravel(),
        }  # fmt: skip
        return pa.table({**columns, "y": self.y[:, first:last].ravel()} if target else columns)


def make_panel(series: int, days: int, seed: int, *, nonlinear: bool = False) -> Panel:  # noqa: C901 - a list of effects
    """A seeded panel: negative binomial sales around exp(level + trend + seasons + price and promotion)."""
    rng = np.random.default_rng(seed)
    t = np.arange(days)
    dates = np.datetime64("2015-01-01") + t
    weekday = (dates.astype(np.int64) + 3) % 7
    doy = (dates - dates.astype("datetime64[Y]").astype("datetime64[D]")).astype(int)
    stores, items = np.arange(series) // 100, np.arange(series) % 100
    base = np.where(rng.random(series) < 0.3, rng.uniform(0.05, 0.8, series), np.exp(rng.normal(2.3, 1.1, series)))
    log = np.repeat(np.log(base)[:, None], days, 1)
    for _ in range(4):  # changes of trend
        log += np.maximum(0, t - rng.integers(0, days, (series, 1))) * rng.normal(0, 0.25, (series, 1)) / 1000
    log = np.log(base)[:, None] + np.clip(log - np.log(base)[:, None], -1.5, 1.5)
    wander, step = np.zeros(series), rng.normal(0, 0.02, (series, days))
    for i in range(days):
        wander = 0.985 * wander + step[:, i]
        log[:, i] += wander
    week = rng.normal(0, 0.25, (stores.max() + 1, 7))[stores] + rng.normal(0, 0.10, (series, 7))
    week -= week.mean(1, keepdims=True)
    log += week[:, weekday]
    for k in (1, 2, 3):
        wave = rng.normal(0, 0.22 / k, (100, 2))[items] + rng.normal(0, 0.05 / k, (series, 2))
        angle = 2 * np.pi * k * doy / 365.25
        log += wave[:, :1] * np.sin(angle) + wave[:, 1:] * np.cos(angle)
    log += rng.normal(0.5, 0.3, (series, 1)) * np.exp(-(((doy - 355) / 6.0) ** 2)) * (doy < 359)
    for _ in range(2):  # level shifts
        log += (
            (t >= rng.integers(200, days, (series, 1)))
            * (rng.random((series, 1)) < 0.35)
            * rng.normal(0, 0.45, (series, 1))
        )
    price, promo, discount = np.ones((series, days)), np.zeros((series, days), np.int8), np.zeros((series, days))
    for _ in range(6):
        price *= np.where(t >= rng.integers(0, days, (series, 1)), 1 + rng.normal(0.02, 0.05, (series, 1)), 1)
    for i in range(series):
        for start in rng.integers(0, days, rng.integers(10, 60)):
            end = start + rng.choice([7, 14])
            promo[i, start:end], discount[i, start:end] = 1, rng.uniform(0.1, 0.4)
    price *= 1 - discount
    elasticity, lift = -np.abs(rng.normal(1.5, 0.6, (series, 1))), np.abs(rng.normal(0.25, 0.15, (series, 1)))
    if nonlinear:  # saturating price, promotions that act when deep and more at weekends, a weekly pattern that changes
        log += elasticity * np.tanh(6 * np.log(price)) / 6
        log += promo * lift * (1 + 2 * (weekday >= 5)) * (discount > 0.22) * 2.0
        log += 1.05 * ((doy // 30) % 3 == 1) * week[:, weekday] - 0.4 * (np.sin(t / 97.0) > 0.6) * (lift > 0.25)
    else:
        log += elasticity * np.log(price) + lift * promo
    mean = np.exp(np.minimum(log, 7))
    mean[:, (doy == 358) | (doy == 0)] = 0
    k = rng.uniform(3, 30, (series, 1))
    y = rng.poisson(mean * rng.gamma(np.broadcast_to(k, mean.shape)) / k).astype(float)
    for i in range(series):  # stock-outs
        for start in rng.integers(0, days, rng.poisson(6)):
            y[i, start : start + rng.integers(2, 10)] = 0
    return Panel(y, price * np.exp(rng.normal(1.2, 0.6, (series, 1))), promo, mean, dates)


def accuracy(y: NDArray[np.float64], f: NDArray[np.float64], past: NDArray[np.float64]) -> dict[str, float]:
    """WAPE, RMSSE (by lag 1, mean over series) and bias of forecasts (series × steps)."""
    scale = ((past[:, 1:] - past[:, :-1]) ** 2).mean(1) + 1e-9
    return {
        "wape": float(np.abs(y - f).sum() / y.sum()), "rmsse": float(np.sqrt(((y - f) ** 2).mean(1) / scale).mean()),
        "bias": float((f - y).sum() / y.sum()),
    }  # fmt: skip


def run_panel(panel: Panel, name: str) -> tuple[list[Figure], NDArray[np.float64], Cost]:
    """Figures of one made panel, the forecasts (series × steps), and what they cost."""
    n, T = panel.y.shape  # noqa: N806
    cutoff: datetime = panel.days[T - HORIZON - 1].astype("datetime64[us]").item()
    spec = Spec("D", HORIZON, known=("price", "promo"))
    clock = time.process_time
    raw = panel.rows(0, T - HORIZON)
    warm = prepare(raw.slice(0, T - HORIZON), spec, cutoff).rows  # compiled before the clock runs
    train(warm, spec, cutoff, pooled=pool(warm, spec, cutoff))
    began = clock()
    rows = prepare(raw, spec, cutoff).rows
    prepared = clock() - began
    began = clock()
    train(rows, spec, cutoff)
    local = clock() - began
    began = clock()
    shared = pool(rows, spec, cutoff)
    pooled = clock() - began
    began = clock()
    model = train(rows, spec, cutoff, pooled=shared).model
    whole = clock() - began
    future = panel.rows(T - HORIZON, T, target=False)
    began = clock()
    f = model.predict(None, future=future)["y_hat"].to_numpy().reshape(n, HORIZON)
    predicted = clock() - began
    y, past = panel.y[:, -HORIZON:], panel.y[:, :-HORIZON]
    mine, true = accuracy(y, f, past), accuracy(y, panel.mean[:, -HORIZON:], past)
    per_series = 1000 * (prepared + whole + predicted) / n + 1000 * pooled / 10_000
    limit = "at most .300" if name == "log-linear" else ""
    return (
        [
            Figure(f"synthetic, {name}, WAPE", mine["wape"], "", limit),
            Figure(
                f"synthetic, {name}, RMSSE over the true mean's",
                mine["rmsse"] / true["rmsse"],
                "×",
                "at most 1.06" if limit else "",
            ),
            Figure(f"synthetic, {name}, bias", mine["bias"], "", ""),
            Figure(f"synthetic, {name}, WAPE of the true mean", true["wape"], "", ""),
            Figure(
                f"local candidates, {name}", 1000 * local / n, "ms CPU per series", "20 × faster than one AutoETS fit"
            ),
            Figure(f"all in at 10,000 series, {name}", per_series, "ms CPU per series", "at most 25"),
        ],
        f,
        Cost(1000 * local / n, per_series),
    )


def run_sets(folder: Path, only: Sequence[str], columns: Sequence[int]) -> list[Figure]:
    """Figures of the canonical sets in `folder` (NAME.parquet and NAME.json), all or `only` some: every candidate, the
    selected forecast, and it over the best single candidate. The windows that are scored come after those that chose,
    so that this ratio is that of a nested evaluation. `columns`: so many random known columns, one run each.
    """
    figures, ratios = list[Figure](), dict[str, float]()
    names = sorted(path.stem for path in folder.glob("*.json") if path.with_suffix(".parquet").exists())
    for name in [name for name in names if not only or name in only]:
        limits = GOALS.get(name, {})
        table = measure_set(folder, name)
        for candidate, row in table.iterrows():
            for metric in ("wape", "mase", "rmsse", "bias"):
                against = limits.get(metric, "") if candidate == "selected" else ""
                figures.append(Figure(f"{name}, {candidate}, {metric}", float(row[metric]), "", against))
        figures += [
            Figure(f"{name}, {cover}", float(table.loc["selected", cover]), "", COVER[cover]) for cover in COVER
        ]
        metric = "rmsse" if name in BY_RMSSE else "wape"
        single = table.drop(index="selected")[metric]
        ratios[name] = float(table.loc["selected", metric] / single.min())
        words = f"{name}, selected over the best single candidate ({single.idxmin()}), {metric}"
        figures.append(Figure(words, ratios[name], "×", "at most 1.01"))
        for count in columns:
            ratio = float(measure_set(folder, name, count).loc["selected", metric] / table.loc["selected", metric])
            figures.append(Figure(f"{name}, with {count} random known columns", ratio, "×", "at most 1.005"))
    if ratios:
        mean = float(np.exp(np.mean(np.log(list(ratios.values())))))
        figures.append(Figure("selected over the best single, geometric mean of sets", mean, "×", "at most .985"))
        worst = max(ratios, key=lambda name: ratios[name])
        figures.append(
            Figure(f"selected over the best single, worst set ({worst})", ratios[worst], "×", "at most 1.01")
        )
    return figures


def run_without(folder: Path, only: Sequence[str], parts: Sequence[str]) -> list[Figure]:
    """A line for each set and part: the selected error without the part, with it, and their ratio."""
    figures = list[Figure]()
    names = sorted(path.stem for path in folder.glob("*.json") if path.with_suffix(".parquet").exists())
    for name in [name for name in names if not only or name in only]:
        about = json.loads((folder / f"{name}.json").read_text())
        metric, known = "rmsse" if name in BY_RMSSE else "wape", dict[str, Any]()
        for part in parts:
            more = options(part, about, whole=True)
            if str(more) not in known:  # most parts are there by default: measured once
                known[str(more)] = measure_set(folder, name, **more).loc["selected", metric]
            with_it = known[str(more)]
            with without(part):
                less = measure_set(folder, name, **options(part, about, whole=False)).loc["selected", metric]
            figures += [
                Figure(f"{name}, without {part}, {metric}", float(less), "", f"{with_it:.4f} with it"),
                Figure(f"{name}, without {part} over with it", float(less / with_it), "×", ""),
            ]
    return figures


def measure_set(folder: Path, name: str, random_columns: int = 0, **more: Any) -> pd.DataFrame:
    """The metrics of `backtest` with its defaults, or with `more` arguments, on one set, by candidate; with so many
    useless known columns.
    """
    import pandas as pd

    spec = json.loads((folder / f"{name}.json").read_text())
    table, rng = pd.read_parquet(folder / f"{name}.parquet"), np.random.default_rng(0)
    useless = [f"useless_{number}" for number in range(random_columns)]
    for column in useless:
        table[column] = rng.normal(size=len(table))
    told = f"{name}, {random_columns} random columns" if random_columns else name
    more = {"season": spec["season"], **more}
    report = backtest(
        table, keys=spec["keys"], timestamp=spec["timestamp"], target=spec["target"], known=[*spec["known"], *useless],
        frequency=spec["freq"], horizon=spec["horizon"], windows=spec["windows"], **more,
        country=spec.get("country", ""), progress=lambda step, _: print(f"{told}: {step}", file=sys.stderr),
    )  # fmt: skip
    return report.metrics.set_index("candidate")


PEERS_SCRIPT = Path(__file__).parent / "_forecasting_peers.py"
ONE_CORE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}


def peers_python() -> str:
    """The interpreter of the peers' environment, which is made if it is not there."""
    python = OUT / "peers" / "bin" / "python"
    if not python.exists():
        OUT.mkdir(exist_ok=True)
        if uv := shutil.which("uv"):
            subprocess.run([uv, "venv", "-q", "--python", sys.executable, str(OUT / "peers")], check=True)
            subprocess.run([uv, "pip", "install", "-q", "--python", str(python), *PEERS], check=True)
        else:
            subprocess.run([sys.executable, "-m", "venv", str(OUT / "peers")], check=True)
            subprocess.run([str(python), "-m", "pip", "install", "-q", *PEERS], check=True)
    return str(python)


def run_peers(panel: Panel, f: NDArray[np.float64], name: str, series: int, cost: Cost) -> list[Figure]:
    """The same series by peers, in an environment of their own; adds to the plot's data."""
    data = OUT / "panel.npz"
    python = peers_python()
    np.savez(data, y=panel.y[:series], price=panel.price[:series], promo=panel.promo[:series], days=panel.days)
    done = subprocess.run(
        [python, str(PEERS_SCRIPT), "fit", str(data), str(HORIZON)],
        capture_output=True, text=True, check=False, env={**os.environ, **ONE_CORE},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"the peers failed:\n{done.stderr[-2000:]}")
    peers = json.loads(done.stdout.splitlines()[-1])
    mine = accuracy(panel.y[:series, -HORIZON:], f[:series], panel.y[:series, :-HORIZON])["wape"]
    hgb = peers["HistGradientBoosting per series"]["wape"]
    figures = [
        Figure(f"AutoETS on 728 days, {name}, over local", peers["AutoETS on 728 days"]["ms"] / cost.local,
               "× the time", "at least 20"),
        Figure(f"synthetic, {name}, WAPE on the peers' series", mine, "",
               f"at most {hgb:.3f}" if name == "non-linear" else ""),
    ]  # fmt: skip
    for peer, found in peers.items():
        figures.append(Figure(f"{peer}, {name}, WAPE", found["wape"], "", ""))
        figures.append(Figure(f"{peer}, {name}, time", found["ms"], "ms CPU per series", ""))
    drawn = OUT / "forecasting.json"
    kept = json.loads(drawn.read_text()) if drawn.exists() else {}
    kept[name] = {peer: [found["ms"], found["wape"]] for peer, found in peers.items()}
    kept[name]["many_models"] = [cost.whole, mine]
    drawn.write_text(json.dumps(kept))
    subprocess.run([python, str(PEERS_SCRIPT), "plot", str(drawn), str(OUT / "forecasting.png")], check=True)
    print(f"plot: {OUT / 'forecasting.png'}", file=sys.stderr)
    return figures


def make_chunk(number: int, series: int, days: int, folder: Path) -> Path:
    """The rows of one chunk of made series, in a file, as a lake would have them."""
    path = folder / f"{number}.arrow"
    with pa.OSFile(str(path), "wb") as file:
        rows = make_panel(series, days, number).rows(0, days)
        with pa.ipc.new_file(file, rows.schema) as writer:
            writer.write_table(rows)
    return path


def train_chunk(path: Path) -> tuple[float, float]:
    """Prepare and train a chunk in this process; its peak memory in MB, and the CPU seconds of it all."""
    began = time.process_time()
    with pa.OSFile(str(path)) as file:
        rows = pa.ipc.open_file(file).read_all()
    cutoff: datetime = pc.max(rows["ds"]).as_py()
    spec = Spec("D", HORIZON, known=("price", "promo"))
    train(prepare(rows, spec, cutoff).rows, spec, cutoff)
    # not ru_maxrss: that of a new process begins with its parent's
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024, time.process_time() - began


def timed_chunks(workers: int, chunks: list[Path], small: Path) -> tuple[float, float, float]:
    """Wall seconds of `chunks` on workers warmed by `small`, the most memory one took (MB), and all CPU seconds."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context) as pool_of_workers:
        wait([pool_of_workers.submit(train_chunk, small) for _ in range(2 * workers)])
        began = time.perf_counter()
        parts = [pool_of_workers.submit(train_chunk, path) for path in chunks]
        done = [part.result() for part in parts]
        wall = time.perf_counter() - began
        return wall, max(memory for memory, _ in done), sum(spent for _, spent in done)


def compile_seconds() -> float:
    """CPU seconds that a first use takes more than a second one, on an empty cache of compiled code."""
    with tempfile.TemporaryDirectory() as cache:
        spent = []
        for _ in range(2):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(
                [sys.executable, "-m", "many_models.forecasting.precompile"], check=True,
                env={**os.environ, **ONE_CORE, "NUMBA_CACHE_DIR": cache},
            )  # fmt: skip
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return spent[0] - spent[1]


def run_costs(*, small: bool) -> list[Figure]:
    """Processes, memory and compilation."""
    series, days, chunks = (20, 800, 2) if small else (200, 4000, 12)
    for name, value in ONE_CORE.items():
        os.environ.setdefault(name, value)
    with tempfile.TemporaryDirectory() as folder:
        paths = [make_chunk(i, series, days, Path(folder)) for i in range(chunks)]
        tiny = make_chunk(chunks, 2, 400, Path(folder))
        (one, memory, alone), (two, _, beside) = (timed_chunks(workers, paths, tiny) for workers in (1, 2))
    figures = [
        Figure("two processes against one", one / two, "×", "at least 1.8"),
        Figure("CPU of a chunk, two at once against one", beside / alone, "×", "1 where they share nothing"),
        Figure(f"memory of a process, chunks of {series} series", memory, "MB", "at most 1024"),
    ]
    return (
        figures if small else [*figures, Figure("compilation on first use", compile_seconds(), "s CPU", "at most 15")]
    )


def run_kinds(*, small: bool) -> list[Figure]:
    """The core on kinds of tables that it was not tuned on, against what else there is."""
    figures: list[Figure] = []
    for name, make in KINDS.items():
        wape, rmse, cover = measure(make(6 if small else 60))
        mine, mine_rmse = wape.pop("many_models"), rmse.pop("many_models")
        others = ", ".join(f"{peer} {value:.3f}" for peer, value in wape.items())
        others_rmse = ", ".join(f"{peer} {value:.4g}" for peer, value in rmse.items())
        figures += [
            Figure(f"{name}, WAPE", mine, "", others), Figure(f"{name}, RMSE", mine_rmse, "", others_rmse),
            Figure(f"{name}, cover80", cover["cover80"], "", ".77 to .86"),
            Figure(f"{name}, cover95", cover["cover95"], "", ".92 to .98"),
        ]  # fmt: skip
    return figures


def run_made(*, peers: bool, small: bool) -> list[Figure]:
    """Figures of made panels and kinds of tables, and what they cost."""
    figures: list[Figure] = []
    for name, seed in (("log-linear", 0), ("non-linear", 7)):
        series, days = (40, 1500) if small else ((1000, 4000) if seed == 0 else (300, 4000))
        panel = make_panel(series, days, seed, nonlinear=name == "non-linear")
        found, f, cost = run_panel(panel, name)
        figures += found
        if peers:
            figures += run_peers(panel, f, name, 10 if small else 60, cost)
    figures += run_kinds(small=small)
    figures += run_costs(small=small)
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = flags(__doc__ or "", "fewer and shorter series")
    parser.add_argument("--sets", type=Path, help="a folder of public tables")
    parser.add_argument("--only", default="", help="of these tables, comma-separated; nothing else is measured")
    parser.add_argument("--random-columns", default="", help="numbers of useless known columns to try, as 1,10")
    parser.add_argument("--without", default="", help=f"parts to switch off, or all: {', '.join(PARTS)}")
    parser.add_argument("--hide", type=float, default=0.0, help="the share of series whose history is hidden, as .1")
    parser.add_argument("--peers", action="store_true", help="peers beside, in an environment of their own")
    chosen = parser.parse_args(arguments)
    figures = [] if chosen.only or chosen.hide or chosen.without else run_made(peers=chosen.peers, small=chosen.small)
    if chosen.sets and chosen.hide:
        figures += run_hidden(chosen.sets, [name for name in chosen.only.split(",") if name], chosen.hide)
    elif chosen.sets and chosen.without:
        parts = list(PARTS) if chosen.without == "all" else chosen.without.split(",")
        figures += run_without(chosen.sets, [name for name in chosen.only.split(",") if name], parts)
    elif chosen.sets:
        columns = [int(count) for count in chosen.random_columns.split(",") if count]
        figures += run_sets(chosen.sets, [name for name in chosen.only.split(",") if name], columns)
    show(figures, machine("numba", "lightgbm"), as_json=chosen.json)


if __name__ == "__main__":
    main()
