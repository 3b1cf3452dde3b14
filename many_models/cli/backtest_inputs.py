"""What `many-models backtest` is given: a Parquet table, and forecasters of the user's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from many_models.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd

    from many_models.forecasting.spec import Custom


def custom_of(text: str) -> Custom:
    """The forecaster that an option `NAME=MODULE:ATTRIBUTE {"option": 1}` names; `pooled:NAME=…` is one for all series
    at once. Raises SettingsError.
    """
    from many_models.forecasting.spec import Custom

    name, _, rest = text.partition("=")
    use, _, options = rest.strip().partition(" ")
    name, pooled = name.strip().removeprefix("pooled:"), name.strip().startswith("pooled:")
    return Custom(name, use, options.strip() or "{}", 600.0 if pooled else 10.0, pooled=pooled)


def columns_of(options: Mapping[str, Any]) -> list[str]:
    """The columns that the options name."""
    names = [*options["keys"], options["timestamp"], options["target"], *options["known"]]
    stock = [options[name] for name in ("available", "sold_out") if options[name]]
    return [*names, *stock, *options["attributes"]]


def read_parquet(path: Path, columns: list[str]) -> pd.DataFrame:
    """These columns of a Parquet file. Raises InputError that names what is missing."""
    import pandas as pd
    import pyarrow.parquet as pq
    from pyarrow import ArrowInvalid

    try:
        there = pq.read_schema(path).names
    except ArrowInvalid as error:
        raise InputError(f"{path} is not a Parquet file: {error}") from error
    if missing := [name for name in columns if name not in there]:
        raise InputError(f"{path} has no column {', '.join(map(repr, missing))}; it has {', '.join(map(repr, there))}")
    return pd.read_parquet(path, columns=list(dict.fromkeys(columns)))
