"""Functions fit a screen and modules stay readable; each exception is named, with its own bound and its reason."""

from __future__ import annotations

import ast
from pathlib import Path

import many_models

ROOT = Path(many_models.__file__).parent
FUNCTION, MODULE = 65, 600
LONG_FUNCTIONS = {  # file, function: its bound
    ("forecasting/backtest.py", "backtest"): 70,  # a public function: its parameters and what they mean are 50 of it
    ("forecasting/kernels.py", "fit_series"): 80,  # numba compiles it whole; parts of it would copy its arrays
    ("forecasting/pack/mm_explain_v1.py", "attribute"): 125,  # the same, and it travels in packs that are stored
    ("forecasting/pack/mm_pack_v1.py", "advance"): 70,  # the same
    ("forecasting/pack/mm_pack_v1.py", "forecast"): 70,  # the same
}
LONG_MODULES = {"forecasting/pack/mm_pack_v1.py": 1700}  # travels in every pack as one file: see its docstring


def lengths(source: str) -> dict[str, int]:
    """The lines of each function, the longest of those of one name."""
    found: dict[str, int] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            found[node.name] = max(found.get(node.name, 0), node.end_lineno - node.lineno + 1)
    return found


def too_long(sources: dict[str, str]) -> tuple[set[tuple[str, str]], set[str]]:
    """What is over the general bounds: functions, modules."""
    functions = {(path, name) for path, text in sources.items() for name, n in lengths(text).items() if n > FUNCTION}
    return functions, {path for path, text in sources.items() if len(text.splitlines()) > MODULE}


def sources() -> dict[str, str]:
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in ROOT.rglob("*.py")}


def test_only_what_is_named_here_is_long() -> None:
    """Cut what is new and long into steps; an exception that is not needed any more goes."""
    functions, modules = too_long(sources())
    assert functions == set(LONG_FUNCTIONS)
    assert modules == set(LONG_MODULES)


def test_what_is_long_does_not_grow_beyond_its_own_bound() -> None:
    texts = sources()
    for (path, name), bound in LONG_FUNCTIONS.items():
        assert lengths(texts[path])[name] <= bound, (path, name)
    for path, bound in LONG_MODULES.items():
        assert len(texts[path].splitlines()) <= bound, path


def test_a_planted_long_function_and_module_are_found() -> None:
    body = "    pass\n" * FUNCTION
    planted = {"a.py": f"class A:\n  async def long(self):\n{body}", "b.py": "x = 1\n" * (MODULE + 1)}
    assert too_long(planted) == ({("a.py", "long")}, {"b.py"})
