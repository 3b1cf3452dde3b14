"""What is known of a series from elsewhere: the level of its item or store, which one odd series does not move far."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from many_models.forecasting.spec import Prior

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

LARGEST = 10.0  # times the usual level of a group that one of its series may count
SMALL = 50  # series in a group up to which each is left out exactly


def priors_from(
    levels: Mapping[str, float], parts: Mapping[str, Sequence[str]], keys: Sequence[str]
) -> dict[str, Prior]:
    """The prior of each series of `levels` (mean per period): that of the others of its last key (its item), else of
    its first key (its store).

    A group's level is the mean of its series, each cut at LARGEST times their median, so that an item that is sold by
    weight in millions makes no new item sell millions.
    """
    names = sorted(levels)
    values = np.array([levels[name] for name in names], np.float64)
    priors = dict[str, Prior]()
    for index in (0, -1):  # the item's, where there is one, wins over the store's
        groups = dict[str, list[int]]()
        for at, name in enumerate(names):
            groups.setdefault(parts[name][index], []).append(at)
        for members in groups.values():
            if len(members) < 2:
                continue
            for at, level in zip(members, _of_others(values[members]), strict=True):
                priors[names[at]] = Prior(float(level), keys[index])
    return priors


def _of_others(levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each of `levels` the robust mean of all others."""
    n = len(levels)
    if n <= SMALL:
        return np.array([_robust_mean(np.delete(levels, at)) for at in range(n)])
    cut = np.minimum(levels, LARGEST * _usual(levels))
    return (cut.sum() - cut) / (n - 1)


def _robust_mean(levels: NDArray[np.float64]) -> float:
    return float(np.minimum(levels, LARGEST * _usual(levels)).mean())


def _usual(levels: NDArray[np.float64]) -> float:
    """The lower median of the levels above zero; without any, no bound."""
    sold = np.sort(levels[levels > 0])
    return float(sold[(len(sold) - 1) // 2]) if len(sold) else np.inf
