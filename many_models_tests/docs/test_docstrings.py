"""Docstrings of functions that do something are imperative (ruff's D401); noun phrases are for what is returned."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import many_models

ROOT = Path(many_models.__file__).parent
VERBS = frozenset(
    "Adds Calls Counts Deletes Does Fetches Fills Holds Imports Listens Looks Makes Moves Raises Serves Shows Stores "
    "Takes Turns Waits Writes".split()
)


def does_something(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a function returns None, or its docstring begins with what it does."""
    returns_nothing = isinstance(node.returns, ast.Constant) and node.returns.value is None
    return returns_nothing or (ast.get_docstring(node) or "").split()[0] in VERBS


def not_imperative(root: Path) -> list[str]:
    """What D401 finds of functions that do something."""
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "D401", "--output-format", "json", root]
    found: dict[Path, set[int]] = {}
    for told in json.loads(subprocess.run(command, check=False, capture_output=True).stdout):
        found.setdefault(Path(told["filename"]), set()).add(told["location"]["row"])
    return [
        f"{path.relative_to(root)}: {node.name}"
        for path, rows in sorted(found.items())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.body[0].lineno in rows
        if does_something(node)
    ]


def test_a_function_that_does_something_says_it_in_the_imperative() -> None:
    assert not_imperative(ROOT) == []


def test_a_planted_noun_phrase_and_a_third_person_are_found(tmp_path: Path) -> None:
    text = '''def act() -> None:
    """The table, written."""

def made() -> int:
    """Writes the table, and says how many rows it has."""

def found() -> int:
    """The number of rows."""
'''
    (tmp_path / "planted.py").write_text(text)
    assert not_imperative(tmp_path) == ["planted.py: act", "planted.py: made"]
