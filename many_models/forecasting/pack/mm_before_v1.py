"""What a pack of fewer columns, or from before, becomes: numpy only, travels inside the pack beside its loader.

A pack that is stored has places for all of a format's arrays, candidates and covariate columns. What was trained with
fewer columns, or stored before there were some of them, gets them here; what is new says nothing.
"""

from __future__ import annotations

import importlib

import numpy as np

_HOME = __name__.rpartition(".")[0]
loader = importlib.import_module(f"{_HOME}.mm_pack_v1" if _HOME else "mm_pack_v1")  # what stands beside this file

LATER = {"pool_terms", "pool_inputs", "pool_layers"}  # arrays that are made once the others are complete


def completed(index, arrays):
    """The arrays of a pack from before there were some of them, or some of the candidates that `index` names, and in
    place `index` itself. What lacks more than that stays as it is: the loader's `check` refuses it.
    """
    n = len(index["series"])
    # packs from before there were attributes, or an autoregression
    arrays = {"static": np.zeros((n, 0), np.float32), "pool_lags": np.zeros((0, 0, 0), np.float32), **arrays}
    if "boosted_count" not in arrays and "root_count" in arrays:  # packs from before there were boosted trees
        arrays["boosted_count"] = np.zeros_like(arrays["root_count"])
    if "before_x" not in arrays and "last_x" in arrays:  # only boosted trees look at it
        arrays["before_x"] = arrays["last_x"]
    if "closed_days" not in arrays:  # packs from before series had closed days of their own
        arrays["closed_days"] = np.full((n, loader.CLOSED_DAYS), loader.EMPTY, np.int32)
    needed = {*loader.PER_SERIES, *loader.SHARED, *loader.PER_POOL, *loader.TREES} - LATER
    if not needed <= set(arrays):
        return arrays
    older = "pool_terms" not in arrays  # packs from before there were terms
    _with_later_candidates(index, arrays)
    arrays = _with_places_for_terms(index, arrays) if older else arrays
    if not {"pool_inputs", "pool_layers"} <= set(arrays):
        arrays["pool_inputs"], arrays["pool_layers"] = _no_networks(arrays)
    return arrays


def _with_later_candidates(index, arrays):
    """Complete, in place, a pack from before series said how zeros are taken, or from before the newest candidates."""
    for place in (loader.BEFORE_BOOSTED, loader.BEFORE_TREND, loader.BEFORE_LAGS, loader.BEFORE_NETWORK):
        names = index["candidates"]
        ours = isinstance(names, list) and tuple(names[:place]) == loader.CANDIDATES[:place]
        old = ours and loader.CANDIDATES[place] not in names
        if not old or arrays["weights"].shape[1:] != (len(names),):
            continue
        conf, beta = arrays["conf"], arrays["pool_beta"]
        whole = conf.shape == (loader.CONF_SIZE,) and np.isfinite(conf).all() and beta.ndim == 2  # else it is refused
        if place == loader.BEFORE_LAGS and whole and (conf >= 0).all():  # a view: a size that is stored takes no memory
            size = (len(beta), loader.lags_of(conf)[0] + 1, int(conf[loader.HORIZON]))
            arrays["pool_lags"] = np.broadcast_to(np.float32("nan"), size)
        if place == loader.BEFORE_BOOSTED and whole:
            arrays["feature"] = moved_features(arrays["feature"], beta.shape[1], int(conf[loader.COVARIATES]))
        index["candidates"] = [*loader.CANDIDATES[: place + 1], *names[place:]]
        arrays["weights"] = np.insert(arrays["weights"], place, 0.0, axis=1)
    size = index.get("own_size", loader.LEAST_OWN_SIZE)
    if type(size) is int and loader.LEAST_OWN_SIZE <= size < loader.OWN_SIZE and arrays["own"].shape[1:] == (size,):
        arrays["own"] = np.pad(arrays["own"], ((0, 0), (0, loader.OWN_SIZE - size)))
        index["own_size"] = loader.OWN_SIZE


