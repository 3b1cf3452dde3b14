"""Reading one item's history with times in UTC against the same with zone-less times, as tables were written before.
`python -m benchmarks.lake_times [--small] [--json]`.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
from deltalake import write_deltalake

from benchmarks._report import Figure, flags, machine, show
from many_models.adapters.lake.delta import DeltaLake
from many_models.ports import Filter

START = datetime(2022, 1, 1)
ITEM = Filter(among={"pack": ["p3"], "series_id": ["p3_s7"]})
SINCE = Filter(among={"pack": ["p3"], "series_id": ["p3_s7"]}, since=datetime(2023, 6, 1), before=datetime(2023, 7, 1))


def histories(packs: int, series: int, days: int) -> pa.Table:
    """Daily rows of `series` in each of `packs`."""
    moments = [START + timedelta(days=at) for at in range(days)]
    names = [(f"p{pack}", f"p{pack}_s{at}") for pack in range(packs) for at in range(series)]
    return pa.table(
        {
            "pack": [pack for pack, _ in names for _ in moments],
            "series_id": [name for _, name in names for _ in moments],
            "ds": pa.array(moments * len(names), pa.timestamp("us")),
            "y": [float(at) for at in range(len(names) * days)],
        }
    )


def measure(*, small: bool) -> list[Figure]:
    """Seconds of a read in each of the two lakes, the reads of both taken in turn."""
    rows = histories(4 if small else 20, 20 if small else 100, 730)
    with tempfile.TemporaryDirectory() as folder:
        before, now = Path(folder, "before"), Path(folder, "now")
        write_deltalake(str(before / "t"), rows, partition_by=["pack"])
        DeltaLake(now).replace("t", rows, Filter(), ("pack",))
        lakes = {"before": DeltaLake(before), "now": DeltaLake(now)}
        figures: list[Figure] = []
        for what, where in (("one item's history", ITEM), ("a month of it", SINCE)):
            assert lakes["now"].read("t", where).equals(lakes["before"].read("t", where))
            ratios: list[float] = []
            for _ in range(20 if small else 101):
                seconds: dict[str, float] = {}
                for name, lake in lakes.items():
                    began = time.perf_counter()
                    lake.read("t", where)
                    seconds[name] = time.perf_counter() - began
                ratios.append(seconds["now"] / seconds["before"])
                lakes = dict(reversed(lakes.items()))
            figures.append(
                Figure(f"{what}, UTC against zone-less times", statistics.median(ratios), "times", "at most 1.05")
            )
    return figures


def main() -> None:
    """Measures, and prints a table or JSON."""
    options = flags(__doc__ or "", "80 series instead of 2,000").parse_args()
    show(measure(small=options.small), machine("deltalake"), as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
