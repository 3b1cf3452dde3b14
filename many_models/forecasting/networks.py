"""Small neural networks over the rows of all series: what boosted trees see, as smooth functions.

They err differently from trees, and a mean of both errs less than either. Each is two layers of rectified linear
neurons on top of the series' recent level, for counts (Poisson); their mean is what counts. They are trained by
stochastic gradients (Adam, Kingma & Ba 2015, with decoupled decay of weights, Loshchilov & Hutter 2019).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from many_models.forecasting.pack import mm_pack_v1 as loader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from many_models.forecasting.trees import TreeRows

BATCH = 1_024  # rows of a step
PASSES = 24  # times that steps meet each row, where these are not more than
MOST_STEPS = 3_000
RATE, WARM = 0.004, 100  # the rate at which weights move: it rises for so many steps, then falls along a cosine to zero
DECAY = 0.01
FURTHEST = 1_000.0  # of the mean row's sales: what one row may be away from its forecast at most
MOST = 20.0  # what networks say at most while they learn, as a logarithm: a step that goes astray comes back
TAIL = 0.005  # share of rows at each end that do not say what is usual of a feature
SEEN = 50_000  # rows that say so
SEED = 7


@dataclass
class Networks:
    """Weights of all networks: of features (features × neurons of all), of both layers, and of the sum."""

    parts: list[NDArray[np.float32]]

    @classmethod
    def drawn(cls, features: int, rng: np.random.Generator) -> Networks:
        """Weights as drawn at the beginning (He et al. 2015), and a sum that says little yet."""
        k, a, b = loader.NETWORKS, loader.WIDE, loader.NARROW
        sizes = ((features, k * a), (k * a,), (k, a, b), (k, 1, b), (k, b, 1), (k, 1, 1))
        spread = (math.sqrt(2.0 / features), 0.0, math.sqrt(2.0 / a), 0.0, 0.1 / math.sqrt(b), 0.0)
        drawn = [rng.standard_normal(size, np.float32) * np.float32(s) for size, s in zip(sizes, spread, strict=True)]
        return cls(drawn)

    def gradients(
        self, z: NDArray[np.float32], y: NDArray[np.float32], base: NDArray[np.float32], weight: NDArray[np.float32]
    ) -> list[NDArray[np.float32]]:
        """Gradients of the deviance of the rows `z` (rows × features), a list like `parts`."""
        first, start, second, middle, last, end = self.parts
        n, k, a = len(z), loader.NETWORKS, loader.WIDE
        wide = np.maximum(z @ first + start, 0.0)
        each = np.ascontiguousarray(wide.reshape(n, k, a).swapaxes(0, 1))
        narrow = np.maximum(each @ second + middle, 0.0)
        said = (narrow @ last + end)[:, :, 0]
        miss = np.clip((np.exp(base + np.clip(said, -MOST, MOST)) - y) * weight, -FURTHEST, FURTHEST)
        miss = miss[:, :, None] / np.float32(n)
        to_narrow = (miss @ last.swapaxes(1, 2)) * (narrow > 0)
        to_wide = ((to_narrow @ second.swapaxes(1, 2)) * (each > 0)).swapaxes(0, 1).reshape(n, k * a)
        return [
            z.T @ to_wide, to_wide.sum(0), each.swapaxes(1, 2) @ to_narrow, to_narrow.sum(1, keepdims=True),
            narrow.swapaxes(1, 2) @ miss, miss.sum(1, keepdims=True),
        ]  # fmt: skip

    def stored(self, usual: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Inputs and layers as packs hold them, see `loader.networks_of`."""
        first, start, second, middle, last, end = self.parts
        k = loader.NETWORKS
        layers = [start.reshape(k, -1), second.reshape(k, -1), middle[:, 0], last[:, :, 0], end[:, 0]]
        return np.concatenate([usual, first.T]), np.concatenate(layers, 1)


def learn_networks(rows: TreeRows) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Networks on top of the recent level of `rows`: inputs (2 + neurons × features) and layers, as packs hold them."""
    X, y, _, level, weight = rows
    usual = usual_of(X)
    z = np.where(np.abs(X) < loader.UNKNOWN, (X - usual[0]) * usual[1], np.float32(0.0))
    z = np.clip(z, -loader.UNUSUAL, loader.UNUSUAL).astype(np.float32)
    weight = weight / max(float((np.exp(level) * weight).mean()), 1e-300)  # the unit of sales must not matter
    networks = _trained(z, *(part.astype(np.float32) for part in (y, level, weight)))
    return networks.stored(usual)


def usual_of(X: NDArray[np.float32]) -> NDArray[np.float32]:
    """Centre of each feature, and the inverse of its deviation, 0 where it does not vary. The rows at both ends do not
    count: one odd series must not say what is usual.
    """
    result = np.zeros((2, X.shape[1]), np.float32)
    X = X[:: max(1, len(X) // SEEN)]
    for j in range(X.shape[1]):
        known = X[:, j][np.abs(X[:, j]) < loader.UNKNOWN].astype(np.float64)
        if not len(known):
            continue
        inner = np.clip(known, *np.quantile(known, (TAIL, 1.0 - TAIL)))
        spread = float(inner.std()) or float(known.std())
        result[0, j] = inner.mean()
        result[1, j] = 1.0 / spread if spread > 1e-6 * max(abs(float(inner.mean())), 1e-6) else 0.0
    return result


def _trained(
    z: NDArray[np.float32], y: NDArray[np.float32], base: NDArray[np.float32], weight: NDArray[np.float32]
) -> Networks:
    """Networks after all steps, each on BATCH rows drawn without replacement."""
    rng = np.random.default_rng(SEED)
    networks = Networks.drawn(z.shape[1], rng)
    first, second = ([np.zeros_like(part) for part in networks.parts] for _ in range(2))
    order = np.zeros(0, np.int64)
    for step, rate in enumerate(_rates(len(z)), 1):
        order = order if len(order) >= BATCH else rng.permutation(len(z))
        chosen, order = order[:BATCH], order[BATCH:]
        moved = networks.gradients(z[chosen], y[chosen], base[chosen], weight[chosen])
        for part, g, m, s in zip(networks.parts, moved, first, second, strict=True):
            np.add(m, 0.1 * (g - m), out=m)
            np.add(s, 0.001 * (g * g - s), out=s)
            step_of = m / (1.0 - 0.9**step) / (np.sqrt(s / (1.0 - 0.999**step)) + 1e-8)
            if part.ndim > 1 and part.shape[-2] > 1:  # weights, and not what neurons add to them
                step_of += DECAY * part
            np.subtract(part, rate * step_of, out=part)
    return networks


def _rates(rows: int) -> Sequence[float]:
    steps = min(PASSES * max(rows // BATCH, 1), MOST_STEPS)
    return [RATE * min(1.0, k / WARM) * 0.5 * (1.0 + math.cos(math.pi * k / steps)) for k in range(1, steps + 1)]
