"""Fitted scikit-learn regressors as skops files of types on our own list; travels inside packs that hold some.

A skops file is a zip of arrays and of names: which class, which attributes. Nothing in it is a pickle, and it is looked
through for classes that are not on the list before anything is made of it.
"""

from __future__ import annotations

import io
import json
import zipfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

SUFFIX = ".skops"
PROTOCOL = 2  # the oldest whose nodes are read: older ones had weaker checks
NODES = frozenset(
    ("DictNode", "JsonNode", "ListNode", "LossNode", "NdArrayNode", "ObjectNode", "RandomGeneratorNode",
     "RandomStateNode", "TreeNode", "TupleNode", "TypeNode")
)  # fmt: skip
"""No functions, methods, partials, bytes or operators."""
PLAIN_TYPES = frozenset(
    ("builtins.bool", "builtins.dict", "builtins.float", "builtins.int", "builtins.list", "builtins.str",
     "builtins.tuple", "numpy.bool", "numpy.float32", "numpy.float64", "numpy.int32", "numpy.int64", "numpy.ndarray",
     "numpy.uint32", "numpy.uint64", "numpy.uint8", "numpy.random._generator.Generator",
     "numpy.random.mtrand.RandomState")
)  # fmt: skip
REGRESSORS = frozenset(
    ("sklearn.compose._target.TransformedTargetRegressor", "sklearn.dummy.DummyRegressor",
     "sklearn.ensemble._bagging.BaggingRegressor", "sklearn.ensemble._forest.ExtraTreesRegressor",
     "sklearn.ensemble._forest.RandomForestRegressor", "sklearn.ensemble._gb.GradientBoostingRegressor",
     "sklearn.ensemble._hist_gradient_boosting.gradient_boosting.HistGradientBoostingRegressor",
     "sklearn.ensemble._voting.VotingRegressor", "sklearn.ensemble._weight_boosting.AdaBoostRegressor",
     "sklearn.kernel_ridge.KernelRidge", "sklearn.linear_model._base.LinearRegression",
     "sklearn.linear_model._bayes.ARDRegression", "sklearn.linear_model._bayes.BayesianRidge",
     "sklearn.linear_model._coordinate_descent.ElasticNet", "sklearn.linear_model._coordinate_descent.ElasticNetCV",
     "sklearn.linear_model._coordinate_descent.Lasso", "sklearn.linear_model._coordinate_descent.LassoCV",
     "sklearn.linear_model._glm.glm.GammaRegressor", "sklearn.linear_model._glm.glm.PoissonRegressor",
     "sklearn.linear_model._glm.glm.TweedieRegressor", "sklearn.linear_model._huber.HuberRegressor",
     "sklearn.linear_model._least_angle.Lars", "sklearn.linear_model._least_angle.LassoLars",
     "sklearn.linear_model._omp.OrthogonalMatchingPursuit", "sklearn.linear_model._quantile.QuantileRegressor",
     "sklearn.linear_model._ridge.Ridge", "sklearn.linear_model._ridge.RidgeCV",
     "sklearn.linear_model._stochastic_gradient.SGDRegressor", "sklearn.linear_model._theil_sen.TheilSenRegressor",
     "sklearn.neural_network._multilayer_perceptron.MLPRegressor", "sklearn.pipeline.Pipeline",
     "sklearn.svm._classes.LinearSVR", "sklearn.svm._classes.NuSVR", "sklearn.svm._classes.SVR",
     "sklearn.tree._classes.DecisionTreeRegressor", "sklearn.tree._classes.ExtraTreeRegressor")
)  # fmt: skip
PARTS = frozenset(
    ("sklearn._loss._loss.CyHalfGammaLoss", "sklearn._loss._loss.CyHalfPoissonLoss",
     "sklearn._loss._loss.CyHalfSquaredError", "sklearn._loss._loss.CyHalfTweedieLossIdentity",
     "sklearn._loss.link.IdentityLink", "sklearn._loss.link.Interval", "sklearn._loss.link.LogLink",
     "sklearn._loss.loss.HalfGammaLoss", "sklearn._loss.loss.HalfPoissonLoss", "sklearn._loss.loss.HalfSquaredError",
     "sklearn._loss.loss.HalfTweedieLossIdentity", "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
     "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
     "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
     "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
     "sklearn.preprocessing._data.MinMaxScaler", "sklearn.preprocessing._data.RobustScaler",
     "sklearn.preprocessing._data.StandardScaler", "sklearn.preprocessing._function_transformer.FunctionTransformer",
     "sklearn.tree._tree.Tree", "sklearn.utils._bunch.Bunch")
)  # fmt: skip
TRUSTED = PLAIN_TYPES | REGRESSORS | PARTS


