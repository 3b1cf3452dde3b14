"""The pure forecasting core: tables in, tables and arrays out; no I/O, no orchestrator.

`prepare` makes regular histories of raw rows, `train` backtests and fits them, `PackModel` forecasts from arrays,
`backtest` measures any table.
"""

from __future__ import annotations

from many_models.forecasting.backtest import BacktestReport, backtest
from many_models.forecasting.datasets import ExistingHistory, Prepared, prepare
from many_models.forecasting.pack.model import PackModel
from many_models.forecasting.pooling import PooledModels, pool
from many_models.forecasting.spec import Prior, Spec
from many_models.forecasting.train import Trained, train

__all__ = [
    "BacktestReport",
    "ExistingHistory",
    "PackModel",
    "PooledModels",
    "Prepared",
    "Prior",
    "Spec",
    "Trained",
    "backtest",
    "pool",
    "prepare",
    "train",
]
