"""Boosted trees over the rows of all series, as flat arrays."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, cast

import numpy as np

from many_models.forecasting.local_fit import NO_TREES
from many_models.forecasting.pack import mm_pack_v1 as loader

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from many_models.forecasting.panel import Layout

FIT_ROUNDS, LEVEL_ROUNDS = 75, 150  # trees on top of each series' own fit, and in each half of those on its level
BINNED = 50_000  # rows whose values say where features are cut into bins
TreeRows = tuple[
    "NDArray[np.float32]", "NDArray[np.float64]", "NDArray[np.float64]", "NDArray[np.float64]", "NDArray[np.float64]"
]
"""Features, y, offset, recent level and weight of each row."""


def grow(rows: TreeRows, turned: TreeRows, layout: Layout, p: int) -> tuple[tuple[NDArray[np.generic], ...], int]:
    """Trees on top of each series' own count fit, then those on top of its recent level, and the number of these.

    Of those on the recent level, half are grown on rows that train other steps (`turned`) and see the recent course
    besides. The forecast is the mean of both halves: they err differently, and it mostly errs less than either.
    """
    X, y, offset, level, weight = rows
    course = slice(X.shape[1] - loader.COURSE, X.shape[1])
    for features in (X, turned[0]):
        features[:, _of_terms(layout, p)] = 0.0  # trees find bends themselves, and more exactly
    X[:, course] = 0.0
    # what the series' own coefficients made: trees on the recent level learn of all series alike
    own = slice(p + loader.EXTRA - 1, p + loader.EXTRA + layout.columns)
    turned[0][:, own] = 0.0
    with ThreadPoolExecutor(1) as beside:
        other = beside.submit(_grow, turned[0], turned[1], turned[3], turned[4], LEVEL_ROUNDS)
        one = _grow(X, y, offset, weight, FIT_ROUNDS)
        X[:, own] = 0.0
        two = _grow(X, y, level, weight, LEVEL_ROUNDS)
        three = other.result()
    if len(two[0]) and len(three[0]):
        two, three = _halved(two), _halved(three)
    return _joined(one, two, three), len(two[0]) + len(three[0])


def _halved(trees: tuple[NDArray[np.generic], ...]) -> tuple[NDArray[np.generic], ...]:
    return *trees[:-1], (0.5 * trees[-1].astype(np.float32)).astype(np.float32)


def _joined(*forests: tuple[NDArray[np.generic], ...]) -> tuple[NDArray[np.generic], ...]:
    """The trees of `forests`, one after the other."""
    nodes, moved = 0, list[list["NDArray[np.generic]"]]()
    for forest in forests:
        moved.append([
            (part.astype(np.int64) + nodes).astype(part.dtype) if name in {"root", "left", "right"} else part
            for name, part in zip(loader.TREES, forest, strict=True)
        ])  # fmt: skip
        nodes += len(forest[1])
    return tuple(np.concatenate(parts) for parts in zip(*moved, strict=True))


def _of_terms(layout: Layout, p: int) -> list[int]:
    """Features of trees that come from terms of covariates."""
    k, first = layout.columns, loader.EXTRA + p
    made = range(layout.encoded, k - 1)
    linear = [p - 3 * k + 3 * j + way for j in made for way in range(3)]
    return [*linear, *(first + j for j in made), *(first + k + loader.BESIDE + j for j in made)]


def _grow(
    rows: NDArray[np.float32],
    y: NDArray[np.float64],
    offset: NDArray[np.float64],
    weight: NDArray[np.float64],
    rounds: int,
) -> tuple[NDArray[np.generic], ...]:
    """Poisson trees on top of the linear predictor `offset`, as arrays (see mm_pack_v1.add_trees)."""
    import lightgbm

    if not (y > 0).any():
        return NO_TREES
    options = {
        "objective": "poisson", "learning_rate": 0.06, "num_leaves": 40, "min_data_in_leaf": 60, "lambda_l2": 2.0,
        "feature_fraction": 0.6, "bagging_fraction": 0.7, "bagging_freq": 1, "seed": 7, "deterministic": True,
        "force_col_wise": True, "num_threads": 1, "verbosity": -1, "max_bin": 127, "bin_construct_sample_cnt": BINNED,
    }  # fmt: skip
    data = lightgbm.Dataset(rows, y, weight=weight, init_score=offset, free_raw_data=True)
    booster = lightgbm.train(options, data, rounds)
    return tree_arrays(booster.dump_model())


def tree_arrays(model: Mapping[str, object]) -> tuple[NDArray[np.generic], ...]:
    """A LightGBM dump as flat arrays: root, feature (-1 for leaves), threshold, left, right, value (of inner nodes the
    mean, which explanations need).
    """
    nodes: list[list[float]] = []

    def add(node: Mapping[str, object]) -> int:
        at = len(nodes)
        nodes.append([-1, 0.0, 0, 0, 0.0])
        if "split_feature" in node:
            nodes[at][0], nodes[at][1] = cast("int", node["split_feature"]), cast("float", node["threshold"])
            nodes[at][2] = add(cast("Mapping[str, object]", node["left_child"]))
            nodes[at][3] = add(cast("Mapping[str, object]", node["right_child"]))
            nodes[at][4] = cast("float", node["internal_value"])
        else:
            nodes[at][4] = cast("float", node["leaf_value"])
        return at

    trees = cast("list[Mapping[str, object]]", model["tree_info"])
    root = [add(cast("Mapping[str, object]", tree["tree_structure"])) for tree in trees]
    table = np.array(nodes, float).reshape(-1, 5)
    kinds = (np.int16, np.float32, np.int32, np.int32, np.float32)
    columns = [table[:, j].astype(kind) for j, kind in enumerate(kinds)]
    # a threshold between two values stays below the upper one
    above = columns[1] > table[:, 1]
    columns[1][above] = np.nextafter(columns[1][above], np.float32(-np.inf))
    return (np.array(root, np.int32), *columns)
