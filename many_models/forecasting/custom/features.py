"""The compiled loop that makes one series the rows of features that users' scikit-learn regressors learn from."""

from __future__ import annotations

import numpy as np

from many_models.forecasting.kernels import compiled, pack
from many_models.forecasting.pack.mm_pack_v1 import CALENDAR, COVARIATES, DYNAMIC, HORIZON, OBSERVED, PLAIN, SEASON

_advance, _prefix, _recent_mean, _fill_plain = pack.advance, pack.prefix, pack.recent_mean, pack.fill_plain


@compiled
def regressor_features(  # noqa: ANN201, PLR0913, PLR0917 - a kernel takes arrays
    y, code, ph, hol, C, x, binary, steps, first, origins, conf, own, S, X, used, ahead  # noqa: ANN001
):  # fmt: skip
    """Write the features of every target to `X` (time × features) and `used`, of what follows each origin to `ahead`.

    The row of a target is at the target's place, `steps` periods after the state it is seen from; it is used where
    the target is observed and the state is warm. `ahead` is origins × horizon × features.
    """
    H = int(conf[HORIZON])
    T = origins[origins.size - 1] + 1
    p = int(conf[CALENDAR]) + DYNAMIC + 3 * int(conf[COVARIATES])
    warm = min(int(conf[SEASON]), 14)
    P = np.zeros((T + 1, 3))
    ly, two, row = np.zeros(3), np.zeros(2), np.zeros(p + PLAIN)
    S[:] = 0.0
    _prefix(y[:T], code[:T], own, P)
    f = 0
    for o in range(first, T):
        _advance(S, y[o], code[o], ph[o], hol[o], x[o], binary, conf, own)
        origin = o == origins[f]
        if not origin and o - first < warm:
            continue
        mean = _recent_mean(y, code, o, conf)
        for h in range(1, H + 1):
            t = o + h
            train = o - first >= warm and t < T and steps[t] == h and code[t] == OBSERVED
            if not (train or origin):
                continue
            _fill_plain(row, p, S, P, y, code, o, t, h, ph[t], hol[t], C[t], x[t], mean, conf, own, ly, two)
            if train:
                used[t] = True
                X[t] = row
            if origin:
                ahead[f, h - 1] = row
        if origin:
            f += 1
