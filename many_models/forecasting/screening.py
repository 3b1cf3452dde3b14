"""Which series may teach the others: `reasons_not_to_learn_from`. A series that is left out is still forecast itself.

One odd series must not change what all others get. So what is odd is judged from each series alone, from medians over
series, which no single one of them moves far, and from how rare it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from many_models.forecasting.pack import mm_pack_v1 as loader

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from many_models.forecasting.panel import Panel

DECADES = 4.0  # powers of ten that a series' mean may be away from the median series', at least
SPREADS = 6.0  # the same in robust standard deviations, where series differ more than that among themselves
SPIKE = 300.0  # times the mean of its sales that one period may sell
BREAK = 100.0  # times its lowest level that the highest level of a series may be
LATE = 0.1  # share of the median series' history that one may lack and still teach as the others do
RARE = 0.2  # share of series up to which late ones are left out: where many begin late, they teach, too
PARTS = 8  # of a history, whose means are its levels


def reasons_not_to_learn_from(panel: Panel, least: int) -> list[str]:
    """Why a series of `panel` teaches others nothing, "" for one that does; `least` observations are needed."""
    reasons: list[str] = []
    sizes = np.full(len(panel.series), np.nan)
    for i in range(len(panel.series)):
        y = panel.y[i][panel.code[i] == loader.OBSERVED]
        reason = _own_reason(np.abs(y), least)
        if not reason:
            sizes[i] = np.log10(np.abs(y).mean())
        reasons.append(reason)
    usual = panel.periods - float(np.median(panel.first)) if reasons else 0.0
    late = [i for i in range(len(reasons)) if not reasons[i] and panel.periods - panel.first[i] < (1 - LATE) * usual]
    if len(late) <= RARE * len(reasons):
        for i in late:
            reasons[i] = f"it began {int(panel.first[i] - np.median(panel.first))} periods after most others"
            sizes[i] = np.nan
    known = sizes[np.isfinite(sizes)]
    if not len(known):
        return reasons
    center = float(np.median(known))
    allowed = max(DECADES, SPREADS * 1.4826 * float(np.median(np.abs(known - center))))
    for i in np.flatnonzero(np.abs(sizes - center) > allowed):
        reasons[i] = f"its mean is {10 ** (sizes[i] - center):.3g} times the median series'"
    return reasons


def _own_reason(size: NDArray[np.float64], least: int) -> str:
    """Why one series, by the sizes of its observations, teaches nothing."""
    if len(size) < least:
        return f"{len(size)} observations, needed {least}"
    if (size == size[0]).all():
        return "constant" if size[0] else "never sold"
    sold = np.sort(size[size > 0])
    if len(sold) > 1 and sold[-1] > SPIKE * sold[:-1].mean():
        return f"one period sells {sold[-1]:.3g}, the others {sold[:-1].mean():.3g} on average"
    levels = np.array([part.mean() for part in np.array_split(size, PARTS) if len(part)])
    levels = levels[levels > 0]
    if len(sold) > 2 * PARTS and levels.max() > BREAK * levels.min():
        return f"its level goes from {levels.min():.3g} to {levels.max():.3g}"
    return ""
