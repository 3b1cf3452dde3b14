"""What peers make of the same series, and the plot: run by benchmarks.forecasting in an environment of the peers' own.

`python _forecasting_peers.py fit PANEL.npz HORIZON` prints one JSON object and writes forecasts beside the panel;
`python _forecasting_peers.py plot FIGURES.json OUT.png` draws what was measured.
"""

# pyright: reportMissingImports=false, reportMissingTypeStubs=false
from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

ETS_DAYS = 728


def by_ets(y: NDArray[np.float64], horizon: int) -> NDArray[np.float64]:
    """AutoETS on the last ETS_DAYS days of each series before the forecast."""
    from statsforecast.models import AutoETS

    model = AutoETS(season_length=7)
    past = y[:, -ETS_DAYS - horizon : -horizon]
    return np.array([model.forecast(y=series, h=horizon)["mean"] for series in past])


def features(
    y: NDArray[np.float64], price: NDArray[np.float64], promo: NDArray[np.int8], days: NDArray[np.datetime64], back: int
) -> NDArray[np.float64]:
    """Calendar, price, promotion, and means and lags of sales that are known `back` days before."""
    import pandas as pd

    doy = (days - days.astype("datetime64[Y]").astype("datetime64[D]")).astype(int)
    known, log = pd.Series(y).shift(back), pd.Series(np.log(price))
    columns = [(days.astype("datetime64[D]").astype(int) + 3) % 7, doy, log, promo, log.rolling(60, 1).mean()]
    columns += [known.rolling(k, 1).mean() for k in (7, 28, 91, 364)]
    columns += [pd.Series(y).shift(7 * k) for k in (4, 5, 6, 52)]
    return np.column_stack(columns).astype(float)


def by_boosting(data: dict[str, NDArray[np.float64]], horizon: int) -> NDArray[np.float64]:
    """scikit-learn's HistGradientBoosting on each series' own rows."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    y, days, result = data["y"], data["days"].astype("datetime64[D]"), np.zeros((len(data["y"]), horizon))
    first = min(400, y.shape[1] // 3)
    for i in range(len(y)):
        X = features(y[i], data["price"][i], data["promo"][i].astype(np.int8), days, horizon)  # noqa: N806
        model = HistGradientBoostingRegressor(loss="poisson", random_state=0)
        result[i] = model.fit(X[first:-horizon], y[i, first:-horizon]).predict(X[-horizon:])
    return result


def by_mlforecast(data: dict[str, NDArray[np.float64]], horizon: int) -> NDArray[np.float64]:
    """One LightGBM over all series, by mlforecast."""
    import lightgbm
    import pandas as pd
    from mlforecast import MLForecast
    from mlforecast.lag_transforms import RollingMean

    n, periods = data["y"].shape
    frame = pd.DataFrame({
        "unique_id": np.repeat([f"s{i:05d}" for i in range(n)], periods),
        "ds": np.tile(data["days"].astype("datetime64[ns]"), n), "y": data["y"].ravel(),
        "price": data["price"].ravel(), "promo": data["promo"].ravel(),
    })  # fmt: skip
    late = frame["ds"] > data["days"][-horizon - 1].astype("datetime64[ns]")
    model = MLForecast(
        models={"lgb": lightgbm.LGBMRegressor(n_estimators=300, objective="poisson", num_threads=1, verbosity=-1)},
        freq="D", lags=[7, 14, 28, 364], lag_transforms={7: [RollingMean(7), RollingMean(28), RollingMean(91)]},
        date_features=["dayofweek", "dayofyear"],
    )  # fmt: skip
    model.fit(frame[~late], static_features=[])
    found = model.predict(horizon, X_df=frame[late].drop(columns="y"))
    return found["lgb"].to_numpy().reshape(n, horizon)


def fit(panel: str, horizon: int) -> None:
    """Forecasts of each peer into PANEL.forecasts.npz; WAPE and ms of CPU per series on stdout."""
    warnings.filterwarnings("ignore")
    with np.load(panel) as file:
        data = {name: file[name] for name in file.files}
    y = data["y"]
    by_ets(y[:1], horizon)  # compiled before the clock runs
    result: dict[str, dict[str, float]] = {}
    forecasts: dict[str, NDArray[np.float64]] = {}
    peers = {
        "AutoETS on 728 days": lambda: by_ets(y, horizon), "mlforecast, LightGBM": lambda: by_mlforecast(data, horizon),
        "HistGradientBoosting per series": lambda: by_boosting(data, horizon),
    }  # fmt: skip
    for name, run in peers.items():
        began = time.process_time()
        forecasts[name] = run()
        spent = 1000 * (time.process_time() - began) / len(y)
        wape = float(np.abs(forecasts[name] - y[:, -horizon:]).sum() / y[:, -horizon:].sum())
        result[name] = {"wape": wape, "ms": spent}
    print(json.dumps(result))


def plot(figures: str, out: str) -> None:
    """Error against time per series, of every method and panel, on one page."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    panels: dict[str, dict[str, list[float]]] = json.loads(Path(figures).read_text())
    figure, axes = plt.subplots(1, len(panels), figsize=(6 * len(panels), 4.5), squeeze=False)
    for axis, (panel, methods) in zip(axes[0], panels.items(), strict=True):
        for method, (spent, wape) in methods.items():
            axis.scatter([spent], [wape], s=60, label=method)
        axis.legend(fontsize=8)
        axis.set(xscale="log", xlim=(1, 1000), title=f"{panel} panel", xlabel="ms of CPU per series", ylabel="WAPE")
        axis.grid(visible=True, alpha=0.3)
    figure.tight_layout()
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    if sys.argv[1] == "fit":
        fit(sys.argv[2], int(sys.argv[3]))
    else:
        plot(sys.argv[2], sys.argv[3])
