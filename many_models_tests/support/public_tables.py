"""Public tables of real sales. They are not in the repository: MANY_MODELS_TEST_DATA names the folder that has them.

Tests that need them carry the mark `public_tables`; without the folder, conftest.py leaves these tests out and says so.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

VARIABLE = "MANY_MODELS_TEST_DATA"


def folder() -> Path:
    """The folder of public tables. Raises KeyError where the variable is not set."""
    return Path(os.environ[VARIABLE])


@dataclass(frozen=True)
class PublicSet:
    """A table in long form, and the words that `backtest` needs for it."""

    frame: pd.DataFrame
    options: dict[str, object]


def public_set(name: str) -> PublicSet:
    """The set `name`: one of three raw files, or a Parquet file with its JSON below `more`."""
    import pandas as pd

    if name in RAW:
        frame, options = RAW[name](folder())
        return PublicSet(frame, {"known": [], **options})
    spec = json.loads((folder() / "more" / f"{name}.json").read_text())
    options = {key: spec[key] for key in ("keys", "timestamp", "target", "known", "horizon")}
    options |= {"frequency": spec["freq"], "country": spec.get("country") or ""}
    return PublicSet(pd.read_parquet(folder() / "more" / f"{name}.parquet"), options)


def _store_item(raw: Path) -> tuple[pd.DataFrame, dict[str, object]]:
    import pandas as pd

    frame = pd.read_csv(raw / "store_item" / "train.csv.gz", parse_dates=["date"])
    return frame, {"keys": ["store", "item"], "timestamp": "date", "target": "sales", "frequency": "D", "horizon": 28}


def _m5_tiny(raw: Path) -> tuple[pd.DataFrame, dict[str, object]]:
    """Series begin at their first sale; price, food stamps and events are known."""
    import pandas as pd

    frame = pd.read_parquet(raw / "m5_tiny" / "tiny_m5.parquet")
    frame = frame.sort_values(["store_id", "item_id", "date"], kind="stable")
    frame = frame[frame.groupby(["store_id", "item_id"])["value"].cumsum() > 0]
    event = (frame["event_name_1"].fillna("") != "") | (frame["event_name_2"].fillna("") != "")
    frame = frame.assign(date=pd.to_datetime(frame["date"]), event=event.astype("int8"))
    frame = frame.astype({"sell_price": "float32", "snap": "int8"})
    return frame[["store_id", "item_id", "date", "value", "sell_price", "snap", "event"]], {
        "keys": ["store_id", "item_id"],
        "timestamp": "date",
        "target": "value",
        "known": ["sell_price", "snap", "event"],
        "frequency": "D",
        "horizon": 28,
    }


def _carparts(raw: Path) -> tuple[pd.DataFrame, dict[str, object]]:
    import pandas as pd

    frame = pd.read_parquet(raw / "carparts" / "carparts_long.parquet")
    return frame, {"keys": ["unique_id"], "timestamp": "ds", "target": "y", "frequency": "MS", "horizon": 6}


RAW: dict[str, Callable[[Path], tuple[pd.DataFrame, dict[str, object]]]] = {
    "store_item": _store_item,
    "m5_tiny": _m5_tiny,
    "carparts": _carparts,
}
