"""The way the reference architecture trains: Spark's applyInPandas, a HistGradientBoosting per series with four fits,
then `mlflow.sklearn.log_model` for each model.
"""

from __future__ import annotations

import os
import pickle
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

HORIZON, WINDOWS = 28, 3


def train_one(rows: pd.DataFrame) -> pd.DataFrame:
    """One series (store, item, date, sales) as people write it: features in pandas, four fits."""
    import numpy as np
    import pandas as pd
    from sklearn.ensemble import HistGradientBoostingRegressor

    frame = rows.sort_values("date")
    y = frame["sales"].astype(float)
    date = pd.to_datetime(frame["date"])
    features = pd.DataFrame({"weekday": date.dt.weekday, "month": date.dt.month, "day": date.dt.day})
    for lag in (28, 35, 42, 56, 364):
        features[f"lag{lag}"] = y.shift(lag)
    for window in (7, 28, 91):
        features[f"mean{window}"] = y.shift(HORIZON).rolling(window).mean()
    features = features.loc[:, features[: len(y) - WINDOWS * HORIZON].notna().any()]  # scikit-learn refuses empty ones
    error = size = 0.0
    for window in range(WINDOWS, 0, -1):
        end = len(y) - window * HORIZON
        model = HistGradientBoostingRegressor().fit(features[:end], y[:end])
        ahead = slice(end, end + HORIZON)
        error += float(np.abs(model.predict(features[ahead]) - y[ahead]).sum())
        size += float(np.abs(y[ahead]).sum())
    model = HistGradientBoostingRegressor().fit(features, y)
    found = {"store": rows["store"].iloc[0], "item": rows["item"].iloc[0], "wape": error / max(size, 1e-9)}
    return pd.DataFrame([found | {"model": pickle.dumps(model)}])


def train(rows: pd.DataFrame) -> tuple[float, list[bytes]]:
    """Seconds that Spark takes to train every series of `rows` on this machine's cores, and the pickled models.

    The session, its Python workers and their imports are there before the clock starts.
    """
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    os.environ["OMP_NUM_THREADS"] = "1"  # with more, fits on a full machine take several times as long
    cores = len(os.sched_getaffinity(0))
    spark = (
        SparkSession.Builder()
        .master(f"local[{cores}]")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", str(cores))
        .config("spark.sql.adaptive.enabled", "false")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    try:
        schema = "store string, item string, wape double, model binary"
        names = rows[["store", "item"]].drop_duplicates()
        warm = rows.merge(names.head(cores), on=["store", "item"])
        spark.createDataFrame(warm).groupBy("store", "item").applyInPandas(train_one, schema).collect()
        table = spark.createDataFrame(rows).cache()
        table.count()
        began = time.perf_counter()
        found = table.groupBy("store", "item").applyInPandas(train_one, schema).collect()
        return time.perf_counter() - began, [row["model"] for row in found]
    finally:
        spark.stop()


def log(models: list[bytes], folder: Path, *, pinned: bool) -> float:
    """Seconds to register `models` one by one in MLflow on SQLite, requirements inferred (the default) or `pinned`."""
    import mlflow
    from mlflow.sklearn import log_model

    requirements = ["scikit-learn", "numpy"] if pinned else None
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder}/usual.db")
    try:
        mlflow.create_experiment(f"pinned-{pinned}", artifact_location=(folder / f"usual-{pinned}").as_uri())
        mlflow.set_experiment(f"pinned-{pinned}")
        taken: list[float] = []
        for number, content in enumerate([models[0], *models]):
            model = pickle.loads(content)
            began = time.perf_counter()
            with mlflow.start_run():
                log_model(
                    model,
                    name="model",
                    registered_model_name=f"series-{pinned}-{number}",
                    pip_requirements=requirements,
                    serialization_format="cloudpickle",
                )
            taken.append(time.perf_counter() - began)
        return sum(taken[1:])
    finally:
        mlflow.set_tracking_uri(before)
