"""The compiled loop that minimises a quadratic form over weights that sum to 1."""

# ruff: noqa: C901, PLR0912 - compiled loops over one series: a call inside costs more than a branch
from __future__ import annotations

import math

import numpy as np

from many_models.forecasting.kernels import compiled

SETTLE, SETTLED = 25, 1e-3  # rounds; a weight that moves less over that many ends the search
ROUNDS = 300


@compiled
def project(v, u, w):
    """`w` = `v` projected on the simplex (Duchi et al. 2008); `u` is room for a sorted copy."""
    n = v.size
    for i in range(n):
        k = i
        while k > 0 and u[k - 1] < v[i]:
            u[k] = u[k - 1]
            k -= 1
        u[k] = v[i]
    total, theta = -1.0, 0.0
    for i in range(n):
        total += u[i]
        if u[i] - total / (i + 1.0) > 0.0:
            theta = total / (i + 1.0)
    for i in range(n):
        w[i] = max(v[i] - theta, 0.0)


@compiled
def minimise(M, start, found):
    """`found` (series × n) = argmin w'Mw of each series' M (series × n × n) over w ≥ 0 that sum to 1, from `start`.

    Accelerated projected gradient with each matrix' largest row sum as its Lipschitz bound, begun again where it moves
    back (O'Donoghue & Candès 2015). A series is done when SETTLE rounds have moved no weight of it by more than
    SETTLED.
    """
    n = start.shape[1]
    ahead, slope, u, w, new, kept = np.empty(n), np.empty(n), np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    for s in range(start.shape[0]):
        most = 1e-12
        for i in range(n):
            row = 0.0
            for j in range(n):
                row += abs(M[s, i, j])
            most = max(most, row)
            w[i] = ahead[i] = kept[i] = start[s, i]
        momentum = 1.0
        for number in range(ROUNDS):
            if number % SETTLE == 0 and number > 0:
                moved = 0.0
                for i in range(n):
                    moved = max(moved, abs(w[i] - kept[i]))
                    kept[i] = w[i]
                if moved <= SETTLED:
                    break
            for i in range(n):
                gradient = 0.0
                for j in range(n):
                    gradient += M[s, i, j] * ahead[j]
                slope[i] = ahead[i] - gradient / most
            project(slope, u, new)
            backwards = 0.0
            for i in range(n):
                backwards += (ahead[i] - new[i]) * (new[i] - w[i])
            if backwards > 0.0:
                momentum = 1.0
            following = 0.5 * (1.0 + math.sqrt(1.0 + 4.0 * momentum * momentum))
            for i in range(n):
                ahead[i] = new[i] + (momentum - 1.0) / following * (new[i] - w[i])
                w[i] = new[i]
            momentum = following
        for i in range(n):
            found[s, i] = w[i]
