"""All local candidates of every series of a panel, at every origin, in one pass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from many_models.forecasting import mm_pack_v1 as pack
from many_models.forecasting.spec import rhythm

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from many_models.forecasting.panel import Layout, Panel
    from many_models.forecasting.spec import Spec


@dataclass
class Fits:
    """What the pass leaves: forecasts F (series × origins × candidates × horizon), and of the last origin the model."""

    F: NDArray[np.float64]
    coef: NDArray[np.float64]
    smear: NDArray[np.float64]
    state: NDArray[np.float64]
    own: NDArray[np.float64]
    origins: NDArray[np.int64]


def default_prior(nc: int, k: int) -> NDArray[np.float64]:
    """Coefficients (3 × features) to believe in before data: recent level plus season."""
    prior = np.zeros((3, pack.width(nc, k)))
    prior[:, nc + 1 : nc + 5] = (0.5, 0.9, 1.0, 1.0)
    prior[:, nc + 7] = 1.0
    return prior


def training_steps(number: int, periods: int, horizon: int) -> NDArray[np.int64]:
    """Which step ahead each period trains: all in turn, by absolute time, so that panels that begin elsewhere agree."""
    stride = next(s for s in (11, 7, 5, 3, 1) if math.gcd(s, horizon) == 1)
    return 1 + ((number + np.arange(periods)) * stride) % horizon


def own_numbers(y: NDArray[np.float64], code: NDArray[np.int8], spec: Spec, first: int, learned: int) -> NDArray[np.float64]:
    """The vector `own` of a series from its observations up to place `learned` (later ones if there are none)."""
    own = np.zeros(pack.OWN_SIZE)
    seen = y[first : learned + 1][code[first : learned + 1] == pack.OBSERVED]
    if not len(seen):
        seen = y[code == pack.OBSERVED][:1]
    mean = float(np.abs(seen).mean()) if len(seen) else 0.0
    own[pack.UNIT] = mean if mean > 0 else 1.0
    whole = bool((seen == np.round(seen)).all())
    own[pack.LOG_UNIT] = 1.0 if whole else max(0.1 * own[pack.UNIT], 1e-12)
    own[pack.ADDITIVE] = float((seen < 0).any())
    own[pack.NONNEGATIVE] = float(spec.nonnegative)
    return own


def fit_panel(
    panel: Panel, layout: Layout, spec: Spec, origins: NDArray[np.int64],
    prior: NDArray[np.float64] | None = None, strength: tuple[float, float, float] = (10.0, 10.0, 10.0),
) -> Fits:  # fmt: skip
    """Fit every series of `panel` at `origins` (ascending places; the last one is the final fit)."""
    from threadpoolctl import threadpool_limits

    from many_models.forecasting.kernels import fit_series

    conf = layout.conf()
    C, hol, ph = layout.calendar(panel.ds)
    nc, k, m, H = C.shape[1], layout.columns, layout.season, spec.horizon
    n, p = len(panel.series), pack.width(C.shape[1], layout.columns)
    prior = default_prior(nc, k) if prior is None else prior
    fits = Fits(
        np.zeros((n, len(origins), len(pack.CANDIDATES), H)), np.full((n, 3, p), np.nan), np.ones((n, 3)),
        np.zeros((n, pack.state_size(m, k, layout.slots))), np.zeros((n, pack.OWN_SIZE)), origins,
    )  # fmt: skip
    steps = training_steps(panel.number, len(panel.ds), H)
    beat = rhythm(layout.frequency)
    recent = int({"D": 1100, "h": 2200}.get(beat.unit, 100000))
    with threadpool_limits(1):
        for i in range(n):
            learned = max(int(origins[0]), min(int(panel.first[i]) + 14, int(origins[-1])))
            own = own_numbers(panel.y[i], panel.code[i], spec, int(panel.first[i]), learned)
            mine = origins[origins >= panel.first[i]]
            F = fits.F[i, len(origins) - len(mine) :]
            if len(mine):
                fit_series(
                    panel.y[i], panel.code[i], ph, hol, C, panel.x[i], panel.encoding.binary[i], steps, int(panel.first[i]),
                    mine, conf, own, prior, np.array(strength), recent, beat.decay, F, fits.coef[i], fits.smear[i], fits.state[i],
                )  # fmt: skip
            fits.own[i] = own
    return fits