def check(data: bytes) -> None:
    """Raise ValueError unless `data` is a skops file all of whose nodes and types are on the lists above."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            schema = json.loads(archive.read("schema.json"))
        protocol = schema["protocol"]
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"is no skops file: {error}") from error
    if not isinstance(protocol, int) or protocol < PROTOCOL:
        raise ValueError(f"has skops protocol {protocol!r}, at least {PROTOCOL} is read")
    odd = sorted({problem for node in _nodes(schema) if (problem := _problem(node))})
    if odd:
        raise ValueError(f"holds what is not on the list of trusted types: {', '.join(odd[:5])}")


def _nodes(part: object) -> Iterator[dict[str, object]]:
    """Every node of a schema: whatever names a class or how to load one."""
    waiting = [part]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            if not {"__class__", "__module__", "__loader__"}.isdisjoint(found):
                yield found
            waiting.extend(found.values())
        elif isinstance(found, list):
            waiting.extend(found)


def _problem(node: dict[str, object]) -> str:
    kind = f"{node.get('__module__')}.{node.get('__class__')}"
    if node.get("__loader__") not in NODES:
        return f"{kind} ({node.get('__loader__')})"
    return "" if kind in TRUSTED else kind


def load(data: bytes) -> Any:
    """The regressor in a file that `check` has passed, its structure verified.

    Raises ValueError where it cannot be made, or where compiled code would run in a circle or read outside of its
    arrays, and ModuleNotFoundError without scikit-learn and skops.
    """
    import skops.io

    try:
        made = skops.io.loads(data, trusted=sorted(TRUSTED))
        problem = next((found for part in _parts(made) if (found := _structure(part))), "")
    except ModuleNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"cannot be loaded: {type(error).__name__}: {error}") from error
    if problem:
        raise ValueError(f"cannot be used: {problem}")
    return made


# --- structure --------------------------------------------------------------------------------------------------------
def _parts(made: object) -> Iterator[Any]:
    """Every object of scikit-learn's that `made` holds, itself first."""
    import numpy as np

    waiting, seen = [made], set[int]()
    while waiting:
        found = waiting.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        if isinstance(found, dict):
            waiting.extend(found.values())
        elif isinstance(found, (list, tuple)):
            waiting.extend(found)
        elif isinstance(found, np.ndarray):
            waiting.extend(found.flat if found.dtype == object else ())
        elif type(found).__module__.startswith("sklearn."):
            yield found
            waiting.extend(getattr(found, "__dict__", {}).values())


def _structure(part: Any) -> str:
    """What is wrong with the arrays that compiled code of scikit-learn trusts; "" where they are sound."""
    width = getattr(part, "n_features_in_", None)
    if hasattr(part, "estimators_") and not hasattr(part, "estimators_features_"):
        widths = {getattr(each, "n_features_in_", width) for each in _flat(part.estimators_)}
        if widths - {width}:  # a forest looks at its first tree's alone
            return f"estimators of {sorted(map(str, widths))} features in a model of {width}"
    if hasattr(part, "tree_"):
        return _tree(part.tree_, width)
    if hasattr(part, "_predictors"):
        return next((found for each in _flat(part._predictors) if (found := _grown(each, width))), "")  # noqa: SLF001
    return _vectors(part, width) if hasattr(part, "support_vectors_") else ""


def _flat(held: Any) -> Iterator[Any]:
    for each in getattr(held, "flat", held):
        if isinstance(each, (list, tuple)):
            yield from each
        else:
            yield each


def _tree(tree: Any, width: object) -> str:
    if not 0 < tree.node_count <= tree.capacity:
        return f"a tree of {tree.node_count} nodes"
    if tree.n_features != width or tree.value.shape != (tree.node_count, 1, 1):
        return f"a tree of {tree.n_features} features and values {tree.value.shape} in a model of {width} features"
    ends = tree.children_left == -1
    if (tree.children_right[ends] != -1).any():
        return "a tree with half a leaf"
    return _nodes_of(tree.children_left, tree.children_right, tree.feature, ~ends, width)


def _grown(predictor: Any, width: object) -> str:
    """As `_tree`, of a tree of HistGradientBoostingRegressor."""
    nodes = predictor.nodes
    inner = nodes["is_leaf"] == 0
    if not len(nodes):
        return "a tree of no nodes"
    sets = nodes["bitset_idx"][inner & (nodes["is_categorical"] != 0)]
    if (sets >= len(predictor.raw_left_cat_bitsets)).any():
        return "a tree with categories outside of its own"
    return _nodes_of(nodes["left"], nodes["right"], nodes["feature_idx"], inner, width)


def _nodes_of(left: Any, right: Any, feature: Any, inner: Any, width: object) -> str:
    """Children after their parents and within the tree, features within the width."""
    import numpy as np

    own = np.flatnonzero(inner)
    for children in (left, right):
        found = np.asarray(children, np.int64)[own]
        if ((found <= own) | (found >= len(inner))).any():
            return "a tree whose children are not after their parents and within it"
    found = np.asarray(feature, np.int64)[own]
    if not isinstance(width, int) or ((found < 0) | (found >= width)).any():
        return f"a tree with features outside of the model's {width}"
    return ""


def _vectors(part: Any, width: object) -> str:
    """The arrays of a support vector machine against one another."""
    vectors, count = part.support_vectors_, len(part.support_vectors_)
    shapes = vectors.shape, part.support_.shape, part._dual_coef_.shape, int(part._n_support[0])  # noqa: SLF001
    wanted = (count, width), (count,), (1, count), count
    return "" if shapes == wanted else f"support vectors of shapes {shapes}, needed {wanted}"
