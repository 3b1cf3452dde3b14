"""Whether the stock that is recommended gives the service asked for, on the process that made the demo.
`python -m benchmarks.decisions_stock [--seeds 1 2 3 4] [--series 100] [--days 730] [--draws 100]`.

The models see the demo's history, the stock table says what is asked. What comes after is drawn from the demo's own
process, many times for each series, and the policy is run day by day: an order brings the position somewhere between
the reorder point and a pack above it, and what cannot be met until the next order's arrival is missed. "Cycle" is the
share of cycles without a miss, "fill" the share of demand that is met at once, each less what was asked, over all
series that ask for it. All series of a demo share the luck of its cutoff, so there are several demos. Items whose level
shifted two weeks before the cutoff are told apart: what their backtest promised does not hold any more, which the table
of drift says.

The process is that of the history, large orders with it: a policy that has seen them prepares for more of them, and
a future without any would make it look too safe. The models have the demo's own settings, which say when shops close.
"""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from datetime import datetime, time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa

from benchmarks._report import Figure, flags, machine, show
from benchmarks.decisions_coverage import backtested
from benchmarks.decisions_drift import END, rows_of, spec_of_demo
from many_models.decisions.demand_paths import fit_paths
from many_models.decisions.stock import NUMBERS, read_terms, recommend
from many_models.keys import SeriesKey
from many_models.onboarding.demo import true_futures, write_source

if TYPE_CHECKING:
    from many_models.decisions.stock import Terms

KEYS, SHIFTED = ("store", "item"), "shifted"


def measured(seed: int, series: int, days: int, draws: int) -> list[tuple[str, str, float, float]]:
    """Of each series of a demo the service, its own kind or "shifted", the service asked for, and that reached."""
    with tempfile.TemporaryDirectory() as folder:
        facts = write_source(Path(folder) / "source.db", series=series, days=days, end=END, seed=seed)
        past, stock, ahead = rows_of(facts.path), table(facts.path, "stock"), table(facts.path, "covariates")
        spec = spec_of_demo(facts)
    ahead["ds"] = pd.to_datetime(ahead["date"])
    ahead["series_id"] = [SeriesKey(key).series_id for key in zip(ahead["store"], ahead["item"], strict=True)]
    ahead = ahead.loc[ahead["ds"] > pd.Timestamp(END), ["series_id", "ds", *spec.known]]
    trained, backtest, histories = backtested(past, spec, datetime.combine(END, time()))
    future = pa.table({
        "series_id": ahead["series_id"].tolist(), "ds": pa.array(ahead["ds"].to_numpy("datetime64[us]")),
        **{name: ahead[name].to_numpy(float) for name in spec.known},
    })  # fmt: skip
    y_hat = trained.model.predict(None, future=future)["y_hat"].to_numpy().reshape(-1, spec.horizon)
    model = fit_paths(backtest.series, y_hat, backtest, histories)
    parts = {name: SeriesKey.parse(name, 2).parts for name in model.series}
    defaults: dict[str, float | None] = dict.fromkeys(NUMBERS)
    read = read_terms(
        pa.Table.from_pandas(stock), KEYS, parts, defaults=defaults, service="cycle", horizon=spec.horizon
    )  # fmt: skip
    rows = np.array([model.series.index(name) for name in read.series])
    whole = histories.whole()[rows]
    found = recommend(model.of(rows), read.terms, whole=whole, horizon=spec.horizon).to_pandas()
    truth = true_futures(series=series, days=days, end=END, seed=seed, steps=spec.horizon, draws=draws)
    reached = list[tuple[str, str, float, float]]()
    for at, name in enumerate(read.series):
        paths = truth.get((parts[name][0], parts[name][1]))
        if paths is not None and paths.any():
            cycle, fill = policy(
                paths, float(found["reorder_point"][at]), read.terms.of(np.array([at])), at, whole=bool(whole[at])
            )
            asked = float(read.terms.service_level[at])
            service, got = ("fill", fill) if read.terms.fill[at] else ("cycle", cycle)
            kind = SHIFTED if parts[name] in facts.shifted else f"kind {model.kind[rows[at]]}"
            reached.append((service, kind, asked, got))
    return reached


def table(path: Path, name: str) -> pd.DataFrame:
    """A table of the demo."""
    with closing(sqlite3.connect(path)) as database:
        return pd.read_sql(f"SELECT * FROM {name}", database)


def policy(paths: np.ndarray, point: float, terms: Terms, seed: int, *, whole: bool) -> tuple[float, float]:
    """The share of `paths` (draws × days) without a miss from the arrival of an order to that of the next, and the
    share of the demand between them that is met at once.
    """
    rng, good, met, wanted = np.random.default_rng(seed), 0, 0.0, 0.0
    pack = float(terms.pack[0]) if terms.pack[0] > 0 else float(whole)
    quantity = max(float(np.ceil(terms.least_order[0] / pack) * pack) if pack else float(terms.least_order[0]), pack)
    lead, deviation, review = float(terms.lead_time[0]), float(terms.lead_time_sd[0]), int(terms.review[0])
    for path in paths:
        above = rng.random() * quantity
        left = point + (np.floor(above) if whole else above)
        shape = (lead / deviation) ** 2 if deviation > 0 and lead > 0 else 0.0
        arrives = int(np.rint(rng.gamma(shape, lead / shape) if shape else lead))
        missed = 0.0
        for day in range(min(arrives + review, len(path))):
            sold = min(float(path[day]), max(left, 0.0))
            left -= float(path[day])
            if day >= arrives:
                met, wanted, missed = met + sold, wanted + float(path[day]), missed + float(path[day]) - sold
        good += missed <= 1e-9
    return good / len(paths), met / wanted if wanted else 1.0


def told(what: str, reached: list[tuple[str, str, float, float]]) -> list[Figure]:
    """The mean of service reached less service asked for, in points."""
    frame = pd.DataFrame(reached, columns=pd.Index(["service", "kind", "asked", "got"]))
    figures = list[Figure]()
    for service, rows in frame.groupby("service"):
        steady = rows.loc[rows["kind"] != SHIFTED]
        for kind, some in [("all", rows), ("all but shifted", steady), *rows.groupby("kind")]:
            words = (
                f"{what}, {service}, {kind}: {len(some)} series, asked {some['asked'].mean():.3f}, reached less asked"
            )
            goal = "−2 to 2" if kind == "all but shifted" else ""
            figures.append(Figure(words, 100 * float((some["got"] - some["asked"]).mean()), "points", goal))
    return figures


def main() -> None:
    """Print service reached less service asked for."""
    parser = flags(__doc__ or "", "40 series, 20 draws")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--series", type=int, default=100)
    parser.add_argument("--days", type=int, default=730)
    parser.add_argument("--draws", type=int, default=100)
    given = parser.parse_args()
    series, draws = (40, 20) if given.small else (given.series, given.draws)
    every = list[tuple[str, str, float, float]]()
    figures = list[Figure]()
    for seed in given.seeds[:1] if given.small else given.seeds:
        found = measured(seed, series, given.days, draws)
        every += found
        figures += told(f"seed {seed}", found)
    show([*figures, *told("all", every)], machine(), as_json=given.json)


if __name__ == "__main__":
    main()
