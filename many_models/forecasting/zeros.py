"""What a zero is: compiled loops that tell closed periods and stock-outs from periods without demand."""

from __future__ import annotations

import math

import numpy as np

from many_models.forecasting import kernels
from many_models.forecasting.kernels import compiled
from many_models.forecasting.pack import mm_pack_v1 as pack

advance, is_closed = kernels.pack.advance, kernels.pack.is_closed


@compiled
def classify(y, code, ph, hol, x, binary, first, conf, own, longest, S):
    """Mark in `code` the zeros of closed periods and of stock-outs, each judged by nothing later than itself.

    A zero is closed where `is_closed` says so. A run of zeros is a stock-out from the period on at which that many in a
    row are implausible (chance below 1e-4 at the share of sold periods before the run), for at most `longest` periods.
    Periods before the first sale teach nothing of those after it.
    """
    m = int(conf[pack.SEASON])
    S[:] = 0.0
    run = 0
    share = 0.0
    opened = False
    for t in range(first, y.size):
        if not opened and code[t] == pack.OBSERVED and y[t] != 0.0:
            opened = True
            run = 0
            S[:] = 0.0
        if code[t] == pack.OBSERVED and y[t] == 0.0:
            if is_closed(S, ph[t], hol[t], x[t], binary, conf):
                code[t] = pack.CLOSED
            else:
                if run == 0:
                    share = S[2 * (4 + m)] if S[S.size - 1] >= 14.0 else 0.0
                run += 1
                if 2 <= run <= longest and -run * math.log(1.0 - share + 1e-3) > 9.2:
                    code[t] = pack.STOCK_OUT
        elif code[t] == pack.OBSERVED:
            run = 0
        advance(S, y[t], code[t], ph[t], hol[t], x[t], binary, conf, own)


@compiled
def alike_before(labels, order, closed, sold, weight, own, bounds, found):
    """Mark in `found` (readings × days) the days that a reading may find closed by the earlier days of the same label.

    `labels` and `order` as in `closures.Readings`; of each day whether it `closed` or `sold` (1 or 0), the `weight` of
    its run, and its `own` one. `bounds`: how many of the earlier days closed at least, which share of those that are
    known, how many may be unknown, and what the weights come to.
    """
    least, share, unknown, implausible = bounds
    for r in range(labels.shape[0]):
        label, ran, open_, heavy = np.int64(-1), 0.0, 0.0, 0.0
        for k in range(labels.shape[1]):
            day = order[r, k]
            if labels[r, day] != label:
                label, ran, open_, heavy = labels[r, day], 0.0, 0.0, 0.0
            found[r, day] = (
                label >= 0
                and ran >= least
                and ran >= share * (ran + open_ - unknown)
                and heavy + own[day] > implausible
            )
            ran += closed[day]
            open_ += sold[day]
            heavy += weight[day]