def _with_places_for_terms(index, arrays):
    """Arrays of a pack from before there were terms, with empty places for them. Arrays that do not fit together stay
    as they are: `check` refuses them.
    """
    try:
        encoded = loader.encoded_columns(index)
        places = [*range(encoded), encoded + loader.terms_of(encoded)]
        terms = no_terms(len(arrays["pool_beta"]), loader.terms_of(encoded))
        whole = arrays["conf"][loader.COVARIATES] == len(places)
        moved = widened(arrays, places, places[-1] + 1) if encoded and whole else arrays
    except (KeyError, IndexError, ValueError, TypeError, OverflowError):
        return {**arrays, "pool_terms": np.zeros((0, 0, 4))}
    return {**moved, "pool_terms": terms}


def no_terms(pools, count):
    """Empty terms (pools × count × 4)."""
    terms = np.zeros((pools, count, 4))
    terms[..., 0] = -1.0
    return terms


def _no_networks(arrays):
    """What is stored where networks were not learned; views: a size that is stored takes no memory."""
    conf, beta, static = arrays["conf"], arrays["pool_beta"], arrays["static"]
    features = 0
    if conf.shape == (loader.CONF_SIZE,) and conf[loader.COVARIATES] >= 0 and beta.ndim == static.ndim == 2:
        features = loader.tree_width(beta.shape[1], int(conf[loader.COVARIATES]), static.shape[1])
    return tuple(np.broadcast_to(np.float32("nan"), size) for size in loader.network_sizes(len(beta), features))


def widened(arrays, places, columns):
    """`arrays` of a pack whose covariate columns come to `places` among so many `columns`; the new ones say nothing."""
    conf, static = arrays["conf"].copy(), arrays["static"].shape[1]
    nc, m, slots = int(conf[loader.CALENDAR]), int(conf[loader.SEASON]), int(conf[loader.SLOTS])
    at, p = np.asarray(places, np.int64), loader.width(nc, columns)
    own, three, four = np.arange(nc + loader.DYNAMIC), np.arange(3), np.arange(4)
    linear = np.concatenate([own, nc + loader.DYNAMIC + (3 * at[:, None] + three).ravel()])
    head = 2 * (4 + m) + 1 + (m + 3) + 2 + m
    state = np.concatenate([
        np.arange(head), head + at, head + columns + (4 * at[:, None] + four).ravel(),
        head + 5 * columns + np.arange(2 * slots + 4),
    ])  # fmt: skip
    beside = p + loader.EXTRA + columns
    seen = np.concatenate([
        linear, p + np.arange(loader.EXTRA), p + loader.EXTRA + at, beside + np.arange(loader.BESIDE),
        beside + loader.BESIDE + at, beside + loader.BESIDE + columns + np.arange(static + loader.COURSE),
    ])  # fmt: skip
    feature, wide = arrays["feature"], loader.tree_width(p, columns, static)
    conf[loader.COVARIATES] = columns
    return {
        **arrays, "conf": conf, "state": _spread(arrays["state"], state, loader.state_size(m, columns, slots)),
        "coef": _spread(arrays["coef"], linear, p), "pool_beta": _spread(arrays["pool_beta"], linear, p),
        "feature": np.where(feature >= 0, seen[np.maximum(feature, 0)], feature).astype(feature.dtype),
        "scale": _spread(arrays["scale"], at, columns, 1.0),
        **{name: _spread(arrays[name], at, columns) for name in ("center", "log", "binary")},
        **{name: _spread(arrays[name], seen, wide) for name in ("pool_inputs",) if name in arrays},
    }  # fmt: skip


def _spread(array, at, size, value=0.0):
    """`array` with its last axis moved to the places `at` of one of that `size`, `value` elsewhere.

    Where a fit is not there (NaN), it is not there in the new places either.
    """
    out = np.full((*array.shape[:-1], size), value, array.dtype)
    out[..., at] = array
    return out


def moved_features(feature, p, k):
    """Features of trees from before there were those beside the target, as they are numbered now."""
    return np.where(feature >= p + loader.EXTRA + k, feature + loader.BESIDE + k, feature).astype(feature.dtype)
