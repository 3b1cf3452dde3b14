"""How the benchmark of coverage counts: classes of series, and the error that cutoffs tell."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.decisions_coverage import CLASS_NAMES, SHARES, WORDS, classes, share_and_error, told
from many_models.decisions.demand_paths import Histories


def test_the_standard_error_is_that_of_cutoffs_whose_series_share_their_luck() -> None:
    """2000 backtests of 12 cutoffs with 5 to 60 series: the shares differ as much as each says."""
    rng = np.random.default_rng(1)
    means, errors = list[float](), list[float]()
    for _ in range(2000):
        luck, numbers = rng.normal(0.5, 0.1, 12), rng.integers(5, 61, 12)
        cutoffs = [
            np.repeat(rng.random((number, 1)) < chance, len(WORDS) * len(SHARES), axis=1).astype(float)
            for number, chance in zip(numbers, luck, strict=True)
        ]
        mean, error = share_and_error(cutoffs)
        means.append(mean[2, 0])
        errors.append(error[2, 0])
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(means), rel=0.1)


def test_one_cutoff_tells_no_standard_error() -> None:
    mean, error = share_and_error([np.ones((40, len(WORDS) * len(SHARES)))])
    assert (mean == 1.0).all()
    assert np.isnan(error).all()
    figures = told("x", [{(6, 0): np.zeros((40, len(WORDS) * len(SHARES)))}] * 2)
    assert [figure.unit for figure in figures] == ["± 0.000"] * len(figures)
    assert figures[-1].name == "x, sum of 6, all series (80), level 99 %"


def test_classes_are_by_the_first_sale_and_how_often_there_were_others() -> None:
    past = np.zeros((6, 40))
    past[1, -12:] = 1.0  # two horizons ago
    past[2, -13:] = 1.0
    past[3, ::8] = past[4, ::3] = past[5, ::2] = 1.0
    found = classes(Histories(past.ravel(), np.arange(0, 241, 40)), 6)
    names = ["not sold yet", "began to sell", "90 %", "less than 25 %", "25 to 60 %", "25 to 60 %"]
    assert [CLASS_NAMES[of] for of in found] == names
