"""What a zero is: the compiled loop that tells closed periods and stock-outs from periods without demand."""

from __future__ import annotations

import math

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
